"""Similar vectors in cells, beside all dot products."""

import numpy as np
import pytest

from fer_jax.data.duplicates.cells import Cells


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def grouped(count, groups, rng):
    """Unit vectors around a few directions: float32 `[count, 16]`."""
    centres = rng.normal(size=(groups, 16))
    rows = centres[rng.integers(0, groups, count)] + rng.normal(0, 0.3, (count, 16))
    return unit(rows).astype(np.float32)


def collected(cells, queries, least):
    """All that is found, as a set of pairs and their similarities by pair."""
    found = {}
    for query, vector, alike in cells.similar(queries, least):
        for pair, value in zip(
            zip(query.tolist(), vector.tolist(), strict=True), alike, strict=True
        ):
            assert pair not in found
            found[pair] = value
    return found


@pytest.mark.parametrize("count", [1, 2, 7, 500])
def test_with_all_cells_all_similar_vectors_are_found(count):
    rng = np.random.default_rng(count)
    vectors, queries = grouped(count, 20, rng), grouped(60, 20, rng)
    alike = queries @ vectors.T
    found = collected(Cells(vectors, probes=10**6), queries, 0.6)
    assert set(found) == set(zip(*map(list, np.nonzero(alike > 0.6)), strict=True))
    for (query, vector), value in found.items():
        assert value == pytest.approx(alike[query, vector], abs=1e-6)


def test_few_cells_find_most_and_nothing_that_is_not_similar():
    rng = np.random.default_rng(0)
    vectors = grouped(3000, 200, rng)
    queries = unit(vectors[:500] + rng.normal(0, 0.05, (500, 16)).astype(np.float32))
    alike = queries @ vectors.T
    found = collected(Cells(vectors, probes=4), queries, 0.8)
    expected = set(zip(*map(list, np.nonzero(alike > 0.8)), strict=True))
    assert set(found) <= expected and len(found) > 0.95 * len(expected)
    assert {(i, i) for i in range(500)} <= set(found)
    assert not collected(Cells(vectors), np.zeros((0, 16), np.float32), 0.5)
