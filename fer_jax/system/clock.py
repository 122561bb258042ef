"""Seconds that this process ran: a clock that stands still while it is stopped.

Ctrl-Z, `kill -STOP` and a cluster that suspends its jobs stop a process. Such a pause
is not time that a run took.
"""

import threading
import time

_TICK_S = 1.0
_STOPPED_S = 5.0  # a tick that takes longer was a stop, and not a busy machine


class _Ticks:
    """A thread that sleeps a second at a time and notes when one took far longer."""

    def __init__(self) -> None:
        self.stopped_s = 0.0
        threading.Thread(target=self._tick, daemon=True, name="clock").start()

    def _tick(self) -> None:
        before = time.monotonic()
        while True:
            time.sleep(_TICK_S)
            now = time.monotonic()
            if now - before > _STOPPED_S:
                self.stopped_s += now - before - _TICK_S
            before = now


_ticks: _Ticks | None = None


def running_s() -> float:
    """Seconds since some moment, less those in which this process was stopped.

    A stop of less than five seconds counts as running, and so does, for a second, one
    that has just ended. The first call starts the clock.
    """
    global _ticks
    if _ticks is None:
        _ticks = _Ticks()
    return time.monotonic() - _ticks.stopped_s
