"""The runs of a batch as jobs of a SLURM cluster, `--executor slurm`.

The batch submits and then only watches: the jobs need it for nothing but a second
attempt where one was lost. `job.json` in each run folder says which job has the run, so
that the same command, typed again, watches what it finds instead of submitting it
twice (`slurm_record.py`).
"""

import argparse
import contextlib
import dataclasses
import resource
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fer_jax import runs
from fer_jax.batch.log import Ledger
from fer_jax.batch.plan import Job
from fer_jax.batch.slurm import (
    env as slurm_env,
)
from fer_jax.batch.slurm import (
    queue as slurm_queue,
)
from fer_jax.batch.slurm import (
    record as slurm_record,
)
from fer_jax.batch.slurm.job import Pack
from fer_jax.batch.slurm.queue import Entry, QueueError
from fer_jax.batch.slurm.submit import run_of, submit
from fer_jax.errors import UserError
from fer_jax.runs.lock import claim, holder
from fer_jax.system.signals import handling

FIRST_PAUSE_S, LAST_PAUSE_S = 1.0, 15.0  # between looks at the queue
LAG_S = 5.0  # so long may files written on a node take to be seen here
_USUAL = {"None", "Priority", "Resources", "JobArrayTaskLimit", "BeginTime", ""}


@dataclasses.dataclass(eq=False)
class _Watched:
    """A job, with those of its runs that are not settled, and what was seen of it."""

    id: str
    log: str
    attempt: int
    jobs: list[Job] = dataclasses.field(default_factory=list)
    is_ours: bool = False  # else the batch that submitted it logs its way
    started: bool = False
    last: Entry | None = None  # None until it was seen to wait or to run
    has_settled: bool = False  # some of its runs
    over_since: float | None = None
    again: int | None = None  # the attempt to make, once that it is over was judged

    @property
    def labels(self) -> str:
        return ", ".join(job.label for job in self.jobs)

    @property
    def was_cancelled(self) -> bool:
        """Whether that must be what became of a job of which there is no record.

        SLURM keeps none of an array's task that is cancelled before it has begun.
        """
        waited = self.last is not None and self.last.state == "PENDING"
        return waited and not self.last.restarts and not Path(self.log).exists()


class SlurmBatch:
    """The runs of a batch, submitted and watched."""

    def __init__(
        self,
        args: argparse.Namespace,
        ledger: Ledger,
        todo: Sequence[Job],
        parameters: Mapping[str, Any],
    ):
        """For runs to do, and jobs as `slurm_options.parameters` describes them."""
        self.args, self.ledger, self.parameters = args, ledger, parameters
        self.runs_dir, self.say = Path(args.runs_dir), ledger.console.print
        self.left = list(todo)  # has no job that we watch
        self.watched: dict[str, _Watched] = {}
        self.signals: list[int] = []
        # Of the jobs that runs have, these are older than we are.
        self.before = {job.label: _number(job) for job in todo}
        self.to_clear = {job.label for job in todo if args.force}
        self.pause = FIRST_PAUSE_S
        self.told: set[str] = set()

    def run(self) -> int:
        """Sees to it that all is done; the exit status as `Ledger.status` has it.

        A signal leaves the jobs in the queue, and 128 + its number is returned.

        Raises:
          UserError: if SLURM does not take the jobs in the first place.
        """
        # Each run's claim is an open file while it is submitted, and there may be
        # thousands of runs.
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        with handling(lambda number, _: self.signals.append(number)):
            self._take_up()
            while (self.watched or self.left) and not self.signals:
                self._wait()
                with self._told_once():
                    self._look()
                with self._told_once():
                    self._take_up()
        if self.signals:
            with contextlib.suppress(OSError):  # the terminal may have been closed
                self._leave()
            return 128 + self.signals[0]
        return self.ledger.status()

    @contextlib.contextmanager
    def _told_once(self, then: str = "; trying again") -> Iterator[None]:
        """What SLURM or a disk refuses while jobs are under way ends no batch."""
        try:
            yield
        except (UserError, QueueError, OSError) as error:
            self._tell(f"{error}{then}")

    def _tell(self, message: str) -> None:
        if message not in self.told:
            self.told.add(message)
            self.say(message)

    def _wait(self) -> None:
        """Pauses, the longer the less happens: many batches ask one controller."""
        until = time.monotonic() + self.pause
        self.pause = min(1.3 * self.pause, LAST_PAUSE_S)
        while time.monotonic() < until and not self.signals:
            time.sleep(0.1)

    def _take_up(self) -> None:
        """Watches the jobs that runs have, and submits what is nobody's."""
        with contextlib.ExitStack() as claims:
            claimed = [job for job in list(self.left) if self._claim(job, claims)]
            if not claimed:
                return
            # Whoever had a claim before us has written by now which job the run got,
            # and SLURM knows of that job.
            entries = self._queue()
            free = [job for job in claimed if self._is_free(job, entries)]
            size = self.args.pack
            groups = [free[n : n + size] for n in range(0, len(free), size)]
            self._submit(groups, "submitted", attempt=1)
            self.left = [job for job in self.left if job not in free]

    def _claim(self, job: Job, claims: contextlib.ExitStack) -> bool:
        if job.state == "blocked" and not self.args.force:
            self.left.remove(job)
            with self._told_once(""):
                self.ledger.fail(job, job.reason)
            self.say(f"failed: {job.label}: {job.reason}")
            return False
        if claimed := claim(job.folder):
            claims.enter_context(claimed)
        return claimed is not None

    def _is_free(self, job: Job, entries: Mapping[str, Entry]) -> bool:
        """Whether a run that we have the claim of is to be submitted."""
        record = runs.read_job(job.folder)
        if record and self._lives(job, record, entries):
            self.left.remove(job)
            self._watch(job, record).last = entries.get(record["id"])
            who = "before" if record["id"] == self.before[job.label] else "by another"
            self.say(f"watching: {job.label} (job {record['id']}), submitted {who}")
            return False
        if by := holder(job.folder):
            self._tell(f"waiting: {job.label} is in use by {by}")
        return not by

    def _queue(self) -> dict[str, Entry]:
        try:
            return slurm_queue.queue()
        except QueueError as error:
            raise UserError(
                f"SLURM does not say which jobs there are ({error}), so nothing can be "
                "submitted; try again when squeue answers"
            ) from None

    def _lives(
        self, job: Job, record: Mapping[str, Any], entries: Mapping[str, Entry]
    ) -> bool:
        """Whether a run has a job that is under way, or that is younger than we are."""
        if record["id"] != self.before[job.label]:
            return True
        if runs.is_finished(job.folder) and job.label not in self.to_clear:
            return True  # since the plan was made
        if record["state"] != slurm_record.SUBMITTED:
            return False
        entry = entries.get(record["id"])
        return entry is not None and entry.is_active

    def _watch(self, job: Job, record: Mapping[str, Any]) -> _Watched:
        new = _Watched(record["id"], record["log"], record["attempt"])
        watched = self.watched.setdefault(new.id, new)
        watched.jobs.append(job)
        self.to_clear.discard(job.label)
        return watched

    def _submit(
        self, groups: Sequence[Sequence[Job]], event: str, attempt: int
    ) -> None:
        """Submits a job for each group of runs whose claims we have.

        What `--force` repeats is cleared only now that SLURM has taken the jobs, which
        wait for `job.json` to name them. And now that it has, nothing may keep us from
        watching them.
        """
        if not groups:
            return
        for note in slurm_env.notes():
            self._tell(note)

        def packs(folder: Path) -> list[Pack]:
            return [
                Pack([run_of(job, self.args, folder) for job in group])
                for group in groups
            ]

        submitted = submit(packs, self.runs_dir, self.parameters)
        for (number, log), group in zip(submitted, groups, strict=True):
            record = slurm_record.new(number, log, attempt)
            for job in group:
                with self._told_once(f"; job {number} leaves {job.label}"):
                    if job.label in self.to_clear:
                        runs.clear(job.folder)
                    slurm_record.write(job.folder, record)
                self._watch(job, record).is_ours = True
        for (number, log), group in zip(submitted, groups, strict=True):
            entry = {"job": number, "attempt": attempt, "output": str(log)}
            for job in group:
                self._log(job, event=event, **entry)
            labels = ", ".join(job.label for job in group)
            self.say(f"{event}: {labels} (job {number})")
        self.say(f"what the jobs print is in {submitted[0][1].parent}")
        self.pause = FIRST_PAUSE_S

    def _log(self, job: Job, /, **entry: object) -> None:
        with self._told_once(""):
            self.ledger.log(job, **entry)

    def _look(self) -> None:
        """Asks the queue, and tells and notes what has changed."""
        entries = slurm_queue.queue()  # before the files: an end leaves them first
        for watched in list(self.watched.values()):
            self._look_at_files(watched)
            entry = entries.get(watched.id)
            if entry is not None and entry.is_active:
                watched.over_since = watched.again = None
                self._tell_progress(watched, entry)
            elif watched.jobs:
                now = time.monotonic()
                watched.over_since = watched.over_since or now
                if now - watched.over_since >= LAG_S:
                    self._conclude(watched, entry)
            if not watched.jobs:
                del self.watched[watched.id]

    def _look_at_files(self, watched: _Watched) -> None:
        for job in list(watched.jobs):
            if runs.is_finished(job.folder):
                self.pause = FIRST_PAUSE_S
                watched.jobs.remove(job)
                watched.has_settled = True
                if self._note_end(watched, job, "finished"):
                    self._log(job, event="finished", job=watched.id)
                self.say(f"finished: {job.label} (job {watched.id})")
            elif (error := runs.failure(job.folder)) is not None:
                self._fail(watched, job, error)

    def _tell_progress(self, watched: _Watched, entry: Entry) -> None:
        where = f"(job {watched.id} on {entry.nodes})"
        before, watched.last = watched.last, entry
        if before is not None and entry.restarts > before.restarts:
            self.say(f"requeued: {watched.labels} (job {watched.id})")
            self._log_all(watched, event="requeued", restarts=entry.restarts)
        if entry.state != "RUNNING":
            if entry.state == "PENDING" and entry.reason not in _USUAL:
                self._tell(f"waiting: job {watched.id}, for SLURM says {entry.reason}")
            watched.started = False
        elif not watched.started:
            watched.started = True
            self.say(f"started: {watched.labels} {where}")
            self._log_all(watched, event="started", nodes=entry.nodes)

    def _log_all(self, watched: _Watched, **entry: object) -> None:
        self.pause = FIRST_PAUSE_S
        for job in watched.jobs if watched.is_ours else ():
            self._log(job, job=watched.id, **entry)

    def _conclude(self, watched: _Watched, entry: Entry | None) -> None:
        """Judges a job that is over, once, and submits what it left undone."""
        if watched.again is None:
            state = entry.state if entry else ""
            if not entry and watched.was_cancelled:
                state = "CANCELLED"
            self._judge(watched, state)
        if watched.jobs:
            with self._told_once():
                self._resubmit(watched, watched.again)

    def _judge(self, watched: _Watched, state: str) -> None:
        """Draws the consequences for runs whose job is over and left them undone.

        In a pack the first of them was under way; those behind it are not at fault.
        """
        how = slurm_queue.end_of(watched.id, state)
        told = f"job {watched.id} ended: {how}; its log is {watched.log}"
        if state == "CANCELLED":
            for job in list(watched.jobs):
                self._cancelled(watched, job)
                self.say(
                    f"cancelled: {job.label} (job {watched.id}); not submitted again, "
                    "which the same command does"
                )
            return
        attempt = 1 if watched.has_settled else watched.attempt
        error, watched.again = "", 1
        if state == "OUT_OF_MEMORY":
            error = (
                f"the job's memory did not suffice ({told}); ask for more with --slurm "
                "mem=..., or lower training.batch_size or data.image_size"
            )
        elif attempt > self.args.retries:
            times = f"{attempt} time{'s' * (attempt > 1)}"
            error = (
                f"its job was lost {times} ({told}); see there, and type the same "
                "command again"
            )
        else:
            watched.again = attempt + 1
        if error:
            self._fail(watched, watched.jobs[0], error)
        if watched.jobs:
            self.say(f"lost: {watched.labels} ({told})")

    def _resubmit(self, watched: _Watched, attempt: int) -> None:
        """Submits what is undone once more, unless another batch has done so."""
        with contextlib.ExitStack() as claims:
            mine = [
                job
                for job in watched.jobs
                if slurm_record.hold(job.folder, watched.id, claims)
            ]
            theirs = [job for job in watched.jobs if job not in mine]
            self._submit([mine] if mine else [], "resubmitted", attempt)
            watched.jobs.clear()
        for job in theirs:
            record = runs.read_job(job.folder) or {}
            is_ended = record.get("state") != slurm_record.SUBMITTED
            if record.get("id") != watched.id or not is_ended:
                self.left.append(job)  # it has another job, or someone is about that
            elif record["state"].startswith("ended: cancelled"):
                self.ledger.cancelled.append(job.label)
            else:
                self.ledger.settled(job, "failed")

    def _fail(self, watched: _Watched, job: Job, error: str) -> None:
        self.pause = FIRST_PAUSE_S
        watched.jobs.remove(job)
        watched.has_settled = True
        if self._note_end(watched, job, f"failed: {error}"):
            with self._told_once(""):
                self.ledger.fail(job, error, job=watched.id)
        else:
            self.ledger.failed.append(job.label)
        self.say(f"failed: {job.label} (job {watched.id}): {error}")

    def _cancelled(self, watched: _Watched, job: Job) -> None:
        self.pause = FIRST_PAUSE_S
        watched.jobs.remove(job)
        if self._note_end(watched, job, "cancelled"):
            self._log(job, event="cancelled", job=watched.id)
        self.ledger.cancelled.append(job.label)

    def _note_end(self, watched: _Watched, job: Job, how: str) -> bool:
        """Whether it is ours to tell how a run ended; no other batch has."""
        with self._told_once(""):
            return slurm_record.note_end(job.folder, watched.id, how)
        return True  # it cannot be noted

    def _leave(self) -> None:
        """Ends the watch; the jobs with it only if someone at a terminal wants that."""
        numbers = sorted({number.split("_")[0] for number in self.watched}, key=int)
        if not numbers:
            self.say("batch stopped; the same command, without --force, goes on")
            return
        asks = self.signals[0] == signal.SIGINT and sys.stdin.isatty()
        if asks and not _confirm_leaving(len(self.watched)):
            self._cancel(numbers)
            return
        self.say(
            f"batch stopped, and its {len(self.watched)} jobs stay in the queue: "
            f"{_status_command(self.args)} shows them, "
            f"scancel {' '.join(numbers)} ends them, and the same command, without "
            "--force, watches them again"
        )

    def _cancel(self, numbers: Sequence[str]) -> None:
        try:
            slurm_queue.cancel(numbers)
        except QueueError as error:
            ends = f"scancel {' '.join(numbers)}"
            self.say(f"the jobs may still be there ({error}); {ends} ends them")
            return
        for watched in self.watched.values():
            for job in list(watched.jobs):
                self._cancelled(watched, job)
        self.say(
            f"batch stopped, and its jobs cancelled: {', '.join(self.watched)}; the "
            "same command, without --force, goes on from here"
        )


def _number(job: Job) -> str | None:
    """The id of the job that a run has or had."""
    return (runs.read_job(job.folder) or {}).get("id")


def _status_command(args: argparse.Namespace) -> str:
    """What shows the runs of this batch."""
    words = ["bin/run_batch", "--status", "--runs_dir", args.runs_dir]
    if args.configs != "configs":
        words += ["--configs", args.configs]
    if args.seeds != 1:
        words += ["--seeds", str(args.seeds)]
    for prefix in args.filter:
        words += ["--filter", prefix]
    return shlex.join(words)


def _confirm_leaving(count: int) -> bool:
    try:
        answer = input(f"\nleave the {count} jobs in the queue? [Y/n] ")
    except (EOFError, KeyboardInterrupt):
        return True
    return answer.strip().lower() not in ("n", "no")
