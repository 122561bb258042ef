"""Convolutions for a CPU, composed of what XLA's CPU code is good at.

XLA runs a convolution there at half the speed of a product of matrices, and the
gradient by its kernel more slowly still. So most become products: those of 3 x 3 by
Winograd's algorithm, those of 1 x 1 as they are. docs/performance.md has the figures.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fer_jax.models.cpu import winograd

FEW = 8  # channels, or images: fewer make matrices too narrow for products to pay


def conv_on_cpu(
    images: jax.Array,
    kernel: jax.Array,
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    **rest: Any,
) -> jax.Array:
    """`lax.conv_general_dilated`, but for rounding, for a CPU.

    Args:
      images: `[B, H, W, I]`.
      kernel: `[r, r, I, O]`, r odd.
      window_strides: 1 or 2, by axis.
      padding: by axis, before and after: r // 2.
      rest: as `lax.conv_general_dilated` takes them, but neither dilation nor groups.

    Returns:
      `[B, H', W', O]`.
    """
    stride, size = window_strides[0], len(kernel)
    if size == 1:
        return _mix_channels(images[:, ::stride, ::stride], kernel[0, 0])
    forward = functools.partial(
        lax.conv_general_dilated,
        window_strides=tuple(window_strides),
        padding=tuple(padding),
        **rest,
    )
    if len(images) < FEW:
        return forward(images, kernel)
    if images.dtype != jnp.float32:  # narrower types are computed in it all the same
        wide = (x.astype(jnp.float32) for x in (images, kernel))
        outputs = conv_on_cpu(*wide, window_strides, padding, **rest)
        return outputs.astype(images.dtype)
    small = min(images.shape[1:3]) // stride < 2 * winograd.TILE
    if size != 3 or small or min(kernel.shape[2:]) < FEW:
        return _with_patches(forward, stride, images, kernel)
    if stride == 2:
        images, kernel = _fold_images(images), _fold_kernel(kernel)
    return winograd.convolve(images, kernel, 1)


def _mix_channels(images: jax.Array, matrix: jax.Array) -> jax.Array:
    # As one matrix: the gradient by `matrix` is then a single product as well.
    rows = images.reshape(-1, images.shape[-1]) @ matrix
    return rows.reshape(*images.shape[:-1], -1)


def _fold_images(images: jax.Array) -> jax.Array:
    """Cells of 2 x 2 pixels as pixels of four times the channels."""
    _, height, width, _ = images.shape
    images = jnp.pad(images, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
    # Apart from what is done to it before and, to its gradient, after.
    images = lax.optimization_barrier(images)
    pixels = [images[:, row::2, column::2] for row in (0, 1) for column in (0, 1)]
    return lax.optimization_barrier(jnp.concatenate(pixels, axis=-1))


def _fold_kernel(kernel: jax.Array) -> jax.Array:
    """The 2 x 2 kernel over cells that a 3 x 3 kernel of stride 2 amounts to."""
    inputs, outputs = kernel.shape[2:]
    cells = jnp.pad(kernel, ((1, 0), (1, 0), (0, 0), (0, 0)))
    cells = cells.reshape(2, 2, 2, 2, inputs, outputs)
    return cells.transpose(0, 2, 1, 3, 4, 5).reshape(2, 2, 4 * inputs, outputs)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _with_patches(
    forward: Any, stride: int, images: jax.Array, kernel: jax.Array
) -> jax.Array:
    """A convolution whose kernel gradient is one product with the images' patches."""
    return forward(images, kernel)


def _save(forward: Any, stride: int, images: jax.Array, kernel: jax.Array):
    return forward(images, kernel), (images, kernel)


def _gradients(forward: Any, stride: int, saved: Any, grads: jax.Array):
    images, kernel = saved
    by_images = jax.vjp(lambda x: forward(x, kernel), images)[1](grads)[0]
    size, (_, down, across, outputs) = len(kernel), grads.shape
    around = (size // 2, size // 2 + stride)
    padded = jnp.pad(images, ((0, 0), around, around, (0, 0)))
    patches = [
        padded[:, row : row + stride * down : stride, column:][
            :, :, : stride * across : stride
        ]
        for row in range(size)
        for column in range(size)
    ]
    patches = jnp.stack(patches, 3).reshape(-1, kernel.size // outputs)
    by_kernel = lax.optimization_barrier(patches).T @ grads.reshape(-1, outputs)
    return by_images, by_kernel.reshape(kernel.shape)


_with_patches.defvjp(_save, _gradients)
