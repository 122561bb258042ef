"""Hands jobs to SLURM, all or none of them."""

import argparse
import contextlib
import dataclasses
import io
import os
import shutil
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from submitit import SlurmExecutor
from submitit.core.utils import FailedJobError, FailedSubmissionError

from fer_jax.errors import UserError
from fer_jax.plan import Job, train_command
from fer_jax.slurm_job import Pack, Run
from fer_jax.stop import SIGNALS

FOLDER = "slurm_jobs"  # in the runs folder: a folder for each submission
# A run that goes on at each time limit may need any number of them.
MAX_TIMEOUTS = 1_000_000


def run_of(job: Job, args: argparse.Namespace) -> Run:
    """What a job is told of a run, with absolute paths.

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
    )
    return Run(job.label, job.folder.absolute(), tuple(command))


def submit(
    packs: Sequence[Pack], runs_dir: Path, parameters: Mapping[str, Any]
) -> list[tuple[str, Path]]:
    """Submits a job for each pack, as one array where they are several.

    Args:
      packs: what each job does.
      runs_dir: below it go the files of the submission, and the jobs' logs.
      parameters: for `SlurmExecutor.update_parameters`.

    Returns:
      for each the job's id, and the file with what it prints.

    Raises:
      UserError: if SLURM refuses; then there is no job, nor a file of it.
    """
    name = f"{time.strftime('%Y-%m-%dT%H-%M-%SZ', time.gmtime())}_{os.getpid()}"
    folder = runs_dir.absolute() / FOLDER / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        executor = SlurmExecutor(folder, max_num_timeout=MAX_TIMEOUTS)
        executor.update_parameters(**parameters)
        # submitit prints what sbatch complains of, too; we say it ourselves.
        silent = contextlib.redirect_stderr(io.StringIO())
        with _without_signals(), silent, executor.batch():
            jobs = [executor.submit(pack) for pack in packs]
        return [(job.job_id, job.paths.stdout) for job in jobs]
    except (FailedJobError, FailedSubmissionError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise UserError(
            f"SLURM does not take {len(packs)} jobs ({_words(error)}); nothing was "
            "submitted; change --partition, --time, --gpus-per-job, --slurm or --pack"
        ) from None
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written: {error.strerror}; "
            "choose another folder with --runs_dir"
        ) from None


def _words(error: Exception) -> str:
    """What sbatch said, without its name before each line."""
    lines = [line.removeprefix("sbatch: ") for line in str(error).splitlines()]
    told = [line.removeprefix("error: ").strip() for line in lines]
    return "; ".join(dict.fromkeys(filter(None, told)))


@contextlib.contextmanager
def _without_signals() -> Iterator[None]:
    """Lets signals wait: Ctrl-C reaches sbatch too, which could die half way."""
    old = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)
