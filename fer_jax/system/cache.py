"""The cache folder: prepared data and compiled programs."""

import os
import tempfile
from pathlib import Path

from fer_jax.errors import UserError


def cache_root() -> Path:
    """Returns the cache folder, which need not exist.

    It is `$FER_CACHE_DIR`, or `fer_jax` in the user's own folder of caches. A user
    without a home folder that can be written, as in many containers, has one in the
    folder of temporary files.

    Raises:
      UserError: if that one is not the user's own.
    """
    if own := os.environ.get("FER_CACHE_DIR"):
        return Path(os.path.expanduser(own))
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(os.path.expanduser(base)) / "fer_jax"
    folder = Path(os.path.expanduser("~/.cache/fer_jax"))
    return folder if _can_be_written(folder) else _temporary()


def _can_be_written(folder: Path) -> bool:
    """Whether a folder, or the nearest one above it that exists, can be written."""
    if not folder.is_absolute():  # no home is known, so "~" stayed as it is
        return False
    while not os.path.lexists(folder):
        folder = folder.parent
    return os.access(folder, os.W_OK)


def _temporary() -> Path:
    """A folder that no other user can write: programs are loaded from it."""
    folder = Path(tempfile.gettempdir()) / f"fer_jax-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if found.st_uid != os.getuid() or found.st_mode & 0o022 or folder.is_symlink():
        raise UserError(
            f"there is no home folder for the cache, and others can write {folder}; "
            "name a folder of your own with the environment variable FER_CACHE_DIR"
        )
    return folder
