"""Compares finished runs: results and predictions in, tested differences out.

The public names are imported when they are first used, so that commands that only need
a table or a score answer --help sooner.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
_MODULES = {
    "Comparison": "comparison",
    "FinishedRun": "results",
    "load": "comparison",
    "load_runs": "folders",
    "main": "cli",
    "show": "cli",
    "summarise": "analysis",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
