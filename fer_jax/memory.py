"""The process's memory: how much there is, and to whom what lies free belongs."""

import contextlib
import ctypes
import os
from pathlib import Path

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


_LIBC = ctypes.CDLL(None)
_CGROUP = Path("/sys/fs/cgroup")  # of the container, where this is one


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


def available_memory() -> int:
    """How many bytes this process may still take without pushing others out."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = dict(line.split(":", 1) for line in lines)["MemAvailable"]
        found = [1024 * int(free.split()[0])]
    except (OSError, LookupError, ValueError):  # another system
        found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2]
    with contextlib.suppress(OSError, ValueError):  # no container, or "max"
        limit = int((_CGROUP / "memory.max").read_text())
        found.append(limit - int((_CGROUP / "memory.current").read_text()))
    return max(min(found), 0)
