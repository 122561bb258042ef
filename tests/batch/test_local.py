"""What a batch on this machine makes of its runs: scripts that train nothing."""

import argparse
import contextlib
import json
import os
import signal
import sys
import time
import types

import pytest
from conftest import tiny_config
from rich.console import Console

from fer_jax import runs
from fer_jax.batch import local
from fer_jax.batch.arguments import make_parser
from fer_jax.batch.estimate import Estimator
from fer_jax.batch.local import LocalBatch
from fer_jax.batch.log import LOG, BatchLog
from fer_jax.batch.plan import PlannedRun
from fer_jax.runs.lock import locked
from fer_jax.system import files

FAILS = "import sys; sys.exit('error: the disk is full')"


@pytest.fixture
def job(tmp_path):
    config = tiny_config()
    folder = runs.run_dir(tmp_path, config.name, config.training.seed)
    folder.mkdir(parents=True)
    return PlannedRun(tmp_path / "baseline.yaml", config, folder)


@pytest.fixture
def batch(job, tmp_path, monkeypatch):
    """A function that makes a batch of the one job, which is to be a script."""

    def make(script, seconds=None, **args):
        args = {"gpus_per_job": 0, "budget": None, "force": False} | args
        command = [sys.executable, "-c", script]
        monkeypatch.setattr(local, "train_command", lambda *_: command)
        log = BatchLog(Console(width=200), tmp_path, 1)
        monkeypatch.setattr(Estimator, "seconds", lambda *_: seconds)
        args = argparse.Namespace(**args, runs_dir=tmp_path)
        return LocalBatch(args, log, [job], Estimator(tmp_path, {}))

    return make


def events(tmp_path):
    lines = (tmp_path / LOG).read_text().splitlines()
    return [(e["event"], e.get("error")) for e in map(json.loads, lines)]


def at(path, age):
    os.utime(path, (time.time() - age,) * 2)


def test_a_run_that_fails_after_its_result_has_failed(batch, job, tmp_path, capsys):
    result = job.folder / runs.RESULT
    script = f"open({str(result)!r}, 'w').write('{{}}'); {FAILS}"
    assert batch(script).run() == 1
    assert events(tmp_path) == [("started", None), ("failed", "the disk is full")]
    told = capsys.readouterr().out
    assert f"failed: {job.label} (exit status 1): the disk is full" in told
    assert "another process" not in told


def test_a_run_in_a_folder_that_is_held_is_left_to_its_holder(
    batch, job, tmp_path, capsys
):
    """Another process took the folder after ours had started, and finishes the run."""
    made, held = batch(FAILS), contextlib.ExitStack()
    start, end = made.workers.start, made._end

    def starts(run, command):
        held.enter_context(locked(job.folder))
        start(run, command)

    def ends(ended):
        end(ended)
        held.close()
        files.write_json(job.folder / runs.RESULT, {})

    made.workers.start, made._end = starts, ends
    assert made.run() == 0
    assert events(tmp_path)[1:] == [("left to another process", "the disk is full")]
    assert f"{job.label}: finished in another process" in capsys.readouterr().out


def test_a_signal_is_passed_on_and_stops_the_batch(batch, tmp_path, capsys):
    """Whether it comes to the batch, or to the run alone."""
    saves = "import os, signal, sys, time\n"
    saves += "signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + 15))\n"
    tells = f"{saves}os.kill(os.getppid(), signal.SIGTERM); time.sleep(60)"
    for script in (tells, "import sys; sys.exit(128 + 15)"):
        assert batch(script).run() == 128 + signal.SIGTERM
        assert events(tmp_path)[-1] == ("interrupted", None)
        assert "batch stopped; the same command" in capsys.readouterr().out


def test_the_budget_begins_when_the_batch_runs(batch, tmp_path, monkeypatch):
    clock = types.SimpleNamespace(now=0.0)
    clock.monotonic = lambda: clock.now
    made = batch("", seconds=300, budget=10)
    monkeypatch.setattr(local, "time", clock)
    clock.now = 3600.0  # an hour before somebody answers
    assert made.run() == 0
    assert [event for event, _ in events(tmp_path)] == ["started", "finished"]


def test_a_budget_that_is_too_short_starts_nothing(batch, tmp_path, capsys):
    assert batch("", seconds=300, budget=4).run() == 0
    told = capsys.readouterr().out
    assert "the budget of 4 min leaves no time" in told
    assert "waiting" not in told
    assert not (tmp_path / LOG).exists()


def test_without_finished_runs_a_budget_starts_a_run(batch, tmp_path):
    """The help says so: nothing tells how long it will take."""
    assert batch("", seconds=None, budget=1).run() == 0
    assert [event for event, _ in events(tmp_path)] == ["started", "finished"]
    (action,) = (a for a in make_parser()._actions if a.dest == "budget")
    assert "without any, runs start in any case" in action.help


def test_what_failed_before_the_batch_runs_is_tried_again(batch, job, tmp_path):
    made = batch("")
    runs.note_failure(job.folder, "no")  # while somebody was asked
    assert made.run() == 0
    assert [event for event, _ in events(tmp_path)] == ["started", "finished"]


@pytest.mark.parametrize("name", [runs.RESULT, runs.FAILED])
def test_what_another_process_settles_meanwhile_is_left(batch, job, capsys, name):
    made = batch(FAILS, force=True)
    claim_next = made._claim_next

    def settled():
        files.write_json(job.folder / name, {"error": "no"})
        at(job.folder / name, -1)
        return claim_next()

    made._claim_next = settled
    assert made.run() == (name == runs.FAILED)
    how = "failed" if name == runs.FAILED else "finished"
    assert f"{job.label}: {how} in another process" in capsys.readouterr().out
