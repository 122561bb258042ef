"""Data: from a csv, a folder or drawn faces to arrays in memory."""

from fer_jax.data.chosen import choose
from fer_jax.data.prepare import Dataset, Split, load

__all__ = ["Dataset", "Split", "choose", "load"]
