"""Finds similar vectors by looking in a few cells each, instead of at all of them.

An inverted file, as H. Jegou, M. Douze and C. Schmid have it in "Product quantization
for nearest neighbor search" (2011, section IV), without their codes: the vectors lie in
cells around centres that spherical k-means found (I. S. Dhillon and D. S. Modha,
"Concept decompositions for large sparse text data using clustering", 2001), and a query
is compared with those of the cells whose centres are nearest to it. What lies in others
is missed. With cells and what is compared in balance the cost grows with the number of
vectors to the power of 3/2.
"""

from collections.abc import Iterator

import numpy as np

PROBES = 8  # cells that a query looks in
_ROUNDS, _SAMPLE = 6, 32  # of k-means, and vectors for each centre
_AT_ONCE = 4096  # vectors compared with all centres

# Numbers of queries and of vectors, and the similarities of each two.
Hits = tuple[np.ndarray, np.ndarray, np.ndarray]


class Cells:
    """N unit vectors, float32 `[N, K]`, each in the cell of its nearest centre."""

    def __init__(self, vectors: np.ndarray, probes: int = PROBES) -> None:
        """Finds 2 sqrt(N) centres, and sorts the vectors by them."""
        self._centres = _centres(vectors, max(1, int(2 * len(vectors) ** 0.5)))
        self._probes = min(probes, len(self._centres))
        own = _nearest(vectors, self._centres, 1)[:, 0]
        self._numbers = np.argsort(own, kind="stable").astype(np.int32)
        self._sorted = vectors[self._numbers]
        sizes = np.bincount(own, minlength=len(self._centres))
        self._ends = np.cumsum(sizes)

    def similar(self, queries: np.ndarray, least: float) -> Iterator[Hits]:
        """Pairs of a query and a vector in its cells, more similar than `least`.

        Args:
          queries: unit vectors, float32 `[Q, K]`.
          least: of the product of a query and a vector.

        Yields:
          cell by cell int `[H]`, int32 `[H]` and float32 `[H]`.
        """
        cells = _nearest(queries, self._centres, self._probes)
        order = np.argsort(cells, axis=None, kind="stable")
        ends = np.cumsum(np.bincount(cells.ravel(), minlength=len(self._centres)))
        asking = order // self._probes
        starts = np.concatenate([[0], self._ends[:-1]])
        for start, end, own in zip(
            starts, self._ends, np.split(asking, ends[:-1]), strict=True
        ):
            if end > start and len(own):
                alike = queries[own] @ self._sorted[start:end].T
                at = np.flatnonzero(alike > least)
                if len(at):
                    query, vector = np.divmod(at, end - start)
                    yield own[query], self._numbers[start + vector], alike.ravel()[at]


def _centres(vectors: np.ndarray, count: int) -> np.ndarray:
    """The unit centres of up to `count` cells, of a sample: float32 `[C, K]`."""
    rng = np.random.default_rng(0)
    # random's stream is the same in every numpy; that of permutation may change.
    some = vectors[np.argsort(rng.random(len(vectors)))[: _SAMPLE * count]]
    centres = some[:count].copy()
    for _ in range(_ROUNDS):
        own = _nearest(some, centres, 1)[:, 0]
        order = np.argsort(own, kind="stable")
        kept, starts = np.unique(own[order], return_index=True)
        sums = np.add.reduceat(some[order], starts)
        norm = np.linalg.norm(sums, axis=1, keepdims=True)
        centres[kept] = sums / np.maximum(norm, 1e-6)  # an empty one stays
    return centres


def _nearest(vectors: np.ndarray, centres: np.ndarray, count: int) -> np.ndarray:
    """The `count` most similar centres of each vector, in no order: int32 `[N, c]`."""
    out = np.empty((len(vectors), count), np.int32)
    for start in range(0, len(vectors), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        alike = vectors[part] @ centres.T
        if count == 1:
            out[part, 0] = alike.argmax(axis=1)
        else:
            out[part] = np.argpartition(alike, -count, axis=1)[:, -count:]
    return out
