"""Trains one experiment: `python -m fer_jax.train configs/baseline.yaml`.

From top to bottom: the command line, one run (`train`), and what is written at its
end (`_finish`); the loop between them is in `fit.py`.
"""

import argparse
import contextlib
import functools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from fer_jax import config as config_lib
from fer_jax import data, experiment, metrics, models, runs
from fer_jax.checkpoint import Checkpoints
from fer_jax.compiled import keep_compiled
from fer_jax.config import Config
from fer_jax.console import make_console, print_scores
from fer_jax.data import fold
from fer_jax.data.audit import Audit, audit
from fer_jax.errors import UserError, run_command
from fer_jax.experiment import Experiment
from fer_jax.fit import Progress, best_row, fit, predict
from fer_jax.heartbeat import beating
from fer_jax.lock import locked
from fer_jax.memory import keep_memory
from fer_jax.stop import Interrupted
from fer_jax.tensorboard import Board, has_board, write_finished
from fer_jax.train_step import TrainState


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
    if args.seed is not None:
        args.overrides.append(f"training.seed={args.seed}")
    try:
        train(
            config_lib.load(args.config, args.overrides),
            data_root=args.data_root,
            runs_dir=args.runs_dir,
            force=args.force,
            skip_bad=args.skip_bad,
            tensorboard=args.tensorboard,
            overrides=args.overrides,
            config_path=args.config,
            console=make_console(),
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
        stream=config.data.stream,
        room=experiment.room_for_images(),
    )
    look = functools.cache(functools.partial(audit, dataset, console))
    dataset = data.choose(dataset, config.data, look)
    parts = experiment.build(config, dataset)  # refuses before a folder is made
    # Once for a data set, and not at a long run's end.
    audited = fold.assign(look(), config.data.fold)
    described = describe(dataset)
    folder = runs.run_dir(runs_dir, config.name, config.training.seed)
    with _disk_errors(folder), locked(folder):
        if force:
            runs.clear(folder)
        if changed := runs.differences(folder, config.model_dump(), described):
            raise UserError(
                f"{folder} holds another run: {'; '.join(changed)}; give this one a "
                "name of its own with --set name=..., or replace the old with --force"
            )
        _announce(console, config, dataset, parts, folder)
        finished_before = runs.is_finished(folder)
        if finished_before:
            console.print("already finished; --force repeats it")
        else:
            # Else the files would fall behind the record.
            board = Board(folder) if tensorboard or has_board(folder) else None
            asked = {"config_path": config_path, "overrides": list(overrides)}
            _attempt(config, dataset, audited, parts, folder, asked, board, console)
        result = runs.read_result(folder)
        if finished_before and tensorboard:
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
    if not runs.is_started(folder):
        runs.write_json(folder / runs.DATA, describe(dataset))
        runs.write_text(folder / runs.CONFIG, config_lib.dump(config))
    with (
        beating(folder, _device()) as heart,
        runs.noting_failure(folder),
        _disk_errors(folder),
        _memory_errors(),
        Checkpoints(folder / runs.CHECKPOINTS) as checkpoints,
        board or contextlib.nullcontext(),
    ):
        environment = runs.environment(_device(), parts.compute_dtype)
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
        _finish(config, dataset, audited, parts, folder, checkpoints, now, asked)
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
def _memory_errors() -> Iterator[None]:
    """A device whose memory does not suffice is told in one sentence."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        # GPUs and CPUs say it each in their own way.
        if not any(words in str(error) for words in ("RESOURCE_EX", "Out of memory")):
            raise
        raise UserError(
            f"the memory of {_device()} does not suffice for the run; lower "
            "training.batch_size, training.eval_batch_size or data.image_size, or end "
            "what else runs there; the same command goes on from the last checkpoint"
        ) from None


def describe(dataset: data.Dataset) -> dict[str, Any]:
    """The `data` block of `result.json`."""
    classes = len(dataset.class_names)
    return {
        "source": dataset.source,
        "description": dataset.description,
        "fingerprint": dataset.fingerprint,
        "source_fingerprint": dataset.source_fingerprint or dataset.fingerprint,
        "labels": dataset.labels,
        "chosen": dataset.chosen,
        "class_names": list(dataset.class_names),
        "counts": {
            name: np.bincount(
                split.labels[split.labels >= 0], minlength=classes
            ).tolist()
            for name, split in dataset.splits.items()
        },
        "skipped": dataset.skipped,
        "left_out": dataset.left_out,
        "notes": list(dataset.notes),
        "streamed": dataset.streamed,
    }


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
        f"{parts.compute_dtype} on {_device()}"
    )


def _device() -> str:
    return jax.devices()[0].device_kind


def _predict(
    config: Config,
    dataset: data.Dataset,
    parts: Experiment,
    folder: Path,
    state: TrainState,
    split: str,
) -> np.ndarray:
    """Logits of a split; test is read once for a checkpoint, and that is noted."""
    if split == "test":
        logits = runs.stored_test_logits(folder, int(state.step))
        if logits is not None and len(logits) == len(dataset.splits[split].labels):
            return logits
        runs.note_test_read(folder, int(state.step))
    return predict(config, parts, state, split)


def _finish(
    config: Config,
    dataset: data.Dataset,
    audited: Audit,
    parts: Experiment,
    folder: Path,
    checkpoints: Checkpoints,
    now: Progress,
    asked: dict[str, Any],
) -> None:
    """Evaluates the selected checkpoint, on test for the only time, and writes.

    `result.json` comes last: a run without it is not finished.
    """
    started, best = time.monotonic(), best_row(now.history)
    count = len(parts.labels)
    state = Progress.restore(checkpoints, best["step"], parts.state, count).state
    scores: dict[str, Any] = {}
    is_clean = ~audited.has_copy_in("train", near=True)
    for split in ("val", "test"):
        if split in dataset.splits:
            part = dataset.splits[split]
            logits = _predict(config, dataset, parts, folder, state, split)
            clean = is_clean[audited.of(split)]
            score_by = functools.partial(
                metrics.scores_of, logits, clean=clean, class_names=dataset.class_names
            )
            scores[split] = score_by(part.labels)
            if part.label_sets:
                scores[split]["label_sets"] = {
                    name: score_by(labels) for name, labels in part.label_sets.items()
                }
            runs.write_predictions(
                folder,
                split,
                rows=part.rows,
                image_ids=audited.identical(split),
                clean=clean,
                labels=part.labels,
                logits=logits,
                label_sets=part.label_sets,
            )
    images = int(now.state.step) * config.training.batch_size
    result = {
        "format": runs.RESULT_FORMAT,
        "name": config.name,
        "description": config.description,
        "seed": config.training.seed,
        "config": config.model_dump(),
        **asked,
        "data": describe(dataset),
        "selection": {
            "split": "val",
            "metric": "macro_f1",
            "epoch": best["epoch"],
            "value": best["val_macro_f1"],
        },
        "epochs_run": len(now.history),
        "stopped_early": len(now.history) < config.training.epochs,
        **scores,
        "model": {
            "arch": config.model.arch,
            "parameters": models.count_parameters(state.params),
            "flops": parts.flops,  # of one image's forward pass
        },
        "environment": now.environments[-1],
        "earlier_environments": now.environments[:-1],
        "timing": {
            "wall_s": round(now.wall_s + time.monotonic() - started, 1),
            "train_s": round(now.train_s, 1),
            "images_per_s": round(images / now.train_s, 1),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        },
    }
    runs.write_json(folder / runs.RESULT, result)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
