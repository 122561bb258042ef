"""FerNet: the default network, a small residual net for faces of 48 x 48.

Half of the cost of a residual net for small images lies in its first layers, which
XLA runs slowly on a CPU. So the stem halves the image at once, and the width
grows where convolutions run near the speed of a matrix product.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from fer_jax.models.layers import (
    Head,
    SqueezeExcitation,
    batch_norm,
    conv,
    halve,
    scaled,
)

WIDTHS = (32, 96, 192)  # at 24 x 24, 12 x 12 and 6 x 6
GRID = 3  # cells to a side that the head tells apart


class FerNet(nnx.Module):
    """A 5 x 5 stem with stride 2, then one residual block a resolution."""

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
        widths = [scaled(each, width) for each in WIDTHS]
        self.stem = conv(channels, widths[0], 5, stride=2, dtype=dtype, rngs=rngs)
        self.norm = batch_norm(widths[0], norm=norm, dtype=dtype, rngs=rngs)
        style = {"squeeze_excitation": squeeze_excitation, "norm": norm}
        self.blocks = nnx.List(
            _Block(i, o, **style, dtype=dtype, rngs=rngs)
            for i, o in zip([widths[0], *widths[:-1]], widths, strict=True)
        )
        self.head = Head(widths[-1], num_classes, dropout=dropout, grid=GRID, rngs=rngs)

    def __call__(self, images: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """From normalised `[B, H, W, C]` to float32 logits `[B, num_classes]`."""
        x = jax.nn.relu(self.norm(self.stem(images)))
        for block in self.blocks:
            x = block(x)
        return self.head(x, rngs)


class _Block(nnx.Module):
    """Two 3 x 3 convolutions beside a shortcut; halves the size if it widens.

    The shortcut averages before its 1 x 1 convolution, so that it drops no pixel
    (ResNet-D, He et al. 2019, arXiv:1812.01187).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        squeeze_excitation: bool,
        norm: str,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        widens = inputs != outputs  # at every width, as 32, 96 and 192 lie apart
        stride = 2 if widens else 1
        how = {"dtype": dtype, "rngs": rngs}
        self.conv1 = conv(inputs, outputs, 3, stride=stride, **how)
        self.norm1 = batch_norm(outputs, norm=norm, **how)
        self.conv2 = conv(outputs, outputs, 3, **how)
        self.norm2 = batch_norm(outputs, norm=norm, last=True, **how)
        self.project = nnx.data(conv(inputs, outputs, 1, **how) if widens else None)
        self.excite = nnx.data(
            SqueezeExcitation(outputs, **how) if squeeze_excitation else None
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        y = jax.nn.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        if self.excite is not None:
            y = self.excite(y)
        if self.project is not None:
            x = self.project(halve(x))
        return jax.nn.relu(x + y)
