"""Runs a part of a soak in a process of its own, to measure its peak memory."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def run_part(
    script: str, part: str, options: Mapping[str, Any], cache: Path
) -> dict[str, Any]:
    """Runs `script --part PART --NAME VALUE ...`, and shows what it measured.

    Args:
      script: the program, which prints its figures as JSON in its last line.
      part: which of its parts.
      options: by name; those that are None are left out.
      cache: the folder for prepared copies.
    """
    command = [sys.executable, script, "--part", part]
    for name, value in options.items():
        if value is not None:
            command += [f"--{name}", str(value)]
    done = subprocess.run(
        command,
        env=os.environ | {"FER_CACHE_DIR": str(cache)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    told = ", ".join(f"{key} {value:,.2f}" for key, value in found.items())
    print(f"{part:>9}: {told}", flush=True)
    return found
