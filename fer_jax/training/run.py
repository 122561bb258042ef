"""One run from its config to its result: data, setup, folder, attempt, scores."""

import contextlib
import functools
import json
from pathlib import Path
from typing import Any

from rich.console import Console

from fer_jax import config as config_lib
from fer_jax import data, models, runs
from fer_jax.config import Config
from fer_jax.data import folds, soft_targets
from fer_jax.data.duplicates.audit import Audit, audit
from fer_jax.errors import UserError
from fer_jax.runs.lock import LOCK, locked
from fer_jax.runs.tensorboard import write_finished
from fer_jax.system.console import print_scores
from fer_jax.training import processes
from fer_jax.training.attempt import Options, attempt, disk_errors
from fer_jax.training.checkpoints import Checkpoints
from fer_jax.training.loop import TrainingRun
from fer_jax.training.result import begin
from fer_jax.training.setup import Setup, build_setup, memory_for_images


def train(
    config: Config,
    *,
    data_root: str | None = None,
    runs_dir: str | Path = "runs",
    options: Options | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Trains one experiment to its end, resuming an earlier attempt.

    All processes of a run call it alike.

    Args:
      config: the experiment.
      data_root: of `data.load`.
      runs_dir: where `<name>/seed_<n>/` is created.
      options: how the run is started.
      console: where progress is printed; None: nowhere.

    Returns the content of `result.json`.

    Raises:
      UserError: for bad data, another run in the folder, or a loss that is not finite.
      Interrupted: after a signal, with the state saved.
    """
    options, console = options or Options(), console or Console(quiet=True)
    dataset, copies = load_data(
        config, data_root, skip_bad=options.skip_bad, console=console
    )
    setup = build_setup(config, dataset)  # may refuse, before there is a folder
    run_dir = runs.run_dir(runs_dir, config.name, config.training.seed)
    with disk_errors(run_dir), contextlib.ExitStack() as held:

        def take() -> bool:
            held.enter_context(locked(run_dir))
            return begin(config, dataset, run_dir, force=options.force)

        was_finished = processes.of_first(take)
        processes.check_same_file(f"runs folder instead of {runs_dir}", run_dir / LOCK)
        _print_header(console, config, dataset, setup, run_dir)
        if was_finished:
            console.print("already finished; --force repeats it")
        else:
            checkpoints = Checkpoints(run_dir / runs.CHECKPOINTS)
            run = TrainingRun(config, dataset, setup, run_dir, checkpoints)
            attempt(run, copies, options, console)
        result = processes.of_first(lambda: runs.read_result(run_dir))
        if was_finished and options.tensorboard and processes.is_first():
            write_finished(run_dir, result)
            console.print("TensorBoard's files were written from its record")
    _print_scores(console, result, run_dir)
    console.print(f"result: {run_dir / runs.RESULT}")
    return result


def load_data(
    config: Config, data_root: str | None, *, skip_bad: bool, console: Console
) -> tuple[data.Dataset, Audit]:
    """The images that the config chooses of a data set, and the copies in it.

    Raises:
      UserError: for bad data, or processes that do not agree about it.
    """
    dataset = data.load(
        data_root,
        image_size=config.data.image_size,
        channels=config.data.channels,
        skip_bad=skip_bad,
        console=console,
        memory_limit=memory_for_images(config.data.stream),
    )
    processes.check_same("data set", dataset.fingerprint)
    processes.check_same("config", config_lib.dump(config))
    processes.check_same("code", json.dumps(runs.environment("", "")))
    find_copies = functools.partial(audit, dataset, console)
    look = functools.cache(lambda: processes.in_turn(find_copies))
    selected = data.select_images(dataset, config.data, look)
    selected = soft_targets.mixed_in(selected, config)
    undivided = dataset.undivided
    return selected, folds.assign(look(), config.data.fold, undivided=undivided)


def _print_header(
    console: Console, config: Config, dataset: data.Dataset, setup: Setup, run_dir: Path
) -> None:
    counts = ", ".join(f"{k} {len(v.labels):,}" for k, v in dataset.splits.items())
    console.print(f"{run_dir}: {config.description}")
    console.print(f"data: {dataset.description} ({counts}), {dataset.fingerprint}")
    for note in dataset.notes:
        console.print(f"note: {note}")
    if dataset.dropped:
        console.print(f"note: what was dropped is listed in {run_dir / runs.DROPPED}")
    where = "streamed from disk" if dataset.streamed else "kept on the device"
    size = f"{dataset.nbytes / 1e9:.2f} GB, data.stream is {config.data.stream}"
    console.print(f"images: {where} ({size})")
    console.print(
        f"{config.model.arch}: {models.count_parameters(setup.state.params):,} "
        f"parameters, {setup.flops / 1e6:,.0f} MFLOP an image forward, "
        f"{setup.compute_dtype} on {setup.devices}"
    )
    if setup.pretrained:
        console.print(f"start: {setup.pretrained.note}")


def _print_scores(console: Console, result: dict[str, Any], run_dir: Path) -> None:
    try:
        print_scores(console, result)
    except (LookupError, TypeError, ValueError, AttributeError):
        raise UserError(
            f"{run_dir / runs.RESULT} lacks scores; repeat that run with --force"
        ) from None
