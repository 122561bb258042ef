"""The layers that the residual networks share, with the initialisation they use."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


def uniform(bound: float) -> nnx.Initializer:
    """Uniform in ± bound / sqrt(fan_in), drawn on the host from the key.

    The numbers are the same on every device, and XLA, which takes a second on a CPU
    to compile the draw of each new shape, has nothing to compile.
    """

    def init(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist())
        limit = bound / np.sqrt(np.prod(shape[:-1]))
        return jnp.asarray(rng.uniform(-limit, limit, shape), dtype)

    return init


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

    The kernel starts uniform in ± 0.25 / sqrt(fan_in), a quarter of PyTorch's
    default. Behind batch norm the scale of a kernel changes no output, but AdamW
    moves every weight by the learning rate, so a smaller kernel is turned further
    by each step (van Laarhoven 2017, arXiv:1706.05350), until it has grown. At a
    rate of 3e-4 and a few hundred steps that decides how much is learnt at all.
    """
    return nnx.Conv(
        inputs,
        outputs,
        (size, size),
        strides=stride,
        padding=size // 2,
        use_bias=False,
        dtype=dtype,
        kernel_init=uniform(0.25),
        rngs=rngs,
    )


def batch_norm(features: int, *, dtype: jnp.dtype, rngs: nnx.Rngs) -> nnx.BatchNorm:
    """Batch norm whose running statistics forget as fast as PyTorch's.

    Flax's default momentum of 0.99 still remembers the start after a short run.
    """
    return nnx.BatchNorm(features, momentum=0.9, epsilon=1e-5, dtype=dtype, rngs=rngs)


class Head(nnx.Module):
    """Mean over the image, dropout, one linear layer; logits in float32."""

    def __init__(
        self, features: int, num_classes: int, *, dropout: float, rngs: nnx.Rngs
    ):
        """Builds the head; `dropout` is the rate."""
        self.dropout = nnx.Dropout(dropout)
        self.linear = nnx.Linear(
            features, num_classes, kernel_init=uniform(1.0), rngs=rngs
        )

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
        """From `[B, h, w, features]` to float32 `[B, num_classes]`."""
        x = x.astype(jnp.float32).mean(axis=(1, 2))
        return self.linear(self.dropout(x, rngs=rngs))
