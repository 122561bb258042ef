"""A process that was stopped has not run meanwhile."""

import os
import signal
import subprocess
import sys
import time

from conftest import environment

# A tick of 20 ms, and a stop from half a second.
PROGRAM = """
import time
from fer_jax.system import clock

clock._TICK_S, clock._STOPPED_S = 0.02, 0.5
started, ran = time.monotonic(), clock.running_s()
print("ready", flush=True)
input()  # and at once, though the clock's own thread may not have run
print(time.monotonic() - started - (clock.running_s() - ran))
"""


def test_a_stop_does_not_count():
    command = [sys.executable, "-c", PROGRAM]
    pipe = subprocess.PIPE
    options = {"stdin": pipe, "stdout": pipe, "text": True, "env": environment()}
    with subprocess.Popen(command, **options) as process:
        assert process.stdout.readline() == "ready\n"
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(1.5)
        os.kill(process.pid, signal.SIGCONT)
        stopped = float(process.communicate("\n")[0])
    assert stopped > 1.3
