"""Reads a source as preparing does, at 10 x 10, or sees that it is refused."""

import pytest

from fer_jax.data.sources import locate as sources
from fer_jax.errors import UserError


def read(root, **options):
    return sources.read(sources.locate(str(root)), 10, **options)


def refused(root, *words, **options):
    with pytest.raises(UserError) as caught:
        read(root, **options)
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)
