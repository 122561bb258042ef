"""Reads a source into memory, at 10 x 10, or asserts that it is refused."""

import numpy as np
import pytest

from fer_jax.data.sources import locate as sources
from fer_jax.errors import UserError


class MemoryStore:
    """Keeps images in memory, where preparing writes them to disk."""

    def __init__(self):
        self._images = {}

    def add(self, split, image):
        self._images.setdefault(split, []).append(image)

    def images(self):
        return {split: np.stack(images) for split, images in self._images.items()}


def read_source(source, size=10, channels=1, **options):
    return sources.read(source, (size, size, channels), MemoryStore(), **options)


def read(root, size=10, **options):
    return read_source(sources.locate(str(root)), size, **options)


def refused(root, *words, **options):
    with pytest.raises(UserError) as caught:
        read(root, **options)
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)
