"""Runs one of the scripts in tests/soak."""

import subprocess
import sys

from conftest import OPTIMISED, ROOT, environment


def soak(name, *arguments, optimised=True):
    return subprocess.run(
        [sys.executable, ROOT / "tests/soak" / name, *map(str, arguments)],
        env=environment() | (OPTIMISED if optimised else {}),
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
