"""Finds similar unit vectors by comparing each query with a few cells of vectors.

An inverted file as in H. Jegou, M. Douze and C. Schmid, "Product quantization for
nearest neighbor search" (2011, section IV), without codes: spherical k-means (I. S.
Dhillon and D. S. Modha, "Concept decompositions for large sparse text data using
clustering", 2001) divides the vectors into cells, and a query is compared with those of
the cells nearest to it. The cost of N queries grows as N^1.5.
"""

from collections.abc import Iterator

import numpy as np

from fer_jax.data.duplicates.filters import parts

PROBES = 32  # cells that a query is compared with
_ROUNDS, _SAMPLE = 6, 32  # of k-means: rounds, and vectors a centre
_AT_ONCE = 4096  # vectors compared with all centres


class Cells:
    """N unit vectors in 2 sqrt(N) cells."""

    def __init__(self, vectors: np.ndarray, probes: int = PROBES) -> None:
        """Divides vectors, float32 `[N, K]`, into cells."""
        self._centres = _centres(vectors, max(1, int(2 * len(vectors) ** 0.5)))
        self._probes = min(probes, len(self._centres))
        cell = _nearest(vectors, self._centres, 1)[:, 0]
        self._numbers = np.argsort(cell, kind="stable").astype(np.int32)
        self._sorted = vectors[self._numbers]
        self._ends = np.cumsum(np.bincount(cell, minlength=len(self._centres)))

    def similar(
        self, queries: np.ndarray, least: float
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Pairs of a query and a vector with a dot product above `least`.

        Args:
          queries: unit vectors, float32 `[Q, K]`.
          least: the dot product to exceed.

        Yields:
          cell by cell, the queries' numbers int `[H]`, the vectors' numbers int32 `[H]`
          and the dot products float32 `[H]`.
        """
        cells = _nearest(queries, self._centres, self._probes)
        order = np.argsort(cells, axis=None, kind="stable")
        counts = np.bincount(cells.ravel(), minlength=len(self._centres))
        queries_of = np.split(order // self._probes, np.cumsum(counts)[:-1])
        starts = np.concatenate([[0], self._ends[:-1]])
        for start, end, own in zip(starts, self._ends, queries_of, strict=True):
            if end > start and len(own):
                similarity = queries[own] @ self._sorted[start:end].T
                at = np.flatnonzero(similarity > least)
                query, vector = np.divmod(at, end - start)
                numbers = self._numbers[start + vector]
                yield own[query], numbers, similarity.ravel()[at]


def _centres(vectors: np.ndarray, count: int) -> np.ndarray:
    """Up to `count` unit centres of a sample of the vectors: float32 `[C, K]`."""
    rng = np.random.default_rng(0)
    # The stream of random is the same in every numpy; that of permutation may change.
    sample = vectors[np.argsort(rng.random(len(vectors)))[: _SAMPLE * count]]
    centres = sample[:count].copy()
    for _ in range(_ROUNDS):
        cell = _nearest(sample, centres, 1)[:, 0]
        order = np.argsort(cell, kind="stable")
        used, starts = np.unique(cell[order], return_index=True)
        sums = np.add.reduceat(sample[order], starts)
        norm = np.linalg.norm(sums, axis=1, keepdims=True)
        centres[used] = sums / np.maximum(norm, 1e-6)  # empty cells keep their centre
    return centres


def _nearest(vectors: np.ndarray, centres: np.ndarray, count: int) -> np.ndarray:
    """The `count` nearest centres of each vector, in any order: int32 `[N, count]`."""
    out = np.empty((len(vectors), count), np.int32)
    for part in parts(len(vectors), _AT_ONCE):
        similarity = vectors[part] @ centres.T
        if count == 1:
            out[part, 0] = similarity.argmax(axis=1)
        else:
            out[part] = np.argpartition(similarity, -count, axis=1)[:, -count:]
    return out
