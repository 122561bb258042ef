"""`job.json`, which says which job has a run.

Only the batch that has the run's claim (`runs/lock.py`) changes it, and a job trains
only the runs whose file names it (`job.py`).
"""

import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from fer_jax import runs
from fer_jax.batch.slurm import queue
from fer_jax.system import files

SUBMITTED = "submitted"


def write(folder: Path, job_id: str, log: Path | str, attempt: int) -> None:
    """Records that a job was submitted for a run, and forgets an earlier failure."""
    (folder / runs.FAILED).unlink(missing_ok=True)
    record = {
        "executor": "slurm",
        "id": job_id,
        "time": time.time(),
        "attempt": attempt,
        "log": str(log),
        "state": SUBMITTED,
    }
    files.write_json(folder / runs.JOB, record)


def job_id(folder: Path) -> str | None:
    """Returns the id of the job that a run has or had."""
    return (runs.read_job(folder) or {}).get("id")


def active_jobs(folders: Iterable[Path]) -> dict[Path, str]:
    """Returns the ids of the jobs that wait for runs or train them.

    Without an answer from SLURM, the files decide.
    """
    found = {}
    for folder in folders:
        record = runs.read_job(folder)
        ended = runs.is_finished(folder) or runs.failure(folder) is not None
        if record is not None and record["state"] == SUBMITTED and not ended:
            found[folder] = record["id"]
    try:
        jobs = queue.query_queue(everyones=True) if found else {}
    except queue.QueueError:
        return found
    return {
        folder: number
        for folder, number in found.items()
        if number in jobs and jobs[number].is_active
    }


def left_to_jobs(jobs: Mapping[str, str]) -> str:
    """Returns a message on runs, by their labels, that are left to their jobs."""
    labels = ", ".join(f"{label} (job {number})" for label, number in jobs.items())
    by_hand = "" if shutil.which("squeue") else " and removing their job.json"
    return (
        f"left to jobs of a cluster: {labels}; scancel {' '.join(jobs.values())}"
        f"{by_hand} frees them, and --executor slurm watches them"
    )


def record_end(folder: Path, how: str) -> None:
    """Records how a run's job ended."""
    record = runs.read_job(folder) or {}
    files.write_json(folder / runs.JOB, record | {"state": f"ended: {how}"})
