"""The process's memory: kept from step to step, given back where it is not needed."""

import contextlib
import ctypes

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


_LIBC = ctypes.CDLL(None)


def keep_memory() -> None:
    """Keeps the process's memory its own, and level over long runs.

    XLA asks malloc for the hundreds of megabytes of each step on a CPU. glibc takes
    such pieces from the system and returns them at once, so that every step begins
    with tens of thousands of page faults: a fifth of its time. One arena for all
    threads, so that what lies free serves all: with one for each of the threads that
    saving starts, memory grew over the epochs.
    """
    with contextlib.suppress(AttributeError):  # another libc
        _LIBC.mallopt(_M_ARENA_MAX, 1)
        _LIBC.mallopt(_M_MMAP_MAX, 0)
        _LIBC.mallopt(_M_TRIM_THRESHOLD, -1)  # never


def return_memory() -> None:
    """Gives the system what lies free, as much does when all has been compiled.

    The compiler leaves over a gigabyte. The next step takes what it needs once more.
    """
    with contextlib.suppress(AttributeError):
        _LIBC.malloc_trim(0)
