"""Trains one experiment: `python -m fer_jax.train configs/baseline.yaml`.

From top to bottom: the command line, one run (`train`), its loop (`_fit`), and what
is written at its end (`_finish`). A run that was interrupted or killed goes on from
its last checkpoint when the same command is given again, to the same numbers.
"""

import argparse
import dataclasses
import math
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import Progress, TaskID, TextColumn

from fer_jax import config as config_lib
from fer_jax import data, evaluate, experiment, models, runs
from fer_jax.checkpoint import Checkpoints
from fer_jax.config import Config
from fer_jax.console import make_console, progress, scores_table
from fer_jax.errors import UserError, run_command
from fer_jax.experiment import Experiment
from fer_jax.train_step import Sums, TrainState, zero_sums


class Interrupted(Exception):
    """SIGINT or SIGTERM stopped the run, after its state was saved."""

    def __init__(self, signum: int):
        """Keeps the signal's number."""
        super().__init__(signum)
        self.signum = signum


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m fer_jax.train", description="Train one experiment."
    )
    parser.add_argument("config", help="a YAML file such as configs/baseline.yaml")
    parser.add_argument(
        "--data_root",
        help="a fer2013.csv, or a folder train|val|test/<class>/*; "
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
    args = parser.parse_args(argv)
    if args.seed is not None:
        args.overrides.append(f"training.seed={args.seed}")
    try:
        train(
            config_lib.load(args.config, args.overrides),
            data_root=args.data_root,
            runs_dir=args.runs_dir,
            force=args.force,
            skip_bad=args.skip_bad,
            overrides=args.overrides,
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
    overrides: Sequence[str] = (),
    console: Console | None = None,
) -> dict[str, Any]:
    """Runs one experiment to its end, going on where an earlier attempt stopped.

    Args:
      config: the experiment.
      data_root: as `data.load` takes it.
      runs_dir: where `<name>/seed_<n>/` is made.
      force: forget what is there and start anew.
      skip_bad: drop bad rows and images instead of refusing them.
      overrides: the `--set` items, for the record.
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
        skip_bad=skip_bad,
        console=console,
    )
    parts = experiment.build(config, dataset)  # refuses before a folder is made
    described = describe(dataset)
    folder = runs.run_dir(runs_dir, config.name, config.training.seed)
    with runs.locked(folder):
        if force:
            runs.clear(folder)
        if changed := runs.differences(folder, config.model_dump(), described):
            raise UserError(
                f"{folder} holds another run: {'; '.join(changed)}; give this one a "
                "name of its own with --set name=..., or replace the old with --force"
            )
        _announce(console, config, dataset, parts, folder)
        if runs.is_finished(folder):
            console.print("already finished; --force repeats it")
        else:
            if not runs.is_started(folder):
                runs.write_json(folder / runs.DATA, described)
                runs.write_text(folder / runs.CONFIG, config_lib.dump(config))
            with Checkpoints(folder / runs.CHECKPOINTS) as checkpoints:
                now = _fit(config, dataset, parts, folder, checkpoints, console)
                _finish(config, dataset, parts, folder, checkpoints, now, overrides)
        result = runs.read_result(folder)
    console.print(scores_table(result))
    console.print(f"result: {folder / runs.RESULT}")
    return result


def describe(dataset: data.Dataset) -> dict[str, Any]:
    """The `data` block of `result.json`."""
    classes = len(dataset.class_names)
    return {
        "source": dataset.source,
        "description": dataset.description,
        "fingerprint": dataset.fingerprint,
        "class_names": list(dataset.class_names),
        "counts": {
            name: np.bincount(split.labels, minlength=classes).tolist()
            for name, split in dataset.splits.items()
        },
        "skipped": dataset.skipped,
        "notes": list(dataset.notes),
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
    if dropped := ", ".join(f"{n} of {k}" for k, n in dataset.skipped.items() if n):
        console.print(f"note: bad rows dropped: {dropped}")
    console.print(
        f"{config.model.arch}: {parameters:,} parameters, "
        f"{parts.compute_dtype} on {_device()}"
    )


def _device() -> str:
    return jax.devices()[0].device_kind


@dataclasses.dataclass
class _Progress:
    """Where a run stands: what a checkpoint holds, arrays first, then the record."""

    state: TrainState
    sums: Sums
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    train_s: float = 0.0  # in steps, over all attempts
    wall_s: float = 0.0  # with evaluation and saving

    def save(
        self, checkpoints: Checkpoints, metrics: dict[str, float] | None = None
    ) -> None:
        record = vars(self).copy()
        tree = {key: record.pop(key) for key in ("state", "sums")}
        checkpoints.save(int(self.state.step), tree, record, metrics)

    @classmethod
    def restore(
        cls, checkpoints: Checkpoints, step: int, like: TrainState
    ) -> "_Progress":
        tree, record = checkpoints.load(step, {"state": like, "sums": zero_sums()})
        return cls(**tree, **record)


def _best(history: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The row of the best epoch by val macro-F1; among equals the earliest."""
    return max(history, key=lambda row: (row["val_macro_f1"], -row["epoch"]))


def _is_over(config: Config, history: Sequence[dict[str, Any]]) -> bool:
    """Whether all epochs are done, or patience has run out."""
    if not history or len(history) >= config.training.epochs:
        return bool(history)
    waited = len(history) - _best(history)["epoch"]
    return 0 < config.training.patience <= waited


def _fit(
    config: Config,
    dataset: data.Dataset,
    parts: Experiment,
    folder: Path,
    checkpoints: Checkpoints,
    console: Console,
) -> _Progress:
    """The loop: epochs of steps, each closed by val, a checkpoint and a line."""
    now = _Progress(parts.state, zero_sums())
    if checkpoints.latest is not None:
        now = _Progress.restore(checkpoints, checkpoints.latest, parts.state)
        step = int(now.state.step)
        console.print(
            f"going on after step {step:,} (epoch {step / parts.per_epoch:.1f})"
        )
    _write_metrics(folder, now.history)
    batches = iter(parts.batches)
    batches.set_state({"next_index": int(now.state.step)})
    with _Stop(console) as stop, _Bar(console, config, parts, now) as bar:
        while not _is_over(config, now.history):
            started = time.monotonic()
            steps = _train_epoch(parts, now, batches, stop, bar)
            seconds = time.monotonic() - started
            now.train_s += seconds
            if now.state.step == parts.per_epoch * (len(now.history) + 1):
                speed = steps * config.training.batch_size / seconds
                row = _close_epoch(config, dataset, parts, now, speed)
                now.wall_s += time.monotonic() - started
                now.save(
                    checkpoints,
                    {"macro_f1": row["val_macro_f1"], "epoch": row["epoch"]},
                )
                _write_metrics(folder, now.history)
                console.print(_epoch_line(config, now.history))
            else:  # a signal came in the middle
                now.wall_s += seconds
                now.save(checkpoints)
            if stop.signum is not None:
                console.print(
                    f"stopped after step {int(now.state.step):,}; "
                    "the same command goes on from there"
                )
                raise Interrupted(stop.signum)
    return now


def _train_epoch(
    parts: Experiment,
    now: _Progress,
    batches: Iterator[np.ndarray],
    stop: "_Stop",
    bar: "_Bar",
) -> int:
    """Takes the steps that are left of the epoch; returns how many it took.

    On accelerators many steps share one dispatch. On CPU each has its own: XLA's
    convolutions run some 25 times slower inside a scan there.
    """
    at_once = 1 if jax.default_backend() == "cpu" else 32
    first = step = int(now.state.step)
    end = parts.per_epoch * (len(now.history) + 1)
    while step < end and stop.signum is None:
        count = min(at_once, end - step)
        indices = np.stack([next(batches) for _ in range(count)])
        now.state, now.sums = parts.train_step(
            now.state, now.sums, parts.images["train"], parts.labels, indices
        )
        # Without this a signal would wait for all the steps already queued.
        jax.block_until_ready(now.sums)
        step += count
        bar.advance(step, now.sums)
    return step - first


def _close_epoch(
    config: Config,
    dataset: data.Dataset,
    parts: Experiment,
    now: _Progress,
    speed: float,
) -> dict[str, Any]:
    """Scores val, adds the epoch's row to the history, and clears the sums.

    Raises:
      UserError: if a loss or a gradient was not finite.
    """
    epoch, step, sums = (
        len(now.history) + 1,
        int(now.state.step),
        jax.device_get(now.sums),
    )
    val = _score(config, dataset, parts, now.state, "val")[1]
    bad = int(sums.bad_step) + 1 if sums.bad_step >= 0 else step
    if sums.bad_step >= 0 or not math.isfinite(val["loss"]):
        raise UserError(
            f"the loss or its gradient was not finite at step {bad:,} (epoch {epoch}); "
            f"lower training.lr, which is {config.training.lr:g}; "
            "the checkpoint of the epoch before is kept"
        )
    row = {
        "epoch": epoch,
        "step": step,
        "lr": float(parts.schedule(step - 1)),
        "train_loss": float(sums.loss / sums.steps),
        "train_accuracy": float(sums.correct / sums.images),
        "val_loss": val["loss"],
        "val_accuracy": val["accuracy"],
        "val_macro_f1": val["macro_f1"],
        "val_balanced_accuracy": val["balanced_accuracy"],
        "images_per_s": round(speed, 1),
    }
    now.history.append(row)
    now.sums = zero_sums()
    return row


def _score(
    config: Config,
    dataset: data.Dataset,
    parts: Experiment,
    state: TrainState,
    split: str,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Logits and scores of one split under a state."""
    logits = evaluate.predict_split(
        parts.predict,
        state.params,
        state.batch_stats,
        parts.images[split],
        batch_size=config.training.eval_batch_size,
    )
    labels = dataset.splits[split].labels
    return logits, evaluate.score(logits, labels, dataset.class_names)


def _finish(
    config: Config,
    dataset: data.Dataset,
    parts: Experiment,
    folder: Path,
    checkpoints: Checkpoints,
    now: _Progress,
    overrides: Sequence[str],
) -> None:
    """Evaluates the selected checkpoint, on test for the only time, and writes.

    `result.json` comes last: a run without it is not finished.
    """
    started, best = time.monotonic(), _best(now.history)
    state = _Progress.restore(checkpoints, best["step"], parts.state).state
    scores = {}
    for split in ("val", "test"):
        if split in dataset.splits:
            logits, scores[split] = _score(config, dataset, parts, state, split)
            part = dataset.splits[split]
            runs.write_predictions(folder, split, part.rows, part.labels, logits)
    images = int(now.state.step) * config.training.batch_size
    result = {
        "format": runs.RESULT_FORMAT,
        "name": config.name,
        "description": config.description,
        "seed": config.training.seed,
        "config": config.model_dump(),
        "overrides": list(overrides),
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
        },
        "environment": runs.environment(_device(), parts.compute_dtype),
        "timing": {
            "wall_s": round(now.wall_s + time.monotonic() - started, 1),
            "train_s": round(now.train_s, 1),
            "images_per_s": round(images / now.train_s, 1),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        },
    }
    runs.write_json(folder / runs.RESULT, result)


def _write_metrics(folder: Path, history: Sequence[dict[str, Any]]) -> None:
    # Whole and from the checkpoint's record, so that the two never disagree.
    runs.write_jsonl(folder / runs.METRICS, history)


def _epoch_line(config: Config, history: Sequence[dict[str, Any]]) -> str:
    row, best = history[-1], _best(history)
    return (
        f"epoch {row['epoch']:>3}/{config.training.epochs}  "
        f"loss {row['train_loss']:.3f}  "
        f"val accuracy {100 * row['val_accuracy']:.1f} %  "
        f"macro-F1 {100 * row['val_macro_f1']:.1f} %"
        f"{'*' if best is row else ' '} {row['images_per_s']:,.0f} img/s"
    )


class _Stop:
    """Notes SIGINT and SIGTERM, so that the loop can stop between two steps."""

    def __init__(self, console: Console):
        self.signum: int | None = None
        self._console = console

    def __enter__(self) -> "_Stop":
        self._handlers = {
            number: signal.signal(number, self._note)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _note(self, signum: int, _: object) -> None:
        if self.signum is not None and signum == signal.SIGINT:
            raise KeyboardInterrupt  # a second Ctrl-C does not wait
        self.signum = signum
        self._console.print("stopping: the state is saved after this step")


class _Bar:
    """The live progress bar: epoch, loss, rate of learning and of images, time."""

    def __init__(
        self, console: Console, config: Config, parts: Experiment, now: _Progress
    ):
        self._progress: Progress = progress(
            console, TextColumn("{task.fields[detail]}"), count=False
        )
        self._config, self._parts = config, parts
        self._from, self._started = int(now.state.step), time.monotonic()
        self._shown = 0.0

    def __enter__(self) -> "_Bar":
        self._progress.start()
        self._task: TaskID = self._progress.add_task(
            "compiling",
            total=self._parts.per_epoch * self._config.training.epochs,
            completed=self._from,
            detail="",
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def advance(self, step: int, sums: Sums) -> None:
        """Shows a step; reads the loss from the device a few times a second."""
        clock = time.monotonic()
        if self._progress.disable or clock - self._shown < 0.25:
            return
        self._shown = clock
        epoch = -(-step // self._parts.per_epoch)
        images = (step - self._from) * self._config.training.batch_size
        self._progress.update(
            self._task,
            completed=step,
            description=f"epoch {epoch}/{self._config.training.epochs}",
            detail=f"loss {float(sums.loss / sums.steps):.3f}  "
            f"lr {float(self._parts.schedule(step - 1)):.1e}  "
            f"{images / (clock - self._started):,.0f} img/s",
        )


if __name__ == "__main__":
    raise SystemExit(run_command(main))
