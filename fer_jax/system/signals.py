"""Signals that end a run between two steps, not in the middle of one.

Ctrl-C, a kill and a closed terminal send SIGINT, SIGTERM and SIGHUP. A scheduler that
wants a job's machine back sends SIGUSR1 or SIGUSR2 to all of the job's processes some
time before it kills them; unhandled these would end a run without saving.
"""

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
)


class Interrupted(Exception):
    """A signal stopped the run, after its state was saved."""

    def __init__(self, signum: int):
        """Keeps the signal's number."""
        super().__init__(signum)
        self.signum = signum


@contextlib.contextmanager
def handling(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Has `SIGNALS` call `handler`, and puts the old handlers back at the end."""
    old = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, before in old.items():
            signal.signal(number, before)


class Stop:
    """While `noting` is entered, a signal is noted in `signum`, not acted on.

    A second Ctrl-C does not wait for the step to end: it raises KeyboardInterrupt.

    Attributes:
      noted: the signal that came to this process.
      agreed: the one that all processes of the run know of.
    """

    noted: int | None = None
    agreed: int | None = None

    def __init__(self, *, alone: bool = True):
        """`alone`: this is the run's only process, and need not ask others."""
        self._alone = alone

    @property
    def signum(self) -> int | None:
        """The signal to act on."""
        return self.noted if self._alone else self.agreed

    def noting(self) -> contextlib.AbstractContextManager[None]:
        """The context in which signals are noted."""
        return handling(self._note)

    def _note(self, signum: int, _: FrameType | None) -> None:
        if self.noted is not None and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.noted = signum  # and no more: printing here could meet a print
