"""The folder of what can be made again: prepared data, compiled programs."""

import os
from pathlib import Path


def cache_root() -> Path:
    """The folder for what can be made anew: `$FER_CACHE_DIR`, or the user's cache."""
    if own := os.environ.get("FER_CACHE_DIR"):
        return Path(os.path.expanduser(own))
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.path.expanduser(base)) / "fer_jax"
