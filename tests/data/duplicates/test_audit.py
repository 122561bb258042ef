"""The audit that comes with the package is what a search of the drawn faces finds."""

import dataclasses

import numpy as np
import pytest

from fer_jax import data
from fer_jax.data.duplicates import audit as audits


@pytest.fixture(scope="module")
def embedded():
    return data.load(None)


def test_the_embedded_set_is_never_searched(embedded, tmp_path, monkeypatch):
    monkeypatch.setenv("FER_CACHE_DIR", str(tmp_path))  # no audit was kept
    monkeypatch.setattr(audits.search, "find", lambda _: pytest.fail("searched"))
    found = audits.audit(embedded)
    assert len(found.labels) == 3400 and len(found.copies.pairs) == 5


def test_the_two_shipped_audits_agree():
    paths = audits.SHIPPED.glob(f"{audits.FORMAT}-*.npz")
    one, other = (dict(np.load(path)) for path in paths)
    assert one.keys() == other.keys()
    for name, values in one.items():
        np.testing.assert_allclose(values, other[name], rtol=1e-4, err_msg=name)


def test_the_shipped_audit_is_what_a_search_finds(embedded, tmp_path, monkeypatch):
    """A search of some images, those with a near copy among them: all take a minute."""
    shipped = audits.audit(embedded)
    some = np.random.default_rng(0).random(len(shipped.labels)) < 0.1
    some[shipped.copies.pairs] = True
    splits = {
        name: split.take(some[shipped.of(name)])
        for name, split in embedded.splits.items()
    }
    part = dataclasses.replace(embedded, splits=splits, fingerprint="part")
    monkeypatch.setenv("FER_CACHE_DIR", str(tmp_path))
    found = audits.audit(part)
    np.testing.assert_array_equal(found.blank, shipped.blank[some])
    own, theirs, places = found.copies, shipped.copies, np.flatnonzero(some)
    np.testing.assert_array_equal(places[own.pairs], theirs.pairs)
    np.testing.assert_array_equal(places[own.exact], theirs.exact[some])
    np.testing.assert_array_equal(own.mirrored, theirs.mirrored)
    np.testing.assert_allclose(own.correlation, theirs.correlation, rtol=1e-4)
