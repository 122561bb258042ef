"""Memory that is kept between steps costs no page faults, and can be given back."""

import platform
import subprocess
import sys

import pytest
from conftest import environment

# Pieces as large as those of a step: above what malloc takes from the system singly.
PROGRAM = """
import ctypes, resource, sys
from fer_jax.memory import keep_memory, return_memory
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
