"""Free memory, and how malloc keeps it.

Two environment variables limit what counts as free:

- `FER_MEMORY_SHARE`, above 0 and at most 1, is this process's share of the free memory,
  such as 0.25 for one of four runs at a time. `bin/run_batch --jobs` sets it.
- `SLURM_MEM_PER_NODE`, in MB, is the memory of the SLURM job on this node.
"""

import contextlib
import ctypes
import os
from pathlib import Path

from fer_jax.errors import UserError

# From malloc.h of glibc.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


_LIBC = ctypes.CDLL(None)
_CGROUPS = Path("/sys/fs/cgroup")  # of the container, if there is one
_OWN_CGROUP = Path("/proc/self/cgroup")
MEMORY_SHARE = "FER_MEMORY_SHARE"


def keep_memory() -> None:
    """Makes malloc keep freed memory, in one arena.

    On a CPU, XLA allocates hundreds of megabytes in each step. By default glibc returns
    them to the system at once, and page faults take a fifth of the next step. With one
    arena for all threads, memory does not grow over the epochs.
    """
    with contextlib.suppress(AttributeError):  # another libc
        _LIBC.mallopt(_M_ARENA_MAX, 1)
        _LIBC.mallopt(_M_MMAP_MAX, 0)
        _LIBC.mallopt(_M_TRIM_THRESHOLD, -1)  # never


def return_memory() -> None:
    """Returns free memory to the system; the compiler leaves over a gigabyte."""
    with contextlib.suppress(AttributeError):
        _LIBC.malloc_trim(0)


def available_memory() -> int:
    """Returns how many bytes this process may still allocate.

    Raises:
      UserError: if `FER_MEMORY_SHARE` is invalid.
    """
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = dict(line.split(":", 1) for line in lines)["MemAvailable"]
        found = [1024 * int(free.split()[0])]
    except (OSError, LookupError, ValueError):  # another system
        found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2]
    for group in _control_groups():
        with contextlib.suppress(OSError, ValueError):  # no limit
            limit = int((group / "memory.max").read_text())
            found.append(limit - int((group / "memory.current").read_text()))
    with contextlib.suppress(OSError, LookupError, ValueError):  # no SLURM job
        if promised := int(os.environ["SLURM_MEM_PER_NODE"]):  # 0: all there is
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            found.append(2**20 * promised - pages * os.sysconf("SC_PAGE_SIZE"))
    return int(memory_share() * max(min(found), 0))


def memory_share() -> float:
    """Returns this process's share of the free memory: above 0, at most 1.

    Raises:
      UserError: if `FER_MEMORY_SHARE` is invalid.
    """
    text = os.environ.get(MEMORY_SHARE, "1")
    with contextlib.suppress(ValueError):
        if 0 < (share := float(text)) <= 1:
            return share
    raise UserError(
        f"the environment variable {MEMORY_SHARE} is {text!r}; expected a number above "
        "0 and at most 1, the share of the free memory; correct or unset it"
    )


def _control_groups() -> list[Path]:
    """Returns the version 2 control groups of this process, up to the root."""
    own = _CGROUPS
    with contextlib.suppress(OSError):  # another system
        for line in _OWN_CGROUP.read_text().splitlines():
            if line.startswith("0::/"):
                own = _CGROUPS / line.removeprefix("0::/")
    return [own, *(each for each in own.parents if each.is_relative_to(_CGROUPS))]
