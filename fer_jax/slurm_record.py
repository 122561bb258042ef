"""`job.json`: which job has a run.

It is changed only by whoever has the run's claim (`lock.py`), and the job itself trains
only what the file says is its own (`slurm_job.py`).
"""

import contextlib
import time
from pathlib import Path
from typing import Any

from fer_jax import runs
from fer_jax.lock import claim

CLAIM_S = 60.0
SUBMITTED = "submitted"


def write(folder: Path, number: str, log: Path, attempt: int) -> dict[str, Any]:
    """Notes that a job was submitted for a run, and returns what is noted.

    What an earlier attempt failed of is removed: it would be taken for this one's.
    """
    (folder / runs.FAILED).unlink(missing_ok=True)
    record = {
        "executor": "slurm",
        "id": number,
        "time": time.time(),
        "attempt": attempt,
        "log": str(log),
        "state": SUBMITTED,
    }
    runs.write_json(folder / runs.JOB, record)
    return record


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
        runs.write_json(folder / runs.JOB, record)
        return True
