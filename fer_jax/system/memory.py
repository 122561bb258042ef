"""The process's memory: how much there is, and to whom what lies free belongs.

Two settings of the environment bound what a process takes as free:

- `FER_MEMORY_SHARE`, a number above 0 and up to 1, is the process's part of what lies
  free: 0.25 for one of four runs side by side. `bin/run_batch --jobs` sets it.
- `SLURM_MEM_PER_NODE`, in MB, is what SLURM promised the job on this node. Where it is
  no limit of a control group as well, the job that passes it is still killed.
"""

import contextlib
import ctypes
import os
from pathlib import Path

from fer_jax.errors import UserError

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


_LIBC = ctypes.CDLL(None)
_CGROUPS = Path("/sys/fs/cgroup")  # of the container, where this is one
_OWN_CGROUP = Path("/proc/self/cgroup")
MEMORY_SHARE = "FER_MEMORY_SHARE"


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
    """How many bytes this process may still take without pushing others out.

    Raises:
      UserError: if `FER_MEMORY_SHARE` is no share.
    """
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = dict(line.split(":", 1) for line in lines)["MemAvailable"]
        found = [1024 * int(free.split()[0])]
    except (OSError, LookupError, ValueError):  # another system
        found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2]
    for group in _control_groups():
        with contextlib.suppress(OSError, ValueError):  # no limit here, or "max"
            limit = int((group / "memory.max").read_text())
            found.append(limit - int((group / "memory.current").read_text()))
    with contextlib.suppress(OSError, LookupError, ValueError):  # no job of SLURM's
        if promised := int(os.environ["SLURM_MEM_PER_NODE"]):  # 0: all there is
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            found.append(2**20 * promised - pages * os.sysconf("SC_PAGE_SIZE"))
    return int(memory_share() * max(min(found), 0))


def memory_share() -> float:
    """The process's part of the memory that lies free: above 0, at most 1.

    Raises:
      UserError: if `FER_MEMORY_SHARE` is no such number.
    """
    text = os.environ.get(MEMORY_SHARE, "1")
    with contextlib.suppress(ValueError):
        if 0 < (share := float(text)) <= 1:
            return share
    raise UserError(
        f"{MEMORY_SHARE} is {text!r}; expected a number above 0 and up to 1, the "
        "process's part of the free memory; mend it in the environment, or unset it"
    )


def _control_groups() -> list[Path]:
    """Those of version 2 that this process is in, from its own up to the root's."""
    own = _CGROUPS
    with contextlib.suppress(OSError):  # another system
        for line in _OWN_CGROUP.read_text().splitlines():
            if line.startswith("0::/"):
                own = _CGROUPS / line.removeprefix("0::/")
    return [own, *(each for each in own.parents if each.is_relative_to(_CGROUPS))]
