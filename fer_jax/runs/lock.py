"""One process per run folder: locks that end with the process that holds them."""

import contextlib
import errno
import fcntl
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from fer_jax.errors import UserError

LOCK = "lock"
CLAIM = "batch.lock"
# The errors of a file system without locks.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Locks a run folder for this process.

    Raises:
      UserError: if another process holds it, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("a+", encoding="utf-8")
    except OSError as error:
        raise _unwritable(folder, error) from None
    with file:
        try:
            if not _lock(file):
                raise UserError(
                    f"{folder} is in use by {_holder(file)}; wait for it to finish or "
                    "stop it"
                )
        except OSError as error:
            raise UserError(
                f"{folder} cannot be locked ({error.strerror}); choose a folder on "
                "another file system with --runs_dir"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()
        yield


def _lock(file: IO[str]) -> bool:
    # `holder` locks the file for a moment.
    for _ in range(5):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.1)
        else:
            return True
    return False


def _holder(file: IO[str]) -> str:
    file.seek(0)
    return file.read().strip() or "another process"


def holder(folder: Path) -> str | None:
    """Returns who holds a run folder, as "process 123 on host", or None."""
    path = folder / LOCK
    if not os.path.isfile(path):
        return None
    try:
        file = path.open(encoding="utf-8")
    except OSError:
        return None  # it just disappeared, or the run itself will report it
    with file:
        try:
            # Shared: NFS gives exclusive locks only to files opened for writing.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _holder(file)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return None  # the run itself will report it
            return f"another process, perhaps ({path}: {error.strerror})"
    return None


def claim(folder: Path) -> IO[str] | None:
    """Claims a run for a batch, until the returned file is closed.

    The process of the run holds the lock of the folder while it trains. The claim of
    the batch begins before that and ends after the outcome is recorded.

    Returns:
      the open file, or None if another batch has the run.

    Raises:
      UserError: if the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / CLAIM).open("a", encoding="utf-8")
    except OSError as error:
        raise _unwritable(folder, error) from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except OSError:  # no locks: the run itself will report it
        pass
    return file


def _unwritable(folder: Path, error: OSError) -> UserError:
    return UserError(
        f"the run folder {folder} cannot be written: {error.strerror}; "
        "choose another with --runs_dir"
    )
