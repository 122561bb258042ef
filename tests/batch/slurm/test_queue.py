import subprocess

import pytest

from fer_jax.batch.slurm import queue as slurm_queue
from fer_jax.batch.slurm.queue import Entry, QueueError


def line(number, state, restarts, nodes, reason):
    cells = (number, state, restarts, nodes, reason)
    return "".join(
        str(cell)[:width].ljust(width)
        for cell, width in zip(cells, slurm_queue._WIDTHS, strict=True)
    )


def test_squeue_is_read_by_columns():
    text = "\n".join(
        [
            line("12_0", "RUNNING", 1, "node[1-2]", "None"),
            line("12_1", "PENDING", 0, "", "Nodes required for job are DOWN, DRAINED"),
            line("13", "CANCELLED by 1000", 0, "", "None"),
            "",
        ]
    )
    assert slurm_queue.parse_queue(text) == {
        "12_0": Entry("RUNNING", 1, "node[1-2]", "None"),
        "12_1": Entry("PENDING", 0, "", "Nodes required for job are DOWN, DRAINED"),
        "13": Entry("CANCELLED", 0, "", "None"),
    }


@pytest.mark.parametrize("state", ["PENDING", "COMPLETING", "REQUEUED", "SUSPENDED"])
def test_what_may_still_run_is_active(state):
    assert Entry(state).is_active


@pytest.mark.parametrize(
    "state",
    ["COMPLETED", "FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "CANCELLED"]
    + ["PREEMPTED", "BOOT_FAIL", "DEADLINE"],
)
def test_what_is_over_is_not(state):
    assert not Entry(state).is_active


SHOWN = """JobId=4 ArrayJobId=3 ArrayTaskId=0 JobName=fer_jax
   JobState={state} Reason=NonZeroExitCode Dependency=(null)
   Requeue=1 Restarts=0 BatchFlag=1 Reboot=0 ExitCode={code}
   NodeList={nodes}
   Command=/runs/a=b.sh
"""


@pytest.mark.parametrize(
    ("state", "code", "nodes", "told"),
    [
        ("FAILED", "137:0", "node1", "FAILED with exit status 137 on node1"),
        ("NODE_FAIL", "0:9", "node2", "NODE_FAIL by signal 9 on node2"),
        ("CANCELLED", "0:0", "(null)", "CANCELLED"),
    ],
)
def test_how_a_job_ended_is_told(monkeypatch, state, code, nodes, told):
    shown = SHOWN.format(state=state, code=code, nodes=nodes)
    monkeypatch.setattr(slurm_queue, "_ask", lambda *_: shown)
    assert slurm_queue.end_of("3_0", state) == told


def test_a_job_that_the_controller_forgot(monkeypatch):
    def ask(*_):
        raise QueueError("scontrol: Invalid job id specified")

    monkeypatch.setattr(slurm_queue, "_ask", ask)
    assert slurm_queue.end_of("3_0", "") == "gone from the queue"


def test_a_controller_that_does_not_answer(monkeypatch):
    def run(command, **_):
        error = "squeue: error: x\nslurm_load_jobs error: Unable to contact\n"
        return subprocess.CompletedProcess(command, 1, "", error)

    monkeypatch.setattr(slurm_queue.subprocess, "run", run)
    with pytest.raises(QueueError, match="squeue: slurm_load_jobs error: Unable to"):
        slurm_queue.queue()
