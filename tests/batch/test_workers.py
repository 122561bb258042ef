"""What the processes of a batch see of the machine; the GPUs are make-believe."""

import json
import signal
import sys
import types

import pytest
from conftest import ROOT

from fer_jax.batch import cli as batch
from fer_jax.batch import gpu_shares as shares
from fer_jax.batch import workers
from fer_jax.batch.child import how_it_ended
from fer_jax.errors import UserError, run_command

NAMES = (
    "CUDA_VISIBLE_DEVICES",
    "JAX_PLATFORMS",
    "XLA_CLIENT_MEM_FRACTION",
    "XLA_PYTHON_CLIENT_MEM_FRACTION",
    "FER_MEMORY_SHARE",
)
TELL = f"""
import json, os, sys
told = {{name: os.environ.get(name) for name in {NAMES}}}
sys.exit(json.dumps(told))
"""


@pytest.fixture(autouse=True)
def machine(monkeypatch, tmp_path):
    """None of the settings, and a function that puts an `nvidia-smi` on the path."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))

    def with_program(script):
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    return with_program


def with_gpus(machine, count):
    words = "\n".join(map(str, range(count)))
    machine(f'test "$*" = "--query-gpu=index --format=csv,noheader" && echo "{words}"')


def children(at_once, gpus_per_job=None, count=None):
    """What each of so many runs that start at once is told."""
    pool, ended = workers.Workers(at_once, gpus_per_job), []
    with pool.running():
        for n in range(count or at_once):
            job = types.SimpleNamespace(label=f"mine/seed_{n}")
            pool.start(job, [sys.executable, "-c", TELL])
        while pool.runs:
            ended += pool.wait(60)
    ended.sort(key=lambda each: each.run.label)
    return [json.loads(each.error) for each in ended]


def test_a_run_that_a_real_time_signal_killed_has_ended(machine):
    pool = workers.Workers(1, 0)
    with pool.running():
        job = types.SimpleNamespace(label="mine/seed_1")
        kill = "import os; os.kill(os.getpid(), 40)"
        pool.start(job, [sys.executable, "-c", kill])
        while not (ended := pool.wait(60)):
            pass
    assert (ended[0].status, ended[0].error) == (168, "killed by signal 40")


@pytest.mark.parametrize(
    ("code", "last", "told"),
    [
        (0, "", (0, "exit status 0")),
        (2, "error: the disk is full\n", (2, "the disk is full")),
        (-9, "", (137, "killed by SIGKILL")),
        (-9, "error: out of memory", (137, "out of memory")),
        (-signal.SIGRTMIN, "", (128 + signal.SIGRTMIN, "killed by SIGRTMIN")),
    ],
)
def test_status_and_reason(code, last, told):
    assert how_it_ended(code, last) == told


def test_lines_of_runs_at_once_have_their_label_and_a_closed_pipe_ends_all(
    machine, monkeypatch, capsys
):
    pool = workers.Workers(2, 0)
    run = types.SimpleNamespace(label="mine/seed_1")
    prints = [sys.executable, "-c", "print('one\\n\\ntwo')"]
    with pool.running():
        pool.start(run, prints)
        while not pool.wait(60):
            pass
    assert capsys.readouterr().out == "mine/seed_1 | one\nmine/seed_1 | two\n"
    closed = types.SimpleNamespace(write=lambda _: broken(), flush=lambda: None)

    def broken():
        raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", closed)
    waits = [sys.executable, "-c", "print('one', flush=True); input()"]
    with pytest.raises(BrokenPipeError), pool.running():
        pool.start(run, waits)
        pool.wait(60)
    assert pool._running[0].child.process.poll() is not None


def column(told, name):
    return [each[name] for each in told]


def test_each_run_has_a_gpu_of_its_own_and_its_part_of_the_memory(machine):
    with_gpus(machine, 2)
    told = children(2)
    assert column(told, "CUDA_VISIBLE_DEVICES") == ["0", "1"]
    assert column(told, "XLA_CLIENT_MEM_FRACTION") == [None, None]
    assert column(told, "FER_MEMORY_SHARE") == ["0.5", "0.5"]


def test_runs_that_share_a_gpu_share_its_memory(machine):
    with_gpus(machine, 2)
    told = children(3)
    assert column(told, "CUDA_VISIBLE_DEVICES") == ["0", "1", "0"]
    assert column(told, "XLA_CLIENT_MEM_FRACTION") == ["0.450"] * 3


def test_one_run_sees_one_gpu_or_as_many_as_it_is_given(machine):
    with_gpus(machine, 4)
    (alone,) = children(1)
    assert alone["CUDA_VISIBLE_DEVICES"] == "0"
    assert alone["XLA_CLIENT_MEM_FRACTION"] is alone["FER_MEMORY_SHARE"] is None
    assert children(1, 4)[0]["CUDA_VISIBLE_DEVICES"] == "0,1,2,3"
    assert column(children(2, 2), "CUDA_VISIBLE_DEVICES") == ["0,1", "2,3"]
    assert column(children(2, 3), "CUDA_VISIBLE_DEVICES") == ["0,1,2", "3,0,1"]
    (none,) = children(1, 0)
    assert (none["CUDA_VISIBLE_DEVICES"], none["JAX_PLATFORMS"]) == ("", "cpu")


def test_a_run_that_starts_later_takes_the_gpu_that_is_free(machine):
    with_gpus(machine, 2)
    pool, ended = workers.Workers(2), []
    waits = f"import time; time.sleep(1)\n{TELL}"
    with pool.running():
        for n, script in enumerate([waits, TELL, TELL]):
            while not pool.can_start:
                ended += pool.wait(60)
            run = types.SimpleNamespace(label=f"mine/seed_{n}")
            pool.start(run, [sys.executable, "-c", script])
        while pool.runs:
            ended += pool.wait(60)
    seen = {e.run.label: json.loads(e.error)["CUDA_VISIBLE_DEVICES"] for e in ended}
    assert seen == {"mine/seed_0": "0", "mine/seed_1": "1", "mine/seed_2": "1"}


def test_runs_share_the_memory_of_a_gpu_that_nvidia_smi_does_not_know(machine):
    told = children(2)
    assert column(told, "CUDA_VISIBLE_DEVICES") == [None, None]
    assert column(told, "XLA_CLIENT_MEM_FRACTION") == ["0.450", "0.450"]
    assert column(told, "FER_MEMORY_SHARE") == ["0.5", "0.5"]


def test_shares_of_a_share(monkeypatch):
    monkeypatch.setenv("FER_MEMORY_SHARE", "0.5")
    assert column(children(2), "FER_MEMORY_SHARE") == ["0.25", "0.25"]


@pytest.mark.parametrize(
    ("named", "gpus"),
    [
        ("3", ["3"]),
        ("GPU-8f1c, MIG-22aa", ["GPU-8f1c", "MIG-22aa"]),
        ("1,-1,2", ["1"]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
    ],
)
def test_the_gpus_that_the_environment_names_are_those_at_hand(
    machine, monkeypatch, named, gpus
):
    with_gpus(machine, 8)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert shares.visible_gpus() == gpus


@pytest.mark.parametrize(
    ("platforms", "count"), [("cpu", 0), ("tpu,cpu", 0), ("cuda,cpu", 2), ("", 2)]
)
def test_gpus_that_jax_is_told_to_leave_are_not_at_hand(
    machine, monkeypatch, platforms, count
):
    with_gpus(machine, 2)
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    assert len(shares.visible_gpus()) == count


def test_a_driver_without_gpus_is_none(machine):
    assert shares.visible_gpus() == []  # there is no such program
    machine("echo No devices were found")
    assert shares.visible_gpus() == []
    machine("echo 0; exit 9")
    assert shares.visible_gpus() == []


def test_a_driver_that_hangs_is_told(machine, monkeypatch):
    machine("exec /bin/sleep 60")
    monkeypatch.setattr(shares, "_ANSWER_S", 0.1)
    with pytest.raises(
        UserError, match="nvidia-smi did not answer .* CUDA_VISIBLE_DEV"
    ):
        shares.visible_gpus()
    assert shares.share_out(2, 0)[0]["CUDA_VISIBLE_DEVICES"] == ""  # it was not asked


@pytest.mark.parametrize(
    ("count", "asked", "told"),
    [
        (2, 3, "expected 0 to 2, as the visible GPUs are 0, 1 "),
        (2, -1, "expected 0 to 2"),
        (0, 1, "expected 0 to 0, as no GPU is visible"),
    ],
)
def test_more_gpus_than_there_are_is_one_sentence(
    machine, tiny_csv, tmp_path, capsys, count, asked, told
):
    with_gpus(machine, count)
    command = ["--configs", str(ROOT / "configs"), "--filter", "baseline"]
    command += ["--data_root", str(tiny_csv), "--dry_run"]
    command += ["--runs_dir", str(tmp_path), f"--gpus_per_job={asked}"]
    assert run_command(lambda: batch.main(command)) == 2
    error = capsys.readouterr().err
    assert f"--gpus_per_job is {asked}; {told}" in error
    assert error.count("\n") == 1


def test_gpu_memory_that_the_user_has_set_stands(machine, monkeypatch):
    with_gpus(machine, 1)
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.1")
    told = children(2)
    assert column(told, "XLA_CLIENT_MEM_FRACTION") == [None, None]
    assert column(told, "XLA_PYTHON_CLIENT_MEM_FRACTION") == ["0.1", "0.1"]
