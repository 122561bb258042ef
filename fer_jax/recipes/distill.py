"""Distillation: many teachers, the mean of what they say, and a student of it.

The source is Hinton et al. 2015, arXiv:1503.02531.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from fer_jax.compare import FinishedRun
from fer_jax.compare.results import shortlist
from fer_jax.config import Config
from fer_jax.data import soft_targets
from fer_jax.errors import UserError
from fer_jax.recipes.ablation import with_settings

TARGETS = "targets.npz"


def student_of(config: Config, targets: Path) -> Config:
    """Returns the config as it is trained on a file of soft targets."""
    name = f"{config.name}_distilled"
    text = {
        "name": name,
        "description": f"How accurate is {config.name} with teachers?",
    }
    return with_settings(config, {"data.soft_targets": str(targets)} | text)


def write_targets(
    teachers: Sequence[FinishedRun], path: Path, data_root: str | None
) -> int:
    """Writes what the teachers say of train, unless it is there; the exit status.

    Another process does it, since JAX would keep the accelerator's memory in this one,
    which the students need.

    Raises:
      UserError: if the file is there, and of other teachers.
    """
    names = tuple(run.label for run in teachers)
    if path.exists():
        found = soft_targets.read(path).teachers
        if found != names:
            raise UserError(
                f"{path} is of {shortlist(found)}, and the teachers are "
                f"{shortlist(names)}; name another --runs_dir"
            )
        return 0
    command = [sys.executable, "-m", "fer_jax", "targets", "--to", str(path)]
    command += [str(run.folder) for run in teachers]
    if data_root is not None:
        command += ["--data_root", data_root]
    return subprocess.run(command, check=False).returncode
