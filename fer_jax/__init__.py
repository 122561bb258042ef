"""fer_jax: a laboratory for facial emotion recognition in JAX.

model = fer_jax.load_pretrained()
probabilities = model.predict(faces)  # uint8 [B, H, W] or [B, H, W, 3] -> [B, C]
comparison = fer_jax.compare.load("runs")  # finished runs, as data frames
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fer_jax import compare
    from fer_jax.inference.predictor import Predictor

__all__ = ["__version__", "compare", "load_pretrained"]
__version__ = "0.1.0"


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> ModuleType:
    if name != "compare":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module("fer_jax.compare")


def load_pretrained(path: str | Path | None = None) -> Predictor:
    """The trained model that ships with the package, or another.

    Args:
      path: a folder that `bin/export` wrote, or the name of a model that ships; None
        for "shipped".

    Returns:
      a model: `model.predict(images)` gives the probabilities of `model.labels`,
      `model.features(images)` the inputs of the last layer, and `model.info` says where
      it comes from and how good it is.

    Raises:
      fer_jax.errors.UserError: if it is missing, damaged, or of another format.
    """
    from fer_jax.inference.predictor import load

    return load(path)
