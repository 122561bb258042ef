"""Compares finished runs: results and predictions in, tested differences out."""

from fer_jax.compare.analysis import summarise
from fer_jax.compare.cli import main, show
from fer_jax.compare.results import FinishedRun, load_runs

__all__ = ["FinishedRun", "load_runs", "main", "show", "summarise"]
