"""Submits the runs of a batch to SLURM, and watches their jobs.

The jobs need the batch only to be submitted again after one was lost. `job.json` in
each run folder names the job that has the run, so the same command, typed again,
watches the jobs instead of submitting them twice (`record.py`).
"""

import argparse
import contextlib
import resource
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from typing import IO, Any

from fer_jax import runs
from fer_jax.batch.log import BatchLog
from fer_jax.batch.plan import PlannedRun
from fer_jax.batch.slurm import queue, record
from fer_jax.batch.slurm.outcomes import Outcomes, WatchedJob
from fer_jax.batch.slurm.queue import QueuedJob, QueueError
from fer_jax.batch.slurm.submit import environment_notes, submit
from fer_jax.errors import UserError
from fer_jax.runs.lock import claim, holder
from fer_jax.system.signals import handling

FIRST_PAUSE_S, LAST_PAUSE_S = 1.0, 15.0  # between looks at the queue
LAG_S = 5.0  # how long files written on a node may take to appear here
_AGAIN = "the same command, without --force,"


class SlurmBatch:
    """Submits and watches the runs of a batch."""

    def __init__(
        self,
        args: argparse.Namespace,
        log: BatchLog,
        planned: Sequence[PlannedRun],
        parameters: Mapping[str, Any],
    ):
        """Prepares a batch; `parameters` are those of `options.job_parameters`."""
        self.args, self.log, self.parameters = args, log, parameters
        self.outcomes = Outcomes(log, args.retries)
        self.print = log.console.print
        self.unassigned = list(planned)  # runs without a job that we watch
        self.jobs: dict[str, WatchedJob] = {}  # by id
        self.signals: list[int] = []
        self.claims: dict[str, IO[str]] = {}  # by the labels of the runs
        self.earlier = {run.label: runs.read_job(run.folder) or {} for run in planned}
        self.to_clear = {run.label for run in planned if args.force}
        self.pause = FIRST_PAUSE_S

    def run(self) -> int:
        """Watches until all runs have an outcome; returns the exit status.

        A signal leaves the jobs in the queue, and 128 + its number is returned. Raises
        a UserError if SLURM refuses the first submission.
        """
        # Each claim is an open file, and there may be thousands of runs.
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        with handling(lambda number, _: self.signals.append(number)):
            try:
                self._take_up()
            except UserError:
                if not self.signals:  # else Ctrl-C has ended sbatch
                    raise
            while (self.jobs or self.unassigned) and not self.signals:
                self._wait()
                with self.outcomes.surviving("; trying again"):
                    self._look()
                with self.outcomes.surviving("; trying again"):
                    self._take_up()
                self._release()
        if self.signals:
            with contextlib.suppress(OSError):  # the terminal may be closed
                self._leave()
            return 128 + self.signals[0]
        return self.log.exit_status()

    def _wait(self) -> None:
        """Pauses, longer while nothing happens: many batches ask one controller."""
        longer = min(1.3 * self.pause, LAST_PAUSE_S)
        self.pause = FIRST_PAUSE_S if self.outcomes.changed else longer
        self.outcomes.changed = False
        until = time.monotonic() + self.pause
        while time.monotonic() < until and not self.signals:
            time.sleep(0.1)

    def _take_up(self) -> None:
        """Claims the runs that no other batch has, and watches or submits their jobs.

        A claim lasts until the outcome of the run is recorded.
        """
        claimed = [run for run in list(self.unassigned) if self._claim(run)]
        if not claimed:
            return
        # Asked now: of a run that another batch had until now, the queue shows the job.
        try:
            queued = queue.query_queue()
        except QueueError as error:
            raise UserError(
                f"SLURM does not list its jobs ({error}), so nothing can be submitted; "
                "try again when squeue answers"
            ) from None
        free = [run for run in claimed if self._is_free(run, queued)]
        size = self.args.pack
        packs = [free[n : n + size] for n in range(0, len(free), size)]
        self._submit(packs, "submitted", attempt=1)
        self.unassigned = [run for run in self.unassigned if run not in free]

    def _claim(self, run: PlannedRun) -> bool:
        if run.state == "blocked" and not self.args.force:
            self.unassigned.remove(run)
            with self.outcomes.surviving():
                self.log.fail(run, run.reason)
            self.print(f"failed: {run.label}: {run.reason}")
            return False
        if run.label not in self.claims:
            if (claimed := claim(run.folder)) is None:
                self.outcomes.print_once(f"waiting: another batch has {run.label}")
                return False
            self.claims[run.label] = claimed
        return True

    def _is_free(self, run: PlannedRun, queued: Mapping[str, QueuedJob]) -> bool:
        """Returns whether a run is to be submitted, and watches the job that it has."""
        found = runs.read_job(run.folder) or {}
        seen = queued.get(found.get("id", ""))
        is_new = found != self.earlier[run.label]  # written by another batch
        if found.get("state") == record.SUBMITTED and (
            is_new or (seen is not None and seen.is_active)
        ):
            job = WatchedJob(found["id"], found["log"], found["attempt"])
            self._assign(run, job).last = seen
            self.unassigned.remove(run)
            who = "by another batch" if is_new else "earlier"
            self.print(f"watching: {run.label} (job {job.id}), submitted {who}")
            return False
        outcome = found.get("state", "").removeprefix("ended: ") if is_new else ""
        if runs.is_finished(run.folder) and (is_new or run.label not in self.to_clear):
            outcome = "finished"
        if outcome:
            self.unassigned.remove(run)
            self.log.done_elsewhere(run, outcome.split(":")[0])
        elif by := holder(run.folder):
            self.outcomes.print_once(f"waiting: {run.label} is in use by {by}")
            return False
        return not outcome

    def _assign(self, run: PlannedRun, job: WatchedJob) -> WatchedJob:
        job = self.jobs.setdefault(job.id, job)
        job.runs.append(run)
        self.to_clear.discard(run.label)
        return job

    def _release(self) -> None:
        """Gives up the claims of the runs that have an outcome."""
        watched = [run for job in self.jobs.values() for run in job.runs]
        kept = {run.label for run in [*self.unassigned, *watched]}
        for label in self.claims.keys() - kept:
            self.claims.pop(label).close()

    def _submit(
        self, packs: Sequence[Sequence[PlannedRun]], event: str, attempt: int
    ) -> None:
        """Submits a job for each pack of runs that we claimed.

        With `--force` the folders are cleared once SLURM has taken the jobs, which wait
        until `job.json` names them. From then on, nothing may keep us from watching.
        """
        if not packs:
            return
        for note in environment_notes():
            self.outcomes.print_once(note)
        submitted = submit(packs, self.args, self.parameters)
        for (job_id, log), pack in zip(submitted, packs, strict=True):
            job = WatchedJob(job_id, str(log), attempt)
            for run in pack:
                with self.outcomes.surviving(f"; job {job_id} leaves {run.label}"):
                    if run.label in self.to_clear:
                        runs.clear(run.folder)
                    record.write(run.folder, job_id, log, attempt)
                self._assign(run, job)
        for job_id, log in submitted:
            job = self.jobs[job_id]
            self.outcomes.log_event(job, event=event, attempt=attempt, output=str(log))
            self.print(f"{event}: {job.labels} (job {job_id})")
        self.print(f"the output of the jobs is in {submitted[0][1].parent}")

    def _look(self) -> None:
        """Asks the queue, and acts on what has changed."""
        queued = queue.query_queue()  # before reading files: a job writes, then ends
        for job in list(self.jobs.values()):
            self.outcomes.settle_from_files(job)
            seen = queued.get(job.id)
            if seen is not None and seen.is_active:
                job.over_since = job.next_attempt = None
                self.outcomes.report_progress(job, seen)
            elif job.runs:
                job.over_since = job.over_since or time.monotonic()
                if time.monotonic() - job.over_since >= LAG_S:
                    if job.next_attempt is None:
                        job.next_attempt = self.outcomes.judge(job, seen)
                    with self.outcomes.surviving("; trying again"):
                        again = [job.runs] if job.runs else []
                        self._submit(again, "resubmitted", job.next_attempt)
                        job.runs = []
            if not job.runs:
                del self.jobs[job.id]

    def _leave(self) -> None:
        """Ends the watch; cancels the jobs only if a user at a terminal wants that."""
        numbers = sorted({number.split("_")[0] for number in self.jobs}, key=int)
        asks = self.signals[0] == signal.SIGINT and sys.stdin.isatty()
        if not numbers:
            self.print(f"batch stopped; {_AGAIN} continues from here")
        elif asks and not _leave_in_queue(len(self.jobs)):
            self._cancel(numbers)
        else:
            self.print(
                f"batch stopped; its {len(self.jobs)} jobs stay in the queue. The same "
                f"command with --status shows them, {_AGAIN} watches them, and scancel "
                f"{' '.join(numbers)} cancels them"
            )

    def _cancel(self, numbers: Sequence[str]) -> None:
        try:
            queue.cancel(numbers)
        except QueueError as error:
            command = f"scancel {' '.join(numbers)}"
            self.print(f"the jobs may still be there ({error}); {command} cancels them")
            return
        for job in self.jobs.values():
            for run in list(job.runs):
                self.outcomes.cancel(job, run)
        self.print(
            f"batch stopped and jobs cancelled: {', '.join(self.jobs)}; {_AGAIN} "
            "continues from here"
        )


def _leave_in_queue(count: int) -> bool:
    try:
        answer = input(f"\nleave the {count} jobs in the queue? [Y/n] ")
    except (EOFError, KeyboardInterrupt):
        return True
    return answer.strip().lower() not in ("n", "no")
