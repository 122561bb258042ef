"""The command line of `bin/run_batch`."""

import argparse
import math
import os
from collections.abc import Sequence

from fer_jax.batch.slurm import options
from fer_jax.errors import UserError
from fer_jax.system.arguments import Parser

_EXAMPLES = """
  %                                            all experiments, one seed each
  % --data_root fer2013.csv --filter baseline --filter loss_ --seeds 5
  % --status                                   the state of every run
  % --dry_run                                  only the plan
"""
MAX_SEEDS = 10_000
MAX_JOBS = 4 * (os.cpu_count() or 1)  # more would only wait for one another


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Returns the checked command line, with the defaults of the chosen executor."""
    args = make_parser().parse_args(argv)
    if not 1 <= args.seeds <= MAX_SEEDS:
        raise UserError(f"--seeds is {args.seeds}; expected 1 to {MAX_SEEDS:,}")
    given = [name for name in ("status", "collect") if getattr(args, name)]
    for name in ("status", "force", "dry_run") if given else ():
        if getattr(args, name) and name != given[-1]:
            raise UserError(
                f"--{given[-1]} starts no run, so it excludes "
                f"--{name}; leave one of them out"
            )
    options.check(args)
    if args.executor == "local":
        args.jobs = 1 if args.jobs is None else args.jobs
        if not 1 <= args.jobs <= MAX_JOBS:
            raise UserError(
                f"--jobs is {args.jobs}; expected 1 to {MAX_JOBS}, four for each "
                "processor core of this machine"
            )
    if args.budget is not None and not 0 < args.budget < math.inf:
        raise UserError(f"--budget is {args.budget}; expected minutes, more than 0")
    return args


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser."""
    parser = Parser("batch", "Train many experiments, with many seeds.", _EXAMPLES)
    _add_plan(parser)
    _add_switches(parser)
    _add_slurm(parser)
    return parser


def _add_plan(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--filter",
        action="append",
        default=[],
        metavar="PREFIX",
        help="only experiments whose name starts with PREFIX, as loss_; may repeat",
    )
    add("--data_root", help="as train takes it")
    add(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a setting of every run, as in training.epochs=5; may repeat",
    )
    add(
        "--seeds",
        type=int,
        default=1,
        metavar="N",
        help="N runs of each experiment, with its seed, its seed + 1, and so on",
    )
    add(
        "--jobs",
        type=int,
        metavar="N",
        help="N runs at once, each in its own process; default: 1, or no limit with "
        "--executor slurm",
    )
    add(
        "--gpus_per_job",
        type=int,
        metavar="N",
        help="GPUs of each run; default: one if there are any, and with "
        "--executor slurm one for each process",
    )
    add("--runs_dir", default="runs", help="default: runs")
    add("--configs", metavar="DIR", help="default: configs, else those that ship")
    add(
        "--order",
        choices=("phases", "name"),
        default="phases",
        help="phases (default): short runs first, then question by question",
    )
    add(
        "--budget",
        type=float,
        metavar="MINUTES",
        help="start no run that is expected to end more than MINUTES after the batch "
        "began, judged by the finished runs; without any, runs start in any case",
    )


def _add_switches(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--dry_run", action="store_true", help="only show the plan")
    add("--yes", action="store_true", help="do not ask before starting")
    add("--force", action="store_true", help="repeat finished and half-done runs")
    add("--skip_bad", action="store_true", help="drop and count unreadable images")
    add("--tensorboard", action="store_true", help="also write TensorBoard event files")
    add(
        "--status",
        action="store_true",
        help="show the state of the planned runs, from their files; start none",
    )
    add(
        "--collect",
        action="store_true",
        help="compare the runs that are finished so far; start none",
    )


def _add_slurm(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--executor",
        choices=("local", "slurm"),
        default="local",
        help="local (default): processes on this machine; slurm: jobs of a cluster",
    )
    add = parser.add_argument_group("with --executor slurm").add_argument
    add(
        "--pack",
        type=int,
        metavar="K",
        help="K runs in each job, one after the other; default: 1",
    )
    add(
        "--time",
        metavar="LIMIT",
        help="time limit of a job: minutes, H:MM:SS or D-HH:MM:SS, after which it is "
        "requeued and continues; default: 60",
    )
    add("--partition", metavar="NAME", help="default: the cluster's own")
    add(
        "--slurm",
        action="append",
        metavar="KEY=VALUE",
        help="another option of sbatch, as cpus_per_task=8, mem=16G, nodes=2, "
        "account=NAME; may repeat",
    )
    add(
        "--retries",
        type=int,
        metavar="N",
        help="submit a run again up to N times if its job was lost; default: 2",
    )
