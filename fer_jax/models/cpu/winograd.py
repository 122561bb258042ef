"""Winograd's convolution: fewer multiplications, as matrix products.

A tile of m x m outputs needs (m + r - 1)**2 multiplications for each pair of channels,
where the direct sum needs (m r)**2. Lavin & Gray 2016 (arXiv:1509.09308) transform
tiles of the image and the kernel to values at a few points, multiply them, and
transform back:

  Y = A' [ (G w G') * (B' x B) ] A

Over channels and tiles that is one matrix product for each point, which XLA's CPU code
does fast. Both gradients have the same form.
"""

import functools
import operator
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

TILE = 3  # outputs along a side; divides 48, 24, 12 and 6


class _Transforms(NamedTuple):
    """The matrices for one kernel size, as rows."""

    image: Sequence[Sequence[float]]  # B', [points, points]
    kernel: Sequence[Sequence[float]]  # G, [points, taps]
    output: Sequence[Sequence[float]]  # A', [TILE, points]


# By the kernel's side. The points are 0, 1, -1, 2 and infinity, or the same without 2.
# With integers up to 4, and kernels divided by 2 and 6, less than two digits are lost.
_TRANSFORMS = {
    3: _Transforms(
        image=(
            (2, -1, -2, 1, 0),
            (0, 2, 1, -1, 0),
            (0, -2, 3, -1, 0),
            (0, -1, 0, 1, 0),
            (0, 2, -1, -2, 1),
        ),
        kernel=(
            (1 / 2, 0, 0),
            (1 / 2, 1 / 2, 1 / 2),
            (1 / 6, -1 / 6, 1 / 6),
            (1 / 6, 1 / 3, 2 / 3),
            (0, 0, 1),
        ),
        output=((1, 1, 1, 1, 0), (0, 1, -1, 2, 0), (0, 1, 1, 4, 1)),
    ),
    2: _Transforms(
        image=((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, -1, 0, 1)),
        kernel=((1, 0), (1 / 2, 1 / 2), (1 / 2, -1 / 2), (0, 1)),
        output=((1, 1, 1, 0), (0, 1, -1, 0), (0, 1, 1, 1)),
    ),
}


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(images: jax.Array, kernel: jax.Array, before: int) -> jax.Array:
    """A convolution of stride 1 that keeps the size.

    Args:
      images: float32 `[B, H, W, I]`.
      kernel: float32 `[r, r, I, O]`, r 2 or 3.
      before: rows of zeros above and columns of zeros to the left; r - 1 - before are
        below and to the right.

    Returns:
      float32 `[B, H, W, O]`, equal to `lax.conv_general_dilated`'s up to rounding.
    """
    return _forward(images, kernel, before)[0]


@functools.partial(jax.jit, static_argnums=2)
def _forward(
    images: jax.Array, kernel: jax.Array, before: int
) -> tuple[jax.Array, tuple[list[jax.Array], jax.Array]]:
    batch, height, width, _ = images.shape
    points = _image_to_points(images, len(kernel), before)
    products = [x @ w for x, w in zip(points, _kernel_to_points(kernel), strict=True)]
    outputs = _points_to_outputs(products, len(kernel), (batch, height, width))
    return outputs, (points, kernel)


@functools.partial(jax.jit, static_argnums=0)
def _gradients(
    before: int, saved: tuple[list[jax.Array], jax.Array], grads: jax.Array
) -> tuple[jax.Array, jax.Array]:
    points, kernel = saved
    # With respect to the images: a convolution with the rotated kernel.
    rotated = kernel[::-1, ::-1].swapaxes(2, 3)
    by_images = _forward(grads, rotated, len(kernel) - 1 - before)[0]
    # With respect to the kernel: the three steps to the output, each transposed.
    at_points = _outputs_to_points(grads, len(kernel))
    by_kernel = [
        lax.dot_general(x, g, (((0,), (0,)), ((), ())))
        for x, g in zip(points, at_points, strict=True)
    ]
    return by_images, _points_to_kernel(by_kernel, len(kernel))


convolve.defvjp(_forward, _gradients)


def _image_to_points(images: jax.Array, taps: int, before: int) -> list[jax.Array]:
    """B' x B of overlapping tiles: `[B * tiles, I]` for each point."""
    matrix = _TRANSFORMS[taps].image
    _, height, width, _ = images.shape
    down, across = _tiles(height), _tiles(width)
    more = taps - 1 - before
    images = jnp.pad(
        images,
        (
            (0, 0),
            (before, down * TILE - height + more),
            (before, across * TILE - width + more),
            (0, 0),
        ),
    )
    return _tiles_to_points(images, matrix, down, across)


def _points_to_outputs(
    points: Sequence[jax.Array], taps: int, shape: tuple[int, int, int]
) -> jax.Array:
    """A' y A of each tile, put together: `[B, H, W, O]`, from `[B * tiles, O]` each."""
    matrix = _TRANSFORMS[taps].output
    batch, height, width = shape
    down, across = _tiles(height), _tiles(width)
    grid = [
        x.reshape(batch, down, across, -1) for x in lax.optimization_barrier(points)
    ]
    size = len(matrix[0])
    rows = []
    for by_row in matrix:
        mixed = [_mix(by_row, grid[column::size]) for column in range(size)]
        rows.append(jnp.stack([_mix(by_column, mixed) for by_column in matrix], 3))
    outputs = jnp.stack(rows, 2).reshape(batch, down * TILE, across * TILE, -1)
    # Without the barrier, XLA fuses later operations and looks up each value's tile.
    return lax.optimization_barrier(outputs[:, :height, :width])


def _outputs_to_points(grads: jax.Array, taps: int) -> list[jax.Array]:
    """A g A' of adjacent tiles: `[B * tiles, O]` for each point."""
    matrix = list(zip(*_TRANSFORMS[taps].output, strict=True))
    _, height, width, _ = grads.shape
    down, across = _tiles(height), _tiles(width)
    missing = ((0, down * TILE - height), (0, across * TILE - width))
    grads = jnp.pad(grads, ((0, 0), *missing, (0, 0)))
    return _tiles_to_points(grads, matrix, down, across)


def _tiles_to_points(
    x: jax.Array, matrix: Sequence[Sequence[float]], down: int, across: int
) -> list[jax.Array]:
    """M t M' of each tile t: a tile has as many rows as `matrix` has columns."""
    side = range(len(matrix[0]))
    rows = [_every(x, 1, start, down) for start in side]
    points = []
    for by_row in matrix:
        mixed = _mix(by_row, rows)
        columns = [_every(mixed, 2, start, across) for start in side]
        points += [_mix(by_column, columns) for by_column in matrix]
    # Without the barrier, XLA computes them again for each use.
    return lax.optimization_barrier([p.reshape(-1, p.shape[-1]) for p in points])


def _kernel_to_points(kernel: jax.Array) -> list[jax.Array]:
    """G w G': `[I, O]` for each point."""
    both = _both_axes(len(kernel))
    taps = kernel.reshape(both.shape[1], -1)
    return list(jnp.matmul(both, taps).reshape(-1, *kernel.shape[2:]))


def _points_to_kernel(points: Sequence[jax.Array], taps: int) -> jax.Array:
    """G' u G: `[r, r, I, O]`."""
    both = _both_axes(taps)
    stacked = jnp.stack(points)
    kernel = jnp.matmul(both.T, stacked.reshape(len(both), -1))
    return kernel.reshape(taps, taps, *stacked.shape[1:])


def _both_axes(taps: int) -> np.ndarray:
    """G along both axes: `[points**2, taps**2]`."""
    matrix = np.array(_TRANSFORMS[taps].kernel, np.float32)
    return np.kron(matrix, matrix)


def _tiles(side: int) -> int:
    return -(-side // TILE)


def _every(x: jax.Array, axis: int, start: int, count: int) -> jax.Array:
    """`count` slices along an axis: every TILE-th, from `start`."""
    return lax.slice_in_dim(x, start, start + TILE * (count - 1) + 1, TILE, axis)


def _mix(factors: Sequence[float], terms: Sequence[jax.Array]) -> jax.Array:
    """The weighted sum of arrays, without multiplications by 0 and 1."""
    pairs = zip(factors, terms, strict=True)
    scaled = [
        term if factor == 1 else factor * term for factor, term in pairs if factor
    ]
    return functools.reduce(operator.add, scaled)
