"""Batches on a SLURM cluster of two nodes, which lives as long as this file's tests."""

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from conftest import ROOT, environment, write_tiny_configs
from same_run import assert_same_run
from slurm.cluster import cluster, missing

from fer_jax import config, runs
from fer_jax.batch.arguments import parse
from fer_jax.batch.slurm import options as slurm_options
from fer_jax.batch.slurm.job import JobRun, Pack
from fer_jax.batch.slurm.submit import FOLDER, new_folder, submit_packs
from fer_jax.errors import UserError
from fer_jax.system import files
from fer_jax.training.run import train

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing()), reason=missing()),
]
WIDE = {"COLUMNS": "160"}
# What a shell may hold that is itself in a task of a job, and would break the batch's.
OF_AN_ALLOCATION = {
    "SLURM_ARRAY_JOB_ID": "1",
    "SLURM_ARRAY_TASK_ID": "7",
    "SLURM_MEM_PER_CPU": "100",
    "SLURM_MEM_PER_NODE": "100",
    "SBATCH_PARTITION": "none",
    "SBATCH_TIMELIMIT": "1",
    "SQUEUE_PARTITION": "urgent",
}
NEVER = "begin=now+1hour"  # a job that stays in the queue


@pytest.fixture(scope="module", autouse=True)
def slurm():
    with cluster() as environment, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", environment["SLURM_CONF"])
        yield


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    """A short experiment, one that can be met in the middle, and one that fails."""
    folder = tmp_path_factory.mktemp("configs")
    changes = {"long": {"epochs": 40}, "huge": {"batch_size": 4096}}
    changes = {name: {"training": change} for name, change in changes.items()}
    return write_tiny_configs(folder, changes, epochs=2, patience=0)


@pytest.fixture
def command(configs, tiny_csv, tmp_path):
    """The start of a batch's command line; its runs go to `tmp_path`."""
    options = ["--configs", configs, "--data_root", tiny_csv, "--yes"]
    options += ["--runs_dir", tmp_path, "--executor", "slurm", "--time", "30"]
    return [sys.executable, ROOT / "bin/run_batch", *options]


def flat(text):
    """What was printed, without the line breaks that the terminal's width makes."""
    return " ".join(text.split())


def finish(command, *further, **variables):
    return subprocess.run(
        [*command, *further],
        env=environment() | WIDE | variables,
        capture_output=True,
        text=True,
        timeout=300,
        stdin=subprocess.DEVNULL,
    )


@contextlib.contextmanager
def begun(command, *further, **options):
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE} | options
    with subprocess.Popen(
        [*command, *further],
        env=environment() | WIDE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def events(runs_dir):
    try:
        lines = (runs_dir / "batch_log.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return []
    return [(e["run"], e["event"]) for e in map(json.loads, lines)]


def wait_until(is_so, process=None, seconds=200):
    deadline = time.monotonic() + seconds
    while not is_so():
        assert process is None or process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def job_of(folder):
    return json.loads((folder / "job.json").read_text())


def squeue(*options):
    asked = subprocess.run(["squeue", "-h", *options], capture_output=True, text=True)
    return asked.stdout.split()


def kill_processes(folder):
    """Kills what a job runs on its node, all at once, as a node that dies does."""
    seed = folder.name.removeprefix("seed_")
    told = {"fer_jax.train", str(folder.parents[1]), seed}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it may have ended meanwhile
            arguments = path.read_text().split("\0")
            if told < set(arguments) and f"{folder.parent.name}.yaml" in arguments[3]:
                parent = int((path.parent / "stat").read_text().split()[3])
                for number in (parent, int(path.parent.name)):
                    os.kill(number, signal.SIGKILL)
                return
    raise AssertionError(f"no process trains {folder}")


@pytest.fixture(scope="module")
def alone(configs, tiny_csv, tmp_path_factory):
    """The same runs without a cluster; the jobs find what is compiled for them."""
    folder = tmp_path_factory.mktemp("alone")
    for name in ("baseline", "long"):
        for seed in (42, 43, 44):
            own = config.load(configs / f"{name}.yaml", [f"training.seed={seed}"])
            train(own, data_root=str(tiny_csv), runs_dir=folder)
    return folder


def test_runs_survive_what_befalls_their_jobs(command, alone, tiny_csv, tmp_path):
    what = ["--filter", "base", "--filter", "long", "--seeds", "3"]
    labels = [f"{name}/seed_{n}" for n in (42, 43, 44) for name in ("baseline", "long")]
    stopped, requeued, killed = (tmp_path / f"long/seed_{n}" for n in (42, 43, 44))
    scancel = ["scancel", "--signal=USR2"]
    strikes = {
        stopped: lambda: subprocess.run([*scancel, job_of(stopped)["id"]]),
        requeued: lambda: subprocess.run(
            ["scontrol", "requeue", job_of(requeued)["id"]]
        ),
        killed: lambda: kill_processes(killed),
    }
    printed = tmp_path / "second.txt"
    with printed.open("w") as file, begun(command, *what) as batch:
        wait_until(lambda: len(events(tmp_path)) >= 6, batch)
        with begun(command, *what, stdout=file) as second:  # the same command
            told = "waiting: another batch has long/seed_44"
            wait_until(lambda: told in printed.read_text(), batch)
            while strikes:
                wait_until(lambda: any(map(runs.epochs_done, strikes)), batch)
                for folder in [each for each in strikes if runs.epochs_done(each)]:
                    strikes.pop(folder)()
            output = batch.communicate(timeout=300)[0]
            second.wait(timeout=300)
    print(output)  # what a person would have seen
    outputs = [flat(output), flat(printed.read_text())]
    assert (batch.returncode, second.returncode) == (0, 0), "\n".join(outputs)

    told = Counter(events(tmp_path))
    for label in labels:
        assert told[label, "submitted"] == 1
        assert told[label, "finished"] == 1
        assert job_of(tmp_path / label)["state"] == "ended: finished"
        assert_same_run(alone / label, tmp_path / label, tiny_csv)
    assert told["long/seed_44", "resubmitted"] == 1
    assert sum(count for (_, event), count in told.items() if event[:3] == "res") == 1
    assert job_of(killed)["attempt"] == 2
    for label in ("long/seed_42", "long/seed_43"):
        assert f"requeued: {label}" in outputs[0]
        assert job_of(tmp_path / label)["attempt"] == 1
    assert "Comparison on val: 6 runs of 2 experiments" in outputs[0]
    # The short runs may be over before the second batch has made its plan.
    todo = int(re.search(r"(\d) of 6 runs to do", outputs[1])[1])
    assert outputs[1].count("finished in another process") == todo


def test_a_pack_carries_on_past_a_failure_and_force_repeats_it(command, tmp_path):
    what = ["--filter", "base", "--filter", "huge", "--pack", "2", "--order", "name"]
    first = finish(command, *what, **OF_AN_ALLOCATION)
    assert first.returncode == 1, first.stderr
    assert "ignored: SBATCH_PARTITION, SBATCH_TIMELIMIT of this" in flat(first.stdout)
    assert "submitted: baseline/seed_42, huge/seed_42 (job " in flat(first.stdout)
    assert "failed: huge/seed_42 (job " in flat(first.stdout)
    assert "training.batch_size is 4096" in flat(first.stdout)
    before = (tmp_path / "baseline/seed_42/result.json").stat().st_mtime_ns
    assert squeue() == []

    again = finish(command, "--filter", "base", "--force")
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "baseline/seed_42/result.json").stat().st_mtime_ns > before
    assert [event for _, event in events(tmp_path)].count("finished") == 2


def test_ctrl_c_asks_whether_to_leave_the_jobs(command, tmp_path):
    what = ["--filter", "base", "--seeds", "2", "--slurm", NEVER]
    folders = [tmp_path / f"baseline/seed_{n}" for n in (42, 43)]

    def interrupted(answer, again):
        ours, theirs = pty.openpty()
        with begun(command, *what, stdin=theirs) as batch:
            shown = ""
            while again not in shown:
                shown += batch.stdout.readline()
            batch.send_signal(signal.SIGINT)
            os.write(ours, f"{answer}\n".encode())
            shown += batch.communicate(timeout=60)[0]
        os.close(ours), os.close(theirs)
        assert batch.returncode == 128 + signal.SIGINT, shown
        assert "leave the 2 jobs in the queue? [Y/n]" in shown
        return flat(shown)

    shown = interrupted("", "the output of the jobs")
    number = job_of(folders[0])["id"].split("_")[0]
    assert "its 2 jobs stay in the queue" in shown
    assert f"scancel {number} cancels them" in shown
    assert sorted(squeue("-r", "-o", "%i")) == [f"{number}_0", f"{number}_1"]
    shown = interrupted("n", "watching: baseline/seed_43")
    assert "jobs cancelled" in shown
    assert squeue() == []
    assert [job_of(each)["state"] for each in folders] == ["ended: cancelled"] * 2
    assert Counter(event for _, event in events(tmp_path)) == {
        "submitted": 2,
        "cancelled": 2,
    }


def test_without_a_terminal_jobs_are_left_and_cancelled_ones_stay_so(command, tmp_path):
    what = ["--filter", "base", "--seeds", "2", "--slurm", NEVER]
    labels = [f"baseline/seed_{n}" for n in (42, 43)]
    with begun(command, *what) as batch:
        wait_until(lambda: len(events(tmp_path)) == 2, batch)
        batch.send_signal(signal.SIGTERM)
        output = flat(batch.communicate(timeout=60)[0])
    assert batch.returncode == 128 + signal.SIGTERM
    number = job_of(tmp_path / labels[0])["id"].split("_")[0]
    assert "The same command with --status shows them" in output
    assert f"scancel {number} cancels them" in output
    with begun(command, *what) as batch:
        shown = ""
        for awaited, ended in (
            (f"watching: {labels[1]}", f"{number}_0"),  # SLURM forgets that at once
            (f"cancelled: {labels[0]} (job {number}_0); not submitted again", number),
        ):
            while awaited not in flat(shown):
                assert (line := batch.stdout.readline()), shown
                shown += line
            subprocess.run(["scancel", ended], check=True)
        shown += batch.communicate(timeout=60)[0]
    assert batch.returncode == 1
    assert "2 of 2 runs cancelled: baseline/seed_42, baseline/seed_43" in flat(shown)
    assert events(tmp_path) == [
        (label, event) for event in ("submitted", "cancelled") for label in labels
    ]


def test_retries_have_an_end(command, tmp_path):
    dies = ["--slurm", "setup=kill -9 $$", "--retries", "1"]
    done = finish(command, "--filter", "base", *dies)
    assert done.returncode == 1
    log = job_of(tmp_path / "baseline/seed_42")["log"]
    error = runs.failure(tmp_path / "baseline/seed_42")
    assert error.startswith("its job was lost 2 times (job ")
    assert log in error
    assert [event for _, event in events(tmp_path)] == [
        "submitted",
        "resubmitted",
        "failed",
    ]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--partition", "nope"], "SLURM does not take 1 jobs (invalid partition"),
        (["--slurm", "nodes=9"], "SLURM does not take 1 jobs (Batch job submission"),
        (["--slurm", "no_such_option=1"], "SLURM does not take 1 jobs (unrecognized"),
    ],
)
def test_what_slurm_refuses_is_one_sentence(command, tmp_path, flags, told):
    done = finish(command, "--filter", "base", *flags)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and told in done.stderr
    assert done.stderr.count("\n") == 1
    assert squeue() == []
    assert not list(tmp_path.glob("slurm_jobs/*"))
    assert not list(tmp_path.rglob("job.json"))


def submitted(tmp_path, code, *flags):
    """Has a job of its own run some Python code; returns its id and its log."""
    python = (sys.executable, "-c", code, str(tmp_path))
    args = parse(["--executor", "slurm", *flags])
    parameters = slurm_options.job_parameters(args, has_gpus=False)
    pack = Pack([JobRun("one", tmp_path, python)])
    folder = new_folder(tmp_path / FOLDER)
    ((number, log),) = submit_packs([pack], folder, parameters)
    record = {"id": number, "time": 1.0, "attempt": 1, "log": "", "state": ""}
    files.write_json(tmp_path / runs.JOB, record)
    return number, log


def test_a_preempted_job_saves_and_goes_on(tmp_path):
    code = """
import pathlib, signal, sys, time
saved = pathlib.Path(sys.argv[1], "saved")
if saved.exists():
    saved.with_name("result.json").write_text("{}")
    sys.exit()
def save(number, _):
    time.sleep(1)
    saved.write_text(str(number))
    sys.exit(128 + number)
signal.signal(signal.SIGTERM, save)
saved.with_name("began").touch()
time.sleep(300)
"""
    number, log = submitted(tmp_path, code)
    wait_until((tmp_path / "began").exists, seconds=60)
    subprocess.run(["srun", "-p", "urgent", "-N2", "--exclusive", "true"], check=True)
    assert (tmp_path / "saved").read_text() == str(int(signal.SIGTERM))
    wait_until(lambda: runs.is_finished(tmp_path), seconds=60)
    assert log.read_text().count("training one") == 2  # both attempts, in one file
    wait_until(lambda: not squeue("-j", number), seconds=60)


def test_processes_of_one_run_know_one_another_and_end_together(tmp_path):
    code = """
import os, pathlib, sys, time
rank = os.environ["SLURM_PROCID"]
pathlib.Path(sys.argv[1], f"rank_{rank}").write_text(os.environ["SLURM_NTASKS"])
if rank == "0":
    time.sleep(300)
while not pathlib.Path(sys.argv[1], "rank_0").exists():
    time.sleep(0.05)
sys.exit("error: the second of us fails")
"""
    number, log = submitted(tmp_path, code, "--slurm", "nodes=2")
    wait_until(lambda: not squeue("-j", number), seconds=60)
    assert [(tmp_path / f"rank_{n}").read_text() for n in (0, 1)] == ["2", "2"]
    assert runs.failure(tmp_path) == "the second of us fails"
    assert "the second of us fails" in log.with_name(f"{number}_1_log.out").read_text()


def test_submission_of_nothing_good_leaves_no_file(tmp_path):
    args = parse(["--executor", "slurm", "--slurm", "nodes=9"])
    parameters = slurm_options.job_parameters(args, has_gpus=False)
    with pytest.raises(UserError, match="nothing was submitted"):
        folder = new_folder(tmp_path / FOLDER)
        submit_packs([Pack([]), Pack([])], folder, parameters)
    assert list(tmp_path.glob("slurm_jobs/*")) == []
