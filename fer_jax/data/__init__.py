"""Data: from a csv, a folder or drawn faces to arrays in memory."""

from fer_jax.data.prepare import Dataset, Split, load
from fer_jax.data.select import choose

__all__ = ["Dataset", "Split", "choose", "load"]
