"""SIGINT, SIGTERM and SIGHUP end a run between two steps, not in the middle of one."""

import signal
from types import FrameType


class Interrupted(Exception):
    """A signal stopped the run, after its state was saved."""

    def __init__(self, signum: int):
        """Keeps the signal's number."""
        super().__init__(signum)
        self.signum = signum


class Stop:
    """While it is entered, notes a signal in `signum` instead of acting on it.

    A second Ctrl-C does not wait for the step to end: it raises KeyboardInterrupt.
    """

    signum: int | None = None

    def __enter__(self) -> "Stop":
        self._handlers = {
            number: signal.signal(number, self._note)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _note(self, signum: int, _: FrameType | None) -> None:
        if self.signum is not None and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.signum = signum  # and no more: printing here could meet a print
