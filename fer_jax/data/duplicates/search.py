"""Finds the images of a data set that are one photograph, exactly or nearly.

Two images are near copies if one is the other mirrored, moved by up to a twelfth of the
side, cropped by up to a tenth, compressed, blurred, or with another brightness and
contrast, or all of these at once. The search takes three steps, at 48 x 48 pixels
whatever the size of the images:

1. `candidates.py`: the most similar pairs.
2. `alignment.py`: the shift and scale at which each pair correlates best.
3. The verdict: the correlation over all that overlaps there. A band-pass first removes
   what unlike faces share (light, the oval of the head) and what compression changes
   (the finest detail).

`tests/soak/duplicates.py` measures what is found; the constants come from it.
"""

import dataclasses
import hashlib

import numpy as np
import scipy

from fer_jax.data.duplicates import candidates
from fer_jax.data.duplicates.alignment import align
from fer_jax.data.duplicates.candidates import CANDIDATE, ENOUGH, Candidates
from fer_jax.data.duplicates.filters import (
    SIDE,
    band_pass,
    luma,
    parts,
    thread_pool,
)
from fer_jax.data.lazy_images import Images, chunks

# Grey values (standard deviation of an image). In FER2013 the blank ones have at most
# 0.7 and the next 4.1.
BLANK = 3.0
# The least correlation of near copies. In FER2013 unlike photographs stay below 0.89
# and 19 of 20 copies are above 0.95; in between are other pictures of one session,
# which are no copies, and copies that were retouched or captioned.
NEAR = 0.9
# At least so many pairs are aligned; among more images, one an image.
MAX_CANDIDATES = 150_000

_SIGMAS = (1.0, 2.0)  # of the band-pass, in pixels
_HELD = 40_000  # images in memory for the verdict, 9 KB each


@dataclasses.dataclass(frozen=True)
class Copies:
    """Which of N images are copies of which.

    Attributes:
      exact: int32 `[N]`, the first image with the same pixels.
      pairs: int32 `[P, 2]`, near copies, ascending, `pairs[:, 0] < pairs[:, 1]`; the
        first image of each exact group stands for the group.
      correlation: float32 `[P]`, of the band-passed images where they overlap, NEAR..1.
      mirrored: bool `[P]`, whether the second is mirrored (then scaled and moved).
      scale: float32 `[P]`, about 0.85..1.15: how much larger the content of the second
        is in the first.
      shift: int8 `[P, 2]`, how many pixels lower and further right it is there.
      least: no pair that was not aligned has a higher whitened similarity.
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
        """Whether all pairs that are similar enough to be near copies were aligned."""
        return self.least <= ENOUGH

    def groups(self) -> np.ndarray:
        """Images that copies link, exact or near: int32 `[N]`, the first of each group.

        A chain of near copies is one group, though its ends may be less alike.
        """
        count = len(self.exact)
        first = np.concatenate([self.exact, self.pairs[:, 0]])
        second = np.concatenate([np.arange(count), self.pairs[:, 1]])
        links = scipy.sparse.coo_array(
            (np.ones(len(first), bool), (first, second)), (count, count)
        )
        kind = scipy.sparse.csgraph.connected_components(links, directed=False)[1]
        _, places, kind = np.unique(kind, return_index=True, return_inverse=True)
        return places[kind].astype(np.int32)


def blank(images: Images) -> np.ndarray:
    """Which images show nothing: uint8 `[N, S, S, C]` to bool `[N]`."""
    # In chunks, because the deviation is computed in float64.
    found = [luma(part).std(axis=(1, 2)) < BLANK for part in chunks(images)]
    return np.concatenate([np.zeros(0, bool), *found])


def exact(images: Images) -> np.ndarray:
    """The first image that is identical in all channels: int32 `[N]`."""
    digests = bytearray()  # 32 bytes an image
    for part in chunks(images):
        for image in part:
            digests += hashlib.sha256(image.tobytes()).digest()
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

    Blank images have no near copies, because they correlate with anything. Near copies
    are compared by their brightness.

    Args:
      images: uint8 `[N, S, S, C]`; reliable from S = 32 on. Stored images are read in
        parts, about five times.
      near: the least correlation of near copies, 0.6 or more.
      max_candidates: how many pairs are aligned; among up to 150 images all are. None
        is `MAX_CANDIDATES`, or one an image if that is more.
    """
    same = exact(images)
    distinct = np.flatnonzero((same == np.arange(len(images))) & ~blank(images))
    if max_candidates is None:
        max_candidates = max(MAX_CANDIDATES, len(distinct))
    found = candidates.find(images, distinct, max_candidates)
    correlation, placed = _verify(images, distinct, found, near)
    # A pair may be found as it is and mirrored; the higher correlation counts.
    order = np.lexsort((-correlation, found.second, found.first))
    order = order[correlation[order] >= near]
    pairs = np.stack([found.first, found.second], axis=1)[order]
    new = np.ones(len(pairs), bool)
    new[1:] = (np.diff(pairs, axis=0) != 0).any(axis=1)
    order = order[new]
    return Copies(
        exact=same,
        pairs=distinct[pairs[new]].astype(np.int32),
        correlation=correlation[order],
        mirrored=found.mirrored[order],
        scale=placed[order, 0],
        shift=np.rint(placed[order, 1:] * images.shape[1] / SIDE).astype(np.int8),
        least=found.least,
    )


def _verify(
    images: Images, places: np.ndarray, found: Candidates, near: float
) -> tuple[np.ndarray, np.ndarray]:
    """The correlations and the alignments of candidates among `places`."""
    count = len(found.first)
    few = len(np.union1d(found.first, found.second)) <= _HELD
    judged = [(np.zeros(0, np.float32), np.zeros((0, 3), np.float32))]
    for part in parts(count, max(count, 1) if few else _HELD // 2):
        first, second = found.first[part], found.second[part]
        used, at = np.unique(np.stack([first, second]), return_inverse=True)
        fine = band_pass(images, places[used], _SIGMAS)
        pairs = (*at.reshape(2, -1), found.mirrored[part])
        judged += _align_all(fine, pairs, near)
    correlations, placed = zip(*judged, strict=True)
    return np.concatenate(correlations), np.concatenate(placed)


def _align_all(
    fine: np.ndarray, pairs: tuple[np.ndarray, np.ndarray, np.ndarray], near: float
) -> list[tuple[np.ndarray, np.ndarray]]:
    """`align` of pairs (first, second, mirrored) of images, by threads."""

    def judge(part: slice) -> tuple[np.ndarray, np.ndarray]:
        first, second, mirrored = (column[part] for column in pairs)
        one, two = fine[first], fine[second]
        two[mirrored] = two[mirrored, :, ::-1]
        return align(one, two, near)

    with thread_pool() as pool:
        return list(pool.map(judge, parts(len(pairs[0]), 256)))
