"""`heartbeat.json`: the sign of life that a run gives in its folder, every 10 seconds.

Whoever sees only the file system tells by it which run lives, where, and how far it
is. It goes when the run's process ends in an orderly way: finished, with an error, or
interrupted. So one that is there and no longer fresh says that the process was killed,
or that its machine was lost.
"""

import contextlib
import dataclasses
import json
import math
import os
import platform
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from fer_jax.errors import UserError
from fer_jax.system.files import write_json

HEARTBEAT = "heartbeat.json"
EVERY_S = 10.0
# A younger file is of a run that lives, though the disk be slow. Its own date says when
# it was written, and not the time in it, which is of another machine's clock.
FRESH_S = 60.0
_KINDS = {
    "time": int | float,
    "host": str,
    "pid": int,
    "device": str,
    "step": int | None,
    "steps": int | None,
    "job": str | None,
}
_DAMAGED = (OSError, ValueError, RecursionError, TypeError)


@dataclasses.dataclass(frozen=True)
class Beat:
    """What the file holds.

    Attributes:
      time: when it was written, in seconds since 1970, by that machine's clock.
      host: the machine.
      pid: the process there.
      device: what it computes on, as "cpu" or "NVIDIA H100 80GB HBM3".
      step: how many steps the run has taken; None before the first of this process.
      steps: how many it takes in all; None before that, too.
      job: SLURM's name of its job, as "123" or "123_0"; None where it is in none.
    """

    time: float
    host: str
    pid: int
    device: str
    step: int | None
    steps: int | None
    job: str | None

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """The newest of a run; None where it gives none.

        Raises:
          UserError: if the file is damaged.
        """
        path = folder / HEARTBEAT
        if not os.path.isfile(path):  # a pipe would be waited for
            return None
        try:
            beat = cls(**_checked(json.loads(path.read_text("utf-8"))))
            if not (0 < beat.time < math.inf and beat.pid > 0):
                raise ValueError("time or pid is not above 0")
            if beat.step is not None and not 0 <= beat.step <= beat.steps > 0:
                raise ValueError("step is not among steps")
        except FileNotFoundError:
            return None  # the run has just ended
        except _DAMAGED as error:
            raise UserError(
                f"{path} is damaged ({error}); remove it if no process works there"
            ) from None
        return beat


def _checked(told: object) -> dict[str, Any]:
    """What a `Beat` is made of; another version may tell more, which is left out."""
    if not isinstance(told, dict):
        raise TypeError("it is not an object")
    kept = {name: told.get(name) for name in _KINDS}
    for name, value in kept.items():
        if isinstance(value, bool) or not isinstance(value, _KINDS[name]):
            raise TypeError(f"{name} is {value!r}")
    return kept


class Heart:
    """What a run that lives tells of itself: a reporter; `beating` makes one."""

    def __init__(self, folder: Path, device: str, steps: int):
        """For the run in a folder, on a device, of so many steps."""
        self._folder, self._device, self._steps = folder, device, steps
        self._step: int | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def start(self) -> None:
        """Writes the file, and keeps it fresh."""
        self._write()
        self._thread.start()

    def stop(self) -> None:
        """Removes the file."""
        self._over.set()
        self._thread.join()  # else it could write once more
        with contextlib.suppress(OSError):
            (self._folder / HEARTBEAT).unlink(missing_ok=True)

    def on_step(self, step: int, loss: float) -> None:
        """Notes the steps taken; the thread writes them."""
        self._step = step

    def on_epoch(self, history: Sequence[Any]) -> None:
        """Does nothing: a step says as much."""

    def _beat(self) -> None:
        while not self._over.wait(EVERY_S):
            self._write()

    def _write(self) -> None:
        step = self._step
        beat = Beat(
            time=round(time.time(), 1),
            host=platform.node(),
            pid=os.getpid(),
            device=self._device,
            step=step,
            steps=None if step is None else self._steps,
            job=slurm_job(),
        )
        # A full disk ends a run where it loses something by it, and not here.
        with contextlib.suppress(OSError):
            write_json(self._folder / HEARTBEAT, dataclasses.asdict(beat))


@contextlib.contextmanager
def beating(folder: Path, device: str, steps: int) -> Iterator[Heart]:
    """Gives the run's signs of life until left, whatever leads to that."""
    heart = Heart(folder, device, steps)
    heart.start()
    try:
        yield heart
    finally:
        heart.stop()


def slurm_job() -> str | None:
    """The name of the SLURM job that this process is in; None where it is in none."""
    array, task = (os.environ.get(f"SLURM_ARRAY_{key}_ID") for key in ("JOB", "TASK"))
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")
