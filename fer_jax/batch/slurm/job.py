"""What a SLURM job does: it trains its runs, one after the other.

Each run is a child process with the command that a batch on one machine would use, so
its numbers are the same. On submitit's signal (SIGUSR2, before the time limit or by
`scancel --signal=USR2`) the run saves its state and the job is requeued. All progress
is in the run folder, so a job that starts again continues.
"""

import contextlib
import dataclasses
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from submitit import JobEnvironment
from submitit.helpers import DelayedSubmission

from fer_jax import runs
from fer_jax.batch.child import NO_BARS, Child
from fer_jax.batch.slurm import record
from fer_jax.errors import LOST
from fer_jax.runs.lock import holder
from fer_jax.system.signals import SIGNALS

REGISTERED_S = 120  # how long a shared file system may take to show job.json
HELD_S = 300  # how long a file server may keep the lock of a node that died
MAX_STALLED = 3
POLL_S = 0.5
_STOPS = {128 + number for number in SIGNALS}
_KILLED = 128 + signal.SIGKILL


@dataclasses.dataclass(frozen=True)
class JobRun:
    """One run of a job: its label, its folder, and the command that trains it."""

    label: str
    folder: Path
    command: tuple[str, ...]


class Pack:
    """The runs of a job; submitit pickles it, and calls it within the job."""

    def __init__(self, runs: list[JobRun]):
        """Takes runs with absolute paths: the job may start in another folder."""
        self.runs = runs
        self._child: Child | None = None
        self._current: tuple[JobRun, tuple[int, int]] | None = None
        self._stalled = 0  # requeues in a row without progress

    def __getstate__(self) -> dict[str, object]:
        """Leaves the child process out."""
        return vars(self) | {"_child": None, "_current": None}

    def __call__(self) -> None:
        """Trains the runs that are not finished; exits with a status if one failed.

        After a failure the next run is trained. If the scheduler stops a run, the job
        ends, and the batch that watches it decides.
        """
        environment = JobEnvironment()
        status = 0
        for run in self.runs:
            if not _is_ours(run, environment.job_id):
                print(f"{run.label}: not a run of this job, left alone", flush=True)
            elif not runs.is_finished(run.folder):
                status = self._train(run, environment) or status
        if status:
            sys.exit(status)

    def checkpoint(self) -> DelayedSubmission:
        """Has the current run save its state; submitit calls this on its signal.

        Returns:
          what the requeued job will do, which is the same.
        """
        if self._child is not None:
            self._child.process.send_signal(signal.SIGTERM)
            _await_end(self._child)
        if self._current is not None:
            self._count_stalls(*self._current)
        return DelayedSubmission(self)

    def _count_stalls(self, run: JobRun, progress: tuple[int, int]) -> None:
        """Fails a run that is requeued again and again without taking a step.

        If loading and compiling take longer than the time limit, it would never end.
        The next job of the run finds the failure.
        """
        moved = _progress(run.folder) != progress or runs.is_finished(run.folder)
        self._stalled = 0 if moved else self._stalled + 1
        if self._stalled >= MAX_STALLED and runs.failure(run.folder) is None:
            runs.note_failure(
                run.folder,
                f"its job was requeued {self._stalled} times in a row and it took no "
                "step; give more --time, enough to load the data and to compile",
            )

    def _train(self, run: JobRun, environment: JobEnvironment) -> int:
        """Trains a run; returns its exit status, and records a failure in its folder.

        Returns 0 if another process of this job decides what becomes of the run.
        """
        if runs.failure(run.folder) is not None:
            return 1  # before this job was requeued
        rank, is_alone = environment.global_rank, environment.num_tasks == 1
        self._current = run, _progress(run.folder)
        if rank == 0:
            _wait_until(lambda: holder(run.folder) is None, HELD_S)
        status, error = self._run_child(run)
        if status in _STOPS:
            if rank > 0:
                return 0  # the first process requeues the job
            # Whatever stopped the run reaches us, too: submitit's signal handler
            # requeues the job during this sleep.
            time.sleep(5 * POLL_S)
            sys.exit(status)
        # Only the system kills so, and it reports the reason elsewhere. One of several
        # processes may die in many ways after another is gone.
        if status in (_KILLED, LOST) or (status > 128 and not is_alone):
            sys.exit(status)
        if status and rank == 0 and holder(run.folder):
            print(f"{run.label}: {error}", flush=True)
            sys.exit(status)
        if status and runs.failure(run.folder) is None:
            runs.note_failure(run.folder, error)
        self._stalled = 0
        return status

    def _run_child(self, run: JobRun) -> tuple[int, str]:
        """Returns the exit status of a run's process, and the reason in words."""
        print(f"training {run.label}: {' '.join(run.command)}", flush=True)
        environment = os.environ | NO_BARS | {"PYTHONUNBUFFERED": "1"}
        self._child = child = Child(run.command, environment)
        _await_end(child)
        self._child = None
        return child.outcome()


def _is_ours(run: JobRun, job_id: str) -> bool:
    """Returns whether `job.json` names this job, once the file system shows it.

    A job whose batch died before it wrote the file has no run: the next batch submits
    the run again, and it must not be trained twice.
    """
    return _wait_until(lambda: record.job_id(run.folder) == job_id, REGISTERED_S)


def _progress(folder: Path) -> tuple[int, int]:
    """Returns the number of epochs done, and the step of the newest checkpoint."""
    names = (path.name for path in (folder / runs.CHECKPOINTS).glob("*"))
    steps = [int(name) for name in names if name.isdecimal()]
    return runs.epochs_done(folder), max(steps, default=0)


def _wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    until = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < until:
        time.sleep(POLL_S)
    return met


def _await_end(child: Child) -> None:
    """Waits without the lock of `Popen.wait`, which a signal handler may wait for."""
    with contextlib.suppress(ChildProcessError):  # its status was fetched before
        os.waitid(os.P_PID, child.process.pid, os.WEXITED | os.WNOWAIT)
