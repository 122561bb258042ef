"""Compares finished runs: results and predictions in, tested differences out."""

from fer_jax.compare.analysis import summarise
from fer_jax.compare.cli import main, show
from fer_jax.compare.comparison import Comparison, load
from fer_jax.compare.folders import load_runs
from fer_jax.compare.results import FinishedRun

__all__ = [
    "Comparison",
    "FinishedRun",
    "load",
    "load_runs",
    "main",
    "show",
    "summarise",
]
