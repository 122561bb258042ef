"""The state of one run, read from the files of its folder.

Locks are not used: they may not work between the machines of a cluster. The newest
file decides: the heartbeat, `failed.json` or `job.json`. Ages are measured by the file
system's clock, since the clocks of those machines differ.
"""

import contextlib
import dataclasses
import math
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from fer_jax import runs
from fer_jax.batch.slurm.queue import QueueError, query_queue
from fer_jax.batch.slurm.record import SUBMITTED
from fer_jax.config import parse
from fer_jax.errors import UserError
from fer_jax.runs.heartbeat import FRESH_S, HEARTBEAT, Beat
from fer_jax.system.console import format_duration

SQUEUE_S = 10.0  # how long --status waits for squeue
_FILES = (runs.CONFIG, runs.RESULT, runs.FAILED, runs.JOB, HEARTBEAT)  # any: a run
_RECENT = 5  # epochs whose mean duration counts
_MALFORMED = (LookupError, TypeError, ValueError, ArithmeticError, AttributeError)


@dataclasses.dataclass(frozen=True)
class RunState:
    """Where a run stands; None where a number is unknown."""

    state: str  # one of `status.STATES`
    place: str = ""  # machine, process and device
    reason: str = ""  # why it is lost, failed or damaged; since when it is queued
    epoch: int = 0  # epochs done
    epochs: int | None = None  # in all
    done: float = 0.0  # fraction of the steps
    best: float | None = None  # val macro-F1 so far
    seconds: float | None = None  # left, or taken by a finished run


@dataclasses.dataclass(frozen=True)
class Now:
    """What is known of the present, besides the files of the runs."""

    time: float  # by the clock that dates the files
    jobs: frozenset[str] | None = None  # ids of our active jobs; None without SLURM

    @classmethod
    def at(cls, folder: Path) -> Self:
        """Returns the present for the runs in a folder."""
        now = file_system_time(folder)  # first, so that no later job counts as gone
        try:
            entries = query_queue(timeout=SQUEUE_S)
        except QueueError:
            return cls(now)
        return cls(now, frozenset(id for id, job in entries.items() if job.is_active))

    def age(self, path: Path) -> float:
        """Returns the seconds since a file was written, at least 0."""
        return max(self.time - modified(path), 0.0)


def file_system_time(folder: Path) -> float:
    """Returns the time by a folder's file system, or our own if that is unknown."""
    with contextlib.suppress(OSError), tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"now")
        file.flush()
        os.fsync(file.fileno())  # a file server dates the file on arrival
        return os.fstat(file.fileno()).st_mtime
    return time.time()


def modified(path: Path) -> float:
    """Returns when a file was written, by its file system; 0 if it does not exist."""
    with contextlib.suppress(OSError):
        return path.stat().st_mtime
    return 0.0


def is_run(folder: Path) -> bool:
    """Returns whether a folder holds a run, in whatever state."""
    return any(os.path.isfile(folder / name) for name in _FILES)


def read_state(folder: Path, now: Now, epochs: int | None = None) -> RunState:
    """Returns the state of the run in a folder, "damaged" if a file cannot be read.

    Args:
      folder: the run folder, which need not exist.
      now: the present, the same for all runs.
      epochs: the planned number of epochs; the folder's own config takes precedence.
    """
    try:
        if runs.is_finished(folder):
            return _finished(folder)
        return _unfinished(folder, now, epochs)
    except UserError as error:
        return RunState("damaged", reason=str(error), epochs=epochs)


def _finished(folder: Path) -> RunState:
    result = runs.read_result(folder)
    with _checking(folder / runs.RESULT):
        return RunState(
            "finished",
            epoch=int(result["epochs_run"]),
            epochs=int(result["config"]["training"]["epochs"]),
            done=1.0,
            best=_number(result["selection"]["value"]),
            seconds=_number(result["timing"]["wall_s"]),
        )


def _unfinished(folder: Path, now: Now, epochs: int | None) -> RunState:
    beat = Beat.read(folder)
    state, reason, place = _newest_sign(folder, now, beat)
    rows = _rows(folder)
    epochs = _epochs(folder) or epochs
    done, seconds = (len(rows) / epochs if epochs else 0.0), None
    if state == "running" and beat and beat.step is not None and beat.steps:
        done = beat.step / beat.steps
        seconds = _seconds_left(rows, epochs, done)
    return RunState(
        state,
        place=place,
        reason=reason,
        epoch=len(rows),
        epochs=epochs,
        done=min(done, 1.0),
        best=max((row["val_macro_f1"] for row in rows), default=None),
        seconds=seconds,
    )


def _newest_sign(folder: Path, now: Now, beat: Beat | None) -> tuple[str, str, str]:
    """Returns state, reason and place.

    A batch also writes `failed.json` for a process that was killed, whose heartbeat
    stays.
    """
    job, failure = runs.read_job(folder), runs.failure(folder)
    signs = []
    if beat:
        signs.append((modified(folder / HEARTBEAT), "beat"))
    if failure is not None:
        signs.append((modified(folder / runs.FAILED), "failed"))
    if job and job["state"] == SUBMITTED:
        signs.append((modified(folder / runs.JOB), "queued"))
    newest = max(signs)[1] if signs else ""
    in_job = f"job {job['id']}" if job else ""
    if newest == "failed":
        return "failed", failure or "", in_job
    if beat and (newest == "beat" or now.age(folder / HEARTBEAT) < FRESH_S):
        return _by_beat(beat, now.age(folder / HEARTBEAT))
    if job and newest == "queued":
        if _is_gone(folder / runs.JOB, job["id"], now):
            return "lost", f"{in_job} is gone from the queue", ""
        ago = format_duration(now.age(folder / runs.JOB))
        return "queued", f"submitted {ago} ago", in_job
    return "stopped" if runs.is_started(folder) else "new", "", ""


def _is_gone(path: Path, job_id: str, now: Now) -> bool:
    """Returns whether the queue lacks the job that a file names, though it should not.

    The queue shows only our own jobs, and those submitted before it was asked.
    """
    if now.jobs is None or job_id in now.jobs:
        return False
    with contextlib.suppress(OSError):
        found = path.stat()
        return found.st_uid == os.geteuid() and found.st_mtime < now.time
    return False


def _by_beat(beat: Beat, age: float) -> tuple[str, str, str]:
    where = f"job {beat.job} on {beat.host}" if beat.job else beat.host
    place = f"{where}, process {beat.pid}, {beat.device}"
    if age >= FRESH_S:
        return "lost", f"silent for {format_duration(age)}", place
    return "starting" if beat.step is None else "running", "", place


def _rows(folder: Path) -> list[dict[str, Any]]:
    """Returns the rows of `metrics.jsonl`, with checked values."""
    path = folder / runs.METRICS
    if not os.path.isfile(path):  # before the end of the first epoch
        return []
    rows = runs.read_metrics(folder)
    with _checking(path):
        for row in rows:
            row["val_macro_f1"] = _number(row["val_macro_f1"])
            row["wall_s"] = _number(row["wall_s"]) if "wall_s" in row else None
    return rows


@contextlib.contextmanager
def _checking(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, *_MALFORMED) as error:
        raise UserError(
            f"{path} is damaged ({type(error).__name__}: {error}); repeat that run "
            "with --force"
        ) from None


def _number(value: object) -> float:
    """Returns a JSON number as a float; refuses NaN, which Python's JSON accepts."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is not a number")
    if not math.isfinite(value):
        raise ValueError(f"{value} is not finite")
    return float(value)


def _epochs(folder: Path) -> int | None:
    """Returns the number of epochs in the run's own config, None before its start."""
    if not runs.is_started(folder):
        return None
    path = folder / runs.CONFIG
    with _checking(path):
        return int(parse(path.read_text("utf-8"), str(path))["training"]["epochs"])


def _seconds_left(
    rows: Sequence[Mapping[str, Any]], epochs: int | None, done: float
) -> float | None:
    """Extrapolates the recent epochs; None before the end of the first."""
    times = [0.0, *(row["wall_s"] for row in rows)]
    if not rows or not epochs or None in times:
        return None
    # The first epoch includes compilation: it counts only while it is the only one.
    times = times[1:][-_RECENT - 1 :] if len(rows) > 1 else times
    pace = (times[-1] - times[0]) / (len(times) - 1)
    return max(pace * epochs * (1 - done), 0.0)
