"""Where one run stands, by the files of its folder alone.

No lock is asked: across the machines of a cluster, which share the file system, locks
may say nothing. What says most is the newest of the signs that a run and those who
start it leave: its heartbeat, `failed.json` and `job.json`.
"""

import contextlib
import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fer_jax import runs
from fer_jax.batch.moment import Moment, written
from fer_jax.batch.slurm.record import SUBMITTED
from fer_jax.config import parse
from fer_jax.errors import UserError
from fer_jax.runs.heartbeat import FRESH_S, HEARTBEAT, Beat

# In the order in which a summary counts them.
STATES = (
    *("finished", "running", "starting", "queued", "lost", "failed"),
    *("stopped", "new", "damaged"),
)
FILES = (runs.CONFIG, runs.RESULT, runs.FAILED, runs.JOB, HEARTBEAT)  # any: a run
_RECENT = 5  # epochs that tell how long one takes
_WRONG = (LookupError, TypeError, ValueError, ArithmeticError, AttributeError)


@dataclasses.dataclass(frozen=True)
class RunState:
    """Where a run stands.

    Attributes:
      state: one of `STATES`.
      place: where it is or was, as far as that is told.
      reason: why it is lost, failed or damaged; since when it is queued.
      epoch: how many of its epochs are done.
      epochs: how many it has; None where nothing says.
      done: the share of its steps that is done.
      best: the best val macro-F1 so far; None before the first epoch's end.
      seconds: how many are left where it runs, and how many it took where it is
        finished; None where nothing says.
    """

    state: str
    place: str = ""
    reason: str = ""
    epoch: int = 0
    epochs: int | None = None
    done: float = 0.0
    best: float | None = None
    seconds: float | None = None


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run, in whatever state."""
    return any(os.path.isfile(folder / name) for name in FILES)


def read_state(folder: Path, moment: Moment, epochs: int | None = None) -> RunState:
    """Where the run in a folder stands; a file that is damaged is a state, too.

    Args:
      folder: the run folder, which need not exist.
      moment: when that is; one for all runs that are looked at.
      epochs: how many epochs the plan gives the run; the folder's config counts more.
    """
    try:
        if runs.is_finished(folder):
            return _finished(folder)
        return _unfinished(folder, moment, epochs)
    except UserError as error:
        return RunState("damaged", reason=str(error), epochs=epochs)


def _finished(folder: Path) -> RunState:
    result = runs.read_result(folder)
    try:
        return RunState(
            "finished",
            epoch=int(result["epochs_run"]),
            epochs=int(result["config"]["training"]["epochs"]),
            done=1.0,
            best=_number(result["selection"]["value"]),
            seconds=_number(result["timing"]["wall_s"]),
        )
    except _WRONG as error:
        raise UserError(
            f"{folder / runs.RESULT} lacks what every result tells "
            f"({type(error).__name__}: {error}); repeat that run with --force"
        ) from None


def _unfinished(folder: Path, moment: Moment, epochs: int | None) -> RunState:
    beat, job = Beat.read(folder), runs.read_job(folder)
    state, reason, place = _sign(folder, moment, beat, job)
    rows = _rows(folder)
    epochs = _epochs(folder) or epochs
    done = len(rows) / epochs if epochs else 0.0
    seconds = None
    if state == "running":
        done = beat.step / beat.steps
        seconds = _left(rows, epochs, done)
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


def _sign(
    folder: Path, moment: Moment, beat: Beat | None, job: Mapping[str, Any] | None
) -> tuple[str, str, str]:
    """State, reason and place by the newest sign.

    A batch notes that a run failed also where it was killed, and left its heartbeat.
    """
    signs = []
    if beat:
        signs.append((written(folder / HEARTBEAT), "beat"))
    if failure := runs.failure(folder):
        signs.append((written(folder / runs.FAILED), "failed"))
    if job and job["state"] == SUBMITTED:
        signs.append((written(folder / runs.JOB), "queued"))
    newest = max(signs)[1] if signs else ""
    in_job = f"job {job['id']}" if job else ""
    if newest == "failed":
        return "failed", failure or "", in_job
    if beat and (newest == "beat" or moment.age(folder / HEARTBEAT) < FRESH_S):
        return _by_beat(beat, moment.age(folder / HEARTBEAT))
    if newest == "queued" and _is_gone(folder / runs.JOB, job["id"], moment):
        return "lost", f"{in_job} is gone from the queue", ""
    if newest == "queued":
        ago = told_time(moment.age(folder / runs.JOB))
        return "queued", f"submitted {ago} ago", in_job
    return "stopped" if runs.is_started(folder) else "new", "", ""


def _is_gone(path: Path, number: str, moment: Moment) -> bool:
    """Whether the queue at hand should have the job that a file names, and has not.

    It tells of our own jobs alone, and of what was submitted before it was asked.
    """
    if moment.jobs is None or number in moment.jobs:
        return False
    with contextlib.suppress(OSError):
        found = path.stat()
        return found.st_uid == os.geteuid() and found.st_mtime < moment.time
    return False


def _by_beat(beat: Beat, age: float) -> tuple[str, str, str]:
    where = f"job {beat.job} on {beat.host}" if beat.job else beat.host
    place = f"{where}, process {beat.pid}, {beat.device}"
    if age >= FRESH_S:
        return "lost", f"silent for {told_time(age)}", place
    return "starting" if beat.step is None else "running", "", place


def _rows(folder: Path) -> list[dict[str, Any]]:
    """Those of `metrics.jsonl`, with what is read of them here checked."""
    path = folder / runs.METRICS
    if not os.path.isfile(path):  # the first epoch is not over
        return []
    rows = runs.read_metrics(folder)
    try:
        for row in rows:
            row["val_macro_f1"] = _number(row["val_macro_f1"])
            row["wall_s"] = _number(row["wall_s"]) if "wall_s" in row else None
    except _WRONG as error:
        raise UserError(
            f"{path} is damaged ({type(error).__name__}: {error}); start that run anew "
            "with --force"
        ) from None
    return rows


def _number(value: object) -> float:
    """A number of JSON as a float, but no NaN, which Python's JSON takes."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is not a number")
    if not math.isfinite(value):
        raise ValueError(f"{value} is not finite")
    return float(value)


def _epochs(folder: Path) -> int | None:
    """How many epochs the run was begun with; None where it was not."""
    if not runs.is_started(folder):
        return None
    path = folder / runs.CONFIG
    try:
        epochs = int(parse(path.read_text("utf-8"), str(path))["training"]["epochs"])
    except (OSError, UserError, *_WRONG) as error:
        raise UserError(
            f"{path} is damaged ({error}); start that run anew with --force"
        ) from None
    return epochs


def _left(
    rows: Sequence[Mapping[str, Any]], epochs: int | None, done: float
) -> float | None:
    """Seconds, at the pace of the last epochs; None before the first one's end."""
    times = [0.0, *(row["wall_s"] for row in rows)]
    if not rows or not epochs or None in times:
        return None
    # The first epoch compiles: it counts where no other tells.
    times = times[1:][-_RECENT - 1 :] if len(rows) > 1 else times
    pace = (times[-1] - times[0]) / (len(times) - 1)
    return max(pace * epochs * (1 - done), 0.0)


def told_time(seconds: float) -> str:
    """A time in the unit that suits it, as "40 s" or "1.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"
