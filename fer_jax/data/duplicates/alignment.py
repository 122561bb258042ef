"""Aligns pairs of images, and correlates them where they overlap.

The peak of the normalised cross-correlation (J. P. Lewis, "Fast normalized
cross-correlation", 1995) over shifts and scales gives the alignment, which small steps
then improve. Alignments are float32 `[P, 3]`: scale, and pixels down and right.
"""

import numpy as np
import scipy

from fer_jax.data.duplicates.filters import CENTRE, SIDE

_REACH = 5  # pixels of the largest shift
_SCALES = (0.91, 0.955, 1.045, 1.09)
_EDGE = 3  # pixels that the band-pass may extrapolate beyond an image's edge
# In grey values: band-passed images that vary less correlate with anything.
_FLAT = 0.5
# Pairs below the first correlation are given up; above the second they are not refined.
_PROMISING, _CERTAIN = 0.55, 0.97
# Refinement: step in pixels, and how far below `near` a pair is still refined.
_STEPS = ((0.5, 0.2), (0.25, 0.07))


def align(
    one: np.ndarray, two: np.ndarray, near: float
) -> tuple[np.ndarray, np.ndarray]:
    """The best correlation of each pair, and its alignment.

    Args:
      one: band-passed images, float32 `[P, 48, 48]`.
      two: those to scale and move.
      near: the correlation of interest; pairs far below are not refined.

    Returns:
      float32 `[P]` and float32 `[P, 3]`.
    """
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
    for step, slack in _STEPS:
        at = np.flatnonzero((correlation > near - slack) & (correlation < _CERTAIN))
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
    product = scipy.fft.rfft2(one) * np.conj(scipy.fft.rfft2(template))
    product = scipy.fft.irfft2(product, (SIDE, SIDE))[:, shifts[:, None], shifts]
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

    Pixel p of the result is at (p - shift - m) / scale + m in the source, where m is
    the middle; it is safe, bool `[P, 48]`, if both are `_EDGE` away from the edges.
    """
    middle, pixel = (SIDE - 1) / 2, np.arange(SIDE, dtype=np.float32)
    place = (pixel - shift[:, None] - middle) / scale[:, None] + middle
    safe = (np.abs(place - middle) <= middle - _EDGE) & (
        np.abs(pixel - middle) <= middle - _EDGE
    )
    weight = np.maximum(1 - np.abs(place[:, :, None] - pixel), 0)
    return weight.astype(np.float32), safe


def _overlap(one: np.ndarray, two: np.ndarray, placed: np.ndarray) -> np.ndarray:
    """The correlation `[P]` of `one` with the aligned `two`, where they overlap."""
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
    """Scales and moves `two` by `step` pixels while that improves the correlation."""
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
