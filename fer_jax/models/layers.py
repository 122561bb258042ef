"""The layers that the networks share: initialisation, pooling, excitation, the head."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike


def uniform(bound: float) -> nnx.Initializer:
    """An initialiser: uniform in ± bound / sqrt(fan_in), drawn by NumPy from the key.

    The numbers are the same on every device. XLA would take a second on a CPU to
    compile the draw of each new shape.
    """

    def init(
        key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32
    ) -> jax.Array:
        limit = bound / np.sqrt(np.prod(shape[:-1]))
        return _draw(lambda rng: rng.uniform(-limit, limit, shape), key, shape, dtype)

    return init


def normal(stddev: float) -> nnx.Initializer:
    """An initialiser: normal with this standard deviation, drawn like `uniform`."""

    def init(
        key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32
    ) -> jax.Array:
        return _draw(lambda rng: stddev * rng.standard_normal(shape), key, shape, dtype)

    return init


def _draw(
    draw: Callable[[np.random.Generator], np.ndarray],
    key: jax.Array,
    shape: tuple[int, ...],
    dtype: DTypeLike,
) -> jax.Array:
    """What `draw` returns, eagerly or inside a traced function."""

    def drawn(data: jax.Array) -> jax.Array:
        return jnp.asarray(
            draw(np.random.default_rng(np.asarray(data).tolist())), dtype
        )

    data = jax.random.key_data(key)
    if isinstance(data, jax.core.Tracer):
        return jax.pure_callback(drawn, jax.ShapeDtypeStruct(shape, dtype), data)
    return drawn(data)


class SqueezeExcitation(nnx.Module):
    """Channel attention (Hu et al. 2018, arXiv:1709.01507).

    The hidden layer has a sixteenth of the channels, and at least 8.
    """

    def __init__(self, features: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        """Builds the two layers, which compute in `dtype`."""
        hidden = max(8, features // 16)
        linear = functools.partial(
            nnx.Linear, dtype=dtype, kernel_init=uniform(1.0), rngs=rngs
        )
        self.squeeze = linear(features, hidden)
        self.excite = linear(hidden, features)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Scales the channels of `[B, H, W, features]`."""
        weights = jax.nn.relu(self.squeeze(x.mean(axis=(1, 2))))
        return x * jax.nn.sigmoid(self.excite(weights))[:, None, None]


class Head(nnx.Module):
    """Average pooling to a grid, dropout and one linear layer, in float32.

    A grid of 1 is global average pooling. A finer one keeps the position in the image,
    which distinguishes a mouth from a brow in a centred face.
    """

    def __init__(
        self,
        features: int,
        num_classes: int,
        *,
        dropout: float,
        grid: int = 1,
        rngs: nnx.Rngs,
    ):
        """Builds the head; `grid` is the number of cells along a side."""
        self.grid = grid
        self.dropout = nnx.Dropout(dropout)
        self.linear = nnx.Linear(
            grid * grid * features, num_classes, kernel_init=uniform(1.0), rngs=rngs
        )

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
        """From `[B, H, W, features]` to float32 logits `[B, num_classes]`."""
        x = adaptive_avg_pool(x.astype(jnp.float32), self.grid)
        return self.linear(self.dropout(x.reshape(x.shape[0], -1), rngs=rngs))


def avg_pool(x: jax.Array) -> jax.Array:
    """Average pooling over 2 x 2 pixels: `[B, ceil(H / 2), ceil(W / 2), C]`.

    An odd last row or column is averaged with zeros.
    """
    _, height, width, _ = x.shape
    x = jnp.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
    top = x[:, ::2, ::2] + x[:, ::2, 1::2]
    return (top + x[:, 1::2, ::2] + x[:, 1::2, 1::2]) / 4


def max_pool(x: jax.Array) -> jax.Array:
    """Max pooling over 2 x 2 pixels: `[B, H // 2, W // 2, C]`.

    On a CPU its gradient takes a tenth of the time of `nnx.max_pool`'s.
    """
    _, height, width, _ = x.shape
    x = x[:, : height - height % 2, : width - width % 2]
    pixels = [x[:, row::2, column::2] for row in (0, 1) for column in (0, 1)]
    return functools.reduce(jnp.maximum, pixels)


def adaptive_avg_pool(x: jax.Array, grid: int) -> jax.Array:
    """Average pooling to `[B, grid, grid, C]`, as PyTorch's `AdaptiveAvgPool2d`."""
    batch, height, width, channels = x.shape
    if height % grid == 0 and width % grid == 0:  # equal cells: no products needed
        parts = x.reshape(batch, grid, height // grid, grid, width // grid, channels)
        return parts.mean(axis=(2, 4))
    rows, columns = _pooling_matrix(height, grid), _pooling_matrix(width, grid)
    return jnp.einsum("ih,bhwc,jw->bijc", rows, x, columns)


def _pooling_matrix(size: int, count: int) -> np.ndarray:
    """`[count, size]`, the weights of each pixel of a line in the mean of each cell.

    The cells overlap where `count` does not divide `size`.
    """
    weights = np.zeros((count, size), np.float32)
    for i in range(count):
        start, stop = i * size // count, -(-(i + 1) * size // count)
        weights[i, start:stop] = 1 / (stop - start)
    return weights
