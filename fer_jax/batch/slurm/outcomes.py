"""What becomes of the watched jobs and their runs: printed, logged and recorded."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

from fer_jax import runs
from fer_jax.batch.log import BatchLog
from fer_jax.batch.plan import PlannedRun
from fer_jax.batch.slurm import record
from fer_jax.batch.slurm.queue import QueuedJob, QueueError
from fer_jax.errors import UserError

_USUAL_REASONS = {"None", "Priority", "Resources", "JobArrayTaskLimit", "BeginTime", ""}


@dataclasses.dataclass(eq=False)
class WatchedJob:
    """A job, and what was seen of it."""

    id: str
    log: str
    attempt: int
    runs: list[PlannedRun] = dataclasses.field(default_factory=list)  # without outcome
    started: bool = False
    last: QueuedJob | None = None  # as the queue last showed it while active
    has_settled: bool = False  # some of its runs have an outcome
    over_since: float | None = None
    next_attempt: int | None = None  # known once its end was judged

    @property
    def labels(self) -> str:
        """The labels of its runs."""
        return ", ".join(run.label for run in self.runs)

    @property
    def vanished_while_waiting(self) -> bool:
        """Whether it was cancelled, if the queue no longer shows it.

        SLURM keeps no record of an array's task that is cancelled before its start.
        """
        if self.last is None or self.last.state != "PENDING" or self.last.restarts:
            return False
        return not Path(self.log).exists()


class Outcomes:
    """Prints and logs the events of jobs, and records how their runs ended."""

    def __init__(self, log: BatchLog, retries: int):
        """Writes to a batch's log; a lost run is submitted again `retries` times."""
        self.log, self.retries = log, retries
        self.print = log.console.print
        self.changed = False  # something happened since this was last reset
        self._printed: set[str] = set()

    def print_once(self, message: str) -> None:
        """Prints a message unless it was printed before."""
        if message not in self._printed:
            self._printed.add(message)
            self.print(message)

    @contextlib.contextmanager
    def surviving(self, then: str = "") -> Iterator[None]:
        """Prints, once, what SLURM or the disk refuses, with what follows from it."""
        try:
            yield
        except (UserError, QueueError, OSError) as error:
            self.print_once(f"{error}{then}")

    def log_event(self, job: WatchedJob, **entry: object) -> None:
        """Logs an event for each run of a job."""
        self.changed = True
        for run in job.runs:
            with self.surviving():
                self.log.write(run, job=job.id, **entry)

    def report_progress(self, job: WatchedJob, seen: QueuedJob) -> None:
        """Reports that an active job was requeued, started, or waits."""
        before, job.last = job.last, seen
        if before is not None and seen.restarts > before.restarts:
            self.print(f"requeued: {job.labels} (job {job.id})")
            self.log_event(job, event="requeued", restarts=seen.restarts)
        if seen.state != "RUNNING":
            job.started = False
            if seen.state == "PENDING" and seen.reason not in _USUAL_REASONS:
                self.print_once(f"waiting: job {job.id}; SLURM says {seen.reason}")
        elif not job.started:
            job.started = True
            self.print(f"started: {job.labels} (job {job.id} on {seen.nodes})")
            self.log_event(job, event="started", nodes=seen.nodes)

    def settle_from_files(self, job: WatchedJob) -> None:
        """Settles the runs that have a result or a failure."""
        for run in list(job.runs):
            if runs.is_finished(run.folder):
                self._settle(job, run, "finished")
                with self.surviving():
                    self.log.write(run, event="finished", job=job.id)
                self.print(f"finished: {run.label} (job {job.id})")
            elif (error := runs.failure(run.folder)) is not None:
                self._fail(job, run, error)

    def judge(self, job: WatchedJob, seen: QueuedJob | None) -> int:
        """Settles what can be settled after the end of a job; returns the next attempt.

        In a pack, the first run left was in training. Those after it are not to blame.
        """
        if seen.state == "CANCELLED" if seen else job.vanished_while_waiting:
            for run in list(job.runs):
                self.cancel(job, run)
                self.print(
                    f"cancelled: {run.label} (job {job.id}); not submitted again, but "
                    "the same command does so"
                )
        ended = f"job {job.id} ended: {seen or 'gone from the queue'}"
        ended += f"; its log is {job.log}"
        attempt = 1 if job.has_settled else job.attempt
        error = ""
        if seen and seen.state == "OUT_OF_MEMORY":
            error = (
                f"the job ran out of memory ({ended}); request more with --slurm "
                "mem=..., or lower training.batch_size or data.image_size"
            )
        elif attempt > self.retries:
            times = f"{attempt} time{'s' * (attempt > 1)}"
            error = f"its job was lost {times} ({ended}); run the same command again"
        if error and job.runs:
            self._fail(job, job.runs[0], error)
        if job.runs:
            self.print(f"lost: {job.labels} ({ended})")
        return 1 if error else attempt + 1

    def cancel(self, job: WatchedJob, run: PlannedRun) -> None:
        """Settles a run as cancelled."""
        self._settle(job, run, "cancelled")
        self.log.cancelled.append(run.label)
        with self.surviving():
            self.log.write(run, event="cancelled", job=job.id)

    def _fail(self, job: WatchedJob, run: PlannedRun, error: str) -> None:
        self._settle(job, run, f"failed: {error}")
        with self.surviving():
            self.log.fail(run, error, job=job.id)
        self.print(f"failed: {run.label} (job {job.id}): {error}")

    def _settle(self, job: WatchedJob, run: PlannedRun, how: str) -> None:
        self.changed = job.has_settled = True
        job.runs.remove(run)
        with self.surviving():
            record.record_end(run.folder, how)
