"""The moment at which somebody looks at runs, by the clock that dates their files.

The machines of a cluster have clocks of their own, which may differ by minutes, while
the times of files are all of one: the file server's. So ages are told by it alone.
"""

import contextlib
import dataclasses
import os
import tempfile
import time
from pathlib import Path
from typing import Self


@dataclasses.dataclass(frozen=True)
class Moment:
    """What is known of a moment besides the files of the runs.

    Attributes:
      time: when it is, as the files there are dated.
    """

    time: float

    @classmethod
    def at(cls, folder: Path) -> Self:
        """Now, for the runs in a folder."""
        return cls(file_time(folder))

    def age(self, path: Path) -> float:
        """How many seconds ago a file was written; never less than 0."""
        return max(self.time - written(path), 0.0)


def file_time(folder: Path) -> float:
    """The time by the file system of a folder; by our clock where none can be told."""
    with contextlib.suppress(OSError), tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"now")
        file.flush()
        os.fsync(file.fileno())  # a file server dates it when it gets it
        return os.fstat(file.fileno()).st_mtime
    return time.time()


def written(path: Path) -> float:
    """When a file was written, by its file system; 0 where there is none."""
    with contextlib.suppress(OSError):
        return path.stat().st_mtime
    return 0.0
