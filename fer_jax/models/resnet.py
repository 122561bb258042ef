"""ResNet-18 and -34 (He et al. 2016, arXiv:1512.03385) for small images.

The stem is one 3 x 3 convolution with stride 1 and no pooling, as is usual for
images of 32 to 64 pixels; the rest is torchvision's basic-block network.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from fer_jax.models.layers import Head, batch_norm, conv

WIDTHS = (64, 128, 256, 512)


class ResNet(nnx.Module):
    """Four stages of basic blocks; the later three halve the size."""

    def __init__(
        self,
        depths: tuple[int, ...],
        *,
        num_classes: int,
        dropout: float,
        dtype: jnp.dtype,
        channels: int,
        rngs: nnx.Rngs,
    ):
        """Builds the network; `depths` are the blocks of each stage."""
        self.stem = conv(channels, WIDTHS[0], 3, dtype=dtype, rngs=rngs)
        self.norm = batch_norm(WIDTHS[0], dtype=dtype, rngs=rngs)
        blocks, inputs = [], WIDTHS[0]
        for stage, (width, depth) in enumerate(zip(WIDTHS, depths, strict=True)):
            for block in range(depth):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(_Block(inputs, width, stride, dtype=dtype, rngs=rngs))
                inputs = width
        self.blocks = nnx.List(blocks)
        self.head = Head(inputs, num_classes, dropout=dropout, rngs=rngs)

    def __call__(self, images: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """From normalised `[B, H, W, C]` to float32 logits `[B, num_classes]`."""
        x = jax.nn.relu(self.norm(self.stem(images)))
        for block in self.blocks:
            x = block(x)
        return self.head(x, rngs)


class ResNet18(ResNet):
    """Two blocks a stage."""

    def __init__(self, **options):
        """Builds the network with the options of `ResNet`."""
        super().__init__((2, 2, 2, 2), **options)


class ResNet34(ResNet):
    """Three, four, six and three blocks."""

    def __init__(self, **options):
        """Builds the network with the options of `ResNet`."""
        super().__init__((3, 4, 6, 3), **options)


class _Block(nnx.Module):
    """Two 3 x 3 convolutions beside an identity or a strided 1 x 1 convolution."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        stride: int,
        *,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        self.conv1 = conv(inputs, outputs, 3, stride=stride, dtype=dtype, rngs=rngs)
        self.norm1 = batch_norm(outputs, dtype=dtype, rngs=rngs)
        self.conv2 = conv(outputs, outputs, 3, dtype=dtype, rngs=rngs)
        self.norm2 = batch_norm(outputs, dtype=dtype, rngs=rngs)
        self.project = self.norm3 = nnx.data(None)
        if stride != 1 or inputs != outputs:
            self.project = nnx.data(
                conv(inputs, outputs, 1, stride=stride, dtype=dtype, rngs=rngs)
            )
            self.norm3 = nnx.data(batch_norm(outputs, dtype=dtype, rngs=rngs))

    def __call__(self, x: jax.Array) -> jax.Array:
        y = jax.nn.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        if self.project is not None:
            x = self.norm3(self.project(x))
        return jax.nn.relu(x + y)
