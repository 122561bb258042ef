"""`heartbeat.json`: host, process and step of a running attempt, every 10 seconds.

The file is removed when the process ends normally, with an error or after a signal. A
file that is there but old means that the process was killed or its machine was lost.
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
# A younger file belongs to a running process. Its age is measured by its modification
# time: the time inside comes from another machine's clock.
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
    """The content of the file.

    Attributes:
      time: seconds since 1970, by the clock of that machine.
      host: the name of the machine.
      pid: the process id.
      device: such as "cpu" or "NVIDIA H100 80GB HBM3".
      step: steps taken; None before the first of this process.
      steps: steps of the whole run; None before the first.
      job: the SLURM job, as "123" or "123_0", or None.
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
        """Returns the heartbeat in a run folder, or None.

        Raises:
          UserError: if the file is damaged.
        """
        path = folder / HEARTBEAT
        if not os.path.isfile(path):  # opening a pipe would block
            return None
        try:
            beat = cls(**_checked(json.loads(path.read_text("utf-8"))))
            if not (0 < beat.time < math.inf and beat.pid > 0):
                raise ValueError("time or pid is not positive")
            step, steps = beat.step, beat.steps
            if step is not None and not (steps and 0 <= step <= steps):
                raise ValueError("step is not between 0 and steps")
        except FileNotFoundError:
            return None  # the run just ended
        except _DAMAGED as error:
            raise UserError(
                f"{path} is damaged ({error}); remove it if no process trains there"
            ) from None
        return beat


def _checked(values: object) -> dict[str, Any]:
    """Returns the fields of a `Beat`, checked; other versions may write more."""
    if not isinstance(values, dict):
        raise TypeError("it is not an object")
    kept = {name: values.get(name) for name in _KINDS}
    for name, value in kept.items():
        if isinstance(value, bool) or not isinstance(value, _KINDS[name]):
            raise TypeError(f"{name} is {value!r}")
    return kept


class Heart:
    """Writes the heartbeat of a running attempt from a thread; `beating` makes one.

    It is a reporter of the training loop.
    """

    def __init__(self, folder: Path, device: str, steps: int):
        """Prepares the heartbeat of a run of `steps` steps."""
        self._folder, self._device, self._steps = folder, device, steps
        self._step: int | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def start(self) -> None:
        """Writes the file, and again every 10 seconds."""
        self._write()
        self._thread.start()

    def stop(self) -> None:
        """Removes the file."""
        self._over.set()
        self._thread.join()  # else it could write again
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
        # A full disk must not end the run here.
        with contextlib.suppress(OSError):
            write_json(self._folder / HEARTBEAT, dataclasses.asdict(beat))


@contextlib.contextmanager
def beating(folder: Path, device: str, steps: int) -> Iterator[Heart]:
    """Writes heartbeats while the context is entered."""
    heart = Heart(folder, device, steps)
    heart.start()
    try:
        yield heart
    finally:
        heart.stop()


def slurm_job() -> str | None:
    """Returns the SLURM job of this process, as "123" or "123_0", or None."""
    array, task = (os.environ.get(f"SLURM_ARRAY_{key}_ID") for key in ("JOB", "TASK"))
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")
