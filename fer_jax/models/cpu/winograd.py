"""Winograd's convolution: fewer products, and all of them products of matrices.

A tile of m outputs to a side needs (m + r - 1)**2 products a channel pair where the
direct sum needs (m r)**2. Lavin & Gray 2016 (arXiv:1509.09308) turn tiles of the image
and the kernel into values at a few points, multiply there, and turn back:

  Y = A' [ (G w G') * (B' x B) ] A

Over channels and tiles that is one matrix product for each point, the form in which
XLA's CPU code is fast. Both gradients have the same form.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

TILE = 3  # outputs to a side; divides 48, 24, 12 and 6


class _Transforms(NamedTuple):
    """The matrices of one size of kernel, as rows."""

    image: Sequence[Sequence[float]]  # B', [points, points]
    kernel: Sequence[Sequence[float]]  # G, [points, taps]
    output: Sequence[Sequence[float]]  # A', [TILE, points]


# By the kernel's side. The points are 0, 1, -1, 2 and infinity, or without the 2.
# Whole numbers up to 4 and kernels divided by 2 and 6 lose less than two digits.
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
    """A convolution of stride 1 whose output is as large as its input.

    Args:
      images: float32 `[B, H, W, I]`.
      kernel: float32 `[r, r, I, O]`, r 2 or 3.
      before: rows of zeros above and columns of zeros to the left, the rest of r - 1
        being below and to the right.

    Returns:
      float32 `[B, H, W, O]`, but for rounding `lax.conv_general_dilated`'s.
    """
    return _forward(images, kernel, before)[0]


def _forward(
    images: jax.Array, kernel: jax.Array, before: int
) -> tuple[jax.Array, tuple[list[jax.Array], jax.Array]]:
    batch, height, width, _ = images.shape
    points = _image_to_points(images, len(kernel), before)
    products = [x @ w for x, w in zip(points, _kernel_to_points(kernel), strict=True)]
    outputs = _points_to_outputs(products, len(kernel), (batch, height, width))
    return outputs, (points, kernel)


def _gradients(
    before: int, saved: tuple[list[jax.Array], jax.Array], grads: jax.Array
) -> tuple[jax.Array, jax.Array]:
    points, kernel = saved
    # By the images: a convolution with the kernel turned round.
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    by_images = _forward(grads, turned, len(kernel) - 1 - before)[0]
    # By the kernel: the three steps from it to the output, each transposed.
    at_points = _outputs_to_points(grads, len(kernel))
    by_kernel = [
        lax.dot_general(x, g, (((0,), (0,)), ((), ())))
        for x, g in zip(points, at_points, strict=True)
    ]
    return by_images, _points_to_kernel(by_kernel, len(kernel))


convolve.defvjp(_forward, _gradients)


def _image_to_points(images: jax.Array, taps: int, before: int) -> list[jax.Array]:
    """B' x B of overlapping tiles: for each point `[B * tiles, I]`."""
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
    """A' y A of each tile, put together: `[B, H, W, O]` from `[B * tiles, O]` each."""
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
    # Else what is done to them is done value by value, with a search for its place.
    return lax.optimization_barrier(outputs[:, :height, :width])


def _outputs_to_points(grads: jax.Array, taps: int) -> list[jax.Array]:
    """A g A' of tiles side by side: for each point `[B * tiles, O]`."""
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
    # Else XLA computes them anew, value by value, where they are used.
    return lax.optimization_barrier([p.reshape(-1, p.shape[-1]) for p in points])


def _kernel_to_points(kernel: jax.Array) -> list[jax.Array]:
    """G w G': for each point `[I, O]`."""
    both = _both_axes(len(kernel))
    taps = kernel.reshape(both.shape[1], -1)
    return list((both @ taps).reshape(-1, *kernel.shape[2:]))


def _points_to_kernel(points: Sequence[jax.Array], taps: int) -> jax.Array:
    """G' u G: `[r, r, I, O]`."""
    both = _both_axes(taps)
    stacked = jnp.stack(points)
    kernel = both.T @ stacked.reshape(len(both), -1)
    return kernel.reshape(taps, taps, *stacked.shape[1:])


def _both_axes(taps: int) -> np.ndarray:
    """What takes a kernel to its points along both axes: `[points**2, taps**2]`."""
    matrix = np.array(_TRANSFORMS[taps].kernel, np.float32)
    return np.kron(matrix, matrix)


def _tiles(side: int) -> int:
    return -(-side // TILE)


def _every(x: jax.Array, axis: int, start: int, count: int) -> jax.Array:
    """From `start` every TILE-th slice along an axis, `count` of them."""
    return lax.slice_in_dim(x, start, start + TILE * (count - 1) + 1, TILE, axis)


def _mix(factors: Sequence[float], terms: Sequence[jax.Array]) -> jax.Array:
    """The weighted sum of some arrays, without products by 0 and 1."""
    total = None
    for factor, term in zip(factors, terms, strict=True):
        if factor:
            term = term if factor == 1 else factor * term
            total = term if total is None else total + term
    return total
