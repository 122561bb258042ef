"""Which runs a batch consists of, in which order, and how far each has come."""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fer_jax import config as config_lib
from fer_jax import runs
from fer_jax.config import Config
from fer_jax.errors import UserError
from fer_jax.system import files

if TYPE_CHECKING:  # importing it would import JAX
    from fer_jax.data import Dataset

Configs = Sequence[tuple[Path, Config]]  # YAML files and what they resolve to
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
# These change many things at once and train long: only a filter selects them.
RECIPES = ("laptop", "best", "speedrun", "teacher", "finetune")


@dataclasses.dataclass(frozen=True)
class PlannedRun:
    """One run of the plan."""

    path: Path  # the experiment's YAML file
    config: Config  # resolved, with the seed of this run
    folder: Path
    state: str = "new"  # or "finished", "half done", "blocked" by another run
    epochs: int = 0  # done so far
    reason: str = ""  # why it is blocked

    @property
    def label(self) -> str:
        """The run folder relative to the runs folder."""
        return f"{self.config.name}/seed_{self.config.training.seed}"


def default_folder() -> Path:
    """Returns `configs` if there is such a folder, else that of the shipped ones."""
    here = Path("configs")
    return here if here.is_dir() else config_lib.shipped()[0].parent


def find_configs(
    folder: Path,
    filters: Sequence[str],
    order: str = "phases",
    overrides: Sequence[str] = (),
) -> list[tuple[Path, Config]]:
    """Returns the experiments whose names start with one of `filters`, in order.

    Without filters, these are all but `RECIPES`. `overrides` are `key=value` items that
    change each of them.
    """
    for item in overrides:
        if item.partition("=")[0].strip() in ("name", "training.seed"):
            raise UserError(
                f"--set {item} would give all runs the same; use --seeds for seeds, "
                "and --runs_dir to keep runs with other settings apart"
            )
    paths = sorted(folder.glob("*.yaml"))
    if not paths:
        raise UserError(
            f"{folder} contains no *.yaml file; give the folder of the experiments "
            "with --configs"
        )
    found: dict[str, tuple[Path, Config]] = {}
    for path in paths:
        config = config_lib.load(path)
        if config.name in found:
            other = found[config.name][0]
            raise UserError(
                f"{path} and {other} are both named {config.name}; rename one"
            )
        found[config.name] = (path, config)
    chosen = [name for name in found if name.startswith(tuple(filters))]
    if not filters:
        chosen = [name for name in found if name not in RECIPES]
    if not chosen:
        raise UserError(
            f"no experiment name starts with {' or '.join(filters)}; "
            f"the experiments are {', '.join(found)}"
        )
    if order == "phases":
        rank = {name: place for place, name in enumerate(PHASES)}
        chosen.sort(key=lambda name: rank.get(name, len(rank)))
    if not overrides:
        return [found[name] for name in chosen]
    paths = [found[name][0] for name in chosen]
    return [(path, config_lib.load(path, overrides)) for path in paths]


def with_seed(config: Config, offset: int) -> Config:
    """Returns an experiment with its own seed + `offset`."""
    update = {"seed": config.training.seed + offset}
    training = config.training.model_copy(update=update)
    return config.model_copy(update={"training": training})


def plan_run(
    path: Path, config: Config, offset: int, runs_dir: Path, dataset: "Dataset"
) -> PlannedRun:
    """Returns an experiment's run with its seed + `offset`, as its folder stands."""
    config = with_seed(config, offset)
    folder = runs.run_dir(runs_dir, config.name, config.training.seed)
    described = {
        "description": dataset.description,
        "fingerprint": dataset.fingerprint,
        "chosen": dataset.subset,
        "targets": dataset.targets,
    }
    try:
        changed = runs.differences(folder, config.model_dump(), described)
        reason = f"holds another run: {'; '.join(changed)}" if changed else ""
    except UserError as error:
        reason = str(error)
    if reason:
        return PlannedRun(path, config, folder, "blocked", reason=reason)
    if runs.is_finished(folder):
        return PlannedRun(path, config, folder, "finished")
    if runs.is_started(folder):
        epochs = runs.epochs_done(folder)
        return PlannedRun(path, config, folder, "half done", epochs)
    return PlannedRun(path, config, folder)


def train_command(
    run: PlannedRun, args: argparse.Namespace, settings: Path
) -> list[str]:
    """Returns the command that trains a run; writes its config into folder `settings`.

    The child reads the config that was planned, not the YAML file, which may have
    changed since.
    """
    resolved = settings / f"{run.label.replace('/', '_')}.yaml"
    files.write_text(resolved, config_lib.dump(run.config))
    command = [sys.executable, "-m", "fer_jax.train", str(run.path)]
    command += ["--resolved", str(resolved), "--runs_dir", str(args.runs_dir)]
    command += ["--seed", str(run.config.training.seed)]
    command += [f"--set={item}" for item in args.overrides]  # for the record
    if args.data_root is not None:
        command += ["--data_root", args.data_root]
    switches = ("force", "skip_bad", "tensorboard")
    return command + [f"--{name}" for name in switches if getattr(args, name)]
