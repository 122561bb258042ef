"""What a batch tells of its runs, whoever does them: the log and the exit status."""

import json
import os
import time
from pathlib import Path

from rich.console import Console

from fer_jax import runs
from fer_jax.batch.plan import LOG, Job
from fer_jax.errors import UserError


class Ledger:
    """Keeps the batch's log, and which of its runs did not come to their end.

    Attributes:
      console: where we say what happens.
      total: how many runs the batch has.
      failed: the labels of those that failed.
      cancelled: the labels of those that someone took from the scheduler's queue.
    """

    def __init__(self, console: Console, runs_dir: Path, total: int):
        """For a batch of `total` runs in a runs folder."""
        self.console, self.runs_dir, self.total = console, runs_dir, total
        self.failed: list[str] = []
        self.cancelled: list[str] = []

    def log(self, job: Job, /, **entry: object) -> None:
        """Appends one line to the batch log, in one write."""
        entry = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "run": job.label,
            "batch": os.getpid(),
            **entry,
        }
        path = self.runs_dir / LOG
        try:
            self.runs_dir.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise UserError(
                f"{path} cannot be written: {error.strerror}; "
                "choose another folder with --runs_dir"
            ) from None

    def fail(self, job: Job, error: str, /, **entry: object) -> None:
        """Notes that a run failed, for the end, in its folder and in the log."""
        self.failed.append(job.label)
        if job.state != "blocked":  # else the folder is another run's
            runs.note_failure(job.folder, error)
        self.log(job, event="failed", **entry, error=error)

    def settled(self, job: Job, how: str) -> None:
        """Notes what another process has brought a run to: "finished" or "failed"."""
        self.console.print(f"{job.label}: {how} in another process")
        self.failed += [job.label] * (how == "failed")

    def status(self) -> int:
        """Sums up; returns the exit status, 1 if a run did not finish."""
        log = self.runs_dir / LOG
        for how, labels in (("failed", self.failed), ("cancelled", self.cancelled)):
            if labels:
                self.console.print(
                    f"{len(labels)} of {self.total} runs {how}: "
                    f"{', '.join(labels)}; the reasons are in {log}"
                )
        return 1 if self.failed or self.cancelled else 0
