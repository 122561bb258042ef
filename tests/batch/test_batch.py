import gc
import json
import os
import re
import signal
import subprocess
import sys
import time
import weakref
from collections import Counter

import pytest
from conftest import ROOT, environment, write_tiny_configs
from same_run import assert_same_run

from fer_jax import data, runs
from fer_jax.batch import cli as batch
from fer_jax.batch.estimate import seconds_per_image
from fer_jax.batch.local import LocalBatch
from fer_jax.errors import run_command

# Until it is told to let go; or for so long that nobody waits any more.
HOLD = (
    "import select, sys; from fer_jax.runs import lock; from pathlib import Path\n"
    "with lock.locked(Path(sys.argv[1])):\n"
    "    print('held', flush=True); select.select([sys.stdin], [], [], 300)"
)


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    """A folder of three tiny experiments; the second cannot be trained."""
    changes = {
        "batch_huge": {"training": {"batch_size": 4096}},
        # Long enough to be interrupted in the middle.
        "loss_focal": {
            "loss": {"type": "focal"},
            "training": {"epochs": 30, "patience": 0},
        },
    }
    folder = tmp_path_factory.mktemp("configs")
    return write_tiny_configs(folder, changes, epochs=2)


def run_batch(*arguments, **options):
    return subprocess.run(
        [sys.executable, ROOT / "bin/run_batch", *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
        stdin=subprocess.DEVNULL,
        **options,
    )


def events(runs_dir):
    lines = (runs_dir / "batch_log.jsonl").read_text().splitlines()
    return [(e["run"], e["event"]) for e in map(json.loads, lines)]


def test_batch_carries_on_past_a_failure_and_skips_what_is_done(
    configs, tiny_csv, tmp_path
):
    options = ["--configs", configs, "--data_root", tiny_csv, "--runs_dir", tmp_path]
    first = run_batch(*options)
    assert first.returncode == 1
    assert events(tmp_path) == [
        ("baseline/seed_42", "started"),
        ("baseline/seed_42", "finished"),
        ("loss_focal/seed_42", "started"),
        ("loss_focal/seed_42", "finished"),
        ("batch_huge/seed_42", "started"),
        ("batch_huge/seed_42", "failed"),
    ]
    failure = json.loads((tmp_path / "batch_log.jsonl").read_text().splitlines()[-1])
    assert failure["exit_status"] == 2
    assert "training.batch_size is 4096" in failure["error"]
    # The comparison at the end, of the two that have results.
    assert "Comparison on val: 2 runs of 2 experiments" in first.stdout

    again = run_batch(*options, "--filter", "loss_", "--filter", "base")
    assert again.returncode == 0
    assert "0 of 2 runs to do" in again.stdout
    assert len(events(tmp_path)) == 6


def test_dry_run_shows_the_plan_and_touches_nothing(configs, tiny_csv, tmp_path):
    done = run_batch(
        "--configs", configs, "--data_root", tiny_csv, "--runs_dir", tmp_path / "runs",
        "--filter", "loss_", "--seeds", "3", "--dry-run",
    )  # fmt: skip
    assert done.returncode == 0
    for seed in (42, 43, 44):
        assert f"loss_focal/seed_{seed}" in done.stdout
    assert "3 of 3 runs to do" in done.stdout
    assert not (tmp_path / "runs").exists()


def interrupted(command, signum, begun):
    """What a batch printed that got a signal as soon as `begun()`."""
    with subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 200
        while not begun():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(process.pid, signum)
        output = process.communicate(timeout=120)[0]
    assert process.returncode == 128 + signum, output
    assert "batch stopped; the same command" in output
    return output


def test_interrupted_batch_saves_and_goes_on(configs, tiny_csv, tmp_path):
    command = [sys.executable, ROOT / "bin/run_batch", "--configs", configs]
    command += ["--data_root", tiny_csv, "--runs_dir", tmp_path, "--filter", "loss_"]
    labels = ["loss_focal/seed_42", "loss_focal/seed_43"]
    first, second = (tmp_path / label for label in labels)
    interrupted(command, signal.SIGTERM, lambda: runs.epochs_done(first))
    assert events(tmp_path)[-1] == (labels[0], "interrupted")

    command += ["--seeds", "2", "--jobs", "2"]
    before = runs.epochs_done(first)
    output = interrupted(
        command,
        signal.SIGINT,
        lambda: runs.epochs_done(first) > before and runs.epochs_done(second),
    )
    assert f"{labels[0]} | resuming after step" in output  # so it was saved
    assert output.count("state saved") == 2
    ended = sorted(events(tmp_path)[-2:])
    assert ended == [(label, "interrupted") for label in labels]

    again = run_batch(*command[2:])
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("half done") == 2
    assert again.stdout.count("resuming after step") == 2
    assert sorted(events(tmp_path)[-2:]) == [(label, "finished") for label in labels]


def test_runs_at_once_are_those_of_one_by_one(configs, tiny_csv, tmp_path):
    options = ["--configs", configs, "--data_root", tiny_csv, "--seeds", "2"]
    single = run_batch(*options, "--runs_dir", tmp_path / "1", "--filter", "base")
    assert single.returncode == 0, single.stderr
    options += ["--runs_dir", tmp_path / "2", "--filter", "ba", "--jobs", "2"]
    double = run_batch(*options)
    assert double.returncode == 1  # batch_huge fails, and stops no other
    assert "2 of 4 runs failed: batch_huge/seed_42, batch_huge/seed_43" in double.stdout
    told = Counter(events(tmp_path / "2"))
    for label in ("baseline/seed_42", "baseline/seed_43"):
        assert_same_run(tmp_path / "1" / label, tmp_path / "2" / label, tiny_csv)
        assert told[label, "finished"] == 1
        assert re.search(rf"^{label} \| epoch +2/2 ", double.stdout, re.MULTILINE)
    # How long a run took beside another says nothing of one alone.
    assert seconds_per_image(tmp_path / "2", 1) is None
    assert seconds_per_image(tmp_path / "2", 2) > 0


@pytest.mark.parametrize("wrong", ["--configs=nowhere", "--jobs=0", "--jobs=99999"])
def test_wrong_call_is_one_line_and_status_2(wrong, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_command(lambda: batch.main([wrong])) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert wrong.removeprefix("--").split("=")[0] in error


def test_two_batches_share_one_folder_and_do_nothing_twice(configs, tiny_csv, tmp_path):
    command = [sys.executable, ROOT / "bin/run_batch", "--configs", configs]
    command += ["--data_root", tiny_csv, "--runs_dir", tmp_path, "--seeds", "3"]
    command += ["--filter", "base", "--filter", "batch_", "--yes"]
    both = [
        subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=600)[0] for process in both]
    for process, output in zip(both, outputs, strict=True):
        assert process.returncode == 1, output  # batch_huge fails, in either
        assert "3 of 6 runs failed" in output
        assert "Comparison on val: 3 runs of 1 experiment" in output
    told = Counter(events(tmp_path))
    for seed in (42, 43, 44):
        assert told[f"baseline/seed_{seed}", "finished"] == 1
        assert told[f"batch_huge/seed_{seed}", "failed"] == 1
    elsewhere = [run for (run, event), _ in told.items() if event.startswith("left")]
    started = sum(n for (_, event), n in told.items() if event == "started")
    assert started == 6 + len(elsewhere)


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


def test_a_failed_run_is_shown_as_failed(configs, tiny_csv, tmp_path):
    options = ["--configs", configs, "--data_root", tiny_csv, "--runs_dir", tmp_path]
    first = run_batch(*options, "--filter", "batch_")
    assert first.returncode == 1
    assert "batch_huge/seed_42, which failed: training.batch_size is" in first.stdout
    again = run_batch(*options, "--filter", "batch_", "--dry-run")
    assert "new, failed before" in again.stdout
    both = run_batch(*options, "--filter", "ba")
    assert "failed: batch_huge/seed_42: training.batch_size is 4096" in both.stdout
    assert re.search(r"^batch_huge +1 +failed *$", both.stdout, re.MULTILINE)


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
