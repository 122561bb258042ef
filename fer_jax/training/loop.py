"""The training loop of one run: epochs of steps, resumable between any two of them.

A checkpoint holds all that the rest of a run depends on, so a run that was
interrupted or killed goes on from its newest one to the same numbers.
"""

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from fer_jax import data, metrics, runs
from fer_jax.config import Config, flatten
from fer_jax.data.lazy_images import StoredImages
from fer_jax.errors import UserError
from fer_jax.runs.dynamics import open_dynamics, write_epoch
from fer_jax.runs.heartbeat import Heart
from fer_jax.runs.tensorboard import Board
from fer_jax.system import files
from fer_jax.system.console import TrainingBar
from fer_jax.system.memory import return_memory
from fer_jax.system.signals import Interrupted, Stop
from fer_jax.training import evaluate, processes
from fer_jax.training.checkpoints import Checkpoints
from fer_jax.training.setup import Experiment, side_at
from fer_jax.training.step import Sums, TrainState


@dataclasses.dataclass
class Progress:
    """Where a run stands: what a checkpoint holds, arrays first, then the record."""

    state: TrainState
    sums: Sums
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    train_s: float = 0.0  # in steps, over all attempts
    wall_s: float = 0.0  # with evaluation and saving
    environments: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def save(
        self, checkpoints: Checkpoints, metrics: dict[str, float] | None = None
    ) -> None:
        """Saves it under its step; with `metrics` it may be the best."""
        record = vars(self).copy()
        tree = {key: record.pop(key) for key in ("state", "sums")}
        checkpoints.save(int(self.state.step), tree, record, metrics)

    @classmethod
    def restore(
        cls, checkpoints: Checkpoints, step: int, parts: Experiment
    ) -> "Progress":
        """Loads what was saved under a step of a run that `parts` belong to."""
        like = {"state": parts.state, "sums": parts.zero_sums()}
        tree = checkpoints.load(step, like)
        return cls(**tree, **checkpoints.record(step))


def best_row(history: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The row of the best epoch by val macro-F1; among equals the earliest."""
    return max(history, key=lambda row: (row["val_macro_f1"], -row["epoch"]))


def is_over(config: Config, history: Sequence[dict[str, Any]]) -> bool:
    """Whether all epochs are done, or patience has run out."""
    if not history:
        return False
    waited = len(history) - best_row(history)["epoch"]
    patience, epochs = config.training.patience, config.training.epochs
    return len(history) >= epochs or 0 < patience <= waited


def fit(
    config: Config,
    dataset: data.Dataset,
    parts: Experiment,
    folder: Path,
    checkpoints: Checkpoints,
    environment: dict[str, Any],
    console: Console,
    board: Board | None = None,
    heart: Heart | None = None,
) -> Progress:
    """The loop: epochs of steps, each closed by val, a checkpoint and a line."""
    now = resume(parts, folder, checkpoints, console)
    _note_environment(now, environment, console)
    _record(folder, now.history, board)
    train = dataset.splits["train"]
    if processes.is_first():
        open_dynamics(folder, train.rows, train.labels, config.training.epochs)
    batches = iter(parts.batches)
    batches.set_state({"next_index": int(now.state.step)})
    training = config.training
    bar = TrainingBar(
        console, training.epochs, parts.per_epoch, training.batch_size, parts.schedule
    )
    if heart:
        heart.progress = bar.reached
    stop, first_here = Stop(alone=processes.are_one()), True
    reading = contextlib.closing(batches)  # its threads end with the run
    with reading, stop.noting(), bar.at(int(now.state.step)):
        while not is_over(config, now.history):
            started = time.monotonic()
            side = side_at(config, len(now.history))
            steps = _train_epoch(parts, now, batches, stop, bar, side)
            seconds = time.monotonic() - started
            now.train_s += seconds
            if now.state.step == parts.per_epoch * (len(now.history) + 1):
                speed = steps * config.training.batch_size / seconds
                row = _close_epoch(config, dataset, parts, now, folder, speed)
                now.wall_s += time.monotonic() - started
                row["wall_s"] = round(now.wall_s, 1)
                now.save(
                    checkpoints,
                    {"macro_f1": row["val_macro_f1"], "epoch": row["epoch"]},
                )
                _record(folder, now.history, board)
                console.print(_epoch_line(config, now.history))
                if first_here:  # all that this process compiles, it has
                    return_memory()
                    first_here = False
            elif steps:  # a signal came in the middle
                now.wall_s += seconds
                now.save(checkpoints)
            if stop.signum is not None:
                console.print(
                    f"stopped after step {int(now.state.step):,}, state saved; the "
                    "same command, without --force, goes on from there"
                )
                raise Interrupted(stop.signum)
    return now


def resume(
    parts: Experiment, folder: Path, checkpoints: Checkpoints, console: Console
) -> Progress:
    """Where the run was left: at its newest undamaged checkpoint, or at the start.

    Raises:
      UserError: if what the run would need from before is lost.
    """
    for problem in checkpoints.left_out:
        console.print(f"note: left out a checkpoint, {problem}")
    # What one process of several sees of the folder, another may see later.
    step, useless = processes.of_first(lambda: _newest_useful(folder, checkpoints))
    if step is None:
        return Progress(parts.state, parts.zero_sums())
    for other in useless:
        console.print(f"note: left out step {other}, whose best epoch is lost")
        checkpoints.drop(other)
    console.print(f"going on after step {step:,} (epoch {step / parts.per_epoch:.1f})")
    return Progress.restore(checkpoints, step, parts)


def _newest_useful(
    folder: Path, checkpoints: Checkpoints
) -> tuple[int | None, list[int]]:
    """The step to go on from, None in a new run; and newer ones that are of no use.

    Raises:
      UserError: if there is none, and the run has begun.
    """
    kept, useless = checkpoints.steps, []
    for step in kept:
        history = checkpoints.record(step)["history"]
        if not history or best_row(history)["step"] in kept:
            return step, useless
        useless.append(step)  # the end of the run evaluates the best
    if kept or runs.epochs_done(folder):
        raise UserError(
            f"{folder} holds a run that was begun and no checkpoint that it could go "
            "on from; start it anew with --force"
        )
    return None, []


def _note_environment(
    now: Progress, environment: dict[str, Any], console: Console
) -> None:
    """Keeps a list of what the run was computed with, one entry a change."""
    before = flatten(now.environments[-1]) if now.environments else {}
    here = flatten(environment)
    if changed := [key for key in here if before.get(key) != here[key]]:
        if before:
            console.print(
                f"note: the run was begun with another {', '.join(changed)}; from here "
                "on its numbers may differ from those of an undisturbed run"
            )
        now.environments.append(environment)


def _train_epoch(
    parts: Experiment,
    now: Progress,
    batches: Iterator[Any],
    stop: Stop,
    bar: TrainingBar,
    side: int | None,
) -> int:
    """Takes the steps that are left of the epoch; returns how many it took.

    Raises:
      UserError: if a loss or a gradient is not finite; nothing of that is saved.

    One dispatch is always under way while the host prepares the next and reads what the
    one before said; the indices, the images of a streamed set and that are all that
    passes between them.
    """
    images = parts.images["train"]
    streamed = isinstance(images, StoredImages)
    first = step = int(now.state.step)
    end = parts.per_epoch * (len(now.history) + 1)
    behind: tuple[int, jax.Array] | None = None
    while step < end and stop.signum is None:
        count = min(parts.at_once, end - step)
        drawn = [next(batches) for _ in range(count)]
        stacked = jax.tree.map(lambda *each: np.stack(each), *drawn)
        indices = parts.devices.divide(stacked, parts.batch_size, axis=1)
        if streamed:
            indices, images = indices
        now.state, now.sums = parts.train_step(
            now.state, now.sums, images, parts.labels, indices, side
        )
        step += count
        if behind:
            _tell(parts, now, bar, stop, *behind)
        behind = step, _news(now.sums, _signals(parts, stop))
    if behind:
        _tell(parts, now, bar, stop, *behind)
    return step - first


def _signals(parts: Experiment, stop: Stop) -> jax.Array | None:
    """The signal that came to each device's process, or 0: int32, one a device.

    None where there is one process, which need not be told.
    """
    if processes.are_one():
        return None
    devices = parts.devices
    own = np.zeros(devices.count, np.int32)[devices.own(devices.count)]
    return devices.divide(own + (stop.noted or 0), devices.count)


@jax.jit
def _news(sums: Sums, signals: jax.Array | None) -> jax.Array:
    """What is told of a step, of sums that are donated later.

    The mean loss, not 0 if a step was bad, and the signal that came to some process.
    """
    signum = 0 if signals is None else signals.max()
    return jnp.stack([sums.loss / sums.steps, sums.bad_step, signum])


def _tell(
    parts: Experiment,
    now: Progress,
    bar: TrainingBar,
    stop: Stop,
    step: int,
    news: jax.Array,
) -> None:
    """Waits for the dispatch that ended with `step`, and shows what came of it.

    All processes read the same of the same step, so they stop after the same one.
    """
    # Without waiting, a signal would wait for all the steps already queued.
    loss, bad, signum = jax.device_get(news)
    stop.agreed = int(signum) or None
    if bad:
        raise _not_finite(parts, now, "loss, the logits or the gradient were")
    bar.advance(step, float(loss))


def _close_epoch(
    config: Config,
    dataset: data.Dataset,
    parts: Experiment,
    now: Progress,
    folder: Path,
    speed: float,
) -> dict[str, Any]:
    """Scores val, keeps what the epoch says of each image, and clears the sums.

    Raises:
      UserError: if the loss on val is not finite.
    """
    epoch, step = len(now.history) + 1, int(now.state.step)
    sums = jax.device_get(now.sums)
    val = score(config, dataset, parts, now.state, "val")[1]
    if not math.isfinite(val["loss"]):
        raise _not_finite(parts, now, "loss on val was")
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
    # Another processor may round the last digit of a score otherwise.
    now.history.append(row := processes.of_first(lambda: row))
    if processes.is_first():
        write_epoch(folder, epoch, sums.margin, sums.shown, sums.rival)
    now.sums = parts.zero_sums(now.sums.last_good)
    return row


def _not_finite(parts: Experiment, now: Progress, what: str) -> UserError:
    sums = jax.device_get(now.sums)
    step = int(sums.bad_step) or int(now.state.step)
    within = step - parts.per_epoch * len(now.history)
    step_, *values = sums.last_good
    named = zip(("loss", "logit", "gradient", "parameter"), values, strict=True)
    before = (
        f"the largest values of step {step_:,}, the last good one, were "
        + ", ".join(f"{name} {value:.3g}" for name, value in named)
        if step_
        else "no step before it was good"
    )
    return UserError(
        f"the {what} not finite at step {step:,} (step {within:,} of "
        f"{parts.per_epoch:,} in epoch {len(now.history) + 1}); {before}; lower "
        "training.lr or clip the gradient with training.clip_norm, and start anew with "
        "--force or under a name of its own"
    )


def predict(
    config: Config, parts: Experiment, state: TrainState, split: str
) -> np.ndarray:
    """Logits of one split under a state: float32 `[N, C]`."""
    return evaluate.predict_split(
        parts.predict,
        *state.evaluated,
        parts.images[split],
        batch_size=config.training.eval_batch_size,
        devices=parts.devices,
    )


def score(
    config: Config,
    dataset: data.Dataset,
    parts: Experiment,
    state: TrainState,
    split: str,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Logits and scores of one split under a state."""
    logits = predict(config, parts, state, split)
    labels = dataset.splits[split].labels
    return logits, metrics.score(logits, labels, dataset.class_names)


def _record(
    folder: Path, history: Sequence[dict[str, Any]], board: Board | None
) -> None:
    if processes.is_first():
        _write_metrics(folder, history)
    if board:
        board.follow(history)


def _write_metrics(folder: Path, history: Sequence[dict[str, Any]]) -> None:
    # Whole and from the checkpoint's record, so that the two never disagree.
    files.write_jsonl(folder / runs.METRICS, history)


def _epoch_line(config: Config, history: Sequence[dict[str, Any]]) -> str:
    row, best = history[-1], best_row(history)
    return (
        f"epoch {row['epoch']:>3}/{config.training.epochs}  "
        f"loss {row['train_loss']:.3f}  "
        f"val accuracy {100 * row['val_accuracy']:.1f} %  "
        f"macro-F1 {100 * row['val_macro_f1']:.1f} %"
        f"{'*' if best is row else ' '} {row['images_per_s']:,.0f} img/s"
    )
