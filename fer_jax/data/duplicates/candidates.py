"""The pairs of images that may be near copies: the most similar ones, whitened.

The smoothed centre of each image, in the eigenvectors of the data set's own covariance
and whitened (M. Turk and A. Pentland, "Eigenfaces for recognition", 1991), so that what
all faces share counts for little, is compared with those of others, moved by nine
shifts and mirrored or not, in blocks of matrix products. Up to `ALL_PAIRS` images each
is compared with each, beyond only with those in cells nearby (`cells.py`), as the time
would grow with the square; there the images are read by parts and 256 bytes of each
stay in memory.
"""

import itertools
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter1d
from threadpoolctl import threadpool_limits

from fer_jax.data.duplicates.cells import Cells
from fer_jax.data.lazy_images import Images, read_pixels

# More images are not compared each with each: that takes ten minutes of a core,
# four times as much for twice the images, and beyond that 2 GB of memory.
ALL_PAIRS = 200_000
# Whitened similarities. Pairs below the first are never looked at; of those above it
# the most similar, as many as is allowed: of FER2013's down to 0.6. No planted copy was
# below the second.
CANDIDATE, ENOUGH = 0.5, 0.65

SIDE = 48  # what images are brought to
CENTRE = 8  # pixels left off at each edge: no shift brings the edge into the centre
_COARSE = (2.5, 4.0)  # the sigmas of the band-pass, in pixels
_GRID = (-3, 0, 3)  # in between the smoothed images are alike enough
_MOVES = tuple(itertools.product((False, True), _GRID, _GRID))  # mirrored, down, right
_MARGIN = CENTRE - max(_GRID)  # pixels at each edge that no moved centre has
_DIMENSIONS = 64
_LEARNT = 4000  # images that the eigenvectors are learnt from
_ROWS, _COLUMNS = 512, 4096  # a block of products stays in the cache
_PART = 8192  # images whose vectors are made at once
_ASKED = 2048  # images that a thread looks for in cells at once
_FEW = 150  # too few images to learn from: every pair is a candidate


class Candidates(NamedTuple):
    """Pairs to look at, ascending by first and second."""

    first: np.ndarray  # int64 [P], places among those that were asked for
    second: np.ndarray  # int64 [P], larger
    mirrored: np.ndarray  # bool [P]
    least: float  # the whitened similarity that all others at most have
    in_cells: bool  # whether some pairs were never compared


def find(images: Images, places: np.ndarray, most: int) -> Candidates:
    """The most similar pairs among the images at `places`, int `[N]`, up to `most`."""
    count, in_cells = len(places), len(places) > ALL_PAIRS
    if count <= _FEW:
        first, second = np.triu_indices(count, 1)
        keys = 2 * (first * count + second)
        keys, least = np.concatenate([keys, keys + 1]), CANDIDATE
    elif in_cells:
        # Its many small products are held up by the threads of a BLAS: tenfold where
        # another process has a core.
        with threadpool_limits(1, "blas"):
            keys, least = _search_cells(images, places, most)
    else:
        keys, least = _search(_coarse(images, places), most)
    pair, mirrored = np.divmod(keys, 2)
    pair = np.divmod(pair, max(count, 1))
    return Candidates(*pair, mirrored.astype(bool), least, in_cells)


def luma(images: np.ndarray) -> np.ndarray:
    """The brightness of grey or colour images: uint8 `[N, S, S, C]` to `[N, S, S]`.

    It is ITU-R BT.601's 0.299 R + 0.587 G + 0.114 B in 16 bits, as Pillow rounds it, so
    that equal channels give back their value.
    """
    if images.shape[3] == 1:
        return images[:, :, :, 0]
    weighted = images.astype(np.uint32) @ np.uint32([19595, 38470, 7471])
    return ((weighted + 0x8000) >> 16).astype(np.uint8)


def parts(count: int, size: int) -> Iterator[slice]:
    """Slices of up to `size` that make up `count`."""
    return (slice(at, min(at + size, count)) for at in range(0, count, size))


def threads() -> ThreadPoolExecutor:
    """As many threads as there are cores, up to eight."""
    return ThreadPoolExecutor(min(len(os.sched_getaffinity(0)), 8))


def band(
    images: Images, places: np.ndarray, narrow: float, wide: float, margin: int = 0
) -> np.ndarray:
    """Band-passed images, those at `places`, at 48 x 48: float32 `[P, 48, 48]`.

    That is: blurred, less what remains of them blurred more. Of each edge `margin`
    pixels are left off.
    """
    smoothed = [
        gaussian_filter1d(_resampling(images.shape[1]), sigma, axis=0, mode="nearest")
        for sigma in (narrow, wide)
    ]
    near, far = (matrix.astype(np.float32) for matrix in smoothed)
    kept = slice(margin, SIDE - margin)
    out = np.empty((len(places), SIDE - 2 * margin, SIDE - 2 * margin), np.float32)

    def fill(part: slice) -> None:
        grey = luma(read_pixels(images, places[part])).astype(np.float32)
        passed = near @ grey @ near.T - far @ grey @ far.T
        out[part] = passed[:, kept, kept]

    with threads() as pool:
        list(pool.map(fill, parts(len(places), 256)))
    return out


def _resampling(size: int) -> np.ndarray:
    """Brings `size` pixels to 48, each the mean of those it covers: `[48, size]`."""
    ratio = size / SIDE
    centre = (np.arange(SIDE) + 0.5) * ratio - 0.5
    away = np.abs(centre[:, None] - np.arange(size)) / max(ratio, 1)
    weight = np.maximum(1 - away, 0)
    return weight / weight.sum(axis=1, keepdims=True)


# The vectors that are compared.


def _coarse(images: Images, places: np.ndarray) -> np.ndarray:
    """Smoothed images as far as a moved centre reaches: float32 `[P, 38, 38]`."""
    return band(images, places, *_COARSE, margin=_MARGIN)


def _window(coarse: np.ndarray, mirrored: bool, down: int, right: int) -> np.ndarray:
    """The images' moved centres, every second pixel, as unit vectors `[N, 256]`."""
    view = coarse[:, :, ::-1] if mirrored else coarse
    low, high = CENTRE - _MARGIN, SIDE - CENTRE - _MARGIN
    part = view[:, low + down : high + down : 2, low + right : high + right : 2]
    flat = part.reshape(len(part), -1)
    return _unit(flat - flat.mean(axis=1, keepdims=True))


def _unit(rows: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.maximum(norm, 1e-6)


class _Whitening:
    """What whitens the centres of a data set, learnt from some of its images."""

    def __init__(self, some: np.ndarray) -> None:
        """Learns from smoothed images, float32 `[N, 38, 38]`."""
        rows = np.concatenate(
            [_window(some, mirrored, 0, 0) for mirrored in (False, True)]
        )
        self._mean = rows.mean(axis=0)
        values, vectors = np.linalg.eigh(np.cov(rows - self._mean, rowvar=False))
        kept = np.flatnonzero(values > 1e-6 * values[-1])[-_DIMENSIONS:]
        self._basis = (vectors[:, kept] / np.sqrt(values[kept])).astype(np.float32)

    @property
    def dimensions(self) -> int:
        """K of a vector."""
        return self._basis.shape[1]

    def vectors(
        self, coarse: np.ndarray, mirrored: bool, down: int, right: int
    ) -> np.ndarray:
        """The whitened moved centres of smoothed images, unit vectors `[N, K]`."""
        out = np.empty((len(coarse), self.dimensions), np.float32)
        for part in parts(len(coarse), _PART):
            rows = _window(coarse[part], mirrored, down, right) - self._mean
            out[part] = _unit(rows @ self._basis)
        return out


# Each with each.


def _search(coarse: np.ndarray, most: int) -> tuple[np.ndarray, float]:
    """The keys, 2 (first N + second) + mirrored, of up to `most` similar pairs."""
    count = len(coarse)
    whitening = _Whitening(coarse[:: max(count // _LEARNT, 1)])
    reference = whitening.vectors(coarse, False, 0, 0)
    hits, room = _Hits(most), np.empty(_ROWS * _COLUMNS, np.float32)
    for mirrored, down, right in _MOVES:
        moved = whitening.vectors(coarse, mirrored, down, right)
        for rows, columns in _upper_triangle(count):
            shape = rows.stop - rows.start, columns.stop - columns.start
            alike = room[: shape[0] * shape[1]].reshape(shape)
            np.matmul(reference[rows], moved[columns].T, out=alike)
            at = np.flatnonzero(alike > hits.least)
            if len(at):
                first, second = np.divmod(at, shape[1])
                first, second = first + rows.start, second + columns.start
                kept = first < second
                keys = 2 * (first * count + second) + mirrored
                hits.add(keys[kept], alike.reshape(-1)[at[kept]])
    return hits.best(), hits.least


def _upper_triangle(count: int) -> Iterator[tuple[slice, slice]]:
    """Blocks of rows and columns that hold every pair with row < column."""
    for rows in parts(count, _ROWS):
        for columns in parts(count, _COLUMNS):
            if columns.stop > rows.start + 1:
                yield rows, columns


# Each with those in cells nearby.


def _search_cells(
    images: Images, places: np.ndarray, most: int
) -> tuple[np.ndarray, float]:
    """As `_search`, of images that are read thrice, `_ASKED` at a time and thread.

    Whichever of two images is moved, it is the same pair, so both are tried.
    """
    count = len(places)
    whitening = _Whitening(_coarse(images, places[:: max(count // _LEARNT, 1)]))
    reference = np.empty((count, whitening.dimensions), np.float32)
    for part in parts(count, _ASKED):
        coarse = _coarse(images, places[part])
        reference[part] = whitening.vectors(coarse, False, 0, 0)
    cells, hits = Cells(reference), _Hits(most)
    del reference  # the cells have their own, sorted

    def search(part: slice) -> list[tuple[np.ndarray, np.ndarray]]:
        coarse = _coarse(images, places[part])
        moved = np.concatenate([whitening.vectors(coarse, *move) for move in _MOVES])
        found = []
        for query, second, alike in cells.similar(moved, hits.least):
            move, first = np.divmod(query, len(coarse))
            first, second = first + part.start, second.astype(np.int64)
            mirrored = move >= len(_MOVES) // 2  # the second half of them
            kept = first != second
            pair = np.minimum(first, second) * count + np.maximum(first, second)
            found.append(((2 * pair + mirrored)[kept], alike[kept]))
        return found

    with threads() as pool:
        for found in pool.map(search, parts(count, _ASKED)):
            for keys, alike in found:
                hits.add(keys, alike)
    return hits.best(), hits.least


class _Hits:
    """The most similar pairs, a bounded number, each once.

    `least` is the similarity that a pair must exceed to matter; it rises only where
    more than the allowed number do.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._keys, self._alike = np.zeros(0, np.int64), np.zeros(0, np.float32)
        self._new: list[tuple[np.ndarray, np.ndarray]] = []
        self._waiting = 0
        self.least = CANDIDATE

    def add(self, keys: np.ndarray, alike: np.ndarray) -> None:
        """Takes pairs with their similarities."""
        kept = alike > self.least  # it may have risen since they were found
        self._new.append((keys[kept], alike[kept]))
        self._waiting += int(kept.sum())
        if self._waiting > self._most + 100_000:
            self.best()

    def best(self) -> np.ndarray:
        """The keys of the most similar pairs, ascending."""
        held = [(self._keys, self._alike), *self._new]
        keys, alike = (np.concatenate(each) for each in zip(*held, strict=True))
        order = np.lexsort((-alike, keys))
        keys, alike = keys[order], alike[order]
        new = np.ones(len(keys), bool)
        new[1:] = keys[1:] != keys[:-1]
        keys, alike = keys[new], alike[new]
        if len(keys) > self._most:
            kept = np.sort(np.argsort(-alike, kind="stable")[: self._most])
            keys, alike = keys[kept], alike[kept]
            self.least = max(self.least, float(alike.min(initial=1)))
        self._keys, self._alike = keys, alike
        self._new, self._waiting = [], 0
        return keys
