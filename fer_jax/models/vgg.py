"""The VGG of Khaireddin & Chen 2021 (arXiv:2105.03588) for FER2013.

Four stages of two 3 x 3 convolutions, each with batch norm and ReLU, and a maximum
over 2 x 2 pixels; then three fully connected layers, with dropout in front of the
latter two. The paper crops 40 x 40 pixels, of which 2 x 2 are left there; those of
another size are averaged over as many cells. As batch norm has a bias, the
convolutions, unlike the paper's, have none.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from fer_jax.models.layers import (
    Head,
    batch_norm,
    conv,
    halve_to_largest,
    means,
    scaled,
    uniform,
)

WIDTHS = (64, 128, 256, 512)
HIDDEN = 4096  # values between the fully connected layers
GRID = 2  # cells to a side that the fully connected layers see


class VGG(nnx.Module):
    """Eight convolutions and three fully connected layers."""

    def __init__(
        self,
        *,
        num_classes: int,
        dropout: float,
        dtype: jnp.dtype,
        channels: int,
        width: float,
        norm: str,
        rngs: nnx.Rngs,
    ):
        """Builds the network; it computes in `dtype`, on images of `channels`."""
        how = {"dtype": dtype, "rngs": rngs}
        widths = [scaled(each, width) for each in WIDTHS for _ in range(2)]
        hidden = scaled(HIDDEN, width)
        self.stem = conv(channels, widths[0], 3, **how)
        self.norm = batch_norm(widths[0], norm=norm, **how)
        self.blocks = nnx.List(
            _Layer(i, o, norm=norm, **how)
            for i, o in zip(widths[:-1], widths[1:], strict=True)
        )
        self.linear1 = nnx.Linear(
            GRID * GRID * widths[-1], hidden, kernel_init=uniform(1.0), **how
        )
        self.linear2 = nnx.Linear(hidden, hidden, kernel_init=uniform(1.0), **how)
        self.dropout = nnx.Dropout(dropout)
        self.head = Head(hidden, num_classes, dropout=dropout, rngs=rngs)

    def __call__(self, images: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """From normalised `[B, H, W, C]` to float32 logits `[B, num_classes]`.

        H and W are at least 16.
        """
        x = jax.nn.relu(self.norm(self.stem(images)))
        for number, layer in enumerate(self.blocks):
            x = layer(x)
            if number % 2 == 0:  # the second of a stage, as the stem is the first
                x = halve_to_largest(x)
        x = means(x, GRID).reshape(len(x), -1)
        x = self.dropout(jax.nn.relu(self.linear1(x)), rngs=rngs)
        x = jax.nn.relu(self.linear2(x))
        return self.head(x[:, None, None], rngs)


class _Layer(nnx.Module):
    """A 3 x 3 convolution, batch norm and ReLU."""

    def __init__(
        self, inputs: int, outputs: int, *, norm: str, dtype: jnp.dtype, rngs: nnx.Rngs
    ):
        self.conv = conv(inputs, outputs, 3, dtype=dtype, rngs=rngs)
        self.norm = batch_norm(outputs, norm=norm, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.relu(self.norm(self.conv(x)))
