"""The layers that the residual networks share, with the initialisation they use."""

import jax
import jax.numpy as jnp
from flax import nnx


def conv(
    inputs: int,
    outputs: int,
    size: int,
    *,
    stride: int = 1,
    dtype: jnp.dtype,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    """A square convolution without bias, padded to keep the size at stride 1.

    Padding is symmetric, as in PyTorch, where `SAME` would shift odd strides.
    """
    return nnx.Conv(
        inputs,
        outputs,
        (size, size),
        strides=stride,
        padding=size // 2,
        use_bias=False,
        dtype=dtype,
        # He et al. 2015 (arXiv:1502.01852), in the form torchvision uses.
        kernel_init=nnx.initializers.variance_scaling(2.0, "fan_out", "normal"),
        rngs=rngs,
    )


def batch_norm(
    features: int, *, dtype: jnp.dtype, rngs: nnx.Rngs, scale: float = 1.0
) -> nnx.BatchNorm:
    """Batch norm whose running statistics forget as fast as PyTorch's.

    Flax's default of 0.99 still remembers the initial values after a short run.
    `scale` 0 at the end of a residual branch starts the block as the identity
    (Goyal et al. 2017, arXiv:1706.02677).
    """
    return nnx.BatchNorm(
        features,
        momentum=0.9,
        epsilon=1e-5,
        dtype=dtype,
        scale_init=nnx.initializers.constant(scale),
        rngs=rngs,
    )


class Head(nnx.Module):
    """Mean over the image, dropout, one linear layer; logits in float32."""

    def __init__(
        self, features: int, num_classes: int, *, dropout: float, rngs: nnx.Rngs
    ):
        """Builds the head; `dropout` is the rate."""
        self.dropout = nnx.Dropout(dropout)
        self.linear = nnx.Linear(features, num_classes, rngs=rngs)

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
        """From `[B, h, w, features]` to float32 `[B, num_classes]`."""
        x = x.astype(jnp.float32).mean(axis=(1, 2))
        return self.linear(self.dropout(x, rngs=rngs))
