"""FerNet: the default network, a small residual net for faces of 48 x 48.

Half of the cost of a residual net for small images lies in its first layers, which
XLA runs slowly on a CPU. So the stem halves the image at once, and the width
grows where convolutions run near the speed of a matrix product.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from fer_jax.models.layers import Head, batch_norm, conv, halve

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
        rngs: nnx.Rngs,
    ):
        """Builds the network; it computes in `dtype`, on images of `channels`."""
        self.stem = conv(channels, WIDTHS[0], 5, stride=2, dtype=dtype, rngs=rngs)
        self.norm = batch_norm(WIDTHS[0], dtype=dtype, rngs=rngs)
        inputs = (WIDTHS[0], *WIDTHS[:-1])
        self.blocks = nnx.List(
            _Block(i, o, dtype=dtype, rngs=rngs)
            for i, o in zip(inputs, WIDTHS, strict=True)
        )
        self.head = Head(WIDTHS[-1], num_classes, dropout=dropout, grid=GRID, rngs=rngs)

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

    def __init__(self, inputs: int, outputs: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        widens = inputs != outputs
        stride = 2 if widens else 1
        self.conv1 = conv(inputs, outputs, 3, stride=stride, dtype=dtype, rngs=rngs)
        self.norm1 = batch_norm(outputs, dtype=dtype, rngs=rngs)
        self.conv2 = conv(outputs, outputs, 3, dtype=dtype, rngs=rngs)
        self.norm2 = batch_norm(outputs, dtype=dtype, rngs=rngs)
        self.project = nnx.data(
            conv(inputs, outputs, 1, dtype=dtype, rngs=rngs) if widens else None
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        y = jax.nn.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        if self.project is not None:
            x = self.project(halve(x))
        return jax.nn.relu(x + y)
