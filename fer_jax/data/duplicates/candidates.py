"""The pairs of images that may be near copies: the most similar ones.

The centre of each image is smoothed and whitened in the eigenvectors of the data set's
covariance (M. Turk and A. Pentland, "Eigenfaces for recognition", 1991), so that what
all faces share counts for little. It is compared with the centres of others, moved by
nine shifts and mirrored or not, in cells of similar ones (`cells.py`). The images are
read in parts; 256 bytes of each stay in memory.
"""

import itertools
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from fer_jax.data.duplicates.cells import Cells
from fer_jax.data.duplicates.filters import (
    CENTRE,
    SIDE,
    band_pass,
    parts,
    thread_pool,
)
from fer_jax.data.lazy_images import Images

# Whitened similarities. Pairs below the first are not candidates; of the others the
# most similar are, up to the number allowed: in FER2013 those above 0.62. No planted
# copy was below the second.
CANDIDATE, ENOUGH = 0.5, 0.65

_SIGMAS = (2.5, 4.0)  # of the band-pass, in pixels
_GRID = (-3, 0, 3)  # smoothed images are similar enough in between
_MOVES = tuple(itertools.product((False, True), _GRID, _GRID))  # mirrored, down, right
_MARGIN = CENTRE - max(_GRID)  # pixels at each edge that are in no moved centre
_DIMENSIONS = 64
_SAMPLE = 4000  # images that the eigenvectors are learnt from
_FEW = 150  # too few images to learn from: every pair is a candidate
_AT_ONCE = 2048  # images that a thread compares at once


class Candidates(NamedTuple):
    """Pairs of images, ascending by first and second."""

    first: np.ndarray  # int64 [P], indices into `places`
    second: np.ndarray  # int64 [P], larger
    mirrored: np.ndarray  # bool [P]
    least: float  # no pair that was left out is more similar


def find(images: Images, places: np.ndarray, most: int) -> Candidates:
    """The most similar pairs among the images at `places`, int `[N]`, up to `most`."""
    count, least = len(places), CANDIDATE
    if count <= _FEW:
        first, second = np.triu_indices(count, 1)
        keys = 2 * (first * count + second)
        keys = np.concatenate([keys, keys + 1])
    else:
        # BLAS threads slow down many small products, tenfold on a busy machine.
        with threadpool_limits(1, "blas"):
            keys, least = _search(images, places, most)
    pair, mirrored = np.divmod(keys, 2)
    first, second = np.divmod(pair, max(count, 1))
    return Candidates(first, second, mirrored.astype(bool), least)


def _search(images: Images, places: np.ndarray, most: int) -> tuple[np.ndarray, float]:
    """The keys, 2 (first N + second) + mirrored, of the most similar pairs.

    Either image of a pair may be the moved one, so a pair is looked for twice.
    """
    count = len(places)
    whitening = _Whitening(_smoothed(images, places[:: max(count // _SAMPLE, 1)]))
    reference = [
        whitening.vectors(_smoothed(images, places[part]), False, 0, 0)
        for part in parts(count, _AT_ONCE)
    ]
    cells, best = Cells(np.concatenate(reference)), _BestPairs(most)
    del reference  # the cells have a copy

    def search(part: slice) -> list[tuple[np.ndarray, np.ndarray]]:
        smoothed = _smoothed(images, places[part])
        moved = np.concatenate([whitening.vectors(smoothed, *move) for move in _MOVES])
        found = []
        for query, second, similarity in cells.similar(moved, best.least):
            move, first = np.divmod(query, len(smoothed))
            first, second = first + part.start, second.astype(np.int64)
            mirrored = move >= len(_MOVES) // 2  # the second half of the moves
            pair = np.minimum(first, second) * count + np.maximum(first, second)
            other = first != second
            found.append(((2 * pair + mirrored)[other], similarity[other]))
        return found

    with thread_pool() as pool:
        for found in pool.map(search, parts(count, _AT_ONCE)):
            for keys, similarity in found:
                best.add(keys, similarity)
    return best.keys(), best.least


def _smoothed(images: Images, places: np.ndarray) -> np.ndarray:
    """Smoothed images, as far as moved centres reach: float32 `[P, 38, 38]`."""
    return band_pass(images, places, _SIGMAS, _MARGIN)


class _Whitening:
    """Whitens the centres of images; learnt from a sample of them."""

    def __init__(self, sample: np.ndarray) -> None:
        """Learns from smoothed images, float32 `[N, 38, 38]`."""
        rows = np.concatenate(
            [_centre(sample, mirror, 0, 0) for mirror in (False, True)]
        )
        self._mean = rows.mean(axis=0)
        values, vectors = np.linalg.eigh(np.cov(rows - self._mean, rowvar=False))
        kept = np.flatnonzero(values > 1e-6 * values[-1])[-_DIMENSIONS:]
        self._basis = (vectors[:, kept] / np.sqrt(values[kept])).astype(np.float32)

    def vectors(
        self, smoothed: np.ndarray, mirrored: bool, down: int, right: int
    ) -> np.ndarray:
        """The whitened moved centres, unit vectors float32 `[N, K]`."""
        rows = _centre(smoothed, mirrored, down, right) - self._mean
        return _unit(rows @ self._basis)


def _centre(smoothed: np.ndarray, mirrored: bool, down: int, right: int) -> np.ndarray:
    """The moved centres, every second pixel, as unit vectors float32 `[N, 256]`."""
    view = smoothed[:, :, ::-1] if mirrored else smoothed
    low, high = CENTRE - _MARGIN, SIDE - CENTRE - _MARGIN
    part = view[:, low + down : high + down : 2, low + right : high + right : 2]
    flat = part.reshape(len(part), -1)
    return _unit(flat - flat.mean(axis=1, keepdims=True))


def _unit(rows: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.maximum(norm, 1e-6)


class _BestPairs:
    """The most similar pairs, each once, in bounded memory.

    Attributes:
      least: the similarity that a further pair must exceed.
    """

    def __init__(self, most: int) -> None:
        self.least = CANDIDATE
        self._most, self._count = most, 0
        self._found = [(np.zeros(0, np.int64), np.zeros(0, np.float32))]

    def add(self, keys: np.ndarray, similarity: np.ndarray) -> None:
        """Adds pairs, int64 `[P]` and float32 `[P]`."""
        self._found.append((keys, similarity))
        self._count += len(keys)
        if self._count > self._most + 100_000:
            self.keys()

    def keys(self) -> np.ndarray:
        """The keys of the most similar pairs, ascending."""
        keys, similarity = (
            np.concatenate(each) for each in zip(*self._found, strict=True)
        )
        order = np.lexsort((-similarity, keys))
        order = order[np.diff(keys[order], prepend=-1) > 0]
        if len(order) > self._most:
            ranked = np.argsort(-similarity[order], kind="stable")
            order = order[np.sort(ranked[: self._most])]
            self.least = max(self.least, float(similarity[order].min(initial=1)))
        self._found = [(keys[order], similarity[order])]
        self._count = len(order)
        return keys[order]
