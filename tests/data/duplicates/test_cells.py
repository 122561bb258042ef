"""Similar vectors and near copies that are looked for in cells: what is found."""

import dataclasses
import io

import numpy as np
import pytest
from rich.console import Console
from soak.duplicates import TRANSFORMATIONS, found_at, plant
from threadpoolctl import threadpool_limits

from fer_jax.data.duplicates import audit as audit_lib
from fer_jax.data.duplicates import candidates
from fer_jax.data.duplicates import search as duplicates
from fer_jax.data.duplicates.cells import Cells
from fer_jax.data.prepare import Dataset
from fer_jax.data.records import Split
from fer_jax.data.sources import drawn_faces as embedded

ORIGINALS, PLANTED = 600, 12 * len(TRANSFORMATIONS)


@pytest.fixture(scope="module", autouse=True)
def one_blas_thread():
    """Two wait for each other where another process of the suite has a core."""
    with threadpool_limits(1, "blas"):
        yield


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


@pytest.fixture(scope="module")
def planted():
    """Every transformation of a dozen faces, and what both ways find of them."""
    faces = embedded.generate("train")[0][:ORIGINALS, :, :, None]
    rng = np.random.default_rng(1)
    sources = rng.choice(len(faces), PLANTED, replace=False)
    copies, _ = plant(faces, sources, rng)
    images = np.concatenate([faces, copies])
    return images, sources, duplicates.find(images), in_cells(images)


def in_cells(images, **options):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(candidates, "ALL_PAIRS", 100)
        return duplicates.find(images, **options)


def test_planted_copies_are_found_in_cells(planted):
    _, sources, whole, copies = planted
    assert copies.in_cells and not whole.in_cells
    found = found_at(copies, sources, ORIGINALS) >= duplicates.NEAR
    assert found.mean() > 0.97
    np.testing.assert_array_equal(copies.exact, whole.exact)


def test_up_to_the_limit_all_images_are_compared(planted, monkeypatch):
    images, _, whole, _ = planted
    distinct = len(np.unique(whole.exact))
    for limit in (distinct, distinct - 1):
        monkeypatch.setattr(candidates, "ALL_PAIRS", limit)
        assert duplicates.find(images).in_cells == (limit < distinct)


def test_what_is_found_in_cells_is_what_the_whole_search_finds(planted):
    _, _, whole, copies = planted
    known = {tuple(pair): at for at, pair in enumerate(whole.pairs.tolist())}
    at = [known[tuple(pair)] for pair in copies.pairs.tolist()]
    for field in ("correlation", "mirrored", "scale", "shift"):
        mine, theirs = getattr(copies, field), getattr(whole, field)[at]
        np.testing.assert_array_equal(mine, theirs)


def test_the_search_in_cells_is_the_same_on_every_call(planted):
    images, _, _, copies = planted
    again = in_cells(images)
    for field in dataclasses.fields(copies):
        mine, theirs = getattr(copies, field.name), getattr(again, field.name)
        np.testing.assert_array_equal(mine, theirs)


def test_a_verdict_by_parts_is_the_verdict(planted, monkeypatch):
    images, _, whole, _ = planted
    monkeypatch.setattr(duplicates, "_HELD", 512)
    by_parts = duplicates.find(images)
    for field in dataclasses.fields(whole):
        mine, theirs = getattr(by_parts, field.name), getattr(whole, field.name)
        np.testing.assert_array_equal(mine, theirs)


def test_a_search_by_parts_is_the_search(planted, monkeypatch):
    images, _, _, copies = planted
    monkeypatch.setattr(candidates, "_ASKED", 100)
    by_parts = in_cells(images)
    np.testing.assert_array_equal(by_parts.pairs, copies.pairs)


def test_many_candidates_are_allowed_in_cells_and_bounded(planted):
    images = planted[0]
    few = in_cells(images, max_candidates=20)
    assert len(few.pairs) <= 20 and not few.complete
    assert planted[3].complete


def test_an_audit_tells_that_it_was_approximate(planted, tmp_path, monkeypatch):
    monkeypatch.setenv("FER_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(candidates, "ALL_PAIRS", 100)
    images = planted[0]
    labels = np.zeros(len(images), np.int32)
    rows = np.arange(len(images), dtype=np.int32)
    dataset = Dataset(
        *("csv", "faces", "f" * 16, ("angry",)),
        splits={"train": Split(images, labels, rows)},
        skipped={},
        notes=(),
    )
    for told in (True, False):  # once; then it is kept, and known all the same
        console = Console(record=True, width=200, file=io.StringIO())
        found = audit_lib.audit(dataset, console)
        assert found.copies.in_cells
        assert (audit_lib.IN_CELLS in console.export_text()) == told
