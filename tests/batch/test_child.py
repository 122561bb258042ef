"""How the process of a run ended, by its code and its last words."""

import os
import signal
import subprocess
import sys

import pytest

from fer_jax.batch.child import how_it_ended


@pytest.mark.parametrize(
    ("code", "last", "told"),
    [
        (0, "", (0, "exit status 0")),
        (1, "", (1, "exit status 1")),
        (2, "error: the disk is full\n", (2, "the disk is full")),
        (-9, "", (137, "killed by SIGKILL")),
        (-9, "error: out of memory", (137, "out of memory")),
        (-signal.SIGRTMIN, "", (128 + signal.SIGRTMIN, "killed by SIGRTMIN")),
        (-40, "", (168, "killed by signal 40")),
    ],
)
def test_status_and_reason(code, last, told):
    assert how_it_ended(code, last) == told


def test_a_real_time_signal_has_a_number_where_it_has_no_name():
    kill = "import os, sys; os.kill(os.getpid(), int(sys.argv[1]))"
    number = signal.SIGRTMIN + 3
    done = subprocess.run([sys.executable, "-c", kill, str(number)], env=os.environ)
    told = f"killed by signal {number}"
    assert how_it_ended(done.returncode, "") == (128 + number, told)
