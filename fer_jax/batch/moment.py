"""The moment at which somebody looks at runs, by the clock that dates their files.

The machines of a cluster have clocks of their own, which may differ by minutes, while
the times of files are all of one: the file server's. So ages are told by it alone.
"""

import contextlib
import dataclasses
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

from fer_jax.batch.slurm.env import without_slurm
from fer_jax.batch.slurm.queue import ACTIVE

ASK_S = 10.0


@dataclasses.dataclass(frozen=True)
class Moment:
    """What is known of a moment besides the files of the runs.

    Attributes:
      time: when it is, as the files there are dated.
      jobs: the ids of this user's jobs that wait or run, as "123" or "123_0"; None
        where no SLURM tells.
    """

    time: float
    jobs: frozenset[str] | None = None

    @classmethod
    def at(cls, folder: Path) -> Self:
        """Now, for the runs in a folder."""
        # The time comes first: a job that is submitted meanwhile is not missed.
        return cls(file_time(folder), active_jobs())

    def age(self, path: Path) -> float:
        """How many seconds ago a file was written; never less than 0."""
        return max(self.time - written(path), 0.0)


def active_jobs() -> frozenset[str] | None:
    """As `Moment.jobs`; `squeue` is asked once, and has `ASK_S` for its answer."""
    command = ["squeue", "-h", "-r", "-t", "all", "-u", str(os.geteuid())]
    try:
        # Into a file: a pipe may be held open by what a killed wrapper has started.
        with tempfile.TemporaryFile("w+", errors="replace") as out:
            subprocess.run(
                [*command, "-o", "%i %T"],
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.DEVNULL,
                env=without_slurm(os.environ), check=True, timeout=ASK_S,
            )  # fmt: skip
            out.seek(0)
            lines = [line.split() for line in out]
    except (OSError, subprocess.SubprocessError):
        return None
    return frozenset(line[0] for line in lines if len(line) > 1 and line[1] in ACTIVE)


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
