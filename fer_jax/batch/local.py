"""The runs of a batch as child processes on this machine, `--executor local`."""

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from fer_jax import runs
from fer_jax.batch.estimate import Estimator
from fer_jax.batch.log import BatchLog
from fer_jax.batch.plan import PlannedRun, train_command
from fer_jax.batch.run_state import file_system_time, modified
from fer_jax.batch.slurm import record
from fer_jax.batch.workers import Ended, Workers
from fer_jax.runs.lock import claim, holder
from fer_jax.system.console import heading
from fer_jax.system.signals import SIGNALS

WAIT_S = 2.0  # between looks at runs that other processes hold


class LocalBatch:
    """Trains the runs of a batch in child processes."""

    def __init__(
        self,
        args: argparse.Namespace,
        log: BatchLog,
        left: Sequence[PlannedRun],
        estimator: Estimator,
    ):
        """Prepares a batch of the runs `left`; refuses if there are too few GPUs."""
        self.args, self.log, self.estimator = args, log, estimator
        self.left = list(left)  # not started
        self.print = log.console.print
        self.workers = Workers(estimator.at_once, args.gpus_per_job)
        self.claims: dict[str, IO[str]] = {}
        self.began = 0.0  # by the monotonic clock
        self.began_at = 0.0  # by the file system's clock
        self.settings = Path()  # the folder of the runs' configs

    def run(self) -> int:
        """Trains all; returns 0, 1 if any failed, or 128 + the signal that stopped us.

        A run that another process holds is left to it, and looked at again at the end:
        it may belong to another batch, or its process may die.
        """
        workers, said = self.workers, False
        # The clock starts here: the question whether to start may have taken hours.
        self.began = time.monotonic()
        self.began_at = file_system_time(Path(self.args.runs_dir))
        with (
            workers.running(),
            tempfile.TemporaryDirectory(prefix="fer_jax_") as settings,
        ):
            self.settings = Path(settings)
            while workers.runs or (self.left and not workers.signals):
                if workers.can_start:
                    self._drop_what_exceeds_the_budget()
                if workers.can_start and (run := self._claim_next()):
                    self._start(run)
                    said = False
                    continue
                if not workers.runs and not self.left:
                    break  # the budget has no time for the rest
                if not workers.runs and not said:
                    said = True
                    self.print(f"waiting: {_holders(self.left)}")
                for ended in workers.wait(WAIT_S):
                    self._end(ended)
        if workers.signals:
            self.print(
                "batch stopped; the same command, without --force, continues from here"
            )
            return 128 + workers.signals[-1]
        return self.log.exit_status()

    def _drop_what_exceeds_the_budget(self) -> None:
        if self.args.budget is None:
            return
        rest = 60 * self.args.budget - (time.monotonic() - self.began)
        late = [
            run for run in self.left if (self.estimator.seconds([run]) or 0.0) > rest
        ]
        if late:
            self.left = [run for run in self.left if run not in late]
            self.print(
                f"the budget of {self.args.budget:g} min leaves no time for "
                f"{', '.join(run.label for run in late)}; the same command continues "
                "with them"
            )

    def _claim_next(self) -> PlannedRun | None:
        """Claims the first run whose folder nobody holds."""
        for run in list(self.left):
            if holder(run.folder) is None and (claimed := claim(run.folder)):
                if jobs := record.active_jobs([run.folder]):  # submitted since the plan
                    claimed.close()
                    self.left.remove(run)
                    self.print(record.left_to_jobs({run.label: jobs[run.folder]}))
                    continue
                self.claims[run.label] = claimed
                return run
        return None

    def _start(self, run: PlannedRun) -> None:
        number = self.log.total - len(self.left) + 1
        under_way = [
            dataclasses.replace(each, epochs=runs.epochs_done(each.folder))
            for each in self.workers.runs
        ]
        message = f"{number}/{self.log.total} {run.label}"
        message += self.estimator.phrase(under_way + self.left)
        self.left.remove(run)
        if outcome := _outcome_since(run, self.began_at, self.args.force):
            self.log.done_elsewhere(run, outcome)
            self.claims.pop(run.label).close()
            return
        if self.estimator.at_once == 1:
            heading(self.log.console, message)
        else:  # no heading: the next line may be another run's
            self.print(message)
        self.log.write(run, event="started", jobs=self.estimator.at_once)
        self.workers.start(run, train_command(run, self.args, self.settings))

    def _end(self, ended: Ended) -> None:
        """Logs how the process of a run ended, and acts on it."""
        run, status, error = ended.run, ended.status, ended.error
        stopped = status in {128 + number for number in SIGNALS}
        if status == 0:
            self.log.write(run, event="finished", seconds=ended.seconds)
        elif holder(run.folder):
            self.log.write(run, event="left to another process", error=error)
            self.left.append(run)
        elif stopped or self.workers.signals:
            self.log.write(run, event="interrupted", seconds=ended.seconds)
            if not self.workers.signals:  # a signal to the run alone stops the batch
                self.workers.signals.append(status - 128)
        else:
            self.log.fail(run, error, seconds=ended.seconds, exit_status=status)
            self.print(f"failed: {run.label} (exit status {status}): {error}")
        self.claims.pop(run.label).close()


def _holders(waiting: Sequence[PlannedRun]) -> str:
    held = {run.label: holder(run.folder) or "another process" for run in waiting}
    return "; ".join(f"{label} is in use by {by}" for label, by in held.items())


def _outcome_since(run: PlannedRun, since: float, force: bool) -> str:
    """Returns "finished" or "failed" if another process ended the run since, or ""."""
    if modified(run.folder / runs.RESULT) > since:
        return "finished"
    if runs.is_finished(run.folder) and not force:
        return "finished"
    return "failed" if modified(run.folder / runs.FAILED) > since else ""
