"""What a SLURM job does: it trains its runs, one after the other.

Each run is a process of its own, by the very command that a batch on one machine would
give, so that its numbers are the same. submitit's signal, SIGUSR2 before the time limit
or at `scancel --signal=USR2`, has the run save its state and the job requeued; where it
was is in the run folder, so that a job that begins again is one that goes on.
"""

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from submitit import JobEnvironment
from submitit.core.utils import DelayedSubmission

from fer_jax import runs
from fer_jax.batch.child import NO_BARS, how_it_ended
from fer_jax.errors import LOST
from fer_jax.runs.lock import holder
from fer_jax.system.signals import SIGNALS

REGISTERED_S = 120  # so long may a shared file system take to show job.json
HELD_S = 300  # and so long a file server to forget the lock of a node that died
MAX_STALLED = 3
POLL_S = 0.5
_STOPS = {128 + number for number in SIGNALS}
_KILLED = 128 + signal.SIGKILL


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a job: its name, its folder, and the command that trains it."""

    label: str
    folder: Path
    command: tuple[str, ...]


class Pack:
    """The runs of a job; submitit pickles it, and calls it within the job."""

    def __init__(self, todo: list[Run]):
        """For runs whose paths are absolute: the job may begin in another folder."""
        self.todo = todo
        self._child: subprocess.Popen[str] | None = None
        self._under_way: tuple[Run, tuple[int, int]] | None = None
        self._stalled = 0  # requeues in a row that found a run where it had begun

    def __getstate__(self) -> dict[str, object]:
        """What is pickled: no process."""
        return vars(self) | {"_child": None}

    def __call__(self) -> None:
        """Trains what is not settled; exits with another status than 0 if one failed.

        A failure of one run does not keep the next from its turn. What the scheduler
        did to the job does: then the job ends, and whoever watches it decides.
        """
        environment = JobEnvironment()
        status = 0
        for run in self.todo:
            if not _is_ours(run, environment.job_id):
                print(f"{run.label}: not this job's, so it is left", flush=True)
            elif not runs.is_finished(run.folder):
                status = self._settle(run, environment) or status
        if status:
            sys.exit(status)

    def checkpoint(self) -> DelayedSubmission:
        """Has the run under way save its state; called by submitit at its signal.

        Returns:
          what the requeued job is to do: the same, which goes on from the run folders.
        """
        if self._child is not None:
            self._child.send_signal(signal.SIGTERM)
            _await_end(self._child)
            self._note_progress()
        return DelayedSubmission(self)

    def _note_progress(self) -> None:
        """Gives a run up that is requeued again and again and takes no step.

        Where loading and compiling alone take a job's whole time, it would do so for
        ever. The next job of the run finds that it has failed.
        """
        run, begun_at = self._under_way
        is_further = _progress(run.folder) != begun_at or runs.is_finished(run.folder)
        self._stalled = 0 if is_further else self._stalled + 1
        if self._stalled >= MAX_STALLED and runs.failure(run.folder) is None:
            runs.note_failure(
                run.folder,
                f"its job was requeued {self._stalled} times in a row and it took no "
                "step; give more --time, which must suffice to load the data and to "
                "compile, too",
            )

    def _settle(self, run: Run, environment: JobEnvironment) -> int:
        """Trains a run; returns its exit status, and notes in its folder if it failed.

        0 where another process of this job is to decide what becomes of it.
        """
        if runs.failure(run.folder) is not None:
            return 1  # in an earlier life of this job
        rank, several = environment.global_rank, environment.num_tasks > 1
        if rank == 0:
            _wait_until(lambda: holder(run.folder) is None, HELD_S)
        status, error = self._train(run)
        if status in _STOPS:
            if rank > 0:
                return 0  # the first process requeues the job; ours must not end it
            # What stopped the run is on its way to us, too: submitit's signal requeues
            # from within this sleep.
            time.sleep(5 * POLL_S)
            sys.exit(status)
        # Nobody but the system kills so, and it says why elsewhere. One process of
        # several dies in many ways once another is gone.
        if status in (_KILLED, LOST) or (several and status > 128):
            sys.exit(status)
        if status and holder(run.folder) and rank == 0:
            print(f"{run.label}: {error}", flush=True)
            sys.exit(status)
        if status and runs.failure(run.folder) is None:
            runs.note_failure(run.folder, error)
        self._stalled = 0
        return status

    def _train(self, run: Run) -> tuple[int, str]:
        """The status of a run's process, and its last line on stderr."""
        print(f"training {run.label}: {' '.join(run.command)}", flush=True)
        last: list[str] = []
        self._under_way = run, _progress(run.folder)
        with subprocess.Popen(
            run.command,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=os.environ | NO_BARS | {"PYTHONUNBUFFERED": "1"},
        ) as self._child:
            reader = threading.Thread(target=_pass_on, args=(self._child.stderr, last))
            reader.daemon = True
            reader.start()
            _await_end(self._child)
            reader.join(timeout=5)  # a process of its own may hold the pipe open
            code = self._child.wait()
        self._child = None
        return how_it_ended(code, last[0] if last else "")


def _is_ours(run: Run, job_id: str) -> bool:
    """Whether the run's `job.json` names this job, once the file system shows it.

    A job that was submitted by a batch that died before it could note that has no run:
    the next batch submits it again, and it must not be trained twice.
    """

    def is_named() -> bool:
        return (runs.read_job(run.folder) or {}).get("id") == job_id

    return _wait_until(is_named, REGISTERED_S)


def _progress(folder: Path) -> tuple[int, int]:
    """How many epochs a run has done, and the step of its newest checkpoint."""
    names = (path.name for path in (folder / runs.CHECKPOINTS).glob("*"))
    steps = [int(name) for name in names if name.isdecimal()]
    return runs.epochs_done(folder), max(steps, default=0)


def _wait_until(is_so: Callable[[], bool], seconds: float) -> bool:
    until = time.monotonic() + seconds
    while not (so := is_so()) and time.monotonic() < until:
        time.sleep(POLL_S)
    return so


def _await_end(process: subprocess.Popen[str]) -> None:
    """Waits without the locks of `Popen.wait`: a signal's handler may wait within."""
    with contextlib.suppress(ChildProcessError):  # its status was fetched before
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)


def _pass_on(pipe: IO[str], last: list[str]) -> None:
    """Copies a run's stderr to ours, and keeps the last line that is not empty."""
    for line in pipe:
        if line.strip():
            last[:] = [line.strip()]
        sys.stderr.write(line)
        sys.stderr.flush()
