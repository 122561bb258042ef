"""Data: from a csv, a folder or drawn faces to arrays and batches."""

from fer_jax.data.prepare import Dataset, Split, load
from fer_jax.data.select import select_images

__all__ = ["Dataset", "Split", "load", "select_images"]
