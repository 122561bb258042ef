"""What the processes of a batch see of the machine; the GPUs are make-believe."""

import json
import os
import sys
import types

import pytest
from conftest import ROOT

from fer_jax.batch import cli as batch
from fer_jax.batch import gpu_shares as shares
from fer_jax.batch import workers
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
told["cores"] = sorted(os.sched_getaffinity(0))
sys.exit(json.dumps(told))
"""
CORES = sorted(os.sched_getaffinity(0))


@pytest.fixture(autouse=True)
def machine(monkeypatch, tmp_path):
    """None of the settings, and a function that puts an `nvidia-smi` on the path."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(shares, "_jax_has_plugins", lambda: True)

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
    with pool.at_work():
        for n in range(count or at_once):
            job = types.SimpleNamespace(label=f"mine/seed_{n}")
            pool.start(job, [sys.executable, "-c", TELL])
        while pool.jobs:
            ended += pool.wait(60)
    assert sorted(os.sched_getaffinity(0)) == CORES  # ours are as they were
    ended.sort(key=lambda each: each.job.label)
    return [json.loads(each.error) for each in ended]


def test_a_run_that_a_real_time_signal_killed_has_ended(machine):
    pool = workers.Workers(1, 0)
    with pool.at_work():
        job = types.SimpleNamespace(label="mine/seed_1")
        kill = "import os; os.kill(os.getpid(), 40)"
        pool.start(job, [sys.executable, "-c", kill])
        while not (ended := pool.wait(60)):
            pass
    assert (ended[0].status, ended[0].error) == (168, "killed by signal 40")


def column(told, name):
    return [each[name] for each in told]


def test_each_run_has_a_gpu_of_its_own_and_its_part_of_the_rest(machine):
    with_gpus(machine, 2)
    told = children(2)
    assert column(told, "CUDA_VISIBLE_DEVICES") == ["0", "1"]
    assert column(told, "XLA_CLIENT_MEM_FRACTION") == ["0.900", "0.900"]
    assert column(told, "FER_MEMORY_SHARE") == ["0.5", "0.5"]
    first, second = column(told, "cores")
    if len(CORES) > 1:
        assert sorted(first + second) == CORES
        assert abs(len(first) - len(second)) <= 1


def test_runs_that_share_a_gpu_share_its_memory(machine):
    with_gpus(machine, 2)
    told = children(3)
    assert column(told, "CUDA_VISIBLE_DEVICES") == ["0", "1", "0"]
    assert column(told, "XLA_CLIENT_MEM_FRACTION") == ["0.450", "0.900", "0.450"]


def test_one_run_sees_one_gpu_or_as_many_as_it_is_given(machine):
    with_gpus(machine, 4)
    (alone,) = children(1)
    assert alone["CUDA_VISIBLE_DEVICES"] == "0"
    assert alone["XLA_CLIENT_MEM_FRACTION"] is alone["FER_MEMORY_SHARE"] is None
    assert alone["cores"] == CORES
    assert children(1, 4)[0]["CUDA_VISIBLE_DEVICES"] == "0,1,2,3"
    assert column(children(2, 2), "CUDA_VISIBLE_DEVICES") == ["0,1", "2,3"]
    (none,) = children(1, 0)
    assert (none["CUDA_VISIBLE_DEVICES"], none["JAX_PLATFORMS"]) == ("", "cpu")


def test_a_run_that_starts_later_takes_the_gpu_that_fewest_use():
    shared = [shares.Share(gpus=(gpu,)) for gpu in ("a", "b", "a", "b")]
    assert shares.least_used(shared, []) == 0
    assert shares.least_used(shared, [0]) == 1
    assert shares.least_used(shared, [1, 3]) == 0
    assert shares.least_used(shared, [2, 0, 3]) == 1
    assert shares.least_used([shares.Share()] * 2, [0]) == 1


def test_without_gpus_no_run_is_bound_to_cores(machine):
    told = children(2)
    assert column(told, "CUDA_VISIBLE_DEVICES") == [None, None]
    assert column(told, "cores") == [CORES, CORES]  # else the numbers were others
    assert column(told, "FER_MEMORY_SHARE") == ["0.5", "0.5"]


def test_beside_gpus_that_jax_cannot_reach_no_run_is_bound(machine, monkeypatch):
    with_gpus(machine, 2)
    monkeypatch.setattr(shares, "_jax_has_plugins", lambda: False)
    assert column(children(2), "cores") == [CORES, CORES]


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
    assert shares.gpus_at_hand() == gpus


@pytest.mark.parametrize(
    ("platforms", "count"), [("cpu", 0), ("tpu,cpu", 0), ("cuda,cpu", 2), ("", 2)]
)
def test_gpus_that_jax_is_told_to_leave_are_not_at_hand(
    machine, monkeypatch, platforms, count
):
    with_gpus(machine, 2)
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    assert len(shares.gpus_at_hand()) == count


def test_a_driver_without_gpus_is_none(machine):
    assert shares.gpus_at_hand() == []  # there is no such program
    machine("echo No devices were found")
    assert shares.gpus_at_hand() == []
    machine("echo 0; exit 9")
    assert shares.gpus_at_hand() == []


def test_a_driver_that_hangs_is_told(machine, monkeypatch):
    machine("exec /bin/sleep 60")
    monkeypatch.setattr(shares, "_ASK_S", 0.1)
    with pytest.raises(UserError, match="nvidia-smi did not say .* CUDA_VISIBLE_DEV"):
        shares.gpus_at_hand()
    assert shares.share_out(2, 0)[0].gpus == ()  # it was not asked


@pytest.mark.parametrize(
    ("count", "asked", "told"),
    [
        (2, 3, "expected 0 to 2, as the GPUs at hand: 0, 1 "),
        (2, -1, "expected 0 to 2"),
        (0, 1, "expected 0 to 0, as no GPU is at hand"),
    ],
)
def test_more_gpus_than_there_are_is_one_sentence(
    machine, tiny_csv, tmp_path, capsys, count, asked, told
):
    with_gpus(machine, count)
    command = ["--configs", str(ROOT / "configs"), "--filter", "baseline"]
    command += ["--data_root", str(tiny_csv), "--dry-run"]
    command += ["--runs_dir", str(tmp_path), f"--gpus-per-job={asked}"]
    assert run_command(lambda: batch.main(command)) == 2
    error = capsys.readouterr().err
    assert f"--gpus-per-job is {asked}; {told}" in error
    assert error.count("\n") == 1


def test_gpu_memory_that_the_user_has_set_stands(machine, monkeypatch):
    with_gpus(machine, 1)
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.1")
    told = children(2)
    assert column(told, "XLA_CLIENT_MEM_FRACTION") == [None, None]
    assert column(told, "XLA_PYTHON_CLIENT_MEM_FRACTION") == ["0.1", "0.1"]
