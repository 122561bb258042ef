"""ResNet-18, -34 and -50 (He et al. 2016, arXiv:1512.03385), as torchvision has them.

For images of 32 to 64 pixels the stem is one 3 x 3 convolution with stride 1 and no
pooling, as is usual. For larger ones, and for weights that were trained on ImageNet,
it is torchvision's: 7 x 7 with stride 2, then a maximum over 3 x 3 with stride 2.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from fer_jax.models.layers import (
    Head,
    SqueezeExcitation,
    batch_norm,
    conv,
    scaled,
)

WIDTHS = (64, 128, 256, 512)
DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}  # blocks of each stage


class ResNet(nnx.Module):
    """Four stages of residual blocks; the later three halve the size."""

    def __init__(
        self,
        layers: int,
        *,
        imagenet: bool,
        num_classes: int,
        dropout: float,
        dtype: jnp.dtype,
        channels: int,
        width: float,
        squeeze_excitation: bool,
        norm: str,
        rngs: nnx.Rngs,
    ):
        """Builds the network of 18, 34 or 50 layers, with ImageNet's stem or not."""
        how = {"dtype": dtype, "rngs": rngs}
        style = {"squeeze_excitation": squeeze_excitation, "norm": norm}
        inputs = scaled(WIDTHS[0], width)
        size, stride = (7, 2) if imagenet else (3, 1)
        self.imagenet = imagenet
        self.stem = conv(channels, inputs, size, stride=stride, **how)
        self.norm = batch_norm(inputs, norm=norm, **how)
        block_of = _Bottleneck if layers == 50 else _Block
        blocks = []
        for stage, depth in enumerate(DEPTHS[layers]):
            features = scaled(WIDTHS[stage], width)
            for number in range(depth):
                stride = 2 if stage > 0 and number == 0 else 1
                block = block_of(inputs, features, stride, **style, **how)
                blocks.append(block)
                inputs = features * block.expansion
        self.blocks = nnx.List(blocks)
        self.head = Head(inputs, num_classes, dropout=dropout, rngs=rngs)

    def __call__(self, images: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """From normalised `[B, H, W, C]` to float32 logits `[B, num_classes]`."""
        x = jax.nn.relu(self.norm(self.stem(images)))
        if self.imagenet:
            x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for block in self.blocks:
            x = block(x)
        return self.head(x, rngs)


resnet18 = functools.partial(ResNet, 18, imagenet=False)
resnet34 = functools.partial(ResNet, 34, imagenet=False)
resnet18_imagenet = functools.partial(ResNet, 18, imagenet=True)
resnet34_imagenet = functools.partial(ResNet, 34, imagenet=True)
resnet50_imagenet = functools.partial(ResNet, 50, imagenet=True)


class _Block(nnx.Module):
    """Two 3 x 3 convolutions beside an identity or a strided 1 x 1 convolution."""

    expansion = 1

    def __init__(
        self,
        inputs: int,
        outputs: int,
        stride: int,
        *,
        squeeze_excitation: bool,
        norm: str,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        how = {"dtype": dtype, "rngs": rngs}
        self.conv1 = conv(inputs, outputs, 3, stride=stride, **how)
        self.norm1 = batch_norm(outputs, norm=norm, **how)
        self.conv2 = conv(outputs, outputs, 3, **how)
        self.norm2 = batch_norm(outputs, norm=norm, last=True, **how)
        self.project = self.norm3 = nnx.data(None)
        if stride != 1 or inputs != outputs:
            self.project = nnx.data(conv(inputs, outputs, 1, stride=stride, **how))
            self.norm3 = nnx.data(batch_norm(outputs, norm=norm, **how))
        self.excite = nnx.data(
            SqueezeExcitation(outputs, **how) if squeeze_excitation else None
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        y = jax.nn.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        if self.excite is not None:
            y = self.excite(y)
        if self.project is not None:
            x = self.norm3(self.project(x))
        return jax.nn.relu(x + y)


class _Bottleneck(nnx.Module):
    """A 3 x 3 convolution between two of 1 x 1, the second of them four times as wide.

    The stride is in the 3 x 3, as in torchvision, not in the first 1 x 1.
    """

    expansion = 4

    def __init__(
        self,
        inputs: int,
        features: int,
        stride: int,
        *,
        squeeze_excitation: bool,
        norm: str,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        how = {"dtype": dtype, "rngs": rngs}
        outputs = features * self.expansion
        self.conv1 = conv(inputs, features, 1, **how)
        self.norm1 = batch_norm(features, norm=norm, **how)
        self.conv2 = conv(features, features, 3, stride=stride, **how)
        self.norm2 = batch_norm(features, norm=norm, **how)
        self.conv3 = conv(features, outputs, 1, **how)
        self.norm3 = batch_norm(outputs, norm=norm, last=True, **how)
        self.project = self.norm4 = nnx.data(None)
        if stride != 1 or inputs != outputs:
            self.project = nnx.data(conv(inputs, outputs, 1, stride=stride, **how))
            self.norm4 = nnx.data(batch_norm(outputs, norm=norm, **how))
        self.excite = nnx.data(
            SqueezeExcitation(outputs, **how) if squeeze_excitation else None
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        y = jax.nn.relu(self.norm1(self.conv1(x)))
        y = jax.nn.relu(self.norm2(self.conv2(y)))
        y = self.norm3(self.conv3(y))
        if self.excite is not None:
            y = self.excite(y)
        if self.project is not None:
            x = self.norm4(self.project(x))
        return jax.nn.relu(x + y)
