"""Seconds that this process ran: a clock that stands still while it is stopped.

Ctrl-Z, `kill -STOP` and a cluster that suspends its jobs stop a process. Such a pause
is not time that a run took.
"""

import threading
import time

_TICK_S = 1.0
_STOPPED_S = 5.0  # a longer time between two ticks was a stop, and not a busy machine


class _Clock:
    """Is read each second by its own thread, so that it notices a stop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read, self._stopped_s = time.monotonic(), 0.0
        threading.Thread(target=self._tick, daemon=True, name="clock").start()

    def read(self) -> float:
        with self._lock:
            now = time.monotonic()
            if now - self._read > _STOPPED_S:
                self._stopped_s += now - self._read - _TICK_S
            self._read = now
            return now - self._stopped_s

    def _tick(self) -> None:
        while True:
            time.sleep(_TICK_S)
            self.read()


_clock: _Clock | None = None


def running_s() -> float:
    """Seconds since some moment, less those in which this process was stopped.

    A stop of less than five seconds counts as running. The first call starts the clock.
    """
    global _clock
    if _clock is None:
        _clock = _Clock()
    return _clock.read()
