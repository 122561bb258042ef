"""Submits jobs to SLURM, all or none of them, by submitit."""

import argparse
import contextlib
import dataclasses
import io
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from submitit import SlurmExecutor
from submitit.core.utils import FailedJobError, FailedSubmissionError

from fer_jax.batch.plan import PlannedRun, train_command
from fer_jax.batch.slurm.job import JobRun, Pack
from fer_jax.batch.slurm.queue import without_slurm
from fer_jax.errors import UserError

FOLDER = "slurm_jobs"  # in the runs folder: a folder for each submission
# A run that continues after each time limit may need any number of them.
_MAX_TIMEOUTS = 1_000_000
# These describe this machine, not the node of a job.
_LOCAL = ("CUDA_VISIBLE_DEVICES", "FER_MEMORY_SHARE")


def submit(
    packs: Sequence[Sequence[PlannedRun]],
    args: argparse.Namespace,
    parameters: Mapping[str, Any],
) -> list[tuple[str, Path]]:
    """Submits a job for each pack of runs, several as one array.

    Returns:
      for each job its id, and the file of its output.

    Raises:
      UserError: if SLURM refuses; then there is no job, and no file of it.
    """
    place = Path(args.runs_dir).absolute() / FOLDER
    try:
        folder = new_folder(place)
        jobs = [Pack([job_run(run, args, folder) for run in pack]) for pack in packs]
        return submit_packs(jobs, folder, parameters)
    except OSError as error:
        raise UserError(
            f"{place} cannot be written: {error.strerror}; "
            "choose another folder with --runs_dir"
        ) from None


def job_run(run: PlannedRun, args: argparse.Namespace, settings: Path) -> JobRun:
    """Returns a run as its job needs it; writes its config into folder `settings`.

    All paths are absolute. `--force` is left out, since each requeued job would start
    anew: the batch clears the run folder once.
    """
    root = args.data_root or os.environ.get("FER_DATA_ROOT") or None
    if root is not None:
        root = os.path.abspath(os.path.expanduser(root))
    changed = {"runs_dir": os.path.abspath(args.runs_dir), "data_root": root}
    command = train_command(
        dataclasses.replace(run, path=run.path.absolute()),
        argparse.Namespace(**vars(args) | changed | {"force": False}),
        settings,
    )
    return JobRun(run.label, run.folder.absolute(), tuple(command))


def submit_packs(
    packs: Sequence[Pack], folder: Path, parameters: Mapping[str, Any]
) -> list[tuple[str, Path]]:
    """Submits packs as `submit` does, with all files in `folder`."""
    try:
        executor = SlurmExecutor(folder, max_num_timeout=_MAX_TIMEOUTS)
        executor.update_parameters(**parameters)
        # submitit prints sbatch's complaints, too; we raise them.
        silent = contextlib.redirect_stderr(io.StringIO())
        with _job_environment(), silent, executor.batch():
            jobs = [executor.submit(pack) for pack in packs]
        return [(job.job_id, job.paths.stdout) for job in jobs]
    except (FailedJobError, FailedSubmissionError) as error:
        # If a job starts nevertheless, it finds that no run is its own.
        shutil.rmtree(folder, ignore_errors=True)
        raise UserError(
            f"SLURM does not take {len(packs)} jobs ({_complaint(error)}); nothing was "
            "submitted; change --partition, --time, --gpus_per_job, --slurm or --pack"
        ) from None


def environment_notes() -> list[str]:
    """Returns sentences on the shell's variables that a user may not expect."""
    notes = []
    if names := sorted(name for name in os.environ if name.startswith("SBATCH_")):
        notes.append(
            f"ignored: {', '.join(names)} of this shell; use --partition, --time and "
            "--slurm"
        )
    if names := [name for name in _LOCAL if name in os.environ]:
        notes.append(f"not passed to the jobs: {', '.join(names)} of this shell")
    if platforms := os.environ.get("JAX_PLATFORMS"):
        notes.append(
            f"the jobs compute on {platforms}: JAX_PLATFORMS is passed to them"
        )
    return notes


@contextlib.contextmanager
def _job_environment() -> Iterator[None]:
    """Makes this process's environment that of the jobs, which inherit it."""
    before = dict(os.environ)
    kept = without_slurm(before)
    for name in before:
        if name not in kept or name in _LOCAL:
            del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(before)


def new_folder(place: Path) -> Path:
    """Makes a folder of this submission alone, with the permissions of `place`."""
    place.mkdir(parents=True, exist_ok=True)
    now = time.strftime("%Y-%m-%dT%H-%M-%SZ", time.gmtime())
    folder = Path(tempfile.mkdtemp(prefix=f"{now}_", dir=place))
    shutil.copymode(place, folder)
    return folder


def _complaint(error: Exception) -> str:
    """Returns what sbatch printed, without the prefix of each line."""
    lines = [line.removeprefix("sbatch: ") for line in str(error).splitlines()]
    said = [line.removeprefix("error: ").strip() for line in lines]
    return "; ".join(dict.fromkeys(filter(None, said)))
