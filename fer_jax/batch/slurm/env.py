"""What of the shell's environment reaches SLURM's commands, and through them the jobs.

SLURM's variables are options of its commands that nobody sees: `SQUEUE_PARTITION` hides
jobs, `SBATCH_TIMELIMIT` overrides `--time`, and those of an allocation that the batch
itself runs in would tell the jobs that they are others. So none of them is passed on.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping

_KEPT = {"SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT"}  # which cluster, and who asks
_SLURMS = ("SLURM_", "SLURMD_", "SRUN_", "SBATCH_", "SQUEUE_", "SINFO_", "SCANCEL_")
_SLURMS += ("SCONTROL_", "SUBMITIT_")
# Of this machine, and not of the node that a job gets.
_OURS = ("CUDA_VISIBLE_DEVICES", "FER_MEMORY_SHARE")


def without_slurm(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment without what changes how SLURM's commands behave."""
    return {
        name: value
        for name, value in environment.items()
        if name in _KEPT or not name.startswith(_SLURMS)
    }


@contextlib.contextmanager
def submitting() -> Iterator[None]:
    """Has this process's environment be, for a while, the one that jobs are to have."""
    before = dict(os.environ)
    kept = without_slurm(before)
    for name in before:
        if name not in kept or name in _OURS:
            del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(before)


def notes() -> list[str]:
    """What a person should know of the shell's variables, a sentence for each kind."""
    told = []
    if names := sorted(name for name in os.environ if name.startswith("SBATCH_")):
        told.append(
            f"ignored: {', '.join(names)} of this shell; --partition, --time and "
            "--slurm say what the jobs are to have"
        )
    if names := [name for name in _OURS if name in os.environ]:
        told.append(f"not passed to the jobs: {', '.join(names)} of this shell")
    if platforms := os.environ.get("JAX_PLATFORMS"):
        told.append(
            f"the jobs compute on {platforms}: JAX_PLATFORMS of this shell is theirs"
        )
    return told
