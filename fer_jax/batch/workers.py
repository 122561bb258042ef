"""The runs in training on this machine, each in a child process.

They share no memory, so a run that fails takes no other with it, and its numbers are
those it would reach alone. Each gets its share of the machine (`gpu_shares.py`).
"""

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from fer_jax.batch.child import NO_BARS, Child
from fer_jax.batch.gpu_shares import share_out
from fer_jax.batch.plan import PlannedRun
from fer_jax.system.files import IMPORT_ROOT
from fer_jax.system.signals import handling

POLL_S = 0.2  # between looks for a signal or an exit


class Ended(NamedTuple):
    """How a run ended: its exit status, the reason in words, the seconds it took."""

    run: PlannedRun
    status: int
    error: str
    seconds: float


class _Worker(NamedTuple):
    run: PlannedRun
    child: Child
    slot: int


class Workers:
    """Starts child processes, and passes signals on to them.

    Attributes:
      signals: the signals received while `running`. Nothing is started after one.
    """

    def __init__(self, at_once: int, gpus_per_run: int | None = None):
        """Prepares `at_once` slots; a single child uses our terminal directly."""
        self.signals: list[int] = []
        self._shares = share_out(at_once, gpus_per_run)
        self._running: list[_Worker] = []
        self._sent = 0  # how many of the signals were passed on

    @property
    def runs(self) -> list[PlannedRun]:
        """The runs in training."""
        return [each.run for each in self._running]

    @property
    def can_start(self) -> bool:
        """Whether one more run may start."""
        return len(self._running) < len(self._shares) and not self.signals

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Catches signals, and leaves no child behind, whatever ends the block."""
        with handling(lambda number, _: self.signals.append(number)):
            try:
                yield
            finally:
                for each in self._running:  # after an error of the batch itself
                    each.child.process.terminate()
                for each in self._running:
                    each.child.process.wait()

    def start(self, run: PlannedRun, command: Sequence[str]) -> None:
        """Starts the command that trains a run."""
        taken = [each.slot for each in self._running]
        slot = min(n for n in range(len(self._shares)) if n not in taken)
        # The child must import this very package, installed or not.
        root = str(IMPORT_ROOT)
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        environment = os.environ | {"PYTHONPATH": path} | self._shares[slot]
        prefix = ""
        if len(self._shares) > 1:
            environment, prefix = environment | NO_BARS, f"{run.label} | "
        # In a group of its own, so that Ctrl-C reaches it once, through us.
        child = Child(command, environment, prefix, process_group=0)
        self._running.append(_Worker(run, child, slot))

    def wait(self, seconds: float) -> list[Ended]:
        """Passes on signals until a run ends; returns the runs that ended.

        Returns none after `seconds`, or if a signal comes first.
        """
        until = time.monotonic() + seconds
        while True:
            time.sleep(POLL_S)
            for number in self.signals[self._sent :]:
                self._sent += 1
                for each in self._running:
                    each.child.process.send_signal(number)
            for each in self._running:
                if each.child.print_error and not self.signals:
                    raise each.child.print_error
            ended = [e for e in self._running if e.child.process.poll() is not None]
            if ended or self.signals or time.monotonic() > until:
                return [self._end(each) for each in ended]

    def _end(self, worker: _Worker) -> Ended:
        status, error = worker.child.outcome()
        self._running.remove(worker)
        seconds = round(time.monotonic() - worker.child.started, 1)
        return Ended(worker.run, status, error, seconds)
