"""Runs experiments × seeds: `bin/run_batch --filter loss_ --seeds 3 --jobs 2`.

Each run is a process of its own, so that one that fails, or is killed for memory, takes
nothing with it: on this machine (`local.py`) or in the jobs of a SLURM cluster
(`slurm.py`). What is finished is skipped, and what is half done goes on.
"""

import argparse
import functools
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from fer_jax import runs
from fer_jax.batch.local import LocalBatch
from fer_jax.batch.log import Ledger
from fer_jax.batch.plan import Job, about, estimate, find_configs, plan_job
from fer_jax.batch.slurm import (
    options as slurm_options,
)
from fer_jax.batch.slurm import (
    queue as slurm_queue,
)
from fer_jax.batch.slurm import (
    record as slurm_record,
)
from fer_jax.batch.slurm.watch import SlurmBatch
from fer_jax.batch.status import Configs, show_status, told_finished
from fer_jax.config import Config, Data
from fer_jax.errors import UserError
from fer_jax.runs.lock import holder, locked
from fer_jax.runs.tensorboard import has_board, write_finished
from fer_jax.system.console import make_console

if TYPE_CHECKING:  # it brings JAX along
    from fer_jax.data import Dataset

MAX_SEEDS = 10_000
MAX_JOBS = 4 * (os.cpu_count() or 1)  # more would only wait for one another


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status, 1 if any run failed."""
    args, console = _parse(argv), make_console()
    configs = find_configs(Path(args.configs), args.filter, args.order)
    if args.status or args.collect:
        return _look(args, console, configs)
    return _run(args, console, configs)


def _look(args: argparse.Namespace, console: Console, configs: Configs) -> int:
    """Shows or compares what is there; 1 if there is nothing to compare."""
    runs_dir = Path(args.runs_dir)
    if args.status:
        show_status(console, configs, args.seeds, runs_dir, args.filter)
        return 0
    finished, told = told_finished(configs, args.seeds, runs_dir)
    console.print(told)
    if finished:
        _compare(console, runs_dir, args.filter)
    return 0 if finished else 1


def _run(args: argparse.Namespace, console: Console, configs: Configs) -> int:
    """Does the runs of the plan, and compares them; the exit status."""
    from fer_jax import data
    from fer_jax.data.duplicates.audit import audit

    parameters = _job_parameters(args)  # refuses before data are prepared
    runs_dir = Path(args.runs_dir)
    shapes = {_shape(config) for _, config in configs}
    loaded = {shape: _load(args, shape, console) for shape in shapes}
    audited = functools.cache(lambda shape: audit(loaded[shape], console))
    chosen = {
        config.data: data.select_images(
            loaded[_shape(config)],
            config.data,
            functools.partial(audited, _shape(config)),
        )
        for _, config in configs
    }
    jobs = _jobs(args, configs, chosen)
    todo = [job for job in jobs if args.force or job.state != "finished"]
    queued = slurm_record.living(job.folder for job in todo)
    left = [job for job in todo if args.executor == "local" and job.folder in queued]
    todo = [job for job in todo if job not in left]
    train_images = {k: len(v.splits["train"].labels) for k, v in chosen.items()}
    at_once = max(1, min(args.jobs or 1, len(todo)))

    def seconds(left: Sequence[Job]) -> float | None:
        """As `estimate`; on a cluster it is for one run after the other."""
        return estimate(left, train_images, runs_dir, at_once, force=args.force)

    ledger, batch = Ledger(console, runs_dir, len(todo)), None
    if args.executor == "local":  # it refuses before we ask
        batch = LocalBatch(args, ledger, at_once, todo, seconds)
    first = next(iter(loaded.values()))
    console.print(f"data: {first.description}, {first.fingerprint}")
    console.print(_plan_table(jobs, queued, args.force))
    if left:
        console.print(slurm_record.told({j.label: queued[j.folder] for j in left}))
    console.print(f"{len(todo)} of {len(jobs)} runs to do{about(seconds(todo))}")
    if args.dry_run or (todo and not _confirm(args)):
        return 0
    if args.tensorboard:
        _write_boards(console, [job for job in jobs if job not in todo])
    for shape in loaded if todo else ():
        audited(shape)  # once, and not by each run at once
    status = (batch or SlurmBatch(args, ledger, todo, parameters)).run()
    if status < 128:  # not interrupted
        _compare(console, runs_dir, args.filter)
    return status


def _jobs(
    args: argparse.Namespace, configs: Configs, chosen: Mapping[Data, "Dataset"]
) -> list[Job]:
    """The runs of the plan, in its order."""
    return [
        plan_job(path, config, seed, Path(args.runs_dir), chosen[config.data])
        for seed in range(args.seeds)
        for path, config in configs
    ]


def _job_parameters(args: argparse.Namespace) -> dict[str, Any]:
    """What submitit is to be told of each job; empty without a cluster."""
    if args.executor == "local":
        return {}
    has_gpus = slurm_queue.has_gpus(args.partition)
    return slurm_options.parameters(args, has_gpus=has_gpus)


def _load(
    args: argparse.Namespace, shape: tuple[int, int], console: Console
) -> "Dataset":
    from fer_jax import data

    return data.load(
        args.data_root,
        image_size=shape[0],
        channels=shape[1],
        skip_bad=args.skip_bad,
        console=console,
    )


def _shape(config: Config) -> tuple[int, int]:
    """The side and the channels of the images that an experiment reads."""
    return config.data.image_size, config.data.channels


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bin/run_batch", description="Run many experiments."
    )
    parser.add_argument(
        "--filter",
        action="append",
        default=[],
        metavar="PREFIX",
        help="only experiments whose name begins so, as loss_; may repeat",
    )
    parser.add_argument("--data_root", help="as python -m fer_jax.train takes it")
    parser.add_argument(
        "--seeds",
        type=int,
        default=1,
        metavar="N",
        help="runs of each experiment, with its seed, its seed + 1, and so on",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="how many to run at once, each in a process of its own; default: 1, and "
        "as many as the cluster takes with --executor slurm",
    )
    parser.add_argument(
        "--gpus-per-job",
        type=int,
        default=None,
        metavar="N",
        help="GPUs for each run; default: one where there are any",
    )
    parser.add_argument("--runs_dir", default="runs", help="default: runs")
    parser.add_argument("--configs", default="configs", help="default: configs")
    parser.add_argument(
        "--order",
        choices=("phases", "name"),
        default="phases",
        help="phases (default): short runs first, then question by question",
    )
    parser.add_argument(
        "--budget",
        type=float,
        metavar="MINUTES",
        help="begin no run that would end later than so long after the start, as far "
        "as the finished runs tell; the first of all is begun in any case",
    )
    parser.add_argument(
        "--status",
        action="store_true",
        help="show where the runs of this plan stand, by their files, and start none",
    )
    parser.add_argument(
        "--collect",
        action="store_true",
        help="compare the runs that are finished by now, and start none",
    )
    parser.add_argument("--dry-run", action="store_true", help="show the plan only")
    parser.add_argument("--yes", action="store_true", help="do not ask before starting")
    parser.add_argument(
        "--force", action="store_true", help="repeat what is finished or half done"
    )
    parser.add_argument(
        "--skip_bad", action="store_true", help="drop unreadable images and count them"
    )
    parser.add_argument(
        "--tensorboard", action="store_true", help="write TensorBoard event files too"
    )
    _add_executor(parser)
    return _checked(parser.parse_args(argv))


def _add_executor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--executor",
        choices=("local", "slurm"),
        default="local",
        help="local (default): processes of this machine; slurm: jobs of a cluster",
    )
    only = parser.add_argument_group("with --executor slurm")
    only.add_argument(
        "--pack",
        type=int,
        metavar="K",
        help="runs that a job does, one after the other; default: 1",
    )
    only.add_argument(
        "--time",
        metavar="LIMIT",
        help="of a job: minutes, H:MM:SS or D-HH:MM:SS; then it is requeued, and its "
        "run goes on; default: 60",
    )
    only.add_argument("--partition", metavar="NAME", help="default: the cluster's own")
    only.add_argument(
        "--slurm",
        action="append",
        metavar="KEY=VALUE",
        help="any further option of sbatch, as cpus_per_task=8, mem=16G, nodes=2, "
        "account=NAME; may repeat",
    )
    only.add_argument(
        "--retries",
        type=int,
        metavar="N",
        help="how often a run whose job was lost is submitted again; default: 2",
    )


def _checked(args: argparse.Namespace) -> argparse.Namespace:
    if not 1 <= args.seeds <= MAX_SEEDS:
        raise UserError(f"--seeds is {args.seeds}; expected 1 to {MAX_SEEDS:,}")
    looks = [name for name in ("status", "collect") if getattr(args, name)]
    for name in ("status", "force", "dry_run") if looks else ():
        if getattr(args, name) and name != looks[-1]:
            raise UserError(
                f"--{looks[-1]} starts no run, and does not go with "
                f"--{name.replace('_', '-')}; leave one of them out"
            )
    if args.executor == "slurm":
        slurm_options.complete(args)
        return args
    slurm_options.refuse(args)
    args.jobs = 1 if args.jobs is None else args.jobs
    if not 1 <= args.jobs <= MAX_JOBS:
        raise UserError(
            f"--jobs is {args.jobs}; expected 1 to {MAX_JOBS}, four for each processor "
            "core of this machine"
        )
    if args.budget is not None and not 0 < args.budget < math.inf:
        raise UserError(f"--budget is {args.budget}; expected minutes, more than 0")
    return args


def _plan_table(jobs: Sequence[Job], queued: Mapping[Path, str], force: bool) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("#", justify="right")
    for name in ("run", "state", "question"):
        table.add_column(name)
    for number, job in enumerate(jobs, 1):
        state = job.state
        if state == "half done":
            state += f" ({job.epochs}/{job.config.training.epochs} epochs)"
        if force and job.state != "new":
            state += ", to repeat"
        if held := holder(job.folder):
            state += f", in use by {held}"
        elif job.folder in queued:
            state += f", queued (job {queued[job.folder]})"
        elif runs.failure(job.folder):
            state += ", failed before"
        question = job.reason or job.config.description
        table.add_row(str(number), job.label, state, question)
    return table


def _confirm(args: argparse.Namespace) -> bool:
    """Whether to start; who sits at no terminal has said so by the command."""
    if args.yes or not sys.stdin.isatty():
        return True
    try:
        return input("start? [Y/n] ").strip().lower() in ("", "y", "yes")
    except EOFError:
        return False


def _write_boards(console: Console, finished: Sequence[Job]) -> None:
    """Gives event files to those finished runs that have none."""
    for job in finished:
        if has_board(job.folder):
            continue  # written in its time, which the record does not hold
        try:
            with locked(job.folder):
                write_finished(job.folder, runs.read_result(job.folder))
        except (UserError, OSError) as error:  # say so; the others still get theirs
            console.print(f"{job.label}: no TensorBoard files: {error}")
        else:
            console.print(f"{job.label}: TensorBoard's files written from its record")


def _compare(console: Console, runs_dir: Path, filters: Sequence[str]) -> None:
    from fer_jax import compare

    console.rule("comparison", align="left")
    filters = [*filters, "baseline"] if filters else []
    try:
        finished, unfinished = compare.load_runs(runs_dir, filters)
        compare.show(console, finished, unfinished)
    except UserError as error:  # say so; the batch's own status stands
        console.print(f"no comparison: {error}")
