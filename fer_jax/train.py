"""Trains one experiment: `python -m fer_jax.train configs/baseline.yaml`.

From top to bottom: the command line, one run (`train`), and how errors are told;
the loop is in `fit.py`, and what is written at the end in `record.py`.
"""

import argparse
import contextlib
import functools
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from fer_jax import config as config_lib
from fer_jax import data, models, runs
from fer_jax.config import Config
from fer_jax.data import folds as fold
from fer_jax.data.duplicates.audit import Audit, audit
from fer_jax.errors import Lost, UserError, run_command
from fer_jax.runs.heartbeat import beating
from fer_jax.runs.lock import LOCK, locked
from fer_jax.runs.tensorboard import Board, has_board, write_finished
from fer_jax.system import files
from fer_jax.system.compilation_cache import keep_compiled
from fer_jax.system.console import make_console, print_scores
from fer_jax.system.memory import keep_memory
from fer_jax.system.signals import Interrupted
from fer_jax.training import processes
from fer_jax.training import setup as experiment
from fer_jax.training.checkpoints import Checkpoints
from fer_jax.training.loop import fit
from fer_jax.training.result import describe, predict_all, write_result
from fer_jax.training.setup import Experiment

_LATE_S = 10.0
# Each kind of device, and of what connects them, says it in its own way.
_NO_MEMORY = ("RESOURCE_EX", "Out of memory")
_LOST = ("Gloo", "gloo", "NCCL", "UNAVAILABLE", "oordination", "onnection")


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
                force=args.force,
                skip_bad=args.skip_bad,
                tensorboard=args.tensorboard,
                overrides=args.overrides,
                config_path=args.config,
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
    force: bool = False,
    skip_bad: bool = False,
    tensorboard: bool = False,
    overrides: Sequence[str] = (),
    config_path: str = "",
    console: Console | None = None,
) -> dict[str, Any]:
    """Runs one experiment to its end, going on where an earlier attempt stopped.

    All processes of a run call it alike; the first alone writes in the folder.

    Args:
      config: the experiment.
      data_root: as `data.load` takes it.
      runs_dir: where `<name>/seed_<n>/` is made.
      force: forget what is there and start anew.
      skip_bad: drop bad rows and images instead of refusing them.
      tensorboard: write event files; a run that has some goes on with them anyway.
      overrides: the `--set` items, for the record.
      config_path: the file that the config is from, for the record.
      console: where progress goes; None: nowhere.

    Returns:
      the content of `result.json`.

    Raises:
      UserError: for bad data, another run in the folder, or a loss that is not
        finite.
      Interrupted: after SIGINT or SIGTERM, with the state saved.
    """
    console = console or Console(quiet=True)
    dataset = data.load(
        data_root,
        image_size=config.data.image_size,
        channels=config.data.channels,
        skip_bad=skip_bad,
        console=console,
        memory_limit=experiment.memory_for_images(config.data.stream),
    )
    processes.check_same("data set", dataset.fingerprint)
    processes.check_same("config", config_lib.dump(config))
    processes.check_same("code", json.dumps(runs.environment("", "")))
    make_audit = functools.partial(audit, dataset, console)
    look = functools.cache(lambda: processes.in_turn(make_audit))
    dataset = data.select_images(dataset, config.data, look)
    parts = experiment.build(config, dataset)  # refuses before a folder is made
    # Once for a data set, and not at a long run's end.
    audited = fold.assign(look(), config.data.fold)
    folder = runs.run_dir(runs_dir, config.name, config.training.seed)
    with _disk_errors(folder), contextlib.ExitStack() as held:

        def take() -> bool:
            held.enter_context(locked(folder))
            return _take(config, dataset, folder, force)

        finished_before = processes.of_first(take)
        _check_shared(folder)
        _announce(console, config, dataset, parts, folder)
        if finished_before:
            console.print("already finished; --force repeats it")
        else:
            # Else the files would fall behind the record.
            followed = processes.is_first() and (tensorboard or has_board(folder))
            board = Board(folder) if followed else None
            asked = {"config_path": config_path, "overrides": list(overrides)}
            _attempt(config, dataset, audited, parts, folder, asked, board, console)
        result = processes.of_first(lambda: runs.read_result(folder))
        if finished_before and tensorboard and processes.is_first():
            write_finished(folder, result)
            console.print("TensorBoard's files were written from its record")
    try:
        print_scores(console, result)
    except (LookupError, TypeError, ValueError, AttributeError):
        if not finished_before:
            raise
        raise UserError(
            f"{folder / runs.RESULT} lacks scores; repeat that run with --force"
        ) from None
    console.print(f"result: {folder / runs.RESULT}")
    return result


def _take(config: Config, dataset: data.Dataset, folder: Path, force: bool) -> bool:
    """Whether a folder, which is ours now, holds this run already finished.

    Raises:
      UserError: if it holds another run.
    """
    if force:
        runs.clear(folder)
    described = describe(dataset)
    if changed := runs.differences(folder, config.model_dump(), described):
        raise UserError(
            f"{folder} holds another run: {'; '.join(changed)}; give this one a name "
            "of its own with --set name=..., or replace the old with --force"
        )
    finished = runs.is_finished(folder)
    if not finished and not runs.is_started(folder):
        files.write_json(folder / runs.DATA, described)
        files.write_text(folder / runs.CONFIG, config_lib.dump(config))
    return finished


def _check_shared(folder: Path) -> None:
    """Refuses to go on where the processes do not see one and the same folder."""
    lock = folder / LOCK
    own = processes.of_first(lambda: lock.read_text("utf-8"))
    # A file server may show it some seconds late.
    until = time.monotonic() + _LATE_S
    while (seen := lock.read_text("utf-8") if lock.is_file() else "") != own:
        if time.monotonic() > until:
            break
        time.sleep(0.2)
    processes.check_same(f"runs folder in place of {folder.parents[1]}", seen)


def _attempt(
    config: Config,
    dataset: data.Dataset,
    audited: Audit,
    parts: Experiment,
    folder: Path,
    asked: dict[str, Any],
    board: Board | None,
    console: Console,
) -> None:
    """Begins the run in a folder, or goes on with it, to its end."""
    first, nothing = processes.is_first(), contextlib.nullcontext()
    with (
        beating(folder, str(parts.devices)) if first else nothing as heart,
        runs.noting_failure(folder) if first else nothing,
        _disk_errors(folder),
        _device_errors(),
        Checkpoints(folder / runs.CHECKPOINTS) as checkpoints,
        board or contextlib.nullcontext(),
    ):
        environment = runs.environment(str(parts.devices), parts.compute_dtype)
        now = fit(
            config,
            dataset,
            parts,
            folder,
            checkpoints,
            environment,
            console,
            board,
            heart,
        )
        logits = predict_all(config, dataset, parts, folder, checkpoints, now)
        if first:
            write_result(config, dataset, audited, parts, folder, now, logits, asked)
        if board:
            board.end(now.history, runs.read_result(folder))


@contextlib.contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """A full disk or a folder that became read-only is told in one sentence."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UserError(
            f"{error.filename or folder} cannot be written or read "
            f"({error.strerror or error}); mend that, and the same command, without "
            "--force, goes on from the last checkpoint"
        ) from None


@contextlib.contextmanager
def _device_errors() -> Iterator[None]:
    """Too little memory, or a process that is gone, is told in one sentence."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not processes.are_one() and any(words in str(error) for words in _LOST):
            raise Lost(
                f"another process of the run is lost, or does not answer "
                f"({str(error)[:200]}); see what the others say, and start all of them "
                "again, without --force, to go on from the last checkpoint"
            ) from None
        if not any(words in str(error) for words in _NO_MEMORY):
            raise
        kind = jax.devices()[0].device_kind
        raise UserError(
            f"the memory of {kind} does not suffice for the run; lower "
            "training.batch_size, training.eval_batch_size or data.image_size, or end "
            "what else runs there; the same command goes on from the last checkpoint"
        ) from None


def _announce(
    console: Console,
    config: Config,
    dataset: data.Dataset,
    parts: Experiment,
    folder: Path,
) -> None:
    counts = ", ".join(f"{k} {len(v.labels):,}" for k, v in dataset.splits.items())
    parameters = models.count_parameters(parts.state.params)
    console.print(f"{folder}: {config.description}")
    console.print(f"data: {dataset.description} ({counts}), {dataset.fingerprint}")
    for note in dataset.notes:
        console.print(f"note: {note}")
    where = "read as they are needed" if dataset.streamed else "kept on the device"
    told = f"{dataset.nbytes / 1e9:.2f} GB, data.stream is {config.data.stream}"
    console.print(f"images: {where} ({told})")
    console.print(
        f"{config.model.arch}: {parameters:,} parameters, "
        f"{parts.flops / 1e6:,.0f} MFLOP an image forward, "
        f"{parts.compute_dtype} on {parts.devices}"
    )


if __name__ == "__main__":
    raise SystemExit(processes.ending(lambda: run_command(main)))
