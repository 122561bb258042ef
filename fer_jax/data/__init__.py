"""Data: from a csv, a folder or drawn faces to arrays and batches.

The public names are imported when they are first used: a model that reads a photograph
needs none of them, and they take a fifth of a second.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fer_jax.data.prepare import Dataset, Split, load
    from fer_jax.data.select import select_images

__all__ = ["Dataset", "Split", "load", "select_images"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "select" if name == "select_images" else "prepare"
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)
