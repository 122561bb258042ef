"""WRN-16-8 (Zagoruyko & Komodakis 2016, arXiv:1605.07146): shallow, but wide.

Three stages of two blocks each, in which batch norm and ReLU come before each
convolution (He et al. 2016, arXiv:1603.05027), as in the paper's code.
"""

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

STEM, WIDTHS, DEPTH = 16, (128, 256, 512), 2  # 8 x 16, 32 and 64; blocks a stage


class WideResNet(nnx.Module):
    """A 3 x 3 stem, then blocks; the later two stages halve the size."""

    def __init__(
        self,
        *,
        num_classes: int,
        dropout: float,
        dtype: jnp.dtype,
        channels: int,
        width: float,
        squeeze_excitation: bool,
        norm: str,
        rngs: nnx.Rngs,
    ):
        """Builds the network; it computes in `dtype`, on images of `channels`."""
        how = {"dtype": dtype, "rngs": rngs}
        style = {"squeeze_excitation": squeeze_excitation, "norm": norm}
        inputs = scaled(STEM, width)
        self.stem = conv(channels, inputs, 3, **how)
        blocks = []
        for stage, features in enumerate(scaled(each, width) for each in WIDTHS):
            for number in range(DEPTH):
                stride = 2 if stage > 0 and number == 0 else 1
                blocks.append(_Block(inputs, features, stride, **style, **how))
                inputs = features
        self.blocks = nnx.List(blocks)
        self.norm = batch_norm(inputs, norm=norm, **how)
        self.head = Head(inputs, num_classes, dropout=dropout, rngs=rngs)

    def __call__(self, images: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """From normalised `[B, H, W, C]` to float32 logits `[B, num_classes]`."""
        x = self.stem(images)
        for block in self.blocks:
            x = block(x)
        return self.head(jax.nn.relu(self.norm(x)), rngs)


class _Block(nnx.Module):
    """Two 3 x 3 convolutions, each of what was normed, beside a shortcut.

    Where the size or the width changes, the shortcut is a 1 x 1 convolution of the
    same normed values.
    """

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
        self.norm1 = batch_norm(inputs, norm=norm, **how)
        self.conv1 = conv(inputs, outputs, 3, stride=stride, **how)
        self.norm2 = batch_norm(outputs, norm=norm, **how)
        self.conv2 = conv(outputs, outputs, 3, **how)
        self.project = nnx.data(None)
        if stride != 1 or inputs != outputs:
            self.project = nnx.data(conv(inputs, outputs, 1, stride=stride, **how))
        self.excite = nnx.data(
            SqueezeExcitation(outputs, **how) if squeeze_excitation else None
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        y = jax.nn.relu(self.norm1(x))
        if self.project is not None:
            x = self.project(y)
        y = jax.nn.relu(self.norm2(self.conv1(y)))
        y = self.conv2(y)
        if self.excite is not None:
            y = self.excite(y)
        return x + y
