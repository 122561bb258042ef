"""The batch's log, `batch_log.jsonl`, and its exit status."""

import json
import os
from pathlib import Path

from rich.console import Console

from fer_jax import runs
from fer_jax.batch.plan import PlannedRun
from fer_jax.errors import UserError
from fer_jax.system import files

LOG = "batch_log.jsonl"  # in the runs folder


class BatchLog:
    """Logs what happens to the runs, and remembers which did not finish."""

    def __init__(self, console: Console, runs_dir: Path, total: int):
        """Logs a batch of `total` runs in a runs folder."""
        self.console, self.total = console, total
        self.path = runs_dir / LOG
        self.failed: list[str] = []  # labels of runs
        self.cancelled: list[str] = []
        self.blocked: list[str] = []  # not started: another run has the folder

    def write(self, run: PlannedRun, /, **entry: object) -> None:
        """Appends one line, in one write."""
        entry = {
            "time": files.utc_time(),
            "run": run.label,
            "batch": os.getpid(),
            **entry,
        }
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise UserError(
                f"{self.path} cannot be written: {error.strerror}; "
                "choose another folder with --runs_dir"
            ) from None

    def fail(self, run: PlannedRun, error: str, /, **entry: object) -> None:
        """Records that a run failed, here and in its folder."""
        self.failed.append(run.label)
        if run.state != "blocked":  # then the folder belongs to another run
            runs.note_failure(run.folder, error)
        self.write(run, event="failed", **entry, error=error)

    def done_elsewhere(self, run: PlannedRun, outcome: str) -> None:
        """Records what became of a run in another process, such as "finished"."""
        self.console.print(f"{run.label}: {outcome} in another process")
        self.failed += [run.label] * (outcome == "failed")
        self.cancelled += [run.label] * (outcome == "cancelled")

    def exit_status(self) -> int:
        """Prints which runs did not finish; returns 1 if there are any, else 0."""
        for how, labels in (("failed", self.failed), ("cancelled", self.cancelled)):
            if labels:
                self.console.print(
                    f"{len(labels)} of {self.total} runs {how}: "
                    f"{', '.join(labels)}; the reasons are in {self.path}"
                )
        if self.blocked:
            self.console.print(f"not started, as blocked: {', '.join(self.blocked)}")
        return 1 if self.failed or self.cancelled or self.blocked else 0
