"""Twelve experiments, and fewer draws for tests that are not about them."""

import pytest
from fake_runs import make_many

from fer_jax.compare import statistics


@pytest.fixture
def few_draws(monkeypatch):
    for name in ("DRAWS", "MIN_DRAWS", "MAX_DRAWS"):
        monkeypatch.setattr(statistics, name, 300)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A folder of twelve experiments with two seeds each."""
    folder = tmp_path_factory.mktemp("many")
    make_many(folder, seeds=(1, 2))
    return folder
