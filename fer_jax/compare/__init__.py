"""Comparison of finished runs: `result.json` files in, tables and a CSV out."""

from fer_jax.compare.cli import export, main, show
from fer_jax.compare.results import Run, load_runs

__all__ = ["Run", "export", "load_runs", "main", "show"]
