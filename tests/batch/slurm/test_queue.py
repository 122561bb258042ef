"""SLURM's commands, imitated by shell scripts."""

import os
import time

import pytest

from fer_jax.batch.slurm import queue as slurm_queue
from fer_jax.batch.slurm.queue import QueuedJob, QueueError, has_gpus, query_queue
from fer_jax.errors import UserError


@pytest.fixture
def command(monkeypatch, tmp_path):
    """Puts a shell script first on the path, and SLURM's other commands beside it."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    def write(name, script):
        for each in slurm_queue._COMMANDS:
            (tmp_path / each).write_text("#!/bin/sh\nexit 1\n")
            (tmp_path / each).chmod(0o755)
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")

    return write


def line(number, state, restarts=0, nodes="", code=0, reason="None"):
    cells = (number, state, restarts, nodes, code, reason)
    return "".join(
        str(cell)[:width].ljust(width)
        for cell, width in zip(cells, slurm_queue._COLUMNS.values(), strict=True)
    )


def shows(*lines):
    text = "\n".join(lines)
    return f"cat <<'END'\n{text}\nEND"


def test_squeue_is_read_by_columns(command):
    down = "Nodes required for job are DOWN, DRAINED"
    lines = [
        line("12_0", "RUNNING", 1, "node[1-2]"),
        line("12_1", "PENDING", reason=down),
        line("13", "CANCELLED by 1000"),
        line("14", "FAILED", nodes="node1", code=137 << 8),
        line("15", "NODE_FAIL", nodes="node2", code=9),
        "",
    ]
    command("squeue", shows(*lines))
    assert query_queue() == {
        "12_0": QueuedJob("RUNNING", 1, "node[1-2]", "None"),
        "12_1": QueuedJob("PENDING", 0, "", down),
        "13": QueuedJob("CANCELLED", 0, "", "None"),
        "14": QueuedJob("FAILED", 0, "node1", "None", 137),
        "15": QueuedJob("NODE_FAIL", 0, "node2", "None", -9),
    }
    assert [str(each) for each in query_queue().values()][2:] == [
        "CANCELLED",
        "FAILED with exit status 137 on node1",
        "NODE_FAIL by signal 9 on node2",
    ]


def test_jobs_in_hidden_partitions_and_only_ours_are_listed(command, tmp_path):
    asked = tmp_path / "asked"
    hidden = shows(line("7", "RUNNING"))
    command("squeue", f'echo "$*" >> {asked}\ncase "$*" in *-a*) {hidden}\n;; esac')
    assert query_queue() == query_queue(everyones=True) != {}
    ours, everyones = asked.read_text().splitlines()
    assert f"-u {os.geteuid()} " in ours
    assert "-u" not in everyones


@pytest.mark.parametrize("state", ["PENDING", "COMPLETING", "REQUEUED", "SUSPENDED"])
def test_what_may_still_run_is_active(state):
    assert QueuedJob(state).is_active


@pytest.mark.parametrize(
    "state",
    ["COMPLETED", "FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "CANCELLED"]
    + ["PREEMPTED", "BOOT_FAIL", "DEADLINE"],
)
def test_what_is_over_is_not(state):
    assert not QueuedJob(state).is_active


def test_a_controller_that_does_not_answer(command):
    command("squeue", "echo squeue: error: x >&2; echo Unable to contact >&2; exit 1")
    with pytest.raises(QueueError, match="squeue: Unable to contact"):
        query_queue()
    # Nor does what a killed wrapper has started keep us waiting.
    command("squeue", "sleep 30")
    begun = time.monotonic()
    with pytest.raises(QueueError, match=r"squeue: no answer for 0\.2 s"):
        query_queue(timeout=0.2)
    assert time.monotonic() - begun < 10


def test_gpus_are_looked_for_in_the_partition(command):
    command(
        "sinfo", "printf '%s\\n' 'cpu*|(null)' 'big|gpu:h100:8(S:0-1)' 'big|(null)'"
    )
    assert not has_gpus(None)
    assert not has_gpus("cpu")
    assert has_gpus("big")
    assert has_gpus("cpu,big")
    command("sinfo", "exit 1")
    with pytest.raises(UserError, match="SLURM does not answer .*sinfo"):
        has_gpus(None)
