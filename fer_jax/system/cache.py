"""The cache folder: prepared data and compiled programs."""

import os
from pathlib import Path


def cache_root() -> Path:
    """Returns `$FER_CACHE_DIR`, or a folder in the cache of the user."""
    if own := os.environ.get("FER_CACHE_DIR"):
        return Path(os.path.expanduser(own))
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.path.expanduser(base)) / "fer_jax"
