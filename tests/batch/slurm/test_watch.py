"""What a batch makes of its jobs' ends, with a queue that pretends to be SLURM's."""

import dataclasses
import io
import json
import signal
import time
from pathlib import Path

import pytest
from conftest import ROOT
from rich.console import Console

from fer_jax import config, runs
from fer_jax.batch.arguments import parse
from fer_jax.batch.log import BatchLog
from fer_jax.batch.plan import PlannedRun, with_seed
from fer_jax.batch.slurm import queue as slurm_queue
from fer_jax.batch.slurm import record as slurm_record
from fer_jax.batch.slurm import submit as slurm_submit
from fer_jax.batch.slurm import watch as slurm
from fer_jax.batch.slurm.job import Pack
from fer_jax.batch.slurm.queue import QueuedJob, QueueError
from fer_jax.batch.slurm.watch import SlurmBatch
from fer_jax.errors import UserError
from fer_jax.runs import lock
from fer_jax.system import files

BASELINE = ROOT / "configs/baseline.yaml"


@pytest.fixture
def jobs(tmp_path):
    """Three runs, of which none has begun."""
    loaded = config.load(BASELINE)
    made = []
    for seed in (1, 2, 3):
        own = with_seed(loaded, seed - loaded.training.seed)
        folder = tmp_path / f"baseline/seed_{seed}"
        made.append(PlannedRun(BASELINE, own, folder))
    return made


class Queue:
    """A scheduler of which the test says what becomes of the jobs, as they come.

    `ends[n]` is what the n-th job does: it writes files, and returns its state or
    what the queue shows, or None if it stays in the queue.
    """

    def __init__(self, *ends):
        self.ends, self.packs, self.states = list(ends), [], {}

    def submit(self, packs, args, parameters):
        found, folder = [], Path(args.runs_dir)
        for pack in packs:
            self.packs.append([run.label for run in pack])
            number = str(len(self.packs))
            job = Pack([slurm_submit.job_run(run, args, folder) for run in pack])
            self.states[number] = (self.ends.pop(0), job)
            found.append((number, folder / f"log_{number}"))
        return found

    def queue(self, **_):
        entries = {}
        for number, (end, pack) in self.states.items():
            state = end(pack) if callable(end) else end
            if state != "forgotten":
                is_entry = isinstance(state, QueuedJob)
                running = QueuedJob(state or "RUNNING", 0, "node1", "None")
                entries[number] = state if is_entry else running
        return entries


def finish(pack):
    for run in pack.runs:
        run.folder.mkdir(parents=True, exist_ok=True)
        (run.folder / "result.json").write_text("{}")
    return "COMPLETED"


def finish_the_first(pack):
    finish(type(pack)(pack.runs[:1]))
    return "FAILED"


@pytest.fixture
def batch(monkeypatch, tmp_path):
    """Runs a batch to its end; returns its status and what it printed."""
    for name in ("FIRST_PAUSE_S", "LAST_PAUSE_S", "LAG_S"):
        monkeypatch.setattr(slurm, name, 0.01)

    def run(queue, jobs, *flags):
        monkeypatch.setattr(slurm, "submit", queue.submit)
        monkeypatch.setattr(slurm_queue, "query_queue", queue.queue)
        flags = ["--executor", "slurm", "--runs_dir", str(tmp_path), *flags]
        console = Console(file=io.StringIO(), width=1000)
        log = BatchLog(console, tmp_path, len(jobs))
        status = SlurmBatch(parse(flags), log, jobs, {}).run()
        return status, console.file.getvalue()

    return run


def events(tmp_path):
    lines = (tmp_path / "batch_log.jsonl").read_text().splitlines()
    return [(e["run"][-1], e["event"]) for e in map(json.loads, lines)]


def test_lost_jobs_are_submitted_again_without_what_they_finished(
    batch, jobs, tmp_path
):
    queue = Queue(finish_the_first, "NODE_FAIL", finish)
    status, said = batch(queue, jobs, "--pack", "3")
    assert status == 0, said
    labels = [job.label for job in jobs]
    assert queue.packs == [labels, labels[1:], labels[1:]]
    assert "lost: baseline/seed_2, baseline/seed_3 (job 2 ended: NODE_FAIL" in said
    assert runs.read_job(jobs[0].folder)["attempt"] == 1
    assert runs.read_job(jobs[2].folder)["attempt"] == 3
    assert [each for each in events(tmp_path) if each[0] == "3"] == [
        ("3", "submitted"),
        ("3", "resubmitted"),
        ("3", "resubmitted"),
        ("3", "finished"),
    ]


@pytest.mark.parametrize("state", ["FAILED", "COMPLETED", "TIMEOUT", "forgotten"])
def test_a_job_is_lost_a_few_times_only(batch, jobs, state):
    status, said = batch(Queue(*[state] * 3), jobs[:1])
    assert status == 1
    record = runs.read_job(jobs[0].folder)
    assert record["attempt"] == 3
    assert record["state"].startswith("ended: failed: its job was lost 3 times (job 3")
    assert "/log_3); run the same command again" in runs.failure(jobs[0].folder)
    assert "1 of 1 runs failed" in said
    assert batch(Queue(state), jobs[:1], "--retries", "0")[0] == 1  # typed again


def test_memory_that_does_not_suffice_is_no_reason_to_try_again(batch, jobs):
    queue = Queue("OUT_OF_MEMORY", finish)
    status, said = batch(queue, jobs[:2], "--pack", "2")
    assert status == 1
    assert queue.packs == [["baseline/seed_1", "baseline/seed_2"], ["baseline/seed_2"]]
    error = runs.failure(jobs[0].folder)
    assert "the job ran out of memory (job 1 ended: OUT_OF_MEMORY" in error
    assert "--slurm mem=..., or lower training.batch_size" in error
    assert runs.is_finished(jobs[1].folder)


def test_a_run_that_is_always_killed_fails_none_behind_it(batch, jobs):
    """Attempts are those of the run that was under way."""
    queue = Queue("FAILED", "FAILED", "FAILED", finish_the_first, "FAILED", finish)
    status, said = batch(queue, jobs, "--pack", "3")
    labels = [job.label for job in jobs]
    assert queue.packs == [labels] * 3 + [labels[1:]] + [labels[2:]] * 2
    assert status == 1
    assert "1 of 3 runs failed: baseline/seed_1;" in said
    assert runs.failure(jobs[0].folder).startswith("its job was lost 3 times (job 3")
    assert runs.read_job(jobs[2].folder)["attempt"] == 3


def waits_and_vanishes(restarts=0):
    """A job that waits when it is first looked at, and then has no record."""
    seen = []

    def end(pack):
        seen.append(pack)
        return "forgotten" if len(seen) > 1 else QueuedJob("PENDING", restarts)

    return end


def test_a_waiting_job_that_vanishes_was_cancelled(batch, jobs, tmp_path):
    queue = Queue(waits_and_vanishes(), finish)
    status, said = batch(queue, jobs[:2])
    assert (status, len(queue.packs)) == (1, 2)
    assert "1 of 2 runs cancelled: baseline/seed_1" in said
    # That one had run before, or has begun since: its record is only too old.
    again = Queue(waits_and_vanishes(restarts=1), finish)
    assert batch(again, jobs[:1])[0] == 0
    assert len(again.packs) == 2
    (jobs[2].folder.parents[1] / "log_1").touch()
    begun = Queue(waits_and_vanishes(), finish)
    assert batch(begun, jobs[2:])[0] == 0
    assert len(begun.packs) == 2


def test_cancelled_jobs_are_not_submitted_again(batch, jobs):
    queue = Queue("CANCELLED", finish)
    status, said = batch(queue, jobs[:2])
    assert status == 1
    assert len(queue.packs) == 2
    assert runs.read_job(jobs[0].folder)["state"] == "ended: cancelled"
    assert "1 of 2 runs cancelled: baseline/seed_1" in said
    assert batch(Queue(finish), jobs[:1])[0] == 0  # but they are when asked for


def test_a_failure_is_the_runs_own(batch, jobs, tmp_path):
    def fails(pack):
        runs.note_failure(pack.runs[0].folder, "the loss is not finite")
        return "FAILED"

    status, said = batch(Queue(fails), jobs[:1])
    assert status == 1
    assert "failed: baseline/seed_1 (job 1): the loss is not finite" in said
    assert events(tmp_path) == [("1", "submitted"), ("1", "failed")]


def settings_of(run):
    command = run.command
    return config.load(command[command.index("--resolved") + 1])


def test_jobs_train_what_was_planned(batch, jobs, tmp_path):
    """Each attempt does, whatever has become of the YAML file by then."""
    path = tmp_path / "changed.yaml"
    path.write_text("name: changed\n")
    planned = [dataclasses.replace(job, path=path) for job in jobs]

    def trains(pack):
        seen.append(settings_of(pack.runs[0]))
        return finish(pack)

    seen = []
    queue = Queue("NODE_FAIL", trains, trains, trains)
    assert (batch(queue, planned)[0], len(queue.packs)) == (0, 4)
    assert {each.training.seed: each for each in seen} == {
        job.config.training.seed: job.config for job in jobs
    }


def test_what_is_blocked_is_not_submitted(batch, jobs, tmp_path):
    blocked = dataclasses.replace(jobs[0], state="blocked", reason="holds another run")
    queue = Queue(finish)
    status, said = batch(queue, [blocked, jobs[1]])
    assert (status, queue.packs) == (1, [["baseline/seed_2"]])
    assert "failed: baseline/seed_1: holds another run" in said
    assert not (blocked.folder / "failed.json").exists()  # the folder is another's


def test_force_clears_once_and_after_the_submission(batch, jobs):
    folder = jobs[0].folder
    folder.mkdir(parents=True)
    (folder / "result.json").write_text("{}")
    (folder / "config.yaml").write_text("old")

    class Refuses(Queue):
        def submit(self, *_):
            raise UserError("SLURM does not take 1 jobs")

    with pytest.raises(UserError):
        batch(Refuses(), jobs[:1], "--force")
    assert (folder / "config.yaml").exists()

    def half_done(pack):
        assert "--force" not in pack.runs[0].command
        (folder / "config.yaml").write_text("new")
        return "NODE_FAIL"

    def goes_on(pack):
        assert (folder / "config.yaml").read_text() == "new"
        return finish(pack)

    assert batch(Queue(half_done, goes_on), jobs[:1], "--force")[0] == 0


def test_a_controller_that_is_away_for_a_while(batch, jobs):
    class Away(Queue):
        asked = 0

        def queue(self, **_):
            self.asked += 1
            if 1 < self.asked < 5:
                raise QueueError("squeue: Unable to contact slurm controller")
            return super().queue()

    status, said = batch(Away(finish), jobs[:1])
    assert status == 0
    assert said.count("Unable to contact slurm controller; trying again") == 1


class Full(Queue):
    """Takes the first jobs, and others only when asked for the fourth time."""

    refusals = 0

    def submit(self, *arguments):
        if self.packs and self.refusals < 3:
            self.refusals += 1
            raise UserError("SLURM does not take 1 jobs (QOSMaxSubmitJob)")
        return super().submit(*arguments)


def test_a_submission_that_is_refused_later_is_tried_again(batch, jobs):
    queue = Full("NODE_FAIL", finish)
    status, said = batch(queue, jobs[:1])
    assert (status, queue.refusals) == (0, 3)
    assert said.count("QOSMaxSubmitJob") == said.count("lost:") == 1


def test_memory_is_charged_once_while_the_rest_is_refused(batch, jobs):
    status, said = batch(Full("OUT_OF_MEMORY", finish), jobs, "--pack", "3")
    assert status == 1
    assert "1 of 3 runs failed: baseline/seed_1;" in said


def test_what_cannot_be_written_after_a_submission_ends_nothing(
    batch, jobs, monkeypatch, tmp_path
):
    """The log's place is taken, and the disk is full when a job is to be noted."""
    (tmp_path / "batch_log.jsonl").mkdir()
    write, refused = files.write_json, []

    def is_full(path, value):
        if path.name == runs.JOB and not refused:
            refused.append(path)
            raise OSError(28, "No space left on device")
        write(path, value)

    def leaves_the_first(pack):
        finish(type(pack)(pack.runs[1:]))
        return "COMPLETED"

    monkeypatch.setattr(files, "write_json", is_full)
    queue = Queue(leaves_the_first, finish)
    status, said = batch(queue, jobs[:2], "--pack", "2")
    assert status == 0, said
    assert queue.packs == [[job.label for job in jobs[:2]], [jobs[0].label]]
    assert said.count("batch_log.jsonl cannot be written") == 1
    assert "No space left on device; job 1 leaves baseline/seed_1" in said


def test_runs_are_claimed_until_they_have_an_outcome(batch, jobs):
    """A second batch does nothing with them, and takes them up if the first dies."""
    first, second = (job.folder for job in jobs[:2])

    def look(pack):
        claimed.append([lock.claim(folder) is not None for folder in (first, second)])
        return finish(pack) if len(claimed) > 3 else None

    claimed = []
    assert batch(Queue(finish, look), jobs[:2])[0] == 0
    assert claimed[0] == [False, False]
    assert claimed[2] == [True, False]


def test_a_signal_leaves_the_jobs_in_the_queue(batch, jobs, monkeypatch):
    monkeypatch.setattr(slurm.sys.stdin, "isatty", lambda: False, raising=False)

    def stops(pack):
        signal.raise_signal(signal.SIGTERM)

    status, said = batch(Queue(stops), jobs[:1])
    assert status == 128 + signal.SIGTERM
    assert "its 1 jobs stay in the queue. The same command with --status shows" in said


def test_ctrl_c_that_ends_sbatch_stops_the_batch(batch, jobs):
    class Interrupted(Queue):
        def submit(self, *_):
            signal.raise_signal(signal.SIGINT)
            raise UserError("SLURM does not take 1 jobs")

    status, said = batch(Interrupted(), jobs[:1])
    assert status == 128 + signal.SIGINT
    assert "batch stopped; the same command" in said


def test_a_run_that_another_batch_submitted_meanwhile_is_followed(
    batch, jobs, monkeypatch
):
    """The other one has the claim when we begin, and a job for the run when it ends."""
    folder = jobs[0].folder
    held = lock.claim(folder)

    class Theirs(Queue):
        def queue(self, **_):
            if not held.closed:
                record = {"id": "77", "time": time.time(), "attempt": 1, "log": ""}
                files.write_json(folder / "job.json", record | {"state": "submitted"})
                held.close()
                return {}
            (folder / "result.json").write_text("{}")
            return {"77": QueuedJob("COMPLETED")}

    queue = Theirs()
    status, said = batch(queue, jobs[:1])
    assert (status, queue.packs) == (0, [])
    assert "finished: baseline/seed_1 (job 77)" in said


@pytest.mark.parametrize("how", ["finished", "cancelled", "failed: the loss is nan"])
def test_an_outcome_in_another_batch_is_believed(batch, jobs, how):
    """The other one watches the job when we begin, and records the outcome."""
    folder = jobs[0].folder
    held = lock.claim(folder)
    slurm_record.write(folder, "77", "log", 1)

    class Theirs(Queue):
        def queue(self, **_):
            if not held.closed:
                slurm_record.record_end(folder, how)
                if how == "finished":
                    (folder / "result.json").write_text("{}")
                held.close()
            return {}

    queue = Theirs()
    status, said = batch(queue, jobs[:1])
    assert (status, queue.packs) == (how != "finished", [])
    assert f"baseline/seed_1: {how.split(':')[0]} in another process" in said
