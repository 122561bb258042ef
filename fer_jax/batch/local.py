"""The runs of a batch as processes of this machine, `--executor local`."""

import argparse
import dataclasses
import functools
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from fer_jax import runs
from fer_jax.batch.log import Ledger
from fer_jax.batch.moment import file_time, written
from fer_jax.batch.plan import Job, about, train_command
from fer_jax.batch.slurm import record as slurm_record
from fer_jax.batch.workers import Ended, Workers
from fer_jax.runs.lock import claim, holder
from fer_jax.system.signals import SIGNALS

WAIT_S = 2.0  # between looks at runs that other processes hold


@dataclasses.dataclass
class LocalBatch:
    """The jobs of a batch on their way.

    Attributes:
      args: the command line.
      ledger: where ends are noted, and what happens is said.
      at_once: how many processes at most.
      left: what is not yet begun.
      seconds: how long some jobs take, where that is known.
    """

    args: argparse.Namespace
    ledger: Ledger
    at_once: int
    left: list[Job]
    seconds: Callable[[Sequence[Job]], float | None]

    def __post_init__(self) -> None:
        self.console = self.ledger.console
        self.workers = Workers(self.at_once, self.args.gpus_per_job)
        self.claims: dict[str, IO[str]] = {}
        self.began = 0.0  # by the monotonic clock
        # By the file system's clock: the batch, and each of its runs.
        self.since, self.started = 0.0, dict[str, float]()

    def run(self) -> int:
        """Does the jobs; 0, 1 if any failed, 128 + a signal that stopped.

        What another process works on is left to it, and looked at again at the end: it
        may be another batch over the same folder, or a run may have died.
        """
        workers, told = self.workers, False
        # Only now: who was asked whether to start may have taken hours to say so.
        self.began, self.since = time.monotonic(), file_time(self.ledger.runs_dir)
        with (
            workers.at_work(),
            tempfile.TemporaryDirectory(prefix="fer_jax_") as self.settings,
        ):
            while workers.jobs or (self.left and not workers.signals):
                if workers.are_free:
                    self._leave_what_has_no_time()
                if workers.are_free and (job := self._next_free()):
                    self._begin(job)
                    told = False
                    continue
                if not workers.jobs and not told:
                    told = True
                    self.console.print(f"waiting: {_holders(self.left)}")
                for ended in workers.wait(WAIT_S):
                    self._end(ended)
        if workers.signals:
            self.console.print(
                "batch stopped; the same command, without --force, goes on from here"
            )
            return 128 + workers.signals[-1]
        return self.ledger.status()

    def _leave_what_has_no_time(self) -> None:
        """Takes the jobs off the plan that would end after the budget, and says so."""
        if self.args.budget is None:
            return
        rest = 60 * self.args.budget - (time.monotonic() - self.began)
        late = [job for job in self.left if (self.seconds([job]) or 0.0) > rest]
        if late:
            self.left = [job for job in self.left if job not in late]
            self.console.print(
                f"the budget of {self.args.budget:g} min leaves no time for "
                f"{', '.join(job.label for job in late)}; the same command goes on "
                "with what is left"
            )

    def _next_free(self) -> Job | None:
        """The first job whose folder nobody holds, which is then ours."""
        for job in list(self.left):
            if holder(job.folder) is None and (claimed := claim(job.folder)):
                if has := slurm_record.living([job.folder]):  # since the plan was made
                    claimed.close()
                    self.left.remove(job)
                    self.console.print(slurm_record.told({job.label: has[job.folder]}))
                    continue
                self.claims[job.label] = claimed
                return job
        return None

    def _begin(self, job: Job) -> None:
        number = self.ledger.total - len(self.left) + 1
        # Those count with the epochs that they still have, not with those of the plan.
        under_way = [
            dataclasses.replace(each, epochs=runs.epochs_done(each.folder))
            for each in self.workers.jobs
        ]
        told = f"{number}/{self.ledger.total} {job.label}"
        told += about(self.seconds(under_way + self.left))
        self.left.remove(job)
        if settled := _settled_since(job, self.since, self.args.force):
            self.ledger.settled(job, settled)
            self.claims.pop(job.label).close()
            return
        if self.at_once == 1:
            self.console.rule(told, align="left")
        else:  # no heading: what follows may be another run's
            self.console.print(told)
        self.ledger.log(job, event="started", jobs=self.at_once)
        self.started[job.label] = file_time(job.folder)
        command = train_command(job, self.args, Path(self.settings))
        self.workers.start(job, command)

    def _end(self, ended: Ended) -> None:
        """Logs how a run's process ended, and draws the consequences."""
        job, status, error = ended.job, ended.status, ended.error
        log = functools.partial(self.ledger.log, job)
        stopping = status in {128 + number for number in SIGNALS}
        if status == 0:
            log(event="finished", seconds=ended.seconds)
        elif _is_elsewhere(job, self.started[job.label], self.args.force):
            log(event="left to another process", error=error)
            self.left.append(job)
        elif stopping or self.workers.signals:
            log(event="interrupted", seconds=ended.seconds)
            if not self.workers.signals:  # someone told the run, and meant the batch
                self.workers.signals.append(status - 128)
        else:
            self.ledger.fail(job, error, seconds=ended.seconds, exit_status=status)
            self.console.print(f"failed: {job.label} (exit status {status}): {error}")
        self.claims.pop(job.label).close()


def _holders(jobs: Sequence[Job]) -> str:
    held = {job.label: holder(job.folder) or "another process" for job in jobs}
    return "; ".join(f"{label} is in use by {by}" for label, by in held.items())


def _is_elsewhere(job: Job, started: float, force: bool) -> bool:
    """Whether our own attempt at a job only met another process that has it.

    A result that came after we started the run is our own: what failed, failed then.
    """
    if holder(job.folder):
        return True
    if job.state == "blocked" or force or not runs.is_finished(job.folder):
        return False
    return written(job.folder / runs.RESULT) < started


def _settled_since(job: Job, since: float, force: bool) -> str:
    """ "finished" or "failed" if another process has brought the job there, or ""."""
    if written(job.folder / runs.RESULT) > since:
        return "finished"
    if runs.is_finished(job.folder) and not force:
        return "finished"
    return "failed" if written(job.folder / runs.FAILED) > since else ""
