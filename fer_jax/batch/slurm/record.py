"""`job.json`: which job has a run.

It is changed only by whoever has the run's claim (`lock.py`), and the job itself trains
only what the file says is its own (`slurm_job.py`).
"""

import contextlib
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fer_jax import runs
from fer_jax.batch.slurm import queue as slurm_queue
from fer_jax.runs.lock import claim
from fer_jax.system import files

CLAIM_S = 60.0
SUBMITTED = "submitted"


def new(number: str, log: Path, attempt: int) -> dict[str, Any]:
    """What is noted of a job that was submitted for a run."""
    return {
        "executor": "slurm",
        "id": number,
        "time": time.time(),
        "attempt": attempt,
        "log": str(log),
        "state": SUBMITTED,
    }


def write(folder: Path, record: Mapping[str, Any]) -> None:
    """Notes that a job was submitted for a run.

    What an earlier attempt failed of is removed: it would be taken for this one's.
    """
    (folder / runs.FAILED).unlink(missing_ok=True)
    files.write_json(folder / runs.JOB, record)


def living(folders: Iterable[Path]) -> dict[Path, str]:
    """The ids of the jobs that wait for runs or train them, as far as can be told.

    SLURM is asked where it is at hand; elsewhere it is as the files say.

    Raises:
      UserError: if a file is damaged.
    """
    found = {}
    for folder in folders:
        record = runs.read_job(folder)
        is_open = record is not None and record["state"] == SUBMITTED
        settled = runs.is_finished(folder) or runs.failure(folder) is not None
        if is_open and not settled:
            found[folder] = record["id"]
    if not found or not shutil.which("squeue"):
        return found
    try:
        entries = slurm_queue.queue(everyones=True)
    except slurm_queue.QueueError:
        return found
    return {
        folder: number
        for folder, number in found.items()
        if number in entries and entries[number].is_active
    }


def told(jobs: Mapping[str, str]) -> str:
    """That runs are left to their jobs, and how to free them.

    Args:
      jobs: ids by the runs' labels.
    """
    labels = ", ".join(f"{label} (job {number})" for label, number in jobs.items())
    by_hand = "" if shutil.which("squeue") else " and removing their job.json"
    return (
        f"left to jobs of a cluster: {labels}; scancel {' '.join(jobs.values())}"
        f"{by_hand} frees them, and --executor slurm watches them"
    )


def hold(folder: Path, number: str, claims: contextlib.ExitStack) -> bool:
    """Claims a run; whether it still is that job's, and how it ended not yet noted.

    Args:
      folder: the run folder.
      number: the job's id.
      claims: what closes the claim.
    """
    until = time.monotonic() + CLAIM_S
    while (claimed := claim(folder)) is None:
        if time.monotonic() > until:
            return False  # who holds it so long does the run
        time.sleep(0.1)
    claims.enter_context(claimed)
    record = runs.read_job(folder) or {}
    return (record.get("id"), record.get("state")) == (number, SUBMITTED)


def note_end(folder: Path, number: str, how: str) -> bool:
    """Notes how a run's job ended; False where another batch did before."""
    with contextlib.ExitStack() as claims:
        if not hold(folder, number, claims):
            return False
        record = (runs.read_job(folder) or {}) | {"state": f"ended: {how}"}
        files.write_json(folder / runs.JOB, record)
        return True
