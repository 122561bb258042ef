"""Which runs a batch is made of, in which order, and how far each has come."""

import contextlib
import dataclasses
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from fer_jax import config as config_lib
from fer_jax import data, runs
from fer_jax.config import Config
from fer_jax.errors import UserError

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
        if not filters or any(name.startswith(prefix) for prefix in filters)
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
    path: Path, config: Config, offset: int, runs_dir: Path, dataset: data.Dataset
) -> Job:
    """The job of an experiment's seed + `offset`, with what its folder holds."""
    seed = config.training.seed + offset
    training = config.training.model_copy(update={"seed": seed})
    config = config.model_copy(update={"training": training})
    folder = runs.run_dir(runs_dir, config.name, seed)
    described = {
        "description": dataset.description,
        "fingerprint": dataset.fingerprint,
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


def seconds_per_image(runs_dir: Path) -> float | None:
    """Time per training image in the finished runs there; None where there is none."""
    times = []
    for path in runs_dir.glob(f"*/seed_*/{runs.RESULT}"):
        nonsense = (ArithmeticError, ValueError, KeyError, TypeError, UserError)
        with contextlib.suppress(OSError, *nonsense):
            result = runs.read_result(path.parent)
            images = sum(result["data"]["counts"]["train"]) * result["epochs_run"]
            if 0 < (seconds := float(result["timing"]["wall_s"] / images)) < math.inf:
                times.append(seconds)
    return statistics.median(times) if times else None
