import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest
import yaml
from conftest import ROOT, TINY, environment

from fer_jax import batch
from fer_jax.errors import run_command


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    """A folder of three tiny experiments; the second cannot be trained."""
    folder = tmp_path_factory.mktemp("configs")
    base = yaml.safe_load((ROOT / "configs/baseline.yaml").read_text())
    for item in TINY:
        key, value = item.split("=")
        section, name = key.split(".")
        base[section][name] = yaml.safe_load(value.replace("3e-3", "0.003"))
    base["training"]["epochs"] = 2
    (folder / "baseline.yaml").write_text(yaml.safe_dump(base))
    for name, change in {
        "batch_huge": {"training": {"batch_size": 4096}},
        # Long enough to be interrupted in the middle.
        "loss_focal": {"loss": {"type": "focal"}, "training": {"epochs": 30}},
    }.items():
        described = {"extends": "baseline.yaml", "name": name, "description": "?"}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(described | change))
    return folder


def run_batch(*arguments, **options):
    return subprocess.run(
        [sys.executable, ROOT / "bin/run_batch", *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
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


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_batch_saves_and_goes_on(signum, configs, tiny_csv, tmp_path):
    command = [sys.executable, ROOT / "bin/run_batch", "--configs", configs]
    command += ["--data_root", tiny_csv, "--runs_dir", tmp_path, "--filter", "loss_"]
    with subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, text=True
    ) as process:
        metrics = tmp_path / "loss_focal/seed_42/metrics.jsonl"
        deadline = time.monotonic() + 120
        while not metrics.is_file() or not metrics.read_text():  # one epoch done
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(process.pid, signum)
        output = process.communicate(timeout=120)[0]
    assert process.returncode == 128 + signum, output
    assert events(tmp_path)[-1] == ("loss_focal/seed_42", "interrupted")
    again = run_batch(*command[2:])
    assert again.returncode == 0, again.stderr
    assert "half done" in again.stdout
    assert "going on after step" in again.stdout  # so it was saved
    assert events(tmp_path)[-1] == ("loss_focal/seed_42", "finished")


def test_wrong_call_is_one_line_and_status_2(tmp_path, capsys):
    status = run_command(lambda: batch.main(["--configs", str(tmp_path)]))
    assert status == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_two_batches_share_one_folder_and_do_nothing_twice(configs, tiny_csv, tmp_path):
    command = [sys.executable, ROOT / "bin/run_batch", "--configs", configs]
    command += ["--data_root", tiny_csv, "--runs_dir", tmp_path, "--seeds", "3"]
    command += ["--filter", "base", "--filter", "batch_", "--yes"]
    both = [
        subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in both]
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
    configs, tiny_csv, tmp_path
):
    options = ["--configs", configs, "--data_root", tiny_csv, "--runs_dir", tmp_path]
    hold = (
        "import sys, time; from fer_jax import lock; from pathlib import Path\n"
        "with lock.locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(9)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, tmp_path / "baseline/seed_42"],
        env=environment(), stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout.readline() == "held\n"
        done = run_batch(*options, "--filter", "base")
        told = f"baseline/seed_42 is in use by process {process.pid} on "
        assert f"waiting: {told}" in done.stdout
        assert process.wait() == 0
    assert done.returncode == 0, done.stderr
    assert events(tmp_path)[-1] == ("baseline/seed_42", "finished")


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
