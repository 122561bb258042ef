"""A ConvNeXt (Liu et al. 2022, arXiv:2201.03545) for faces of 48 x 48.

The blocks are the paper's. The widths and depths are those of timm's Femto size
(Wightman). The first patches are 2 x 2 pixels, not 4 x 4: the stages see a face of 48
pixels at 24 x 24, 12 x 12, 6 x 6 and 3 x 3.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from fer_jax.models.builder import Builder
from fer_jax.models.layers import normal

WIDTHS = (48, 96, 192, 384)
DEPTHS = (2, 2, 6, 2)
PATCH = 2  # pixels along a side
LAYER_SCALE = 1e-6  # initial factor of each residual branch
STDDEV = 0.02  # of the initial kernels


class ConvNeXt(nnx.Module):
    """Four stages; before each, patches of 2 x 2 become one pixel."""

    def __init__(self, build: Builder):
        """Builds the network."""
        widths = [build.scaled(each) for each in WIDTHS]
        self.stem = _patches(build.options.channels, widths[0], build)
        self.norm = build.layer_norm(widths[0])
        blocks: list[nnx.Module] = []
        inputs = widths[0]
        for features, depth in zip(widths, DEPTHS, strict=True):
            if blocks:
                blocks.append(_Downsample(inputs, features, build))
            blocks += [_Block(features, build) for _ in range(depth)]
            inputs = features
        self.blocks = nnx.List(blocks)
        self.last_norm = build.layer_norm(inputs)
        self.head = build.head(inputs)

    def __call__(self, images: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """From normalised `[B, H, W, C]` to float32 logits `[B, num_classes]`.

        H and W are at least 16.
        """
        x = self.norm(self.stem(images))
        for block in self.blocks:
            x = block(x)
        x = self.last_norm(x.mean(axis=(1, 2), keepdims=True))
        return self.head(x, rngs)


class _Downsample(nnx.Module):
    """Layer norm, then patches of 2 x 2 pixels become one."""

    def __init__(self, inputs: int, outputs: int, build: Builder):
        self.norm = build.layer_norm(inputs)
        self.conv = _patches(inputs, outputs, build)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.conv(self.norm(x))


class _Block(nnx.Module):
    """A depthwise 7 x 7, layer norm, four times as wide with GELU, and back."""

    def __init__(self, features: int, build: Builder):
        # XLA's own convolution on every device: a depthwise one is no matrix product.
        self.conv = nnx.Conv(
            features,
            features,
            (7, 7),
            padding=3,
            feature_group_count=features,
            dtype=build.options.dtype,
            kernel_init=normal(STDDEV),
            rngs=build.rngs,
        )
        self.norm = build.layer_norm(features)
        self.linear1 = build.linear(features, 4 * features, normal(STDDEV))
        self.linear2 = build.linear(4 * features, features, normal(STDDEV))
        self.layer_scale = nnx.Param(jnp.full(features, LAYER_SCALE))

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.norm(self.conv(x))
        y = self.linear2(jax.nn.gelu(self.linear1(y), approximate=False))
        return x + y * self.layer_scale.astype(y.dtype)


def _patches(inputs: int, outputs: int, build: Builder) -> nnx.Conv:
    """A convolution of adjacent patches; an odd last row or column is dropped."""
    return nnx.Conv(
        inputs,
        outputs,
        (PATCH, PATCH),
        strides=PATCH,
        padding="VALID",
        dtype=build.options.dtype,
        kernel_init=normal(STDDEV),
        rngs=build.rngs,
    )
