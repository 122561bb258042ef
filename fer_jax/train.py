"""Trains one experiment: `python -m fer_jax.train configs/baseline.yaml`.

From top to bottom: the command line, one run, an attempt at it, and how errors are
reported. The epochs are in `training/loop.py`.
"""

import argparse
import contextlib
import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from rich.console import Console

from fer_jax import config as config_lib
from fer_jax import data, models, runs
from fer_jax.config import Config
from fer_jax.data import folds
from fer_jax.data.duplicates.audit import Audit, audit
from fer_jax.errors import Lost, UserError, run_command
from fer_jax.runs.heartbeat import Heart, beating
from fer_jax.runs.lock import LOCK, locked
from fer_jax.runs.tensorboard import Board, has_board, write_finished
from fer_jax.system.compilation_cache import keep_compiled
from fer_jax.system.console import TrainingBar, make_console, print_scores
from fer_jax.system.memory import keep_memory
from fer_jax.system.signals import Interrupted
from fer_jax.training import processes
from fer_jax.training.checkpoints import Checkpoints
from fer_jax.training.loop import Reporter, TrainingRun, run_epochs
from fer_jax.training.result import begin, predict_best, write_result
from fer_jax.training.setup import Setup, build_setup, memory_for_images

# Backends word these errors differently.
_NO_MEMORY = ("RESOURCE_EX", "Out of memory")
_LOST = ("Gloo", "gloo", "NCCL", "UNAVAILABLE", "oordination", "onnection")


class Options(NamedTuple):
    """How a run is started; none of it changes its numbers.

    Attributes:
      force: delete what an earlier run left, and start anew.
      skip_bad: drop bad rows and images instead of refusing them.
      tensorboard: write event files; a run that has some continues them anyway.
      config_path: the file of the config, for the record.
      overrides: the `--set` items, for the record.
    """

    force: bool = False
    skip_bad: bool = False
    tensorboard: bool = False
    config_path: str = ""
    overrides: Sequence[str] = ()


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m fer_jax.train", description="Train one experiment."
    )
    parser.add_argument("config", help="a YAML file such as configs/baseline.yaml")
    parser.add_argument(
        "--data_root",
        help="a fer2013.csv, a folder train|val|test/<class>/*, RAF-DB or AffectNet; "
        "default: $FER_DATA_ROOT, else the embedded set",
    )
    parser.add_argument("--runs_dir", default="runs", help="default: runs")
    parser.add_argument(
        "--resolved",
        metavar="FILE",
        help="read the resolved settings from FILE; CONFIG is only named in the "
        "record. bin/run_batch uses it, so that a run trains what was planned",
    )
    parser.add_argument("--seed", type=int, help="the same as --set training.seed=N")
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override one setting, as in training.lr=1e-3; may repeat",
    )
    parser.add_argument(
        "--force", action="store_true", help="start anew even if the run exists"
    )
    parser.add_argument(
        "--skip_bad", action="store_true", help="drop unreadable images and count them"
    )
    parser.add_argument(
        "--tensorboard", action="store_true", help="write TensorBoard event files too"
    )
    args = parser.parse_args(argv)
    keep_memory()
    keep_compiled()
    processes.join()
    if args.seed is not None:
        args.overrides.append(f"training.seed={args.seed}")
    try:
        with _device_errors():
            train(
                config_lib.load(args.resolved or args.config, args.overrides),
                data_root=args.data_root,
                runs_dir=args.runs_dir,
                options=Options(
                    force=args.force,
                    skip_bad=args.skip_bad,
                    tensorboard=args.tensorboard,
                    config_path=args.config,
                    overrides=args.overrides,
                ),
                console=make_console() if processes.is_first() else None,
            )
    except Interrupted as stop:
        return 128 + stop.signum
    return 0


def train(
    config: Config,
    *,
    data_root: str | None = None,
    runs_dir: str | Path = "runs",
    options: Options | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Trains one experiment to its end, resuming an earlier attempt.

    All processes of a run call it alike; the first alone writes in the run folder.

    Args:
      config: the experiment.
      data_root: as `data.load` takes it.
      runs_dir: where `<name>/seed_<n>/` is created.
      options: how the run is started.
      console: where progress is printed; None: nowhere.

    Returns:
      the content of `result.json`.

    Raises:
      UserError: for bad data, another run in the folder, or a loss that is not finite.
      Interrupted: after a signal, with the state saved.
    """
    options, console = options or Options(), console or Console(quiet=True)
    dataset, copies = _load(config, data_root, options.skip_bad, console)
    setup = build_setup(config, dataset)  # may refuse, before there is a folder
    run_dir = runs.run_dir(runs_dir, config.name, config.training.seed)
    with _disk_errors(run_dir), contextlib.ExitStack() as held:

        def take() -> bool:
            held.enter_context(locked(run_dir))
            return begin(config, dataset, run_dir, force=options.force)

        was_finished = processes.of_first(take)
        what = f"runs folder in place of {runs_dir}"
        processes.check_same_file(what, run_dir / LOCK)
        _print_header(console, config, dataset, setup, run_dir)
        if was_finished:
            console.print("already finished; --force repeats it")
        else:
            with (
                _attempt(run_dir, config, setup) as heart,
                Checkpoints(run_dir / runs.CHECKPOINTS) as checkpoints,
            ):
                run = TrainingRun(config, dataset, setup, run_dir, checkpoints)
                _finish(run, copies, heart, options, console)
        result = processes.of_first(lambda: runs.read_result(run_dir))
        if was_finished and options.tensorboard and processes.is_first():
            write_finished(run_dir, result)
            console.print("TensorBoard's files were written from its record")
    try:
        print_scores(console, result)
    except (LookupError, TypeError, ValueError, AttributeError):
        if not was_finished:
            raise
        raise UserError(
            f"{run_dir / runs.RESULT} lacks scores; repeat that run with --force"
        ) from None
    console.print(f"result: {run_dir / runs.RESULT}")
    return result


def _load(
    config: Config, data_root: str | None, skip_bad: bool, console: Console
) -> tuple[data.Dataset, Audit]:
    """The data set that the config chooses, and the copies in it."""
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
    return selected, folds.assign(look(), config.data.fold)


def _print_header(
    console: Console,
    config: Config,
    dataset: data.Dataset,
    setup: Setup,
    run_dir: Path,
) -> None:
    counts = ", ".join(f"{k} {len(v.labels):,}" for k, v in dataset.splits.items())
    console.print(f"{run_dir}: {config.description}")
    console.print(f"data: {dataset.description} ({counts}), {dataset.fingerprint}")
    for note in dataset.notes:
        console.print(f"note: {note}")
    where = "streamed from disk" if dataset.streamed else "kept on the device"
    size = f"{dataset.nbytes / 1e9:.2f} GB, data.stream is {config.data.stream}"
    console.print(f"images: {where} ({size})")
    console.print(
        f"{config.model.arch}: {models.count_parameters(setup.state.params):,} "
        f"parameters, {setup.flops / 1e6:,.0f} MFLOP an image forward, "
        f"{setup.compute_dtype} on {setup.devices}"
    )


def _finish(
    run: TrainingRun,
    copies: Audit,
    heart: Heart | None,
    options: Options,
    console: Console,
) -> None:
    """Trains a run to its end, and writes its result."""
    setup, training = run.setup, run.config.training
    reporters: list[Reporter] = []
    board = None
    with contextlib.ExitStack() as open_reporters:
        if heart:  # the first process
            bar = TrainingBar(
                console,
                training.epochs,
                setup.steps_per_epoch,
                training.batch_size,
                setup.schedule,
            )
            reporters += [heart, open_reporters.enter_context(bar)]
            # A run that has event files continues them: else they would fall behind.
            if options.tensorboard or has_board(run.run_dir):
                board = open_reporters.enter_context(Board(run.run_dir))
                reporters.append(board)
        progress = run_epochs(run, console, reporters)
        logits = predict_best(run, progress)
        if processes.is_first():
            command = {
                "config_path": options.config_path,
                "overrides": list(options.overrides),
            }
            write_result(run, progress, logits, copies, command)
        if board:
            board.end(progress.history, runs.read_result(run.run_dir))


@contextlib.contextmanager
def _attempt(run_dir: Path, config: Config, setup: Setup) -> Iterator[Heart | None]:
    """Writes the heartbeat, and what ends an attempt; in the first process alone."""
    steps = config.training.epochs * setup.steps_per_epoch
    with contextlib.ExitStack() as stack:
        heart = None
        if processes.is_first():
            heart = stack.enter_context(beating(run_dir, str(setup.devices), steps))
            stack.enter_context(runs.noting_failure(run_dir))
        stack.enter_context(_disk_errors(run_dir))
        stack.enter_context(_device_errors())
        yield heart


@contextlib.contextmanager
def _disk_errors(run_dir: Path) -> Iterator[None]:
    """Reports a full disk or a read-only folder in one sentence."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UserError(
            f"{error.filename or run_dir} cannot be written or read "
            f"({error.strerror or error}); correct that, and the same command, without "
            "--force, resumes from the last checkpoint"
        ) from None


@contextlib.contextmanager
def _device_errors() -> Iterator[None]:
    """Reports a lack of memory or a lost process in one sentence."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not processes.are_one() and any(words in str(error) for words in _LOST):
            raise Lost(
                f"another process of the run is lost, or does not answer "
                f"({str(error)[:200]}); see what the others say, and start all of them "
                "again, without --force, to resume from the last checkpoint"
            ) from None
        if not any(words in str(error) for words in _NO_MEMORY):
            raise
        kind = jax.devices()[0].device_kind
        raise UserError(
            f"{kind} ran out of memory; lower training.batch_size, "
            "training.eval_batch_size or data.image_size, or end what else runs there; "
            "the same command resumes from the last checkpoint"
        ) from None


if __name__ == "__main__":
    raise SystemExit(processes.ending(lambda: run_command(main)))
