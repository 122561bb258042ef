"""Convolutions composed of what XLA compiles well for a CPU.

On a CPU, XLA runs a convolution at half the speed of a matrix product, and the gradient
of its kernel more slowly still. So most become matrix products: 3 x 3 convolutions by
Winograd's algorithm, 1 x 1 convolutions as they are.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fer_jax.models.cpu import winograd

# Channels, or images: with fewer, the matrices are too narrow for products to pay.
FEW = 8
_Convolution = Callable[[jax.Array, jax.Array], jax.Array]


def conv_on_cpu(
    images: jax.Array,
    kernel: jax.Array,
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    **rest: Any,
) -> jax.Array:
    """`lax.conv_general_dilated` for a CPU; equal up to rounding.

    Args:
      images: `[B, H, W, I]`.
      kernel: `[r, r, I, O]`, r odd.
      window_strides: 1 or 2, for each axis.
      padding: for each axis, before and after: r // 2.
      rest: as in `lax.conv_general_dilated`, but neither dilation nor groups.

    Returns:
      `[B, H', W', O]`.
    """
    stride, size = window_strides[0], len(kernel)
    if size == 1:
        return _mix_channels(images[:, ::stride, ::stride], kernel[0, 0])

    def convolve(images: jax.Array, kernel: jax.Array) -> jax.Array:
        strides = tuple(window_strides)
        return lax.conv_general_dilated(images, kernel, strides, tuple(padding), **rest)

    if len(images) < FEW:
        return convolve(images, kernel)
    if images.dtype != jnp.float32:  # XLA computes narrower types in float32, too
        as_float32 = images.astype(jnp.float32), kernel.astype(jnp.float32)
        outputs = conv_on_cpu(*as_float32, window_strides, padding, **rest)
        return outputs.astype(images.dtype)
    small = min(images.shape[1:3]) // stride < 2 * winograd.TILE
    if size != 3 or small or min(kernel.shape[2:]) < FEW:
        return _with_patches(convolve, stride, images, kernel)
    if stride == 2:
        images, kernel = _fold_images(images), _fold_kernel(kernel)
    return winograd.convolve(images, kernel, 1)


def _mix_channels(images: jax.Array, matrix: jax.Array) -> jax.Array:
    # As one matrix, so that the gradient by `matrix` is a single product as well.
    rows = images.reshape(-1, images.shape[-1]) @ matrix
    return rows.reshape(*images.shape[:-1], -1)


def _fold_images(images: jax.Array) -> jax.Array:
    """Cells of 2 x 2 pixels as pixels with four times the channels."""
    _, height, width, _ = images.shape
    images = jnp.pad(images, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
    # The barriers keep XLA from fusing this with the operations before and after.
    images = lax.optimization_barrier(images)
    pixels = [images[:, row::2, column::2] for row in (0, 1) for column in (0, 1)]
    return lax.optimization_barrier(jnp.concatenate(pixels, axis=-1))


def _fold_kernel(kernel: jax.Array) -> jax.Array:
    """The 2 x 2 kernel over cells that equals a 3 x 3 kernel of stride 2."""
    inputs, outputs = kernel.shape[2:]
    cells = jnp.pad(kernel, ((1, 0), (1, 0), (0, 0), (0, 0)))
    cells = cells.reshape(2, 2, 2, 2, inputs, outputs)
    return cells.transpose(0, 2, 1, 3, 4, 5).reshape(2, 2, 4 * inputs, outputs)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _with_patches(
    convolve: _Convolution, stride: int, images: jax.Array, kernel: jax.Array
) -> jax.Array:
    """A convolution whose kernel gradient is one matrix product with the patches."""
    return convolve(images, kernel)


def _save(
    convolve: _Convolution, stride: int, images: jax.Array, kernel: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return convolve(images, kernel), (images, kernel)


def _gradients(
    convolve: _Convolution,
    stride: int,
    saved: tuple[jax.Array, jax.Array],
    grads: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    images, kernel = saved
    by_images = jax.vjp(lambda x: convolve(x, kernel), images)[1](grads)[0]
    size, (_, down, across, outputs) = len(kernel), grads.shape
    around = (size // 2, size // 2 + stride)
    padded = jnp.pad(images, ((0, 0), around, around, (0, 0)))
    shifted = [
        padded[:, row : row + stride * down : stride, column:][
            :, :, : stride * across : stride
        ]
        for row in range(size)
        for column in range(size)
    ]
    patches = jnp.stack(shifted, 3).reshape(-1, kernel.size // outputs)
    by_kernel = lax.optimization_barrier(patches).T @ grads.reshape(-1, outputs)
    return by_images, by_kernel.reshape(kernel.shape)


_with_patches.defvjp(_save, _gradients)
