"""Data: from a csv, a folder or drawn faces to arrays in memory."""

from fer_jax.data.prepare import Dataset, Split, load

__all__ = ["Dataset", "Split", "load"]
