"""Brings images to 48 x 48 grey values, band-passed."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import scipy

from fer_jax.data.lazy_images import Images, read_pixels

SIDE = 48
CENTRE = 8  # pixels left off at each edge; no shift moves the edge into the centre


def luma(images: np.ndarray) -> np.ndarray:
    """The brightness of grey or RGB images: uint8 `[N, S, S, C]` to `[N, S, S]`.

    ITU-R BT.601's 0.299 R + 0.587 G + 0.114 B in 16 bits, rounded as Pillow does.
    """
    if images.shape[3] == 1:
        return images[:, :, :, 0]
    weighted = images.astype(np.uint32) @ np.array([19595, 38470, 7471], np.uint32)
    return ((weighted + 0x8000) >> 16).astype(np.uint8)


def band_pass(
    images: Images, places: np.ndarray, sigmas: tuple[float, float], margin: int = 0
) -> np.ndarray:
    """The images at `places`, blurred, minus the same blurred more.

    Args:
      images: uint8 `[N, S, S, C]`.
      places: int `[P]`.
      sigmas: of the two blurs, in pixels of 48 x 48.
      margin: pixels of 48 x 48 to leave off at each edge.

    Returns:
      float32 `[P, 48 - 2 margin, 48 - 2 margin]`.
    """
    near, far = (
        scipy.ndimage.gaussian_filter1d(
            resampling(images.shape[1]), sigma, axis=0, mode="nearest"
        )
        for sigma in sigmas
    )
    near, far = near.astype(np.float32), far.astype(np.float32)
    kept = slice(margin, SIDE - margin)
    out = np.empty((len(places), SIDE - 2 * margin, SIDE - 2 * margin), np.float32)

    def fill(part: slice) -> None:
        grey = luma(read_pixels(images, places[part])).astype(np.float32)
        passed = near @ grey @ near.T - far @ grey @ far.T
        out[part] = passed[:, kept, kept]

    with thread_pool() as pool:
        list(pool.map(fill, parts(len(places), 256)))
    return out


def resampling(size: int) -> np.ndarray:
    """Linear, antialiased resampling of `size` pixels to 48: float `[48, size]`."""
    ratio = size / SIDE
    centre = (np.arange(SIDE) + 0.5) * ratio - 0.5
    distance = np.abs(centre[:, None] - np.arange(size)) / max(ratio, 1)
    weight = np.maximum(1 - distance, 0)
    return weight / weight.sum(axis=1, keepdims=True)


def parts(count: int, size: int) -> Iterator[slice]:
    """Slices of up to `size` that cover `count`."""
    return (slice(at, min(at + size, count)) for at in range(0, count, size))


def thread_pool() -> ThreadPoolExecutor:
    """One thread a core, up to eight."""
    return ThreadPoolExecutor(min(len(os.sched_getaffinity(0)), 8))
