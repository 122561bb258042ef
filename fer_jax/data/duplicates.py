"""Finds the images of a data set that are one photograph: the same pixels, or nearly.

Two images are near copies if one is the other mirrored, moved by up to a twelfth of the
side, cropped by up to a tenth, compressed, blurred, or with another brightness and
contrast, also all of these at once. It takes three steps, on 48 x 48 pixels whatever
the images' size:

1. Candidates. The smoothed centre of each image, in the eigenvectors of the data set's
   own covariance and whitened (M. Turk and A. Pentland, "Eigenfaces for recognition",
   1991), so that what all faces share counts for little. Each image is compared with
   each, moved by nine shifts and mirrored or not, in blocks of matrix products.
2. Alignment of each candidate pair: the peak of the normalised cross-correlation
   (J. P. Lewis, "Fast normalized cross-correlation", 1995) over shifts and scales.
3. The verdict: the correlation over all that overlaps there. Before it a band-pass
   takes away what unlike faces have in common (light, the oval of the head) and what
   compression changes (the finest detail).

`tests/soak/duplicates.py` measures what is found; the constants come from that.
"""

import dataclasses
import hashlib
import itertools
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from scipy import fft, sparse
from scipy.ndimage import gaussian_filter1d

from fer_jax.data.stored_images import Images, chunks, taken

# Grey values (standard deviation of an image). In FER2013 the blank ones have at most
# 0.7 and the next 4.1.
BLANK = 3.0
# The least correlation of near copies. In FER2013 unlike photographs stay below 0.89
# and 19 of 20 copies are above 0.95; what lies between are other pictures of one
# session, which are no copies, and copies that were retouched or written on.
NEAR = 0.9
# Whitened similarities. Pairs below the first are never looked at; of those above it
# the most similar, as many as is allowed: of FER2013's down to 0.6. No planted copy was
# below the second.
CANDIDATE, ENOUGH = 0.5, 0.65
MAX_CANDIDATES = 150_000

_SIDE = 48
_CENTRE = 8  # pixels left off at each edge: no shift brings the edge into the centre
_COARSE, _FINE = (2.5, 4.0), (1.0, 2.0)  # the sigmas of the band-passes, in pixels
_GRID = (-3, 0, 3)  # in between the smoothed images are alike enough
_DIMENSIONS = 64
_ROWS, _COLUMNS = 512, 4096  # a block of products stays in the cache
_FEW = 150  # too few images to learn from: every pair is a candidate
_REACH = 5
_SCALES = (0.91, 0.955, 1.045, 1.09)
_EDGE = 3  # pixels that the fine band-pass may take from beyond an image's edge
# In grey values: band-passed images that vary less correlate with anything.
_FLAT = 0.5
# Whose alignment is not given up yet, and whose is not mended any more.
_PROMISING, _CERTAIN = 0.55, 0.97
_STEPS = ((0.5, 0.2), (0.25, 0.07))  # pixels; how far from near copies it is tried


@dataclasses.dataclass(frozen=True)
class Copies:
    """Which of N images are copies of which.

    Attributes:
      exact: int32 `[N]`, equal where all pixels are: the place of the first such image.
      pairs: int32 `[P, 2]`, near copies, ascending, the first of each exact group
        standing for it: `pairs[:, 0] < pairs[:, 1]`.
      correlation: float32 `[P]`, of the band-passed images where they overlap, NEAR..1.
      mirrored: bool `[P]`, the second is mirrored (and then scaled and moved).
      scale: float32 `[P]`, about 0.85..1.15: what the second shows is so much larger
        in the first.
      shift: int8 `[P, 2]`, how many pixels lower and further right it is there.
      least: the whitened similarity of the least similar pairs that were looked at:
        `CANDIDATE`, or more where more pairs than allowed had that.
    """

    exact: np.ndarray
    pairs: np.ndarray
    correlation: np.ndarray
    mirrored: np.ndarray
    scale: np.ndarray
    shift: np.ndarray
    least: float = CANDIDATE

    @property
    def complete(self) -> bool:
        """Whether all pairs were looked at that may well be near copies."""
        return self.least <= ENOUGH

    def groups(self) -> np.ndarray:
        """Images that copies link, exact or near: int32 `[N]`, the first one's place.

        A chain of near copies is one group, though its ends may be less alike.
        """
        count = len(self.exact)
        first = np.concatenate([self.exact, self.pairs[:, 0]])
        second = np.concatenate([np.arange(count), self.pairs[:, 1]])
        links = sparse.coo_array(
            (np.ones(len(first), bool), (first, second)), (count, count)
        )
        kind = sparse.csgraph.connected_components(links, directed=False)[1]
        _, places, kind = np.unique(kind, return_index=True, return_inverse=True)
        return places[kind].astype(np.int32)


def luma(images: np.ndarray) -> np.ndarray:
    """The brightness of grey or colour images: uint8 `[N, S, S, C]` to `[N, S, S]`.

    It is ITU-R BT.601's 0.299 R + 0.587 G + 0.114 B in 16 bits, as Pillow rounds it, so
    that equal channels give back their value.
    """
    if images.shape[3] == 1:
        return images[:, :, :, 0]
    weighted = images.astype(np.uint32) @ np.uint32([19595, 38470, 7471])
    return ((weighted + 0x8000) >> 16).astype(np.uint8)


def blank(images: Images) -> np.ndarray:
    """Which images show nothing: uint8 `[N, S, S, C]` to bool `[N]`."""
    # In blocks, because the deviation is reckoned in float64.
    blocks = [luma(part).std(axis=(1, 2)) < BLANK for part in chunks(images)]
    return np.concatenate([np.zeros(0, bool), *blocks])


def exact(images: Images) -> np.ndarray:
    """Which images are identical in all channels: uint8 `[N, S, S, C]` to int32 `[N]`.

    The number is the place of the first such image.
    """
    seen: dict[bytes, int] = {}
    digests = (
        hashlib.sha256(np.ascontiguousarray(image)).digest()
        for part in chunks(images)
        for image in part
    )
    return np.array([seen.setdefault(d, at) for at, d in enumerate(digests)], np.int32)


def find(
    images: Images, *, near: float = NEAR, max_candidates: int = MAX_CANDIDATES
) -> Copies:
    """Finds exact and near copies.

    Blank images are copies of nothing but identical ones: they correlate with anything.
    Near copies are looked for in the brightness, which copies share that lost colour.

    Args:
      images: uint8 `[N, S, S, C]`; any S, but from some 32 pixels on with confidence.
        Stored ones are read four times, some at a time.
      near: the least correlation of near copies, 0.6 or more.
      max_candidates: how many pairs are looked at, the most similar ones; of up to
        150 images every pair is. Where too few are, `Copies.complete` is false.
    """
    same = exact(images)
    distinct = np.flatnonzero((same == np.arange(len(images))) & ~blank(images))
    first, second, mirrored, least = _candidates(images, distinct, max_candidates)
    fine = _band(images, distinct, *_FINE)
    correlation, placed = _verify(fine, first, second, mirrored, near)
    # A pair may be found both as it is and mirrored; the better counts.
    order = np.lexsort((-correlation, second, first))
    order = order[correlation[order] >= near]
    pairs = np.stack([first, second], axis=1)[order]
    new = np.ones(len(pairs), bool)
    new[1:] = (np.diff(pairs, axis=0) != 0).any(axis=1)
    order = order[new]
    return Copies(
        exact=same,
        pairs=distinct[pairs[new]].astype(np.int32),
        correlation=correlation[order],
        mirrored=mirrored[order],
        scale=placed[order, 0],
        shift=np.rint(placed[order, 1:] * images.shape[1] / _SIDE).astype(np.int8),
        least=least,
    )


def _parts(count: int, size: int) -> Iterator[slice]:
    return (slice(at, min(at + size, count)) for at in range(0, count, size))


def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(len(os.sched_getaffinity(0)), 8))


def _resampling(size: int) -> np.ndarray:
    """Brings `size` pixels to 48, each the mean of those it covers: `[48, size]`."""
    ratio = size / _SIDE
    centre = (np.arange(_SIDE) + 0.5) * ratio - 0.5
    away = np.abs(centre[:, None] - np.arange(size)) / max(ratio, 1)
    weight = np.maximum(1 - away, 0)
    return weight / weight.sum(axis=1, keepdims=True)


def _band(images: Images, places: np.ndarray, narrow: float, wide: float) -> np.ndarray:
    """Band-passed images, those at `places`, at 48 x 48: float32 `[P, 48, 48]`.

    That is: blurred, less what remains of them blurred more.
    """
    smoothed = [
        gaussian_filter1d(_resampling(images.shape[1]), sigma, axis=0, mode="nearest")
        for sigma in (narrow, wide)
    ]
    near, far = (matrix.astype(np.float32) for matrix in smoothed)
    out = np.empty((len(places), _SIDE, _SIDE), np.float32)

    def fill(part: slice) -> None:
        grey = luma(taken(images, places[part])).astype(np.float32)
        out[part] = near @ grey @ near.T - far @ grey @ far.T

    with _threads() as pool:
        list(pool.map(fill, _parts(len(places), 256)))
    return out


# Candidates.


def _candidates(
    images: Images, places: np.ndarray, most: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Pairs of `places` to look at: first, second, mirrored; the least similarity."""
    count = len(places)
    if count <= _FEW:
        first, second = np.triu_indices(count, 1)
        keys = 2 * (first * count + second)
        keys, least = np.concatenate([keys, keys + 1]), CANDIDATE
    else:
        keys, least = _search(_band(images, places, *_COARSE), most)
    pair, mirrored = np.divmod(keys, 2)
    return *np.divmod(pair, max(count, 1)), mirrored.astype(bool), least


def _window(coarse: np.ndarray, down: int, right: int, mirrored: bool) -> np.ndarray:
    """The images' moved centres, every second pixel, as unit vectors `[N, 256]`."""
    view = coarse[:, :, ::-1] if mirrored else coarse
    low, high = _CENTRE, _SIDE - _CENTRE
    part = view[:, low + down : high + down : 2, low + right : high + right : 2]
    flat = part.reshape(len(part), -1)
    return _unit(flat - flat.mean(axis=1, keepdims=True))


def _unit(rows: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.maximum(norm, 1e-6)


def _whitening(coarse: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean `[256]`, and what whitens centres less it `[256, K]`, of up to 4,000."""
    some = coarse[:: max(len(coarse) // 4000, 1)]
    rows = np.concatenate([_window(some, 0, 0, mirrored) for mirrored in (False, True)])
    mean = rows.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(rows - mean, rowvar=False))
    kept = np.flatnonzero(values > 1e-6 * values[-1])[-_DIMENSIONS:]
    return mean, (vectors[:, kept] / np.sqrt(values[kept])).astype(np.float32)


def _search(coarse: np.ndarray, most: int) -> tuple[np.ndarray, float]:
    """The keys, 2 (first N + second) + mirrored, of up to `most` similar pairs."""
    count = len(coarse)
    mean, basis = _whitening(coarse)
    reference = _unit((_window(coarse, 0, 0, False) - mean) @ basis)
    hits, room = _Hits(most), np.empty(_ROWS * _COLUMNS, np.float32)
    for mirrored, down, right in itertools.product((False, True), _GRID, _GRID):
        moved = _unit((_window(coarse, down, right, mirrored) - mean) @ basis)
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
    for rows in _parts(count, _ROWS):
        for columns in _parts(count, _COLUMNS):
            if columns.stop > rows.start + 1:
                yield rows, columns


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
        self._new.append((keys, alike))
        self._waiting += len(keys)
        if self._waiting > self._most + 100_000:
            self.best()

    def best(self) -> np.ndarray:
        """The keys of the most similar pairs, ascending."""
        held = [(self._keys, self._alike), *self._new]
        keys, alike = (np.concatenate(parts) for parts in zip(*held, strict=True))
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


# Alignment and verdict.


def _verify(
    fine: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    mirrored: np.ndarray,
    near: float,
) -> tuple[np.ndarray, np.ndarray]:
    """The correlations float32 `[P]` of pairs, and their alignments `[P, 3]`."""
    correlation = np.zeros(len(first), np.float32)
    placed = np.ones((len(first), 3), np.float32)

    def judge(part: slice) -> None:
        one, two = fine[first[part]], fine[second[part]]
        flipped = mirrored[part]
        two[flipped] = two[flipped, :, ::-1]
        correlation[part], placed[part] = _judge(one, two, near)

    with _threads() as pool:
        list(pool.map(judge, _parts(len(first), 256)))
    return correlation, placed


def _judge(
    one: np.ndarray, two: np.ndarray, near: float
) -> tuple[np.ndarray, np.ndarray]:
    """The best correlations `[P]` of `[P, 48, 48]`, and scale, down and right there."""
    peak, shift = _peak(one, two)
    placed = np.concatenate([np.ones_like(shift[:, :1]), shift], axis=1)
    for scale in _SCALES:
        at = np.flatnonzero((peak > _PROMISING) & (peak < _CERTAIN))
        resize = _tent(np.array([scale]), np.zeros(1))[0][0]
        value, shift = _peak(one[at], resize @ two[at] @ resize.T)
        better = value > peak[at]
        at, shift = at[better], shift[better]
        peak[at] = value[better]
        placed[at] = np.concatenate([np.full_like(shift[:, :1], scale), shift], axis=1)
    correlation = np.zeros(len(one), np.float32)
    at = np.flatnonzero(peak > _PROMISING)
    correlation[at] = _overlap(one[at], two[at], placed[at])
    for step, lacking in _STEPS:
        hopeful = (correlation > near - lacking) & (correlation < _CERTAIN)
        at = np.flatnonzero(hopeful)
        correlation[at], placed[at] = _refine(
            one[at], two[at], correlation[at], placed[at], step
        )
    return correlation, placed


def _peak(one: np.ndarray, two: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The best correlation `[P]` of the centre of `two` in `one`, and the shift."""
    side = _SIDE - 2 * _CENTRE
    centre = slice(_CENTRE, _SIDE - _CENTRE)
    template = np.zeros_like(two)
    template[:, centre, centre] = two[:, centre, centre]
    template[:, centre, centre] -= two[:, centre, centre].mean((1, 2), keepdims=True)
    shifts = np.arange(-_REACH, _REACH + 1)
    product = fft.rfft2(one) * np.conj(fft.rfft2(template))
    product = fft.irfft2(product, (_SIDE, _SIDE))[:, shifts[:, None], shifts]
    # Sums over the moved centres, as products with rows of zeros and ones.
    inside = np.arange(_SIDE) - shifts[:, None]
    inside = ((inside >= centre.start) & (inside < centre.stop)).astype(np.float32)
    sums = inside @ one @ inside.T
    spread = inside @ one**2 @ inside.T - sums**2 / side**2
    flat = side**2 * _FLAT**2
    power = np.maximum((template**2).sum(axis=(1, 2)), flat)[:, None, None]
    values = product / np.sqrt(np.maximum(spread, flat) * power)
    values = values.reshape(len(one), len(shifts) ** 2)
    best = values.argmax(axis=1)
    shift = np.stack([shifts[best // len(shifts)], shifts[best % len(shifts)]], axis=1)
    return values.max(axis=1, initial=-1), shift.astype(np.float32)


def _tent(scale: np.ndarray, shift: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Linear interpolation along one axis: weights `[P, 48, 48]`, and which are safe.

    Pixel p of the result is the place (p - shift - m) / scale + m of the source, where
    m is the middle; it is safe, bool `[P, 48]`, if both are `_EDGE` from the edges.
    """
    middle, pixel = (_SIDE - 1) / 2, np.arange(_SIDE, dtype=np.float32)
    place = (pixel - shift[:, None] - middle) / scale[:, None] + middle
    safe = (np.abs(place - middle) <= middle - _EDGE) & (
        np.abs(pixel - middle) <= middle - _EDGE
    )
    weight = np.maximum(1 - np.abs(place[:, :, None] - pixel), 0)
    return weight.astype(np.float32), safe


def _overlap(one: np.ndarray, two: np.ndarray, placed: np.ndarray) -> np.ndarray:
    """The correlation `[P]` of `one` with `two` placed over it, where both are."""
    scale, down, right = placed.T
    (rows, safe_rows), (columns, safe_columns) = _tent(scale, down), _tent(scale, right)
    moved = rows @ two @ columns.transpose(0, 2, 1)
    both = (safe_rows[:, :, None] & safe_columns[:, None]).astype(np.float32)
    count = both.sum(axis=(1, 2), keepdims=True)

    def centred(values: np.ndarray) -> np.ndarray:
        return both * (values - (both * values).sum(axis=(1, 2), keepdims=True) / count)

    one, moved = centred(one), centred(moved)
    flat = count[:, 0, 0] * _FLAT**2
    power = np.maximum((one**2).sum(axis=(1, 2)), flat)
    power *= np.maximum((moved**2).sum(axis=(1, 2)), flat)
    return (one * moved).sum(axis=(1, 2)) / np.sqrt(power)


def _refine(
    one: np.ndarray,
    two: np.ndarray,
    correlation: np.ndarray,
    placed: np.ndarray,
    step: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Scales and moves `two`, by `step` pixels at its edge, as long as that helps."""
    reach = step * np.array([2 / _SIDE, 1, 1], np.float32)
    for axis in (0, 1, 2, 0, 1, 2):
        start = placed
        for sign in (-1, 1):
            tried = start.copy()
            tried[:, axis] += sign * reach[axis]
            value = _overlap(one, two, tried)
            better = value > correlation
            correlation = np.where(better, value, correlation)
            placed = np.where(better[:, None], tried, placed)
    return correlation, placed
