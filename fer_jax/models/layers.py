"""The layers that the networks share, with the initialisation they use."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fer_jax.models.cpu.convolution import conv_on_cpu


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


def normal(deviation: float) -> nnx.Initializer:
    """Normal of this standard deviation, drawn on the host as by `uniform`."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist())
        return jnp.asarray(deviation * rng.standard_normal(shape), dtype)

    return init


def scaled(channels: int, width: float) -> int:
    """`channels` times `width`, rounded to a multiple of 8, and at least 8."""
    return max(8, 8 * round(channels * width / 8))


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
        conv_general_dilated=(
            conv_on_cpu
            if jax.default_backend() == "cpu"
            else jax.lax.conv_general_dilated
        ),
        rngs=rngs,
    )


def batch_norm(
    features: int,
    *,
    norm: str,
    last: bool = False,
    dtype: jnp.dtype,
    rngs: nnx.Rngs,
) -> nnx.BatchNorm:
    """Batch norm whose running statistics forget as fast as PyTorch's.

    Flax's default momentum of 0.99 still remembers the start after a short run.

    Args:
      features: the number of channels.
      norm: `plain`; `zero_last`, where the scale of the `last` of a residual branch
        starts at 0, so that a block starts as its shortcut (Goyal et al. 2017,
        arXiv:1706.02677); or `fixed_scale`, where scales are no parameters but 1, and
        only biases are trained (Jordan 2024, arXiv:2404.00498).
      last: whether it ends a residual branch.
      dtype: what it computes in.
      rngs: where keys come from.
    """
    start = jax.nn.initializers.zeros if norm == "zero_last" and last else None
    return nnx.BatchNorm(
        features,
        momentum=0.9,
        epsilon=1e-5,
        dtype=dtype,
        use_scale=norm != "fixed_scale",
        **({"scale_init": start} if start else {}),
        rngs=rngs,
    )


class SqueezeExcitation(nnx.Module):
    """Weighs each channel by what all channels hold on average (arXiv:1709.01507).

    Hu et al. 2018: the means over the image, a layer of a sixteenth as many values,
    here at least 8, with ReLU, and one of a sigmoid for each channel.
    """

    def __init__(self, features: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        """Builds the two layers, which compute in `dtype`."""
        hidden = max(8, features // 16)
        how = {"dtype": dtype, "kernel_init": uniform(1.0), "rngs": rngs}
        self.squeeze = nnx.Linear(features, hidden, **how)
        self.excite = nnx.Linear(hidden, features, **how)

    def __call__(self, x: jax.Array) -> jax.Array:
        """From `[B, H, W, features]` to the same shape."""
        weights = jax.nn.relu(self.squeeze(x.mean(axis=(1, 2))))
        return x * jax.nn.sigmoid(self.excite(weights))[:, None, None]


class Head(nnx.Module):
    """Means over a grid of cells, dropout, one linear layer; logits in float32.

    A grid of 1 is the usual mean over the image. A finer one keeps where in the
    image something was seen, which tells a mouth from a brow in a centred face.
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
        """Builds the head; `dropout` is the rate, `grid` the cells to a side."""
        self.grid = grid
        self.dropout = nnx.Dropout(dropout)
        self.linear = nnx.Linear(
            grid * grid * features, num_classes, kernel_init=uniform(1.0), rngs=rngs
        )

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
        """From `[B, h, w, features]` to float32 `[B, num_classes]`."""
        x = means(x.astype(jnp.float32), self.grid)
        return self.linear(self.dropout(x.reshape(len(x), -1), rngs=rngs))


def halve(x: jax.Array) -> jax.Array:
    """From `[B, H, W, C]` to the means of 2 x 2 pixels, `[B, H / 2, W / 2, C]`.

    A last odd row or column is averaged with zeros.
    """
    _, height, width, _ = x.shape
    x = jnp.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
    pixels = [x[:, row::2, column::2] for row in (0, 1) for column in (0, 1)]
    return sum(pixels) / 4


def halve_to_largest(x: jax.Array) -> jax.Array:
    """From `[B, H, W, C]` to the largest of 2 x 2 pixels, `[B, H // 2, W // 2, C]`.

    On a CPU the gradient takes a tenth of the time of XLA's reduction of windows.
    """
    _, height, width, _ = x.shape
    x = x[:, : height - height % 2, : width - width % 2]
    pixels = [x[:, row::2, column::2] for row in (0, 1) for column in (0, 1)]
    return functools.reduce(jnp.maximum, pixels)


def means(x: jax.Array, grid: int) -> jax.Array:
    """From `[B, H, W, C]` to the means of `grid * grid` cells, `[B, grid, grid, C]`.

    The cells are those of PyTorch's `AdaptiveAvgPool2d`.
    """
    batch, height, width, channels = x.shape
    if height % grid == 0 and width % grid == 0:  # equal cells: no products needed
        parts = x.reshape(batch, grid, height // grid, grid, width // grid, channels)
        return parts.mean(axis=(2, 4))
    rows, columns = cells(height, grid), cells(width, grid)
    return jnp.einsum("ih,bhwc,jw->bijc", rows, x, columns)


def cells(size: int, count: int) -> np.ndarray:
    """Weights `[count, size]` that average a line of `size` pixels over cells.

    The cells are those of PyTorch's `AdaptiveAvgPool2d`: they cover every pixel,
    and overlap where `count` does not divide `size`.
    """
    weights = np.zeros((count, size), np.float32)
    for i in range(count):
        start, stop = i * size // count, -(-(i + 1) * size // count)
        weights[i, start:stop] = 1 / (stop - start)
    return weights
