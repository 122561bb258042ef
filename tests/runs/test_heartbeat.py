"""A run's sign of life: there while it lives, gone when it ends, left when killed."""

import errno
import json
import os
import platform
import signal
import subprocess
import sys
import time

import pytest
from conftest import environment, tiny_config

from fer_jax.errors import UserError
from fer_jax.runs import heartbeat
from fer_jax.runs.heartbeat import HEARTBEAT, Beat, beating
from fer_jax.training import run

SLURM = ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID")
BEAT = Beat(1.7e9, "node07", 42, "cpu", step=10, steps=100, job="123_0")


@pytest.fixture(autouse=True)
def in_no_job(monkeypatch):
    for name in SLURM:
        monkeypatch.delenv(name, raising=False)


def write(folder, **changes):
    beat = vars(BEAT) | changes
    (folder / HEARTBEAT).write_text(json.dumps(beat))


def test_what_a_run_tells_while_it_lives_and_that_it_goes(tmp_path):
    assert Beat.read(tmp_path) is None
    with beating(tmp_path, "NVIDIA H100 80GB HBM3", 10):
        beat = Beat.read(tmp_path)
        assert abs(beat.time - time.time()) < 30
        assert (beat.host, beat.pid) == (platform.node(), os.getpid())
        assert beat.device == "NVIDIA H100 80GB HBM3"
        assert beat.step is beat.steps is beat.job is None
        # The keys are those that other programs read.
        assert set(json.loads((tmp_path / HEARTBEAT).read_text())) == {
            *("time", "host", "pid", "device", "step", "steps", "job")
        }
    assert list(tmp_path.iterdir()) == []


def test_it_beats_on_with_the_steps_and_the_time(tmp_path, monkeypatch):
    monkeypatch.setattr(heartbeat, "EVERY_S", 0.02)
    with beating(tmp_path, "cpu", 10_000) as heart:
        first, step = Beat.read(tmp_path), 0
        deadline = time.monotonic() + 60
        while (beat := Beat.read(tmp_path)).step in (None, 1, 2):
            assert time.monotonic() < deadline
            heart.on_step(step := step + 1, 0.5)
            time.sleep(0.01)
    assert beat.step > 2 and beat.steps == 10_000
    assert beat.time >= first.time
    assert list(tmp_path.iterdir()) == []  # and the thread writes no more


@pytest.mark.parametrize("error", [UserError("no"), KeyboardInterrupt(), OSError(5)])
def test_it_goes_whatever_ends_the_run(tmp_path, error):
    with pytest.raises(type(error)), beating(tmp_path, "cpu", 10):
        raise error
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_ends_no_run(tmp_path, monkeypatch):
    def full(path, value):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(heartbeat, "write_json", full)
    with beating(tmp_path, "cpu", 10) as heart:
        assert Beat.read(tmp_path) is None
    assert not heart._thread.is_alive()


def test_one_of_a_killed_process_stays(tmp_path):
    hold = (
        "import sys; from pathlib import Path\n"
        "from fer_jax.runs.heartbeat import beating\n"
        "with beating(Path(sys.argv[1]), 'cpu', 10): print('held', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, tmp_path],
        env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout.readline() == "held\n"
        process.send_signal(signal.SIGKILL)
    assert Beat.read(tmp_path).pid == process.pid


@pytest.mark.parametrize(
    "changes",
    [
        {"time": "now"},
        {"time": -1.0},
        {"pid": None},
        {"step": 101},
        {"step": "1"},
        {"steps": None},
        {"step": 0, "steps": 0},
        {"step": 1.5},
        {"time": float("nan")},
        {"time": float("inf")},
        {"pid": True},
        {"pid": 4.2},
        {"host": None},
        {"host": 7},
        {"device": {}},
        {"job": 123},
    ],
)
def test_a_damaged_one_is_told(tmp_path, changes):
    write(tmp_path)
    assert Beat.read(tmp_path) == BEAT
    write(tmp_path, **changes)
    with pytest.raises(UserError, match="heartbeat.json is damaged .*; remove it"):
        Beat.read(tmp_path)


def test_what_another_version_tells_besides_is_no_damage(tmp_path):
    write(tmp_path, more={"a": 1})
    assert Beat.read(tmp_path) == BEAT


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "[" * 100_000, '{"time": 1}'])
def test_what_is_no_heartbeat_is_told(tmp_path, text):
    (tmp_path / HEARTBEAT).write_text(text)
    with pytest.raises(UserError, match="heartbeat.json is damaged"):
        Beat.read(tmp_path)


def test_the_job_is_named_as_slurm_names_it(monkeypatch):
    assert heartbeat.slurm_job() is None
    monkeypatch.setenv("SLURM_JOB_ID", "125")
    assert heartbeat.slurm_job() == "125"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "123")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
    assert heartbeat.slurm_job() == "123_0"


def test_a_run_that_trains_tells_its_steps(tmp_path, tiny_csv, monkeypatch):
    monkeypatch.setattr(heartbeat, "EVERY_S", 0.05)
    told, write_json = [], heartbeat.write_json

    def note(path, value):
        write_json(path, value)
        if path.name == HEARTBEAT:
            told.append(Beat.read(path.parent))

    monkeypatch.setattr(heartbeat, "write_json", note)
    run.train(tiny_config(), data_root=str(tiny_csv), runs_dir=tmp_path)
    assert told[0].step is None  # it is compiling
    steps = [beat.step for beat in told if beat.step is not None]
    assert steps and steps == sorted(steps)
    assert {beat.steps for beat in told} == {None, 3 * (148 // 32)}
    assert {beat.device for beat in told} == {"cpu"}
    assert not (tmp_path / "baseline/seed_42" / HEARTBEAT).exists()
