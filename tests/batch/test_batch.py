"""Batches of processes on this machine: what they train, log, skip and resume."""

import gc
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import weakref
from collections import Counter

import numpy as np
import pytest
from conftest import ROOT, environment, write_tiny_configs
from same_run import assert_same_run

from fer_jax import data, runs
from fer_jax.batch import cli as batch
from fer_jax.batch import plan
from fer_jax.batch.estimate import paces
from fer_jax.batch.local import LocalBatch
from fer_jax.data import soft_targets
from fer_jax.errors import UserError, run_command
from fer_jax.training.run import train

# Until it is told to let go; or for so long that nobody waits any more.
HOLD = (
    "import select, sys; from fer_jax.runs import lock; from pathlib import Path\n"
    "with lock.locked(Path(sys.argv[1])):\n"
    "    print('held', flush=True); select.select([sys.stdin], [], [], 300)"
)


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    """A folder of three tiny experiments; `batch_huge` cannot be trained."""
    changes = {
        "batch_huge": {"training": {"batch_size": 4096}},
        # Long enough to be interrupted in the middle.
        "loss_focal": {
            "loss": {"type": "focal"},
            "training": {"epochs": 20, "patience": 0},
        },
    }
    folder = tmp_path_factory.mktemp("configs")
    return write_tiny_configs(folder, changes, epochs=2)


def command_of(configs, tiny_csv, runs_dir, *further):
    command = [sys.executable, ROOT / "bin/run_batch", "--configs", configs, "--yes"]
    return [*command, "--data_root", tiny_csv, "--runs_dir", runs_dir, *further]


def finish(command):
    return subprocess.run(
        command,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
        stdin=subprocess.DEVNULL,
    )


def events(runs_dir):
    lines = (runs_dir / "batch_log.jsonl").read_text().splitlines()
    return [(e["run"], e["event"]) for e in map(json.loads, lines)]


@pytest.fixture(scope="module")
def one_by_one(configs, tiny_csv, tmp_path_factory):
    """The runs folder and the process of a whole batch, of which a run fails."""
    runs_dir = tmp_path_factory.mktemp("one_by_one")
    command = command_of(configs, tiny_csv, runs_dir, "--filter", "ba")
    return runs_dir, finish(command)


def test_a_batch_carries_on_past_a_failure(one_by_one):
    runs_dir, done = one_by_one
    assert done.returncode == 1
    # As with --order phases: the baseline first.
    assert events(runs_dir) == [
        ("baseline/seed_42", "started"),
        ("baseline/seed_42", "finished"),
        ("batch_huge/seed_42", "started"),
        ("batch_huge/seed_42", "failed"),
    ]
    failure = json.loads((runs_dir / "batch_log.jsonl").read_text().splitlines()[-1])
    assert failure["exit_status"] == 2
    assert "training.batch_size is 4096" in failure["error"]
    assert "failed: batch_huge/seed_42 (exit status 2): training." in done.stdout
    assert "1 of 2 runs failed: batch_huge/seed_42; the reasons" in done.stdout
    # The comparison at the end shows what finished, and what failed.
    assert "Comparison on val: 1 run of 1 experiment" in done.stdout
    assert re.search(r"^batch_huge +1 +failed *$", done.stdout, re.MULTILINE)


def test_a_plan_shows_what_is_done_and_a_dry_run_writes_nothing(
    configs, tiny_csv, one_by_one, capsys
):
    runs_dir, _ = one_by_one
    command = command_of(configs, tiny_csv, runs_dir, "--dry-run", "--seeds", "2")[2:]
    before = sorted(runs_dir.rglob("*"))
    assert batch.main(list(map(str, command))) == 0
    told = capsys.readouterr().out
    for line in (
        r"baseline/seed_42 +finished",
        r"batch_huge/seed_42 +new, failed before",
        r"loss_focal/seed_43 +new",
        "5 of 6 runs to do, about ",
    ):
        assert re.search(line, told), line
    assert sorted(runs_dir.rglob("*")) == before


@pytest.mark.slow
def test_an_interrupted_batch_saves_and_continues(configs, tiny_csv, tmp_path):
    command = command_of(configs, tiny_csv, tmp_path, "--filter", "loss_")
    command += ["--seeds", "2", "--jobs", "2"]
    labels = ["loss_focal/seed_42", "loss_focal/seed_43"]
    with subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 200
        while not all(runs.epochs_done(tmp_path / label) for label in labels):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGINT)
        output = process.communicate(timeout=120)[0]
    assert process.returncode == 128 + signal.SIGINT, output
    assert "batch stopped; the same command" in output
    assert output.count("state saved") == 2
    ended = sorted(events(tmp_path)[-2:])
    assert ended == [(label, "interrupted") for label in labels]

    again = finish(command)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("half done") == 2
    for label in labels:
        assert f"{label} | resuming after step" in again.stdout  # so it was saved
    assert sorted(events(tmp_path)[-2:]) == [(label, "finished") for label in labels]


@pytest.mark.slow
def test_two_batches_of_two_at_once_do_nothing_twice(
    configs, tiny_csv, one_by_one, tmp_path
):
    """They share a folder, and the numbers are those of one run after the other."""
    command = command_of(configs, tiny_csv, tmp_path, "--filter", "ba")
    command += ["--seeds", "2", "--jobs", "2"]
    both = [
        subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=600)[0] for process in both]
    for process, output in zip(both, outputs, strict=True):
        assert process.returncode == 1, output  # batch_huge fails, in either
        assert "2 of 4 runs failed" in output
        assert "Comparison on val: 2 runs of 1 experiment" in output
    told = Counter(events(tmp_path))
    for seed in (42, 43):
        assert told[f"baseline/seed_{seed}", "finished"] == 1
        assert told[f"batch_huge/seed_{seed}", "failed"] == 1
        line = rf"^baseline/seed_{seed} \| epoch +2/2 "
        assert re.search(line, "".join(outputs), re.MULTILINE)
    elsewhere = [run for (run, event), _ in told.items() if event.startswith("left")]
    started = sum(n for (_, event), n in told.items() if event == "started")
    assert started == 4 + len(elsewhere)
    label = "baseline/seed_42"
    assert_same_run(one_by_one[0] / label, tmp_path / label, tiny_csv)
    # How long a run took beside another says nothing of one alone.
    assert not paces(tmp_path, 1)
    assert [pace.per_image_s > 0 for pace in paces(tmp_path, 2)] == [True] * 2
    assert paces(one_by_one[0], 1)


@pytest.mark.parametrize("wrong", ["--configs=nowhere", "--jobs=0", "--jobs=99999"])
def test_wrong_call_is_one_line_and_status_2(wrong, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_command(lambda: batch.main([wrong])) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert wrong.removeprefix("--").split("=")[0] in error


def test_a_batch_waits_for_what_another_process_holds_and_takes_it_up(
    tiny_csv, tmp_path
):
    """It trains what was planned, though the config's file has changed meanwhile."""
    (tmp_path / "configs").mkdir()
    configs = write_tiny_configs(tmp_path / "configs", {}, epochs=1)
    command = [sys.executable, ROOT / "bin/run_batch", "--configs", configs, "--yes"]
    command += ["--data_root", tiny_csv, "--runs_dir", tmp_path, "--filter", "base"]
    options = {"env": environment(), "stdin": subprocess.PIPE, "text": True}
    options |= {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    hold = [sys.executable, "-c", HOLD, tmp_path / "baseline/seed_42"]
    with subprocess.Popen(hold, **options) as holder:
        assert holder.stdout.readline() == "held\n"
        with subprocess.Popen(command, **options) as process:
            told = f"waiting: baseline/seed_42 is in use by process {holder.pid} "
            waited = any(line.startswith(told) for line in process.stdout)
            begun = (tmp_path / "batch_log.jsonl").exists()
            (configs / "baseline.yaml").write_text("name: another\n")
            holder.communicate("let go", timeout=60)
            output = process.communicate(timeout=500)[0]
    assert (holder.returncode, process.returncode) == (0, 0), output
    assert waited and not begun
    assert events(tmp_path)[-1] == ("baseline/seed_42", "finished")
    result = runs.read_result(tmp_path / "baseline/seed_42")
    assert result["config"]["training"]["epochs"] == 1
    assert result["config_path"] == str(configs / "baseline.yaml")
    assert result["overrides"] == ["training.seed=42"]


def test_images_are_freed_before_the_first_run_starts(tiny_csv, tmp_path, monkeypatch):
    """The batch keeps only how many there are, for its estimates."""
    alive, load = [], data.load

    def remembered(*args, **options):
        loaded = load(*args, **options)
        alive.extend(weakref.ref(split.images) for split in loaded.splits.values())
        return loaded

    def run(self):
        gc.collect()
        left.extend(each() for each in alive)
        return 130  # as if interrupted

    left: list[object] = []
    monkeypatch.setattr(data, "load", remembered)
    monkeypatch.setattr(LocalBatch, "run", run)
    (tmp_path / "configs").mkdir()
    configs = write_tiny_configs(tmp_path / "configs", {})
    command = ["--configs", str(configs), "--data_root", str(tiny_csv)]
    assert batch.main([*command, "--runs_dir", str(tmp_path), "--yes"]) == 130
    assert left == [None, None, None]


def test_a_blocked_run_is_not_to_do_and_not_finished(
    configs, tiny_csv, one_by_one, capsys
):
    """The folder of a planned run holds a run with another learning rate."""
    runs_dir, _ = one_by_one
    given = command_of(configs, tiny_csv, runs_dir, "--filter", "baseline")[2:]
    command = [*map(str, given), "--set", "training.lr=0.5"]
    before = sorted(runs_dir.rglob("*"))
    assert batch.main([*command, "--dry_run"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "0 of 1 runs to do" in told and "1 blocked: other runs have" in told
    assert batch.main(command) == 1
    assert "not started, as blocked: baseline/seed_42" in capsys.readouterr().out
    assert batch.main([*command, "--status"]) == 0
    told = capsys.readouterr().out
    assert re.search(r"^baseline/seed_42 +blocked *$", told, re.MULTILINE)
    assert "1 blocked" in told and "training.lr is 0.003 there and 0.5 here" in told
    assert batch.main([*command, "--collect"]) == 1
    assert "0 of 1 planned runs are finished" in capsys.readouterr().out
    assert sorted(runs_dir.rglob("*")) == before


def test_a_finished_run_on_soft_targets_is_not_to_do(tiny_csv, tmp_path, capsys):
    dataset = data.load(str(tiny_csv), image_size=16)
    rows = dataset.splits["train"].rows
    targets = soft_targets.SoftTargets(
        fingerprint=dataset.fingerprint,
        class_names=tuple(dataset.class_names),
        rows=rows,
        probabilities=np.full((len(rows), 7), 1 / 7),
        teachers=("a/seed_42",),
    )
    soft_targets.write(tmp_path / "targets.npz", targets)
    settings = [f"data.soft_targets={tmp_path / 'targets.npz'}"]
    folder = write_tiny_configs(tmp_path, {}, epochs=1)
    ((_, config),) = plan.find_configs(folder, [], overrides=settings)
    runs_dir = tmp_path / "runs"
    train(config, data_root=str(tiny_csv), runs_dir=runs_dir)
    command = ["--configs", str(folder), "--data_root", str(tiny_csv), "--dry_run"]
    command += ["--runs_dir", str(runs_dir), "--set", *settings]
    assert batch.main(command) == 0
    assert "blocked" not in capsys.readouterr().out
    soft_targets.write(
        tmp_path / "targets.npz",
        targets._replace(probabilities=np.eye(7)[np.zeros(len(rows), int)]),
    )
    assert batch.main(command) == 0
    assert "1 blocked: other runs have their folders" in capsys.readouterr().out


def test_without_a_terminal_a_batch_starts_only_with_yes(
    configs, tiny_csv, tmp_path, monkeypatch, capsys
):
    given = command_of(configs, tiny_csv, tmp_path, "--filter", "baseline")[2:]
    command = [item for item in map(str, given) if item != "--yes"]
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    with pytest.raises(UserError, match="no terminal.*add --yes"):
        batch.main(command)
    assert "1 of 1 runs to do" in capsys.readouterr().out
    assert not any(tmp_path.iterdir())
