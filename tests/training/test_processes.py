"""Runs of two processes, which are two hosts to one another."""

import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
from conftest import ROOT, TINY, environment
from same_run import assert_same_run, rows

from fer_jax.errors import LOST, UserError
from fer_jax.training import processes

SETTINGS = (*TINY, "augmentation.mixup_alpha=0.2", "data.weighted_sampler=true")
SETTINGS += ("training.epochs=6", "training.patience=0")


class Pair:
    """Two processes, with two devices each, that train one run."""

    def __init__(self, data_root, runs_dir, *settings, apart=()):
        """`apart`: more settings for the second alone."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        self.folder = runs_dir / "baseline" / "seed_42"
        self.processes = [
            subprocess.Popen(
                [
                    *(sys.executable, "-m", "fer_jax.train"),
                    *(ROOT / "configs/baseline.yaml", "--data_root", data_root),
                    *("--runs_dir", runs_dir),
                    *(
                        part
                        for item in (*SETTINGS, *settings, *(apart if number else ()))
                        for part in ("--set", item)
                    ),
                ],
                env=environment()
                | {
                    "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
                    "JAX_COORDINATOR_ADDRESS": address,
                    "JAX_NUM_PROCESSES": "2",
                    "JAX_PROCESS_ID": str(number),
                },
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for number in (0, 1)
        ]

    def wait_for_epoch(self, number):
        """Until an epoch is closed, as `metrics.jsonl` tells."""
        metrics, deadline = self.folder / "metrics.jsonl", time.monotonic() + 300
        while not metrics.is_file() or metrics.read_bytes().count(b"\n") < number:
            assert time.monotonic() < deadline
            if any(each.poll() is not None for each in self.processes):
                pytest.fail("\n".join(map(str, self.end())))
            time.sleep(0.02)

    def end(self):
        """The exit status, output and errors of either."""
        try:
            ended = [each.communicate(timeout=300) for each in self.processes]
        finally:
            for each in self.processes:
                each.kill()
        statuses = [each.returncode for each in self.processes]
        return list(zip(statuses, *zip(*ended, strict=True), strict=True))


@pytest.mark.slow
def test_two_processes_train_one_run_and_a_disturbed_pair_ends_like_them(
    tiny_csv, tmp_path
):
    undisturbed = Pair(tiny_csv, tmp_path / "undisturbed")
    folder = undisturbed.folder
    # The first speaks.
    (status, output, errors), (other, silent, more) = undisturbed.end()
    assert (status, other) == (0, 0), errors + more
    assert "float32 on 4 x cpu in 2 processes" in output
    # That the second is connected, JAX itself says there.
    assert not re.search("epoch|data:|result:", silent)
    assert len(rows(folder)) == 6
    assert (folder / "result.json").is_file()

    # One is killed, and both are stopped, with the images streamed: each process reads
    # its own part of them.
    streamed = "data.stream=always"
    pair = Pair(tiny_csv, tmp_path, streamed)
    pair.wait_for_epoch(1)
    os.kill(pair.processes[1].pid, signal.SIGKILL)
    (status, _, errors), (killed, *_) = pair.end()
    assert (status, killed) == (LOST, -signal.SIGKILL), errors
    assert "error: another process of the run is lost, or does not answer (" in errors
    assert not (pair.folder / "failed.json").exists()

    pair = Pair(tiny_csv, tmp_path, streamed)
    pair.wait_for_epoch(2)
    # Either may be told; both save the same step, and the first one says which.
    pair.processes[1].terminate()
    (status, output, errors), (other, _, more) = pair.end()
    assert (status, other) == (128 + signal.SIGTERM,) * 2, errors + more
    assert "resuming after step " in output
    assert re.search(r"stopped after step \d+, state saved", output)

    pair = Pair(tiny_csv, tmp_path)
    ended = pair.end()
    assert [status for status, *_ in ended] == [0, 0], ended
    assert_same_run(pair.folder, folder, tiny_csv)


@pytest.mark.slow
def test_processes_with_different_settings_end_together(tiny_csv, tmp_path):
    pair = Pair(tiny_csv, tmp_path, apart=["training.lr=1e-4"])
    for status, _, errors in pair.end():
        assert status == 2
        assert "error: process 1 of this run has another config than" in errors
    assert not pair.folder.exists()


def as_two(monkeypatch, second):
    """Has this process gather what it says itself, and what the second would."""
    monkeypatch.setattr(processes, "gather", lambda value: [value, second])


def test_processes_that_see_different_folders_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "lock"
    path.write_text("process 7 on node1")
    as_two(monkeypatch, "process 7 on node1")
    processes.check_same_file("runs folder", path)
    as_two(monkeypatch, "")
    with pytest.raises(UserError, match="process 1 of this run has another runs fold"):
        processes.check_same_file("runs folder", path)


def test_the_result_of_the_first_process_is_everyones(monkeypatch):
    monkeypatch.setattr(processes, "are_one", lambda: False)
    monkeypatch.setattr(processes, "is_first", lambda: False)
    monkeypatch.setattr(processes, "gather", lambda _: [{"value": 7}, {}])
    assert processes.of_first(lambda: 1 // 0) == 7
    monkeypatch.setattr(processes, "gather", lambda _: [{"error": "no"}, {}])
    with pytest.raises(UserError, match="no"):
        processes.of_first(lambda: 7)
    monkeypatch.setattr(processes, "is_first", lambda: True)
    monkeypatch.setattr(processes, "gather", lambda outcome: [outcome, {}])
    with pytest.raises(ZeroDivisionError):  # the others raise a UserError
        processes.of_first(lambda: 1 // 0)


def test_processes_are_found_by_slurm_or_by_hand():
    assert processes._options({}) is None
    assert (
        processes._options({"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}) is None
    )
    assert processes._options({"SLURM_STEP_NUM_TASKS": "2"}) == {}
    by_hand = dict(zip(processes._VARIABLES, ("node7:4567", "3", "2"), strict=True))
    asked = processes._options(by_hand)
    assert asked["coordinator_address"] == "node7:4567"
    assert (asked["num_processes"], asked["process_id"]) == (3, 2)
    # The address of SLURM's first host may be told alone.
    assert processes._options({"JAX_COORDINATOR_ADDRESS": "node7:4567"}) is None


@pytest.mark.parametrize(
    "values", [("node7:4567", "3", "3"), ("node7", "3", "0"), ("node7:4567", "", "0")]
)
def test_senseless_variables_are_refused(values):
    with pytest.raises(UserError, match="expected host:port, the number of processes"):
        processes._options(dict(zip(processes._VARIABLES, values, strict=True)))


def test_a_task_of_slurm_sees_all_gpus_that_are_its_own():
    sees = processes._owns_visible_gpus
    assert sees({"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "2"})
    two = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "1"}
    assert not sees(two | {"CUDA_VISIBLE_DEVICES": "0,1"})
    assert sees(two | {"CUDA_VISIBLE_DEVICES": "0,1", "SLURM_GPUS_PER_TASK": "2"})
    assert not sees(two)
    assert sees(two | {"CUDA_VISIBLE_DEVICES": "1"})  # bound by --gpus-per-task


def test_a_process_alone_agrees_with_itself():
    assert processes.are_one() and processes.is_first()
    assert processes.of_first(lambda: [1, "two"]) == [1, "two"]
    assert processes.in_turn(lambda: {3}) == {3}
    assert processes.gather(2**40) == [2**40]
    processes.check_same("config", "x")
    assert processes.ending(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        processes.ending(lambda: 1 // 0)
