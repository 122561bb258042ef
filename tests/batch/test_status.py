"""Where runs stand, by their files: each state is written down here by hand."""

import json
import os
import re
import subprocess
import sys
import time

import fake_runs
import pytest
from conftest import ROOT, environment, tiny_config

from fer_jax import config as config_lib
from fer_jax import runs
from fer_jax.batch import cli as batch
from fer_jax.batch import run_state
from fer_jax.batch.run_state import Now, file_system_time
from fer_jax.batch.slurm import queue as slurm_queue
from fer_jax.errors import run_command
from fer_jax.runs.heartbeat import HEARTBEAT, Beat
from fer_jax.system import files

SENTENCE = "training.batch_size is 4096, and there are 148 images; lower it"


@pytest.fixture(autouse=True)
def squeue(tmp_path_factory, monkeypatch):
    """Puts a `squeue` first on the path; this machine's own is never asked."""
    folder = tmp_path_factory.mktemp("bin")
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)

    def answers(script):
        program = folder / "squeue"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    answers("exit 1")
    return answers


@pytest.fixture
def folder(tmp_path):
    """A run folder that nobody has touched."""
    return tmp_path / "runs/baseline/seed_42"


def read_state(folder, epochs=None, **now):
    return run_state.read_state(folder, Now(**{"time": time.time()} | now), epochs)


def begin(folder, epochs=30, done=0, seconds=60.0):
    """A run that has begun, and has done some epochs of so many seconds each."""
    folder.mkdir(parents=True, exist_ok=True)
    config = tiny_config(f"training.epochs={epochs}")
    (folder / runs.CONFIG).write_text(config_lib.dump(config))
    rows = [
        {"epoch": n, "val_macro_f1": f1, "wall_s": 100 + seconds * n}
        for n, f1 in enumerate([0.4, 0.6, *[0.5] * epochs][:done], 1)
    ]
    files.write_jsonl(folder / runs.METRICS, rows)


def at(path, age):
    os.utime(path, (time.time() - age,) * 2)


def beat(folder, age=5.0, step=None, steps=None, job=None, device="cpu", ahead=0.0):
    """A sign of life by a clock that is so many seconds ahead of the file system's."""
    folder.mkdir(parents=True, exist_ok=True)
    sign = Beat(time.time() - age + ahead, "node07", 4242, device, step, steps, job)
    files.write_json(folder / HEARTBEAT, vars(sign))
    at(folder / HEARTBEAT, age)


def fail(folder, age=5.0):
    runs.note_failure(folder, SENTENCE)
    at(folder / runs.FAILED, age)


def submit(folder, age=5.0, state="submitted"):
    folder.mkdir(parents=True, exist_ok=True)
    job = {"executor": "slurm", "id": "123_0", "time": time.time() - age, "attempt": 1}
    files.write_json(folder / runs.JOB, job | {"log": "a/b", "state": state})
    at(folder / runs.JOB, age)


def finish(folder, **changes):
    begin(folder, done=2)
    result = {
        "format": runs.RESULT_FORMAT,
        "epochs_run": 18,
        "config": {"training": {"epochs": 30}},
        "selection": {"value": 0.71},
        "timing": {"wall_s": 720.0},
    }
    files.write_json(folder / runs.RESULT, result | changes)


def test_new_then_begun_then_finished(folder):
    new = read_state(folder, epochs=30)
    assert (new.state, new.epoch, new.epochs, new.best) == ("new", 0, 30, None)
    begin(folder, epochs=10, done=3)
    stopped = read_state(folder, epochs=30)  # the plan has changed since
    assert (stopped.state, stopped.epoch, stopped.epochs) == ("stopped", 3, 10)
    assert (stopped.done, stopped.best, stopped.seconds) == (0.3, 0.6, None)
    finish(folder)
    beat(folder)  # as a process leaves it that is killed right after
    ended = read_state(folder)
    assert (ended.state, ended.epoch, ended.epochs) == ("finished", 18, 30)
    assert (ended.done, ended.best, ended.seconds) == (1.0, 0.71, 720.0)


def test_a_run_that_lives(folder):
    begin(folder, done=0)
    beat(folder)
    assert read_state(folder).state == "starting"
    begin(folder, epochs=30, done=3)
    beat(folder, step=350, steps=3000, device="NVIDIA H100 80GB HBM3", job="123_0")
    run = read_state(folder)
    assert run.state == "running"
    assert run.place == "job 123_0 on node07, process 4242, NVIDIA H100 80GB HBM3"
    assert run.done == pytest.approx(350 / 3000)
    # 26.5 epochs of a minute; the first one, which compiles, took 160 seconds.
    assert run.seconds == pytest.approx(26.5 * 60)
    begin(folder, epochs=30, done=1)
    beat(folder, step=150, steps=3000)
    assert read_state(folder).seconds == pytest.approx(28.5 * 160)  # no other tells
    begin(folder, epochs=30, done=0)
    assert read_state(folder).seconds is None


def test_a_run_that_is_silent_is_lost(folder):
    begin(folder, done=3)
    beat(folder, age=300, step=350, steps=3000)
    run = read_state(folder)
    assert (run.state, run.reason) == ("lost", "silent for 5 min")
    assert run.place == "node07, process 4242, cpu"
    assert run.seconds is None


@pytest.mark.parametrize("ahead", [-7200, -90, 90, 7200])
def test_the_clock_of_a_run_s_machine_does_not_matter(folder, ahead):
    beat(folder, age=5, step=1, steps=9, ahead=ahead)
    assert read_state(folder).state == "running"
    beat(folder, age=3600, step=1, steps=9, ahead=ahead)
    lost = read_state(folder)
    assert (lost.state, lost.reason) == ("lost", "silent for 60 min")


@pytest.mark.parametrize("ahead", [-7200, 7200])
def test_our_own_clock_does_not_matter(folder, monkeypatch, ahead):
    beat(folder, age=5, step=1, steps=9)
    ours = time.time() + ahead
    monkeypatch.setattr(time, "time", lambda: ours)
    now = Now.at(folder)
    assert run_state.read_state(folder, now).state == "running"
    assert [path.name for path in folder.iterdir()] == [HEARTBEAT]
    assert file_system_time(folder / "none") == ours  # where nothing else tells


def test_the_newest_sign_counts(folder):
    begin(folder)
    submit(folder, age=400)
    queued = read_state(folder)
    assert (queued.state, queued.place) == ("queued", "job 123_0")
    assert queued.reason == "submitted 7 min ago"
    beat(folder, age=300, step=1, steps=9)  # the job had begun, and was killed
    assert read_state(folder).state == "lost"
    fail(folder, age=200)  # the batch has seen it
    failed = read_state(folder)
    assert (failed.state, failed.reason) == ("failed", SENTENCE)
    submit(folder, age=100)  # and tries again
    assert read_state(folder).state == "queued"
    beat(folder, age=30)
    assert read_state(folder).state == "starting"
    submit(folder, age=20)  # a copy of the job: the one that lives counts
    assert read_state(folder).state == "starting"
    fail(folder, age=10)  # noted for a process that was killed just now
    assert read_state(folder).state == "failed"


def test_a_job_that_is_gone_from_the_queue_is_lost(folder, monkeypatch):
    submit(folder, age=400)
    assert read_state(folder, jobs=frozenset({"123_0"})).state == "queued"
    gone = read_state(folder, jobs=frozenset({"123_1", "1230"}))
    assert (gone.state, gone.place) == ("lost", "")
    assert gone.reason == "job 123_0 is gone from the queue"
    beat(folder, age=30)  # the queue is wrong about what lives
    assert read_state(folder, jobs=frozenset()).state == "starting"
    submit(folder, age=-5)  # after the queue was asked
    at(folder / HEARTBEAT, 300)
    assert read_state(folder, jobs=frozenset()).state == "queued"
    submit(folder, age=400)
    at(folder / HEARTBEAT, 500)
    assert read_state(folder, jobs=frozenset()).state == "lost"
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert read_state(folder, jobs=frozenset()).state == "queued"  # a colleague's job


def squeue_line(number, state):
    widths = list(slurm_queue._COLUMNS.values())
    return number.ljust(widths[0]) + state.ljust(sum(widths[1:]))


def test_what_squeue_tells_of_our_jobs(squeue, tmp_path):
    """Those in hidden partitions, which it shows only with -a, among them."""
    jobs = {"12_0": "RUNNING", "12_1": "PENDING", "13": "CANCELLED"}
    text = "\n".join(squeue_line(*each) for each in jobs.items())
    squeue(f'case "$*" in *-a*-u\\ {os.geteuid()}*) echo "{text}" ;; esac')
    assert Now.at(tmp_path).jobs == {"12_0", "12_1"}
    squeue("")
    assert Now.at(tmp_path).jobs == frozenset()


@pytest.mark.parametrize("script", ["echo 12 RUNNING; exit 1", "sleep 60"])
def test_a_queue_that_does_not_answer_says_nothing(
    squeue, monkeypatch, tmp_path, script
):
    monkeypatch.setattr(run_state, "SQUEUE_S", 0.3)
    squeue(script)
    begun = time.monotonic()
    assert Now.at(tmp_path).jobs is None
    assert time.monotonic() - begun < 10


def test_without_slurm_no_queue_is_asked(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Now.at(tmp_path).jobs is None


def test_a_job_that_has_ended_is_not_queued(folder):
    submit(folder, state="ended: cancelled")
    assert read_state(folder).state == "new"
    begin(folder, done=1)
    assert read_state(folder).state == "stopped"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (runs.CONFIG, "training: {"),
        (runs.CONFIG, "training: 3"),
        (runs.METRICS, '{"epoch": 1'),
        (runs.METRICS, '{"val_macro_f1": "high"}\n'),
        (runs.METRICS, '{"val_macro_f1": NaN}\n'),
        (runs.METRICS, '{"val_macro_f1": true}\n'),
        (runs.METRICS, '{"val_macro_f1": 0.5, "wall_s": Infinity}\n'),
        (runs.METRICS, f'{{"val_macro_f1": 1{400 * "0"}}}\n'),
        (runs.METRICS, "[1]\n"),
        (HEARTBEAT, "{}"),
        (runs.JOB, "{"),
        (runs.RESULT, "{"),
        (runs.RESULT, json.dumps({"format": runs.RESULT_FORMAT})),
        (runs.RESULT, json.dumps({"format": 99})),
    ],
)
def test_a_damaged_file_is_told_as_the_state_of_its_run(folder, name, text):
    begin(folder, done=1)
    (folder / name).write_text(text)
    run = read_state(folder, epochs=30)
    assert run.state == "damaged"
    assert str(folder / name) in run.reason


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, "0.7"])
@pytest.mark.parametrize("key", ["selection", "timing"])
def test_a_result_without_a_number_is_damaged(folder, key, value):
    finish(folder)
    path = folder / runs.RESULT
    result = json.loads(path.read_text())
    result[key] = dict.fromkeys(result[key], value)
    path.write_text(json.dumps(result))
    assert read_state(folder).state == "damaged"


def test_a_failure_that_cannot_be_read_is_still_one(folder):
    begin(folder)
    (folder / runs.FAILED).write_text("{")
    assert read_state(folder).state == "failed"
    assert "failed.json cannot be read" in read_state(folder).reason


# --- the command


@pytest.fixture
def several(tmp_path):
    """A runs folder with a run in each state, and one that is in no plan."""
    runs_dir = tmp_path / "runs"
    finish(runs_dir / "baseline/seed_42")
    begin(runs_dir / "lr_low/seed_42", done=3)
    beat(runs_dir / "lr_low/seed_42", step=350, steps=3000, job="123_1")
    beat(runs_dir / "lr_high/seed_42", age=300)
    begin(runs_dir / "loss_focal/seed_42")
    fail(runs_dir / "loss_focal/seed_42")
    submit(runs_dir / "balance_weighted_sampler/seed_42", age=400)
    begin(runs_dir / "batch_64/seed_42", done=12)
    begin(runs_dir / "batch_256/seed_42", done=1)
    (runs_dir / "batch_256/seed_42" / runs.METRICS).write_text("{")
    begin(runs_dir / "loss_mine/seed_7", done=2)
    (runs_dir / "aug_none/seed_42").mkdir(parents=True)
    (runs_dir / "aug_none/seed_42/lock").touch()  # somebody only looked
    return runs_dir


def run_batch(*arguments, columns="120"):
    return subprocess.run(
        [sys.executable, ROOT / "bin/run_batch", *map(str, arguments)],
        env=environment() | {"COLUMNS": columns},
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_status_shows_every_run_and_counts_them(several):
    done = run_batch("--status", "--runs_dir", several)
    assert (done.returncode, done.stderr) == (0, "")
    table, _, rest = done.stdout.partition("\nnot in the plan:\n")
    for line in (
        r"baseline/seed_42 +finished +18/30 +100 % +71\.0 +took 12 min",
        r"lr_low/seed_42 +running +3/30 +12 % +60\.0 +26 min left",
        "  job 123_1 on node07, process 4242, cpu",
        r"lr_high/seed_42 +lost +0/30 +0 %",
        "  silent for 5 min; node07, process 4242, cpu",
        r"loss_focal/seed_42 +failed +0/30 +0 %",
        f"  {SENTENCE}",
        r"balance_weighted_sampler/seed_42 +queued +0/30 +0 %",
        "  submitted 7 min ago; job 123_0",
        r"batch_64/seed_42 +stopped +12/30 +40 % +60\.0",
        "batch_256/seed_42 +damaged",
        "aug_none/seed_42 +new",
    ):
        assert re.search(f"^{line}$", table, re.MULTILINE), line
    assert re.match(r"loss_mine/seed_7 +stopped +2/30 +7 % +60\.0\n", rest)
    assert rest.endswith(
        "\n13 runs: 1 finished, 1 running, 1 queued, 1 lost, 1 failed, 2 stopped, "
        "5 new, 1 damaged\n"
        # 258 epochs of 12 / 18 minutes, and the 26 minutes of lr_low.
        "about 3.3 h of training left, at the pace of the finished runs\n"
    )


def test_status_tells_a_job_that_is_gone(several, squeue):
    squeue(f"echo '{squeue_line('123_1', 'RUNNING')}'")
    done = run_batch("--status", "--runs_dir", several, "--filter", "balance_weighted")
    assert "  job 123_0 is gone from the queue\n" in done.stdout
    assert done.stdout.endswith("\n1 run: 1 lost\n")


def test_status_takes_filters_and_seeds_as_the_plan_does(several, capsys):
    command = ["--status", "--runs_dir", str(several), "--configs", f"{ROOT}/configs"]
    assert batch.main([*command, "--filter", "loss_", "--seeds", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line.split()[0] for line in lines if "/seed_" in line]
    assert names == ["loss_focal/seed_42", "loss_focal/seed_43", "loss_mine/seed_7"]
    assert lines[-1] == "3 runs: 1 failed, 1 stopped, 1 new"


def test_status_keeps_to_the_width_and_shows_no_control_characters(several, capsys):
    runs.note_failure(several / "aug_none/seed_42", "red \x1b[31m " + 30 * "long ")
    begin(several / ("x" * 60) / "seed_1")
    script = (
        "from pathlib import Path; import sys; from rich.console import Console\n"
        "from fer_jax.batch import plan, status\n"
        "console = Console(width=80, highlight=False, markup=False)\n"
        "configs = plan.find_configs(Path('configs'), [])\n"
        "status.show_status(console, configs, 1, Path(sys.argv[1]), [])\n"
        "heavy = {'jax', 'pandas', 'scipy', 'grain'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, several],
        env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert r"red \x1b[31m long" in done.stdout
    assert "\x1b" not in done.stdout


def test_neither_command_imports_what_is_heavy():
    script = (
        "import sys; from fer_jax.batch import cli as batch\n"
        "batch.main(['--status', '--runs_dir', 'nowhere'])\n"
        "heavy = {'jax', 'pandas', 'scipy', 'grain', 'plotly'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("\n12 runs: 12 new\n")


def test_collect_compares_what_is_finished(tmp_path, capsys):
    fake_runs.write(tmp_path, fake_runs.make_result("baseline", 42))
    command = ["--collect", "--runs_dir", str(tmp_path)]
    command += ["--configs", str(ROOT / "configs"), "--filter", "baseline"]
    assert batch.main([*command, "--seeds", "2"]) == 0
    told = capsys.readouterr().out
    assert told.startswith(
        "1 of 2 planned runs are finished; missing: baseline/seed_43\n"
    )
    assert "Comparison on val: 1 run of 1 experiment" in told
    assert batch.main(command) == 0
    assert capsys.readouterr().out.startswith("1 of 1 planned runs are finished\n")


def test_collect_with_nothing_finished_is_status_1(tmp_path, capsys):
    command = ["--collect", "--runs_dir", str(tmp_path)]
    command += ["--configs", str(ROOT / "configs"), "--seeds", "2"]
    assert batch.main(command) == 1
    told = " ".join(capsys.readouterr().out.split())
    assert told.startswith("0 of 24 planned runs are finished; missing: ")
    assert told.endswith(" and 4 more, see --status")
    assert list(tmp_path.iterdir()) == []


def test_collect_without_a_runs_folder_is_one_sentence(tmp_path, capsys):
    command = ["--collect", "--runs_dir", str(tmp_path / "run")]
    command += ["--configs", str(ROOT / "configs")]
    assert run_command(lambda: batch.main(command)) == 2
    told = capsys.readouterr()
    assert f"the runs folder {tmp_path / 'run'} does not exist" in told.err
    assert told.err.count("\n") == 1
    assert told.out == ""


@pytest.mark.parametrize(
    ("flags", "refused"),
    [
        (["--status", "--force"], "--force"),
        (["--collect", "--dry_run"], "--dry_run"),
        (["--collect", "--status"], "--status"),
    ],
)
def test_flags_that_make_no_sense_together_are_refused(flags, refused, capsys):
    assert run_command(lambda: batch.main(flags)) == 2
    error = capsys.readouterr().err
    assert f"starts no run, so it excludes {refused}" in error
    assert error.count("\n") == 1
