"""Kept memory costs no page faults and can be given back; a share of it is kept to."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import environment

from fer_jax.errors import UserError
from fer_jax.system import memory

# Pieces as large as those of a step: above what malloc takes from the system singly.
PROGRAM = """
import ctypes, resource, sys
from fer_jax.system.memory import keep_memory, return_memory
libc, size = ctypes.CDLL(None), 64 << 20
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
if sys.argv[1] == "keep":
    keep_memory()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

def use():
    before, piece = faults(), libc.malloc(ctypes.c_size_t(size))
    ctypes.memset(piece, 1, size)
    libc.free(piece)
    return faults() - before

use()
print(use())
before = resident()
return_memory()
print(before - resident())
"""


def run(how):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how],
        env=environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [int(line) for line in done.stdout.splitlines()]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc is not glibc's")
def test_memory_is_kept_and_can_be_given_back():
    pages = (64 << 20) // 4096
    faults, given_back = run("keep")
    assert faults < pages / 20
    assert given_back > 60 << 20
    # Else the system is asked each time, for 16,384 pages, or for 32 huge ones.
    assert run("as it is")[0] > faults + 20


@pytest.fixture
def alone(monkeypatch, tmp_path):
    """No limit but the machine's; the folder of control groups, which is empty."""
    for name in ("FER_MEMORY_SHARE", "SLURM_MEM_PER_NODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path / "groups")
    monkeypatch.setattr(memory, "_OWN_CGROUP", tmp_path / "own")
    return tmp_path


def limit(folder, most, used):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{most}\n")
    (folder / "memory.current").write_text(f"{used}\n")


def test_the_tightest_control_group_counts_and_a_share_of_it(alone, monkeypatch):
    machine = memory.available_memory()
    assert machine > 2**20
    (alone / "own").write_text("4:memory:/old\n0::/job/step\n")
    limit(alone / "groups/job/step", "max", 10)
    limit(alone / "groups/job", 5000, 1000)
    limit(alone / "groups", 9000, 1000)
    assert memory.available_memory() == 4000
    monkeypatch.setenv("FER_MEMORY_SHARE", "0.25")
    assert memory.available_memory() == 1000
    limit(alone / "groups/job", 5000, 6000)
    assert memory.available_memory() == 0


def test_what_slurm_promised_is_less_what_the_process_has(alone, monkeypatch):
    machine, pages = memory.available_memory(), Path("/proc/self/statm").read_text()
    own = int(pages.split()[1]) * os.sysconf("SC_PAGE_SIZE") // 2**20  # in MB
    monkeypatch.setenv("SLURM_MEM_PER_NODE", str(own + 1024))
    assert 2**28 < memory.available_memory() < min(machine, 2**31)
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "0")  # all that the node has
    assert memory.available_memory() > machine / 2


@pytest.mark.parametrize("wrong", ["", "half", "0", "-1", "1.5", "nan"])
def test_a_share_that_is_none_is_refused(alone, monkeypatch, wrong):
    monkeypatch.setenv("FER_MEMORY_SHARE", wrong)
    with pytest.raises(UserError, match="FER_MEMORY_SHARE is .* above 0 and at most 1"):
        memory.available_memory()
