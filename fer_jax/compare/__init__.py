"""Comparison of finished runs: `result.json` and predictions in, what is real out."""

from fer_jax.compare.cli import main, show
from fer_jax.compare.results import Run, load_runs

__all__ = ["Run", "load_runs", "main", "show"]
