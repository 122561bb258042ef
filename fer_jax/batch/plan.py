"""Which runs a batch is made of, in which order, and how far each has come."""

import argparse
import contextlib
import dataclasses
import json
import math
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fer_jax import config as config_lib
from fer_jax import runs
from fer_jax.config import Config, Data
from fer_jax.errors import UserError
from fer_jax.system import files

if TYPE_CHECKING:  # it brings JAX along, and the plan itself needs none
    from fer_jax.data import Dataset

_NONSENSE = (ArithmeticError, ValueError, KeyError, TypeError, RecursionError)
LOG = "batch_log.jsonl"  # in the runs folder; `batch` writes it
PHASES = (  # quick answers first, then one question after the other
    "epochs_10",
    "baseline",
    "lr_low",
    "lr_high",
    "epochs_50",
    "loss_focal",
    "batch_64",
    "batch_256",
    "aug_none",
    "aug_heavy",
    "balance_no_weights",
    "balance_weighted_sampler",
)
# These change many things at once and take long: run where a filter names them.
RECIPES = ("laptop", "best", "speedrun")


@dataclasses.dataclass(frozen=True)
class Job:
    """One run of the plan.

    Attributes:
      path: the experiment's YAML file.
      config: the experiment with the job's seed.
      folder: its run folder.
      state: "finished", "half done", "new", or "blocked" by another run in the folder.
      epochs: how many of its epochs are done.
      reason: why it is blocked.
    """

    path: Path
    config: Config
    folder: Path
    state: str
    epochs: int
    reason: str = ""

    @property
    def label(self) -> str:
        """The run folder's name below the runs folder."""
        return f"{self.config.name}/seed_{self.config.training.seed}"


def find_configs(
    folder: Path, filters: Sequence[str], order: str = "phases"
) -> list[tuple[Path, Config]]:
    """The experiments of a folder whose names begin with one of `filters`, in order.

    Without filters it is all but `RECIPES`.

    Raises:
      UserError: if a config is wrong, two share a name, or none is left.
    """
    paths = sorted(folder.glob("*.yaml"))
    if not paths:
        raise UserError(
            f"{folder} holds no *.yaml file; name the folder of the experiments "
            "with --configs, or run from the project's root"
        )
    found: dict[str, tuple[Path, Config]] = {}
    for path in paths:
        config = config_lib.load(path)
        if config.name in found:
            other = found[config.name][0]
            raise UserError(f"{path} and {other} are both named {config.name}")
        found[config.name] = (path, config)
    chosen = [
        name
        for name in found
        if any(name.startswith(prefix) for prefix in filters)
        or (not filters and name not in RECIPES)
    ]
    if not chosen:
        raise UserError(
            f"no experiment begins with {' or '.join(filters)}; "
            f"there are {', '.join(found)}"
        )
    if order == "phases":
        rank = {name: place for place, name in enumerate(PHASES)}
        chosen.sort(key=lambda name: rank.get(name, len(rank)))
    return [found[name] for name in chosen]


def plan_job(
    path: Path, config: Config, offset: int, runs_dir: Path, dataset: "Dataset"
) -> Job:
    """The job of an experiment's seed + `offset`, with what its folder holds."""
    seed = config.training.seed + offset
    training = config.training.model_copy(update={"seed": seed})
    config = config.model_copy(update={"training": training})
    folder = runs.run_dir(runs_dir, config.name, seed)
    described = {
        "description": dataset.description,
        "fingerprint": dataset.fingerprint,
        "chosen": dataset.subset,
    }
    try:
        changed = runs.differences(folder, config.model_dump(), described)
        reason = f"holds another run: {'; '.join(changed)}" if changed else ""
    except UserError as error:
        reason = str(error)
    epochs, state = 0, "new"
    if runs.is_started(folder) and not reason:
        state, epochs = "half done", runs.epochs_done(folder)
    if runs.is_finished(folder):
        state = "finished"
    return Job(path, config, folder, "blocked" if reason else state, epochs, reason)


def train_command(job: Job, args: argparse.Namespace, folder: Path) -> list[str]:
    """Returns the command that trains a run, and writes its settings to `folder`.

    The child reads the settings that were planned, and not the YAML file, which may
    have changed since.
    """
    resolved = folder / f"{job.label.replace('/', '_')}.yaml"
    files.write_text(resolved, config_lib.dump(job.config))
    command = [sys.executable, "-m", "fer_jax.train", str(job.path)]
    command += ["--resolved", str(resolved), "--runs_dir", str(args.runs_dir)]
    command += ["--seed", str(job.config.training.seed)]
    if args.data_root is not None:
        command += ["--data_root", args.data_root]
    switches = ("force", "skip_bad", "tensorboard")
    return command + [f"--{name}" for name in switches if getattr(args, name)]


def about(seconds: float | None) -> str:
    """An estimate as the end of a sentence."""
    if seconds is None:
        return "; how long they take is known after the first"
    if seconds < 90:
        return f", about {seconds:.0f} s"
    if seconds < 90 * 60:
        return f", about {seconds / 60:.0f} min"
    return f", about {seconds / 3600:.1f} h"


def estimate(
    jobs: Sequence[Job],
    train_images: Mapping[Data, int],
    runs_dir: Path,
    at_once: int,
    *,
    force: bool = False,
) -> float | None:
    """Seconds for some jobs, by the runs that are finished by now.

    Args:
      jobs: what is to be done; with their epochs that are done.
      train_images: how many images there are to train on, by the data settings.
      runs_dir: where the finished runs are.
      at_once: how many processes do the jobs.
      force: all of their epochs are to be repeated.

    Returns:
      None where no run tells, done with as many processes side by side: each is
      slower then, and how much depends on the machine.
    """
    seconds = seconds_per_image(runs_dir, at_once)
    if seconds is None:
        return None
    times = [
        seconds
        * (job.config.training.epochs - (0 if force else job.epochs))
        * train_images[job.config.data]
        for job in jobs
        if force or job.state != "blocked"
    ]
    return max(sum(times) / at_once, max(times, default=0.0))


def seconds_per_image(runs_dir: Path, at_once: int = 1) -> float | None:
    """Time per training image in the finished runs there; None where there is none.

    Only the runs count that ran with as many at once, by the batch's log.
    """
    times, beside = [], _at_once(runs_dir)
    for path in runs_dir.glob(f"*/seed_*/{runs.RESULT}"):
        if beside.get(f"{path.parts[-3]}/{path.parts[-2]}", 1) != at_once:
            continue
        with contextlib.suppress(OSError, UserError, *_NONSENSE):
            result = runs.read_result(path.parent)
            images = sum(result["data"]["counts"]["train"]) * result["epochs_run"]
            if 0 < (seconds := float(result["timing"]["wall_s"] / images)) < math.inf:
                times.append(seconds)
    return statistics.median(times) if times else None


def _at_once(runs_dir: Path) -> dict[str, int]:
    """How many runs a batch did at once when it last began this one, for each."""
    found = {}
    if os.path.isfile(runs_dir / LOG):  # a pipe would be waited for
        with contextlib.suppress(OSError):
            for line in (runs_dir / LOG).read_bytes().splitlines():
                with contextlib.suppress(*_NONSENSE):
                    entry = json.loads(line)
                    found[str(entry["run"])] = int(entry["jobs"])
    return found
