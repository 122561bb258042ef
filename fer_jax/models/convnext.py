"""A ConvNeXt (Liu et al. 2022, arXiv:2201.03545) for faces of 48 x 48.

The blocks are the paper's. The widths and depths are those of the Femto size of
Wightman's timm, and the first patches 2 x 2 pixels instead of 4 x 4: a face of 48
pixels is seen at 24 x 24, 12 x 12, 6 x 6 and 3 x 3.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from fer_jax.models.layers import Head, normal, scaled

WIDTHS = (48, 96, 192, 384)
DEPTHS = (2, 2, 6, 2)
PATCH = 2  # pixels to a side
LAYER_SCALE = 1e-6  # the start of the factors of each residual branch
STD = 0.02  # of the initial kernels


class ConvNeXt(nnx.Module):
    """Four stages; before each, patches of 2 x 2 become one pixel."""

    def __init__(
        self,
        *,
        num_classes: int,
        dropout: float,
        dtype: jnp.dtype,
        channels: int,
        width: float,
        rngs: nnx.Rngs,
    ):
        """Builds the network; it computes in `dtype`, on images of `channels`."""
        how = {"dtype": dtype, "rngs": rngs}
        widths = [scaled(each, width) for each in WIDTHS]
        self.stem = _patches(channels, widths[0], **how)
        self.norm = nnx.LayerNorm(widths[0], **how)
        blocks, inputs = [], widths[0]
        for features, depth in zip(widths, DEPTHS, strict=True):
            if blocks:
                blocks.append(_Halving(inputs, features, **how))
            blocks += [_Block(features, **how) for _ in range(depth)]
            inputs = features
        self.blocks = nnx.List(blocks)
        self.last_norm = nnx.LayerNorm(inputs, **how)
        self.head = Head(inputs, num_classes, dropout=dropout, rngs=rngs)

    def __call__(self, images: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """From normalised `[B, H, W, C]` to float32 logits `[B, num_classes]`.

        H and W are at least 16.
        """
        x = self.norm(self.stem(images))
        for block in self.blocks:
            x = block(x)
        x = self.last_norm(x.mean(axis=(1, 2), keepdims=True))
        return self.head(x, rngs)


class _Halving(nnx.Module):
    """Layer norm, then patches of 2 x 2 pixels become one."""

    def __init__(self, inputs: int, outputs: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.norm = nnx.LayerNorm(inputs, dtype=dtype, rngs=rngs)
        self.conv = _patches(inputs, outputs, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.conv(self.norm(x))


class _Block(nnx.Module):
    """7 x 7 within each channel, layer norm, four times as wide with GELU, and back."""

    def __init__(self, features: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        how = {"dtype": dtype, "kernel_init": normal(STD), "rngs": rngs}
        # XLA's own convolution on every device: there is no product of matrices in it.
        self.conv = nnx.Conv(
            features, features, (7, 7), padding=3, feature_group_count=features, **how
        )
        self.norm = nnx.LayerNorm(features, dtype=dtype, rngs=rngs)
        self.linear1 = nnx.Linear(features, 4 * features, **how)
        self.linear2 = nnx.Linear(4 * features, features, **how)
        self.layer_scale = nnx.Param(jnp.full(features, LAYER_SCALE))

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.norm(self.conv(x))
        y = self.linear2(jax.nn.gelu(self.linear1(y), approximate=False))
        return x + y * self.layer_scale.astype(y.dtype)


def _patches(
    inputs: int, outputs: int, *, dtype: jnp.dtype, rngs: nnx.Rngs
) -> nnx.Conv:
    """A convolution of patches side by side; a last odd row or column is dropped."""
    size = (PATCH, PATCH)
    return nnx.Conv(
        inputs,
        outputs,
        size,
        strides=size,
        padding="VALID",
        dtype=dtype,
        kernel_init=normal(STD),
        rngs=rngs,
    )
