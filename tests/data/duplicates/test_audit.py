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


@pytest.mark.slow
def test_the_shipped_audit_is_what_a_search_finds(embedded, tmp_path, monkeypatch):
    shipped = audits.audit(embedded)
    monkeypatch.setenv("FER_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(audits, "SHIPPED", tmp_path)
    found = audits.audit(embedded)
    np.testing.assert_array_equal(found.blank, shipped.blank)
    for field in dataclasses.fields(audits.Copies):
        one, other = (getattr(each.copies, field.name) for each in (found, shipped))
        np.testing.assert_allclose(one, other, rtol=1e-4, err_msg=field.name)
