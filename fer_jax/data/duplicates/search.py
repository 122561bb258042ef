"""Finds the images of a data set that are one photograph: the same pixels, or nearly.

Two images are near copies if one is the other mirrored, moved by up to a twelfth of the
side, cropped by up to a tenth, compressed, blurred, or with another brightness and
contrast, also all of these at once. It takes three steps, on 48 x 48 pixels whatever
the images' size:

1. Candidates: the most similar pairs of the smoothed, whitened centres of the images
   (`candidates.py`).
2. Alignment of each candidate pair: the peak of the normalised cross-correlation
   (J. P. Lewis, "Fast normalized cross-correlation", 1995) over shifts and scales.
3. The verdict: the correlation over all that overlaps there. Before it a band-pass
   takes away what unlike faces have in common (light, the oval of the head) and what
   compression changes (the finest detail).

`tests/soak/duplicates.py` measures what is found; the constants come from that.
"""

import dataclasses
import hashlib
from collections.abc import Iterator

import numpy as np
from scipy import fft, sparse

from fer_jax.data.duplicates import candidates
from fer_jax.data.duplicates.candidates import (
    CANDIDATE,
    CENTRE,
    ENOUGH,
    SIDE,
    band,
    luma,
    parts,
)
from fer_jax.data.lazy_images import Images, chunks

# Grey values (standard deviation of an image). In FER2013 the blank ones have at most
# 0.7 and the next 4.1.
BLANK = 3.0
# The least correlation of near copies. In FER2013 unlike photographs stay below 0.89
# and 19 of 20 copies are above 0.95; what lies between are other pictures of one
# session, which are no copies, and copies that were retouched or written on.
NEAR = 0.9
# Pairs that are looked at, and for each image where they are looked for in cells.
MAX_CANDIDATES, CANDIDATES_EACH = 150_000, 1

_FINE = (1.0, 2.0)  # the sigmas of the band-pass, in pixels
_HELD = 40_000  # images that are held at once for the verdict, 9 KB each
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
      in_cells: whether each image was compared only with those in cells nearby, as
        among more than `candidates.ALL_PAIRS`: some near copies are missed then.
    """

    exact: np.ndarray
    pairs: np.ndarray
    correlation: np.ndarray
    mirrored: np.ndarray
    scale: np.ndarray
    shift: np.ndarray
    least: float = CANDIDATE
    in_cells: bool = False

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


def blank(images: Images) -> np.ndarray:
    """Which images show nothing: uint8 `[N, S, S, C]` to bool `[N]`."""
    # In blocks, because the deviation is reckoned in float64.
    blocks = [luma(part).std(axis=(1, 2)) < BLANK for part in chunks(images)]
    return np.concatenate([np.zeros(0, bool), *blocks])


def exact(images: Images) -> np.ndarray:
    """Which images are identical in all channels: uint8 `[N, S, S, C]` to int32 `[N]`.

    The number is the place of the first such image.
    """
    digests = bytearray()  # 32 bytes of each image, of which a million are 32 MB
    for part in chunks(images):
        for image in part:
            digests += hashlib.sha256(np.ascontiguousarray(image)).digest()
    columns = np.frombuffer(digests, np.uint64).reshape(-1, 4)
    order = np.lexsort(columns.T)  # stable, so the first of equals comes first
    new = np.ones(len(order), bool)
    new[1:] = (columns[order[1:]] != columns[order[:-1]]).any(axis=1)
    first = np.empty(len(order), np.int32)
    first[order] = order[new][np.cumsum(new) - 1]
    return first


def find(
    images: Images, *, near: float = NEAR, max_candidates: int | None = None
) -> Copies:
    """Finds exact and near copies.

    Blank images are copies of nothing but identical ones: they correlate with anything.
    Near copies are looked for in the brightness, which copies share that lost colour.

    Args:
      images: uint8 `[N, S, S, C]`; any S, but from some 32 pixels on with confidence.
        Stored ones are read some at a time, five times or more.
      near: the least correlation of near copies, 0.6 or more.
      max_candidates: how many pairs are looked at, the most similar ones; of up to
        150 images every pair is. Where too few are, `Copies.complete` is false. None
        is `MAX_CANDIDATES`, or `CANDIDATES_EACH` an image where that is more and they
        are looked for in cells.
    """
    same = exact(images)
    distinct = np.flatnonzero((same == np.arange(len(images))) & ~blank(images))
    if max_candidates is None:
        many = len(distinct) > candidates.ALL_PAIRS
        max_candidates = max(MAX_CANDIDATES, many * CANDIDATES_EACH * len(distinct))
    found = candidates.find(images, distinct, max_candidates)
    first, second, mirrored = found.first, found.second, found.mirrored
    correlation, placed = _verify(images, distinct, first, second, mirrored, near)
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
        shift=np.rint(placed[order, 1:] * images.shape[1] / SIDE).astype(np.int8),
        least=found.least,
        in_cells=found.in_cells,
    )


# Alignment and verdict.


def _verify(
    images: Images,
    places: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    mirrored: np.ndarray,
    near: float,
) -> tuple[np.ndarray, np.ndarray]:
    """The correlations float32 `[P]` of pairs of `places`, and alignments `[P, 3]`."""
    correlation = np.zeros(len(first), np.float32)
    placed = np.ones((len(first), 3), np.float32)
    for pairs in _runs(first, second):
        own, at = np.unique(
            np.stack([first[pairs], second[pairs]]), return_inverse=True
        )
        fine = band(images, places[own], *_FINE)
        ones, twos = at.reshape(2, -1)

        def judge(part: slice, fine=fine, ones=ones, twos=twos, pairs=pairs) -> None:
            one, two = fine[ones[part]], fine[twos[part]]
            flipped = mirrored[pairs][part]
            two[flipped] = two[flipped, :, ::-1]
            correlation[pairs][part], placed[pairs][part] = _judge(one, two, near)

        with candidates.threads() as pool:
            list(pool.map(judge, parts(len(ones), 256)))
    return correlation, placed


def _runs(first: np.ndarray, second: np.ndarray) -> Iterator[slice]:
    """Slices of pairs that join no more than `_HELD` images each."""
    few = len(np.union1d(first, second)) <= _HELD
    return parts(len(first), max(len(first), 1) if few else _HELD // 2)


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
    side = SIDE - 2 * CENTRE
    centre = slice(CENTRE, SIDE - CENTRE)
    template = np.zeros_like(two)
    template[:, centre, centre] = two[:, centre, centre]
    template[:, centre, centre] -= two[:, centre, centre].mean((1, 2), keepdims=True)
    shifts = np.arange(-_REACH, _REACH + 1)
    product = fft.rfft2(one) * np.conj(fft.rfft2(template))
    product = fft.irfft2(product, (SIDE, SIDE))[:, shifts[:, None], shifts]
    # Sums over the moved centres, as products with rows of zeros and ones.
    inside = np.arange(SIDE) - shifts[:, None]
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
    middle, pixel = (SIDE - 1) / 2, np.arange(SIDE, dtype=np.float32)
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
    reach = step * np.array([2 / SIDE, 1, 1], np.float32)
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
