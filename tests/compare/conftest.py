"""Fewer draws, for tests that are not about them."""

import pytest

from fer_jax.compare import statistics


@pytest.fixture
def few_draws(monkeypatch):
    for name in ("DRAWS", "MIN_DRAWS", "MAX_DRAWS"):
        monkeypatch.setattr(statistics, name, 300)
