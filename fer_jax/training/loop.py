"""The training loop of one run: epochs of steps, resumable between any two of them.

A checkpoint holds all that the rest of a run depends on, so a run that was stopped or
killed resumes from its newest one and ends with the same numbers.
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from fer_jax import runs
from fer_jax.config import Config, flatten
from fer_jax.data import Dataset
from fer_jax.errors import UserError
from fer_jax.metrics import score
from fer_jax.runs.dynamics import open_dynamics, write_epoch
from fer_jax.system import clock, files
from fer_jax.system.memory import return_memory
from fer_jax.system.signals import Interrupted, Stop
from fer_jax.training import evaluate, processes
from fer_jax.training.checkpoints import Checkpoints
from fer_jax.training.progress import Progress, best_row, is_over
from fer_jax.training.setup import Setup, side_at
from fer_jax.training.step import EpochMetrics, TrainState

Row = Mapping[str, Any]  # an epoch, as in metrics.jsonl


@dataclasses.dataclass(frozen=True)
class TrainingRun:
    """An attempt at a run; the wall time counts from when it is made."""

    config: Config
    dataset: Dataset
    setup: Setup
    run_dir: Path
    checkpoints: Checkpoints
    started: float = dataclasses.field(default_factory=lambda: clock.running_s())


class Reporter(Protocol):
    """What follows a run: a progress bar, TensorBoard, the heartbeat."""

    def on_step(self, step: int, loss: float) -> None:
        """Called after a dispatch, with the steps taken and the epoch's mean loss."""

    def on_epoch(self, history: Sequence[Row]) -> None:
        """Called with all epochs, at the start and when one has been saved."""


def run_epochs(
    run: TrainingRun, console: Console, reporters: Sequence[Reporter] = ()
) -> Progress:
    """Trains to the end of the run; each epoch ends with val, a checkpoint and a line.

    Raises:
      UserError: if a loss or gradient is not finite, or the run cannot be resumed.
      Interrupted: after a signal, with the state saved.
    """
    progress = resume(run, console)
    _note_environment(run, progress, console)
    _report_epochs(run, progress.history, reporters)
    if processes.is_first():
        train = run.dataset.splits["train"]
        open_dynamics(run.run_dir, train.rows, train.labels, run.config.training.epochs)
    batches = iter(run.setup.batches)
    batches.set_state({"next_index": int(progress.state.step)})
    stop, compiled = Stop(alone=processes.are_one()), False
    with contextlib.closing(batches), stop.noting():  # its threads end with the run
        while not is_over(run.config, progress.history):
            started = clock.running_s()
            steps = _train_epoch(run, progress, batches, stop, reporters, compiled)
            seconds = clock.running_s() - started
            progress.train_s += seconds
            if progress.state.step == _epoch_end(run, progress):
                speed = steps * run.setup.batch_size / seconds
                row = _close_epoch(run, progress, speed)
                scores = {"macro_f1": row["val_macro_f1"], "epoch": row["epoch"]}
                progress.save(run.checkpoints, scores)
                _report_epochs(run, progress.history, reporters)
                console.print(_epoch_line(run.config, progress.history))
                if not compiled:  # all but the steps on larger images, if these grow
                    return_memory()
                    compiled = True
            elif steps:  # a signal came within the epoch
                progress.save(run.checkpoints)
            if stop.signum is not None:
                console.print(
                    f"stopped after step {int(progress.state.step):,}, state saved; "
                    "the same command, without --force, resumes from there"
                )
                raise Interrupted(stop.signum)
    return progress


def resume(run: TrainingRun, console: Console) -> Progress:
    """The run at its newest undamaged checkpoint, or at its start.

    A checkpoint whose best epoch is lost is deleted, as the end of the run needs both.

    Raises:
      UserError: if no checkpoint is left, and the run has begun.
    """
    for problem in run.checkpoints.left_out:
        console.print(f"note: left out a checkpoint, {problem}")

    def find() -> tuple[int | None, list[int]]:
        kept = run.checkpoints.steps  # the newest first
        for place, step in enumerate(kept):
            history = run.checkpoints.record(step)["history"]
            if not history or best_row(history)["step"] in kept:
                return step, kept[:place]
        if kept or runs.epochs_done(run.run_dir):
            raise UserError(
                f"{run.run_dir} holds a run that has begun and no checkpoint to resume "
                "from; start it anew with --force"
            )
        return None, []

    # Another process may see the first one's files late.
    step, useless = processes.of_first(find)
    if step is None:
        return Progress(run.setup.state, run.setup.init_metrics(), run.started)
    for newer in useless:
        console.print(f"note: left out step {newer}, whose best epoch is lost")
        run.checkpoints.delete(newer)
    epochs = step / run.setup.steps_per_epoch
    console.print(f"resuming after step {step:,} (epoch {epochs:.1f})")
    return Progress.restore(run.setup, run.checkpoints, step, run.started)


def _note_environment(run: TrainingRun, progress: Progress, console: Console) -> None:
    """Records what the run is computed with, where that has changed."""
    setup = run.setup
    environment = runs.environment(str(setup.devices), setup.compute_dtype)
    before = flatten(progress.environments[-1]) if progress.environments else {}
    here = flatten(environment)
    if changed := [key for key in here if before.get(key) != here[key]]:
        if before:
            console.print(
                f"note: the run began with another {', '.join(changed)}; from here on "
                "its numbers may differ from those of an uninterrupted run"
            )
        progress.environments.append(environment)


def _report_epochs(
    run: TrainingRun, history: Sequence[Row], reporters: Sequence[Reporter]
) -> None:
    if processes.is_first():
        # The whole file, from the checkpoint's record, so that the two always agree.
        files.write_jsonl(run.run_dir / runs.METRICS, history)
    for reporter in reporters:
        reporter.on_epoch(history)


def _epoch_end(run: TrainingRun, progress: Progress) -> int:
    """The steps taken when the current epoch ends."""
    return run.setup.steps_per_epoch * (len(progress.history) + 1)


def _train_epoch(
    run: TrainingRun,
    progress: Progress,
    batches: Iterator[Any],
    stop: Stop,
    reporters: Sequence[Reporter],
    compiled: bool,
) -> int:
    """Takes the epoch's remaining steps; returns their number.

    `compiled`: the steps need not be compiled any more. One dispatch is always under
    way while the host prepares the next and reads the outcome of the last. Indices,
    streamed images and outcomes are all that passes between host and devices.
    """
    setup, side = run.setup, side_at(run.config, len(progress.history))
    images: Any = setup.images["train"]
    streamed = not isinstance(images, jax.Array)
    first = step = int(progress.state.step)
    end = _epoch_end(run, progress)

    def finish(step: int, outcome: jax.Array) -> None:
        # All processes read the same outcome of the same step, and stop after it.
        loss, bad, signum = jax.device_get(outcome)
        stop.agreed = int(signum) or None
        if bad:
            raise _not_finite(run, progress, "loss, the logits or the gradient were")
        for reporter in reporters:
            reporter.on_step(step, float(loss))

    pending: tuple[int, jax.Array] | None = None
    while step < end and stop.signum is None:
        count = min(setup.steps_per_dispatch, end - step)
        drawn = [next(batches) for _ in range(count)]
        stacked = jax.tree.map(lambda *each: np.stack(each), *drawn)
        indices = setup.devices.divide(stacked, setup.batch_size, axis=1)
        if streamed:
            indices, images = indices
        progress.state, progress.metrics = setup.train_step(
            progress.state, progress.metrics, (images, setup.labels), indices, side
        )
        if not compiled:
            return_memory()  # the compiler's, before the steps take their own
            compiled = True
        step += count
        if pending:  # without waiting, a signal would have to wait for a queue of steps
            finish(*pending)
        pending = step, _outcome(progress.metrics, _signals(setup, stop))
    if pending:
        finish(*pending)
    return step - first


def _signals(setup: Setup, stop: Stop) -> jax.Array | None:
    """The signal that each device's process got, or 0; None for a single process."""
    if processes.are_one():
        return None
    devices = setup.devices
    own: Any = np.zeros(devices.count, np.int32)[devices.own(devices.count)]
    return devices.divide(own + (stop.noted or 0), devices.count)


@jax.jit
def _outcome(metrics: EpochMetrics, signals: jax.Array | None) -> jax.Array:
    """The mean loss, the first bad step or 0, and a process's signal or 0."""
    signum = 0 if signals is None else signals.max()
    return jnp.stack([metrics.loss / metrics.steps, metrics.bad_step, signum])


def _close_epoch(run: TrainingRun, progress: Progress, speed: float) -> dict[str, Any]:
    """Scores val, writes the epoch's dynamics, and starts new metrics."""
    epoch, step = len(progress.history) + 1, int(progress.state.step)
    metrics = jax.device_get(progress.metrics)
    val = score_val(run, progress.state)
    if not math.isfinite(val["loss"]):
        raise _not_finite(run, progress, "loss on val was")
    row = {
        "epoch": epoch,
        "step": step,
        "lr": float(run.setup.schedule(step - 1)),
        "train_loss": float(metrics.loss / metrics.steps),
        "train_accuracy": float(metrics.correct / metrics.images),
        "val_loss": val["loss"],
        "val_accuracy": val["accuracy"],
        "val_macro_f1": val["macro_f1"],
        "val_balanced_accuracy": val["balanced_accuracy"],
        "images_per_s": round(speed, 1),
        "wall_s": round(progress.wall_s, 1),
    }
    # The first process's: another processor may round a score differently.
    progress.history.append(row := processes.of_first(lambda: row))
    if processes.is_first():
        write_epoch(run.run_dir, epoch, metrics.margin, metrics.shown, metrics.rival)
    progress.metrics = run.setup.init_metrics(progress.metrics.last_good)
    return row


def _not_finite(run: TrainingRun, progress: Progress, what: str) -> UserError:
    metrics = jax.device_get(progress.metrics)
    step = int(metrics.bad_step) or int(progress.state.step)
    per_epoch, epochs = run.setup.steps_per_epoch, len(progress.history)
    good_step, *values = metrics.last_good
    named = zip(("loss", "logit", "gradient", "parameter"), values, strict=True)
    before = (
        f"the largest values of step {good_step:,}, the last good one, were "
        + ", ".join(f"{name} {value:.3g}" for name, value in named)
        if good_step
        else "no step before it was good"
    )
    return UserError(
        f"the {what} not finite at step {step:,} (step {step - epochs * per_epoch:,} "
        f"of {per_epoch:,} in epoch {epochs + 1}); {before}; lower training.lr or clip "
        "the gradient with training.clip_norm, and start anew with --force or under "
        "another name"
    )


def predict(run: TrainingRun, state: TrainState, split: str) -> np.ndarray:
    """Logits of a split: float32 `[N, C]`."""
    largest = run.config.training.eval_batch_size
    return evaluate.predict_split(
        run.setup.predict,
        *state.evaluated,
        run.setup.images[split],
        # Of val for every split, so that they share a compilation.
        batch_size=evaluate.even_batch(len(run.setup.images["val"]), largest),
        devices=run.setup.devices,
    )


def score_val(run: TrainingRun, state: TrainState) -> dict[str, Any]:
    """The scores on val."""
    labels = run.dataset.splits["val"].labels
    return score(predict(run, state, "val"), labels, run.dataset.class_names)


def _epoch_line(config: Config, history: Sequence[dict[str, Any]]) -> str:
    row, best = history[-1], best_row(history)
    return (
        f"epoch {row['epoch']:>3}/{config.training.epochs}  "
        f"loss {row['train_loss']:.3f}  "
        f"val accuracy {100 * row['val_accuracy']:.1f} %  "
        f"macro-F1 {100 * row['val_macro_f1']:.1f} %"
        f"{'*' if best is row else ' '} {row['images_per_s']:,.0f} img/s"
    )
