"""One run folder, one process: locks that die with the process that holds them."""

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
# What a file system answers that has no locks at all.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds a run folder for this process; the lock dies with the process.

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
    # A batch that looks who holds the folder has it for a moment itself.
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
    """Who holds a run folder, as "process 123 on host"; None where nobody does."""
    path = folder / LOCK
    if not os.path.isfile(path):
        return None
    try:
        file = path.open(encoding="utf-8")
    except OSError:
        return None  # it has just gone, or the run itself will tell
    with file:
        try:
            # Not for us alone: NFS gives that only to who has opened the file to write.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _holder(file)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return None  # here the run itself refuses, and says so
            return f"another process, perhaps ({path} says: {error.strerror})"
    return None


def claim(folder: Path) -> IO[str] | None:
    """Takes a run up for a batch, until what is returned is closed.

    The run's own process holds the folder's lock from when it has started until it
    ends; a batch has the run from before that until it has noted how it ended.

    Returns:
      None where another batch has it.

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
    except OSError:  # no locks here: the run itself refuses, and says so
        pass
    return file


def _unwritable(folder: Path, error: OSError) -> UserError:
    return UserError(
        f"the run folder {folder} cannot be written: {error.strerror}; "
        "choose another with --runs_dir"
    )
