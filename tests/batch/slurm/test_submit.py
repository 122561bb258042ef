"""What `sbatch` is given, with one that pretends to be SLURM's."""

import os
import subprocess

import pytest

from fer_jax.batch.slurm import queue as slurm_queue
from fer_jax.batch.slurm import submit as slurm_submit
from fer_jax.batch.slurm.job import Pack
from fer_jax.errors import UserError

PARAMETERS = {"time": 60, "array_parallelism": 10, "setup": []}


def submit(count, runs_dir):
    """Submits jobs without runs."""
    folder = slurm_submit.new_folder(runs_dir / "slurm_jobs")
    return slurm_submit.submit_packs([Pack([])] * count, folder, PARAMETERS)


@pytest.fixture
def sbatch(monkeypatch, tmp_path):
    """Has `sbatch` be some lines of a shell, and returns the runs folder."""

    def make(lines):
        for name, text in {"sbatch": lines, "srun": ""}.items():
            (tmp_path / name).write_text(f"#!/bin/sh\ncd {tmp_path}\n{text}\n")
            (tmp_path / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        return tmp_path / "runs"

    return make


ACCEPTS = "env > seen; echo Submitted batch job 12"


def test_submissions_of_one_second_have_folders_of_their_own(sbatch, monkeypatch):
    runs_dir = sbatch(ACCEPTS)
    monkeypatch.setattr(slurm_submit.time, "strftime", lambda *_: "now")
    ((number, log),) = submit(1, runs_dir)
    sbatch("echo sbatch: error: too many >&2; exit 1")
    with pytest.raises(UserError, match=r"take 1 jobs \(too many\); nothing was"):
        submit(1, runs_dir)
    assert number == "12"
    assert list(runs_dir.glob("slurm_jobs/*")) == [log.parent]
    assert (log.parent / "12_submitted.pkl").exists()
    assert log.parent.stat().st_mode == log.parent.parent.stat().st_mode


def test_several_jobs_are_one_array(sbatch):
    runs_dir = sbatch(ACCEPTS)
    submitted = submit(3, runs_dir)
    assert [number for number, _ in submitted] == ["12_0", "12_1", "12_2"]
    folder = submitted[0][1].parent
    assert len(list(folder.glob("12_*_submitted.pkl"))) == 3
    assert "--array=0-2%3" in (folder / "12_submission.sh").read_text()


OF_THE_SHELL = {
    "SLURM_CONF": "/etc/slurm.conf",
    "SLURM_ARRAY_JOB_ID": "7",
    "SLURM_MEM_PER_CPU": "100",
    "SBATCH_PARTITION": "slow",
    "SQUEUE_PARTITION": "slow",
    "CUDA_VISIBLE_DEVICES": "1",
    "FER_MEMORY_SHARE": "0.5",
    "JAX_PLATFORMS": "cpu",
}


@pytest.fixture
def shell(monkeypatch):
    for name, value in OF_THE_SHELL.items():
        monkeypatch.setenv(name, value)


def test_variables_of_the_shell_are_not_the_jobs(sbatch, shell, tmp_path):
    submit(1, sbatch(ACCEPTS))
    seen = dict(
        line.split("=", 1)
        for line in (tmp_path / "seen").read_text().splitlines()
        if line.startswith(tuple(OF_THE_SHELL))
    )
    assert seen == {"SLURM_CONF": "/etc/slurm.conf", "JAX_PLATFORMS": "cpu"}
    assert os.environ.items() >= OF_THE_SHELL.items()  # and they are here again


def test_what_is_not_passed_on_is_told(shell):
    assert slurm_submit.environment_notes() == [
        "ignored: SBATCH_PARTITION of this shell; use --partition, --time and --slurm",
        "not passed to the jobs: CUDA_VISIBLE_DEVICES, FER_MEMORY_SHARE of this shell",
        "the jobs compute on cpu: JAX_PLATFORMS is passed to them",
    ]


def test_questions_are_asked_without_the_shells_own_options(shell, monkeypatch):
    def run(command, env, **_):
        assert "SLURM_CONF" in env
        assert not {"SQUEUE_PARTITION", "SLURM_ARRAY_JOB_ID"} & set(env)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(slurm_queue.subprocess, "run", run)
    assert slurm_queue.query_queue() == {}
