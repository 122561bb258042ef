"""The processes of a batch: each trains one run, several of them at once if asked.

They share no memory, so one that fails takes no other with it, and its numbers are
those it would reach alone. Each has its share of the machine (`shares.py`).
"""

import contextlib
import dataclasses
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from fer_jax.batch.child import NO_BARS, how_it_ended
from fer_jax.batch.gpu_shares import Share, least_used, share_out
from fer_jax.batch.plan import Job
from fer_jax.system.signals import handling

POLL_S = 0.2  # between looks for a signal or an end, while nobody says a thing


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a run's process ended.

    Attributes:
      job: the run.
      status: its exit status; 128 + the number where a signal killed it.
      error: its last line on stderr, without "error: "; where it said nothing there,
        what its status says.
      seconds: how long it took.
    """

    job: Job
    status: int
    error: str
    seconds: float


@dataclasses.dataclass(eq=False)
class _Worker:
    job: Job
    process: subprocess.Popen[str]
    place: int  # of its share
    readers: list[threading.Thread] = dataclasses.field(default_factory=list)
    started: float = dataclasses.field(default_factory=time.monotonic)
    last: str = ""  # what it last said on stderr
    told: int = 0  # how many of our signals it was told


class Workers:
    """Starts processes, and passes their lines on to us and our signals to them.

    Attributes:
      signals: those that came while `at_work`. Whoever starts processes ends then.
    """

    def __init__(self, at_once: int, gpus_per_job: int | None = None):
        """For `at_once` processes; where it is 1, that one has our terminal.

        Raises:
          UserError: if there are no `gpus_per_job` GPUs, as `share_out` says.
        """
        self.signals: list[int] = []
        self._shares = share_out(at_once, gpus_per_job)
        self._at_once = at_once
        self._running: list[_Worker] = []
        # Only the main thread writes, so that no line is torn, and a closed pipe ends
        # the batch and not a thread of it.
        self._said: queue.SimpleQueue[tuple[_Worker, IO[str], str]]
        self._said = queue.SimpleQueue()

    @property
    def jobs(self) -> list[Job]:
        """The runs under way."""
        return [each.job for each in self._running]

    @property
    def are_free(self) -> bool:
        """Whether one more may start."""
        return len(self._running) < self._at_once and not self.signals

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Notes signals meanwhile; at the end, whatever led to it, none still runs."""
        with handling(lambda number, _: self.signals.append(number)):
            try:
                yield
            finally:
                for each in self._running:  # left by an error of the batch's own
                    each.process.terminate()
                for each in self._running:
                    each.process.wait()

    def start(self, job: Job, command: Sequence[str]) -> None:
        """Starts the command that trains a job."""
        place = least_used(self._shares, [each.place for each in self._running])
        share = self._shares[place]
        with share.bound():
            process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE if self._at_once > 1 else None,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                process_group=0,  # Ctrl-C reaches it once, through us, and not twice
                env=_environment(self._at_once, share),
            )
        worker = _Worker(job, process, place)
        self._running.append(worker)
        for pipe, out in ((process.stdout, sys.stdout), (process.stderr, sys.stderr)):
            if pipe is not None:
                reader = threading.Thread(
                    target=self._read, args=(worker, pipe, out), daemon=True
                )
                reader.start()
                worker.readers.append(reader)

    def wait(self, seconds: float) -> list[Ended]:
        """Passes on lines and signals until a run ends; returns those that have.

        None has if a signal comes, or the time is over, before.
        """
        until = time.monotonic() + seconds
        while True:
            self._write_lines(timeout=POLL_S)
            for each in self._running:
                while each.told < len(self.signals):
                    each.process.send_signal(self.signals[each.told])
                    each.told += 1
            over = [each for each in self._running if each.process.poll() is not None]
            if over or self.signals or time.monotonic() > until:
                return [self._end(each) for each in over]

    def _read(self, worker: _Worker, pipe: IO[str], out: IO[str]) -> None:
        for line in pipe:
            self._said.put((worker, out, line))
        # Its end is noted without delay: another batch may ask what became of the run.
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.process.wait(timeout=POLL_S)
        self._said.put((worker, out, ""))

    def _write_lines(self, timeout: float) -> None:
        """Waits for a line, and writes all that are there."""
        with contextlib.suppress(queue.Empty):
            while True:
                worker, out, line = self._said.get(timeout=timeout)
                timeout = 0
                if out is sys.stderr:
                    worker.last = line.strip() or worker.last
                if self._at_once > 1:
                    text = line.rstrip()
                    line = f"{worker.job.label} | {text}\n" if text else ""
                try:
                    out.write(line)
                    out.flush()
                except OSError:
                    if not self.signals:
                        raise
                    # The terminal was closed; the runs still end and are logged.

    def _end(self, worker: _Worker) -> Ended:
        for reader in worker.readers:
            reader.join(timeout=5)  # a process of its own may hold the pipe open
        self._write_lines(timeout=0)
        self._running.remove(worker)
        seconds = round(time.monotonic() - worker.started, 1)
        status, error = how_it_ended(worker.process.returncode, worker.last)
        return Ended(worker.job, status, error, seconds)


def _environment(at_once: int, share: Share) -> dict[str, str]:
    # The child finds this very package, installed or not.
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    ours = os.environ | {"PYTHONPATH": os.pathsep.join(paths)} | share.environment()
    return ours | NO_BARS if at_once > 1 else ours
