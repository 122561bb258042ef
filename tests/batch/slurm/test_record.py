"""What a batch on one machine leaves to the jobs of a cluster."""

import io

import pytest
from conftest import ROOT
from rich.console import Console

from fer_jax import config, runs
from fer_jax.batch import cli as batch
from fer_jax.batch import local
from fer_jax.batch.arguments import parse
from fer_jax.batch.estimate import Estimator
from fer_jax.batch.log import BatchLog
from fer_jax.batch.plan import PlannedRun
from fer_jax.batch.slurm import queue as slurm_queue
from fer_jax.batch.slurm import record as slurm_record
from fer_jax.batch.slurm.queue import QueuedJob, QueueError
from fer_jax.runs.lock import claim


@pytest.fixture
def job(tmp_path):
    """A run that job 12_3 was submitted for."""
    loaded = config.load(ROOT / "configs/baseline.yaml")
    folder = tmp_path / "baseline/seed_42"
    folder.mkdir(parents=True)
    slurm_record.write(folder, "12_3", tmp_path / "log", 1)
    return PlannedRun(ROOT / "configs/baseline.yaml", loaded, folder)


@pytest.fixture
def squeue(monkeypatch):
    """Has squeue show a state, not answer (""), or be absent (None)."""

    def shows(state):
        def queue(*, everyones):
            assert everyones  # another person's job has the run no less
            if not state:
                raise QueueError("squeue: Unable to contact slurm controller")
            return {"12_3": QueuedJob(state)}

        where = {} if state is None else {"squeue": "/bin/squeue"}
        monkeypatch.setattr(slurm_record.shutil, "which", where.get)
        monkeypatch.setattr(slurm_queue, "query_queue", queue)

    return shows


@pytest.mark.parametrize("state", ["PENDING", "RUNNING", "", None])
def test_a_run_has_a_job_while_it_may_live(job, squeue, state):
    squeue(state)
    assert slurm_record.active_jobs([job.folder]) == {job.folder: "12_3"}


@pytest.mark.parametrize("state", ["CANCELLED", "NODE_FAIL"])
def test_a_job_that_is_over_has_no_run(job, squeue, state):
    squeue(state)
    assert slurm_record.active_jobs([job.folder]) == {}


def test_a_run_that_is_settled_or_never_had_a_job_is_free(job, squeue, tmp_path):
    squeue(None)
    runs.note_failure(job.folder, "the loss is not finite")
    assert slurm_record.active_jobs([job.folder, tmp_path / "none"]) == {}
    runs.clear(job.folder)
    slurm_record.record_end(job.folder, "cancelled")
    assert slurm_record.active_jobs([job.folder]) == {}


def test_how_to_free_a_run_is_told(squeue):
    squeue("RUNNING")
    jobs = {"a/seed_1": "12", "b/seed_1": "13"}
    assert slurm_record.left_to_jobs(jobs) == (
        "left to jobs of a cluster: a/seed_1 (job 12), b/seed_1 (job 13); scancel "
        "12 13 frees them, and --executor slurm watches them"
    )
    squeue(None)
    assert (
        "scancel 12 13 and removing their job.json frees"
        in slurm_record.left_to_jobs(jobs)
    )


def test_the_plan_shows_what_is_queued(job):
    console = Console(file=io.StringIO(), width=200)
    console.print(batch._plan_table([job], {job.folder: "12_3"}, force=False))
    assert "new, queued (job 12_3)" in console.file.getvalue()


def test_a_local_batch_does_not_train_what_was_submitted_meanwhile(
    job, squeue, tmp_path
):
    squeue("PENDING")
    console = Console(file=io.StringIO(), width=200)
    args = parse(["--runs_dir", str(tmp_path), "--force"])
    log = BatchLog(console, tmp_path, 1)
    made = local.LocalBatch(args, log, [job], Estimator(tmp_path, {}))
    assert made._claim_next() is None
    assert made.left == []
    assert "left to jobs of a cluster: baseline/seed_42" in console.file.getvalue()
    assert claim(job.folder)  # nobody has it
