"""Runs experiments × seeds: `bin/run_batch --filter loss_ --seeds 3 --jobs 2`.

Each run is a process of its own, so a run that fails or runs out of memory takes no
other with it: on this machine (`local.py`) or in a job of a SLURM cluster (`slurm/`).
Finished runs are skipped, and half-done runs continue.
"""

import argparse
import functools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from fer_jax import runs
from fer_jax.batch.arguments import parse
from fer_jax.batch.estimate import Estimator
from fer_jax.batch.local import LocalBatch
from fer_jax.batch.log import BatchLog
from fer_jax.batch.plan import (
    Configs,
    PlannedRun,
    default_folder,
    find_configs,
    plan_run,
)
from fer_jax.batch.slurm import options, queue, record
from fer_jax.batch.status import count_finished, show_status
from fer_jax.config import Config, Data
from fer_jax.errors import UserError, run_command
from fer_jax.runs.lock import holder, locked
from fer_jax.runs.tensorboard import has_board, write_finished
from fer_jax.system.console import heading, make_console

if TYPE_CHECKING:  # importing them would import JAX or submitit
    from fer_jax.batch.slurm.watch import SlurmBatch
    from fer_jax.data import Dataset
    from fer_jax.data.duplicates.audit import Audit


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status, 1 if any run failed."""
    args, console = parse(argv), make_console()
    folder = Path(args.configs) if args.configs else default_folder()
    configs = find_configs(folder, args.filter, args.order, args.overrides)
    runs_dir = Path(args.runs_dir)
    if args.status:
        show_status(console, configs, args.seeds, runs_dir, args.filter)
        return 0
    if args.collect:
        finished, message = count_finished(configs, args.seeds, runs_dir)
        console.print(message)
        status = 0 if finished else 1
    else:
        # The images are freed when this returns, before the first run starts.
        batch = prepare_batch(args, console, configs)
        if batch is None:
            return 0
        status = batch.run()
        finished = status < 128  # else a signal stopped it
    if finished:
        _compare(console, runs_dir, args.filter)
    return status


def prepare_batch(
    args: argparse.Namespace, console: Console, configs: Configs
) -> "LocalBatch | SlurmBatch | None":
    """Plans the runs, shows the plan and asks; returns None if nothing is to start."""
    parameters = {}
    if args.executor == "slurm":  # first, since it may refuse
        has_gpus = queue.has_gpus(args.partition)
        parameters = options.job_parameters(args, has_gpus=has_gpus)
    datasets = _Datasets(args, console)
    chosen = {config.name: datasets.choose(config) for _, config in configs}
    planned = [
        plan_run(path, config, seed, Path(args.runs_dir), chosen[config.name])
        for seed in range(args.seeds)
        for path, config in configs
    ]
    blocked = [run for run in planned if run.state == "blocked" and not args.force]
    done = [run for run in planned if run.state == "finished" and not args.force]
    todo = [run for run in planned if run not in (*blocked, *done)]
    queued = record.active_jobs(run.folder for run in todo)
    left = {run.label: queued[run.folder] for run in todo if run.folder in queued}
    if args.executor == "local":
        todo = [run for run in todo if run.label not in left]
    train_images = {
        config.data: len(chosen[config.name].splits["train"].labels)
        for _, config in configs
    }
    # On a cluster the estimate is for one run after the other.
    at_once = max(1, min(args.jobs or 1, len(todo)))
    estimator = Estimator(Path(args.runs_dir), train_images, at_once, args.force)
    log = BatchLog(console, Path(args.runs_dir), len(todo))
    log.blocked = [run.label for run in blocked]
    batch: LocalBatch | SlurmBatch
    if args.executor == "slurm":
        from fer_jax.batch.slurm import watch  # submitit

        batch = watch.SlurmBatch(args, log, todo, parameters)
    else:
        batch = LocalBatch(args, log, todo, estimator)
    console.print(f"data: {datasets.description}")
    console.print(_plan_table(planned, queued, args.force))
    if left and args.executor == "local":
        console.print(record.left_to_jobs(left))
    console.print(f"{len(todo)} of {len(planned)} runs to do{estimator.phrase(todo)}")
    if blocked:
        console.print(
            f"{len(blocked)} blocked: other runs have their folders; choose another "
            "--runs_dir, or replace those with --force"
        )
    if args.dry_run or (todo and not _confirm(args)):
        return None
    if args.tensorboard:
        _write_boards(console, [run for run in planned if run.state == "finished"])
    if todo:
        datasets.audit_all()
    return batch


class _Datasets:
    """The data sets of the experiments: each size is loaded and audited once."""

    def __init__(self, args: argparse.Namespace, console: Console):
        self._args, self._console = args, console
        self._loaded: dict[tuple[int, int], Dataset] = {}
        self._audits: dict[tuple[int, int], Audit] = {}
        self._selected: dict[Data, Dataset] = {}

    @property
    def description(self) -> str:
        """What the data are, of whatever size."""
        first = next(iter(self._loaded.values()))
        return f"{first.description}, {first.fingerprint}"

    def choose(self, config: Config) -> "Dataset":
        """Returns the data set that a run of the config trains on."""
        from fer_jax.data import soft_targets

        if config.data not in self._selected:
            self._selected[config.data] = self._select(config.data)
        return soft_targets.mixed_in(self._selected[config.data], config)

    def _select(self, settings: Data) -> "Dataset":
        from fer_jax import data

        size = settings.image_size, settings.channels
        if size not in self._loaded:
            self._loaded[size] = data.load(
                self._args.data_root,
                image_size=settings.image_size,
                channels=settings.channels,
                skip_bad=self._args.skip_bad,
                console=self._console,
            )
        audit = functools.partial(self._audit, size)
        return data.select_images(self._loaded[size], settings, audit)

    def audit_all(self) -> None:
        """Audits once what would otherwise be audited by every run."""
        for size in self._loaded:
            self._audit(size)

    def _audit(self, size: tuple[int, int]) -> "Audit":
        from fer_jax.data.duplicates.audit import audit

        if size not in self._audits:
            self._audits[size] = audit(self._loaded[size], self._console)
        return self._audits[size]


def _plan_table(
    planned: Sequence[PlannedRun], queued: Mapping[Path, str], force: bool
) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("#", justify="right")
    for name in ("run", "state", "question"):
        table.add_column(name, overflow="fold")
    names = [len(run.label) for run in planned]
    table.columns[1].min_width = min(max(names, default=0), 45)  # the question wraps
    for number, run in enumerate(planned, 1):
        state = run.state
        if state == "half done":
            state += f" ({run.epochs}/{run.config.training.epochs} epochs)"
        if force and run.state != "new":
            state += ", to repeat"
        if held := holder(run.folder):
            state += f", in use by {held}"
        elif run.folder in queued:
            state += f", queued (job {queued[run.folder]})"
        elif runs.failure(run.folder):
            state += ", failed before"
        question = run.reason or run.config.description
        table.add_row(str(number), run.label, state, question)
    return table


def _confirm(args: argparse.Namespace) -> bool:
    """Asks whether to start.

    Raises:
      UserError: if there is no terminal to ask on.
    """
    if args.yes:
        return True
    if not sys.stdin or not sys.stdin.isatty():
        raise UserError(
            "standard input is no terminal, so the question whether to start cannot be "
            "asked; add --yes to start"
        )
    try:
        return input("start? [Y/n] ").strip().lower() in ("", "y", "yes")
    except EOFError:
        return False


def _write_boards(console: Console, finished: Sequence[PlannedRun]) -> None:
    """Writes event files for the finished runs that have none."""
    for run in finished:
        if has_board(run.folder):
            continue  # with times that the record does not have
        try:
            with locked(run.folder):
                write_finished(run.folder, runs.read_result(run.folder))
        except (UserError, OSError) as error:  # the others still get theirs
            console.print(f"{run.label}: no TensorBoard files: {error}")
        else:
            console.print(f"{run.label}: TensorBoard files written from its record")


def _compare(console: Console, runs_dir: Path, filters: Sequence[str]) -> None:
    from fer_jax import compare

    heading(console, "comparison")
    filters = [*filters, "baseline"] if filters else []
    try:
        finished, unfinished = compare.load_runs(runs_dir, filters)
        compare.show(console, finished, unfinished)
    except UserError as error:  # the batch's own exit status stands
        console.print(f"no comparison: {error}")


if __name__ == "__main__":
    raise SystemExit(run_command(main))
