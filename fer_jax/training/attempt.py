"""One attempt at a run: its reporters, its result, and how its errors are reported."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
from rich.console import Console

from fer_jax import runs
from fer_jax.data.duplicates.audit import Audit
from fer_jax.errors import Lost, UserError
from fer_jax.runs.heartbeat import beating
from fer_jax.runs.tensorboard import Board, has_board
from fer_jax.system.console import TrainingBar
from fer_jax.training import processes
from fer_jax.training.loop import Reporter, TrainingRun, run_epochs
from fer_jax.training.result import predict_best, write_result

# Backends word these errors differently.
_NO_MEMORY = ("RESOURCE_EX", "Out of memory")
_LOST = ("Gloo", "gloo", "NCCL", "UNAVAILABLE", "oordination", "onnection")


class Options(NamedTuple):
    """How a run is started; no number depends on it."""

    force: bool = False  # delete what an earlier run left, and start anew
    skip_bad: bool = False  # drop bad rows and images instead of refusing them
    tensorboard: bool = False  # write event files, as runs that have some do anyway
    config_path: str = ""  # of the config, for the record
    overrides: Sequence[str] = ()  # the --set items, for the record


def attempt(
    run: TrainingRun, copies: Audit, options: Options, console: Console
) -> None:
    """Trains a run to its end, and writes its result.

    The first process alone has reporters, and records what ends the attempt.
    """
    setup, training, run_dir = run.setup, run.config.training, run.run_dir
    reporters: list[Reporter] = []
    board = None
    with contextlib.ExitStack() as stack:
        if processes.is_first():
            steps = training.epochs * setup.steps_per_epoch
            heart = stack.enter_context(beating(run_dir, str(setup.devices), steps))
            stack.enter_context(runs.noting_failure(run_dir))
            bar = TrainingBar(
                console,
                training.epochs,
                setup.steps_per_epoch,
                training.batch_size,
                setup.schedule,
            )
            reporters = [heart, stack.enter_context(bar)]
            if options.tensorboard or has_board(run_dir):
                board = stack.enter_context(Board(run_dir))
                reporters.append(board)
        stack.enter_context(disk_errors(run_dir))
        stack.enter_context(device_errors())
        stack.enter_context(run.checkpoints)
        progress = run_epochs(run, console, reporters)
        logits = predict_best(run, progress)
        if processes.is_first():
            command = {
                "config_path": options.config_path,
                "overrides": list(options.overrides),
            }
            write_result(run, progress, logits, copies, command)
        if board:
            board.end(progress.history, runs.read_result(run_dir))


@contextlib.contextmanager
def disk_errors(run_dir: Path) -> Iterator[None]:
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
def device_errors() -> Iterator[None]:
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
