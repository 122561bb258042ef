"""Hands jobs to SLURM, all or none of them."""

import argparse
import contextlib
import dataclasses
import io
import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from submitit import SlurmExecutor, SlurmJob
from submitit.core.utils import (
    DelayedSubmission,
    FailedJobError,
    FailedSubmissionError,
)

from fer_jax.batch.plan import Job, train_command
from fer_jax.batch.slurm.env import submitting
from fer_jax.batch.slurm.job import Pack, Run
from fer_jax.errors import UserError

FOLDER = "slurm_jobs"  # in the runs folder: a folder for each submission
# A run that goes on at each time limit may need any number of them.
MAX_TIMEOUTS = 1_000_000
ANSWER_S = 300  # so long may sbatch take
_LATE = (124, 137)  # the exit status of timeout, and where it had to kill


def run_of(job: Job, args: argparse.Namespace, folder: Path) -> Run:
    """What a job is told of a run, with absolute paths; its settings go to `folder`.

    `--force` is left out: who submits clears the folder, and once. Else each requeued
    job would start anew.
    """
    root = args.data_root or os.environ.get("FER_DATA_ROOT") or None
    if root is not None:
        root = os.path.abspath(os.path.expanduser(root))
    runs_dir = os.path.abspath(args.runs_dir)
    changed = {"runs_dir": runs_dir, "data_root": root, "force": False}
    command = train_command(
        dataclasses.replace(job, path=job.path.absolute()),
        argparse.Namespace(**vars(args) | changed),
        folder,
    )
    return Run(job.label, job.folder.absolute(), tuple(command))


def submit(
    make_packs: Callable[[Path], Sequence[Pack]],
    runs_dir: Path,
    parameters: Mapping[str, Any],
) -> list[tuple[str, Path]]:
    """Submits a job for each pack, as one array where they are several.

    Args:
      make_packs: what each job does; it may write to the submission's folder.
      runs_dir: below it go the files of the submission, and the jobs' logs.
      parameters: for `SlurmExecutor.update_parameters`.

    Returns:
      for each the job's id, and the file with what it prints.

    Raises:
      UserError: if SLURM refuses; then there is no job, nor a file of it.
    """
    place = runs_dir.absolute() / FOLDER
    try:
        folder = _new_folder(place)
    except OSError as error:
        raise _unwritable(place, error) from None
    try:
        packs = make_packs(folder)
        executor = _Executor(folder, max_num_timeout=MAX_TIMEOUTS)
        executor.update_parameters(**parameters)
        # submitit prints what sbatch complains of, too; we say it ourselves.
        silent = contextlib.redirect_stderr(io.StringIO())
        with submitting(), silent, executor.batch():
            jobs = [executor.submit(pack) for pack in packs]
        return [(job.job_id, job.paths.stdout) for job in jobs]
    except (FailedJobError, FailedSubmissionError) as error:
        # A job that comes nevertheless finds nothing to do.
        shutil.rmtree(folder, ignore_errors=True)
        raise UserError(
            f"SLURM does not take {len(packs)} jobs ({_words(error)}); nothing was "
            "submitted; change --partition, --time, --gpus-per-job, --slurm or --pack"
        ) from None
    except OSError as error:
        raise _unwritable(folder, error) from None


class _Executor(SlurmExecutor):
    """submitit's, with an `sbatch` that Ctrl-C does not reach, and for a time only."""

    def _internal_process_submissions(
        self, delayed_submissions: list[DelayedSubmission]
    ) -> list[SlurmJob[Any]]:
        """As submitit's, which has another executor than us submit an array."""
        count, pickles = len(delayed_submissions), []
        for each in delayed_submissions:
            pickles.append(self.folder / f"{uuid.uuid4().hex}.pkl")
            each.set_timeout(self.parameters["time"], self.max_num_timeout)
            each.dump(pickles[-1])
        self.parameters["map_count"] = count if count > 1 else None
        first = self._submit_command(self._submitit_command_str)
        names = [f"{first.job_id}_{n}" for n in range(count)]
        tasks = list(range(first.num_tasks))
        jobs = [
            SlurmJob(folder=self.folder, job_id=name, tasks=tasks)
            for name in (names if count > 1 else [first.job_id])
        ]
        for job, pickle in zip(jobs, pickles, strict=True):
            job.paths.move_temporary_file(pickle, "submitted_pickle")
        return jobs

    def _make_submission_command(self, submission_file_path: Path) -> list[str]:
        # timeout puts what it starts in a process group of its own.
        bounded = ["timeout", "--kill-after=10", str(ANSWER_S)]
        return [*bounded, *super()._make_submission_command(submission_file_path)]


def _new_folder(place: Path) -> Path:
    """A folder that no other submission has, to be read by whom `place` may be."""
    place.mkdir(parents=True, exist_ok=True)
    now = time.strftime("%Y-%m-%dT%H-%M-%SZ", time.gmtime())
    folder = Path(tempfile.mkdtemp(prefix=f"{now}_", dir=place))
    shutil.copymode(place, folder)
    return folder


def _unwritable(folder: Path, error: OSError) -> UserError:
    return UserError(
        f"{folder} cannot be written: {error.strerror}; "
        "choose another folder with --runs_dir"
    )


def _words(error: Exception) -> str:
    """What sbatch said, without its name before each line."""
    ended = error.__cause__
    if isinstance(ended, subprocess.CalledProcessError) and ended.returncode in _LATE:
        return f"sbatch did not answer for {ANSWER_S} s"
    lines = [line.removeprefix("sbatch: ") for line in str(error).splitlines()]
    told = [line.removeprefix("error: ").strip() for line in lines]
    return "; ".join(dict.fromkeys(filter(None, told)))
