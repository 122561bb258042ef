"""What a job does, with children that only pretend to train."""

import json
import pickle
import signal
import subprocess
import sys
import time

import pytest
from conftest import environment

from fer_jax import runs
from fer_jax.batch.slurm import job as slurm_job
from fer_jax.batch.slurm.job import JobRun, Pack
from fer_jax.errors import UserError
from fer_jax.runs import lock
from fer_jax.system import files

OURS = "12_3"


@pytest.fixture(autouse=True)
def job(monkeypatch):
    """We are job 12_3, and do not wait long for files."""
    for name, value in {
        "SUBMITIT_EXECUTOR": "slurm",
        "SLURM_JOB_ID": "15",
        "SLURM_ARRAY_JOB_ID": "12",
        "SLURM_ARRAY_TASK_ID": "3",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("SLURM_PROCID", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    for name in ("REGISTERED_S", "HELD_S", "POLL_S"):
        monkeypatch.setattr(slurm_job, name, 0.05)


@pytest.fixture
def run(tmp_path):
    """Makes a run of some Python code, registered for a job."""

    def make(name, code, job_id=OURS):
        folder = tmp_path / name
        folder.mkdir()
        record = {"id": job_id, "time": 1.0, "attempt": 1, "log": "", "state": ""}
        files.write_json(folder / runs.JOB, record)
        code = (
            f"import os, pathlib, sys\nfolder = pathlib.Path({str(folder)!r})\n{code}"
        )
        return JobRun(name, folder, (sys.executable, "-c", code))

    return make


DONE = "(folder / 'result.json').write_text('{}')"
FAILS = "sys.exit('error: the loss is nan')"


def status(pack):
    with pytest.raises(SystemExit) as ended:
        pack()
    return ended.value.code


def test_runs_are_done_one_after_the_other_past_a_failure(run, capfd):
    todo = [run("a", DONE), run("b", FAILS), run("c", DONE)]
    assert status(Pack(todo)) == 1
    assert [runs.is_finished(each.folder) for each in todo] == [True, False, True]
    assert runs.failure(todo[1].folder) == "the loss is nan"
    assert "the loss is nan" in capfd.readouterr().err  # in the log, too


def test_a_job_that_begins_again_does_what_is_left(run):
    again = "(folder / 'again').touch()"
    todo = [run("a", again), run("b", again), run("c", DONE)]
    (todo[0].folder / runs.RESULT).write_text("{}")
    runs.note_failure(todo[1].folder, "as before")
    assert status(Pack(todo)) == 1
    assert not (todo[0].folder / "again").exists()
    assert not (todo[1].folder / "again").exists()
    assert runs.is_finished(todo[2].folder)


def test_a_run_of_another_job_is_left_to_it(run, capsys):
    todo = [run("a", DONE, job_id="99"), run("b", DONE)]
    Pack(todo)()
    assert not runs.is_finished(todo[0].folder)
    assert runs.is_finished(todo[1].folder)
    assert "a: not a run of this job" in capsys.readouterr().out


def test_slurms_variables_reach_the_run(run):
    each = run("a", "(folder / 'seen').write_text(os.environ['SLURM_ARRAY_TASK_ID'])")
    Pack([each])()
    assert (each.folder / "seen").read_text() == "3"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2, signal.SIGKILL])
def test_what_a_signal_ended_has_not_failed_and_ends_the_job(run, number):
    kills = f"os.kill(os.getpid(), {int(number)})"
    todo = [run("a", kills), run("b", DONE)]
    assert status(Pack(todo)) == 128 + number
    assert runs.failure(todo[0].folder) is None
    assert not runs.is_finished(todo[1].folder)


def test_a_crash_is_a_failure(run):
    each = run("a", f"os.kill(os.getpid(), {int(signal.SIGABRT)})")
    assert status(Pack([each])) == 128 + signal.SIGABRT
    assert runs.failure(each.folder) == "killed by SIGABRT"


def test_another_process_of_the_run_leaves_a_stop_to_the_first(run, monkeypatch):
    monkeypatch.setenv("SLURM_PROCID", "1")
    each = run("a", f"os.kill(os.getpid(), {int(signal.SIGUSR2)})")
    Pack([each])()  # no bad status: it would end the first before it has requeued
    assert runs.failure(each.folder) is None
    failing = run("b", FAILS)
    assert status(Pack([failing])) == 1  # and this ends all of them


@pytest.mark.parametrize("code", ["sys.exit(75)", "os.kill(os.getpid(), 6)"])
def test_what_another_process_of_the_run_left_alone_is_lost(run, monkeypatch, code):
    monkeypatch.setenv("SLURM_NTASKS", "2")
    each = run("a", code)
    assert status(Pack([each])) in (75, 128 + 6)
    assert runs.failure(each.folder) is None


def test_a_folder_in_use_is_no_failure(run):
    each = run("a", FAILS)
    with lock.locked(each.folder):
        assert status(Pack([each])) == 1
    assert runs.failure(each.folder) is None


# A process as submitit makes it: its signal calls `checkpoint`, then the process ends.
REQUEUED = """
import pickle, signal, sys
from fer_jax.batch.slurm import job as slurm_job
with open(sys.argv[1], "rb") as file:
    pack = pickle.load(file)
def requeue(*_):
    again = pack.checkpoint()
    assert pickle.loads(pickle.dumps(again)).function.runs == pack.runs
    print("requeued", flush=True)
    sys.exit(255)
signal.signal(signal.SIGUSR2, requeue)
pack()
"""
TRAINS = """
import signal, time
def save(*_):
    time.sleep(0.5)
    (folder / "saved").touch()
    sys.exit(128 + 15)
signal.signal(signal.SIGTERM, save)
(folder / "trains").touch()
time.sleep(60)
"""


def test_submitits_signal_waits_until_the_run_has_saved(run, tmp_path):
    each = run("a", TRAINS)
    (tmp_path / "pack.pkl").write_bytes(pickle.dumps(Pack([each])))
    with subprocess.Popen(
        [sys.executable, "-c", REQUEUED, tmp_path / "pack.pkl"],
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        deadline = time.monotonic() + 60
        while not (each.folder / "trains").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGUSR2)
        output = process.communicate(timeout=60)[0]
    assert process.returncode == 255
    assert output.splitlines()[-1] == "requeued"
    assert (each.folder / "saved").exists()
    assert runs.failure(each.folder) is None


# What `REQUEUED` is in one process: the signal comes while the run is under way.
BEGINS = "import time; (folder / 'began').touch(); time.sleep(60)"


def requeued(pack, monkeypatch):
    """Lets a pack train until its run has begun, and requeues it as submitit does."""

    def signalled(process):
        folder = pack.runs[0].folder
        while not (folder / "began").exists():
            time.sleep(0.01)
        (folder / "began").unlink()
        monkeypatch.setattr(slurm_job, "_await_end", real)
        again.append(pickle.dumps(pack.checkpoint().function))
        raise SystemExit

    again, real = [], slurm_job._await_end
    monkeypatch.setattr(slurm_job, "_await_end", signalled)
    with pytest.raises(SystemExit):
        pack()
    return pickle.loads(again[0])


def test_a_run_that_is_requeued_without_a_step_fails(run, monkeypatch):
    each = run("a", BEGINS)
    pack = Pack([each, run("b", DONE)])
    for _ in range(2):
        pack = requeued(pack, monkeypatch)
    assert runs.failure(each.folder) is None
    pack = requeued(pack, monkeypatch)
    assert "requeued 3 times in a row and it took no" in runs.failure(each.folder)
    assert "give more --time, enough" in runs.failure(each.folder)
    assert status(pack) == 1  # and the next run has its turn
    assert runs.is_finished(pack.runs[1].folder)


@pytest.mark.parametrize(
    "steps",
    ["len(list(folder.glob('checkpoints/*')))", "0"],
    ids=["a step each time", "an epoch each time"],
)
def test_a_run_that_comes_further_is_requeued_any_number_of_times(
    run, monkeypatch, steps
):
    saves = f"""
(folder / "checkpoints" / str({steps} + 1)).mkdir(parents=True, exist_ok=True)
with (folder / "metrics.jsonl").open("a") as file:
    file.write("{{}}\\n" * ({steps} == 0))
"""
    pack = Pack([run("a", saves + BEGINS)])
    for _ in range(5):
        pack = requeued(pack, monkeypatch)
    assert runs.failure(pack.runs[0].folder) is None


def test_job_json_that_is_damaged_is_told(run):
    each = run("a", DONE)
    (each.folder / runs.JOB).write_text(json.dumps({"id": "12"}))
    with pytest.raises(UserError, match="job.json cannot be read"):
        runs.read_job(each.folder)
