"""Signals that end a run between two steps.

Ctrl-C, `kill` and a closed terminal send SIGINT, SIGTERM and SIGHUP. A scheduler sends
SIGUSR1 or SIGUSR2 some time before it kills a job.
"""

import contextlib
import signal
import threading
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
    """A signal stopped the run after its state was saved."""

    def __init__(self, signum: int):
        """Stores the number of the signal."""
        super().__init__(signum)
        self.signum = signum


@contextlib.contextmanager
def handling(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handles `SIGNALS` with `handler` while the context is entered.

    Python handles signals in the main thread alone, so in another they are left as they
    are: Ctrl-C in a notebook then goes to the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    old = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, before in old.items():
            signal.signal(number, before)


class Stop:
    """Records a signal, for the training loop to act on after its step.

    A second Ctrl-C raises KeyboardInterrupt at once.

    Attributes:
      noted: the signal that this process received.
      agreed: the signal that all processes of the run know of.
    """

    noted: int | None = None
    agreed: int | None = None

    def __init__(self, *, alone: bool = True):
        """`alone`: the run has no other processes to agree with."""
        self._alone = alone

    @property
    def signum(self) -> int | None:
        """The signal to act on, or None."""
        return self.noted if self._alone else self.agreed

    def noting(self) -> contextlib.AbstractContextManager[None]:
        """Returns a context in which signals are recorded."""
        return handling(self._note)

    def _note(self, signum: int, _: FrameType | None) -> None:
        if self.noted is not None and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.noted = signum  # printing here could interrupt a print
