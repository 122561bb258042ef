"""Runs experiments × seeds: `bin/run_batch --filter loss_ --seeds 3 --jobs 2`.

Each run is a process of its own (`workers.py`), so that one that fails, or is killed
for memory, takes nothing with it. What is finished is skipped, and what is half done
goes on.
"""

import argparse
import contextlib
import dataclasses
import functools
import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from rich import box
from rich.console import Console
from rich.table import Table

from fer_jax import runs
from fer_jax.config import Config
from fer_jax.console import make_console
from fer_jax.errors import UserError
from fer_jax.lock import claim, holder, locked
from fer_jax.plan import LOG, Job, estimate, find_configs, plan_job
from fer_jax.status import Configs, show_status, told_finished
from fer_jax.stop import SIGNALS
from fer_jax.tensorboard import has_board, write_finished
from fer_jax.workers import Ended, Workers

MAX_SEEDS = 10_000
MAX_JOBS = 4 * (os.cpu_count() or 1)  # more would only wait for one another
WAIT_S = 2.0  # between looks at runs that other processes hold


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
    from fer_jax import data  # with JAX, which takes seconds and --status goes without
    from fer_jax.data.audit import audit

    runs_dir = Path(args.runs_dir)
    shapes = {_shape(config) for _, config in configs}
    loaded = {
        (size, channels): data.load(
            args.data_root,
            image_size=size,
            channels=channels,
            skip_bad=args.skip_bad,
            console=console,
        )
        for size, channels in shapes
    }
    audited = functools.cache(lambda shape: audit(loaded[shape], console))
    chosen = {
        config.data: data.choose(
            loaded[_shape(config)],
            config.data,
            functools.partial(audited, _shape(config)),
        )
        for _, config in configs
    }
    jobs = [
        plan_job(path, config, seed, runs_dir, chosen[config.data])
        for seed in range(args.seeds)
        for path, config in configs
    ]
    todo = [job for job in jobs if args.force or job.state != "finished"]
    train_images = {k: len(v.splits["train"].labels) for k, v in chosen.items()}
    at_once = max(1, min(args.jobs, len(todo)))

    def seconds(left: Sequence[Job]) -> float | None:
        return estimate(left, train_images, runs_dir, at_once, force=args.force)

    batch = _Batch(args, console, at_once, todo, seconds)  # refuses before we ask
    first = next(iter(loaded.values()))
    console.print(f"data: {first.description}, {first.fingerprint}")
    console.print(_plan_table(jobs, args.force))
    console.print(f"{len(todo)} of {len(jobs)} runs to do{_about(seconds(todo))}")
    if args.dry_run:
        return 0
    if todo and not args.yes and sys.stdin.isatty() and not _confirm():
        return 0
    if args.tensorboard:
        _write_boards(console, [job for job in jobs if job not in todo])
    for shape in loaded if todo else ():
        audited(shape)  # once, and not by each run at once
    status = batch.run()
    if status < 128:  # not interrupted
        _compare(console, runs_dir, args.filter)
    return status


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
        default=1,
        metavar="N",
        help="how many to run at once, each in a process of its own; default: 1",
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
    return _checked(parser.parse_args(argv))


def _checked(args: argparse.Namespace) -> argparse.Namespace:
    if not 1 <= args.seeds <= MAX_SEEDS:
        raise UserError(f"--seeds is {args.seeds}; expected 1 to {MAX_SEEDS:,}")
    if not 1 <= args.jobs <= MAX_JOBS:
        raise UserError(
            f"--jobs is {args.jobs}; expected 1 to {MAX_JOBS}, four for each processor "
            "core of this machine"
        )
    looks = [name for name in ("status", "collect") if getattr(args, name)]
    for name in ("status", "force", "dry_run") if looks else ():
        if getattr(args, name) and name != looks[-1]:
            raise UserError(
                f"--{looks[-1]} starts no run, and does not go with "
                f"--{name.replace('_', '-')}; leave one of them out"
            )
    if args.budget is not None and not 0 < args.budget < math.inf:
        raise UserError(f"--budget is {args.budget}; expected minutes, more than 0")
    return args


def _plan_table(jobs: Sequence[Job], force: bool) -> Table:
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
        elif runs.failure(job.folder):
            state += ", failed before"
        question = job.reason or job.config.description
        table.add_row(str(number), job.label, state, question)
    return table


def _about(seconds: float | None) -> str:
    if seconds is None:
        return "; how long they take is known after the first"
    if seconds < 90:
        return f", about {seconds:.0f} s"
    if seconds < 90 * 60:
        return f", about {seconds / 60:.0f} min"
    return f", about {seconds / 3600:.1f} h"


def _confirm() -> bool:
    try:
        return input("start? [Y/n] ").strip().lower() in ("", "y", "yes")
    except EOFError:
        return False


@dataclasses.dataclass
class _Batch:
    """The jobs of a batch on their way.

    Attributes:
      args: the command line.
      console: where we say what happens.
      at_once: how many processes at most.
      left: what is not yet begun.
      seconds: how long some jobs take, where that is known.
    """

    args: argparse.Namespace
    console: Console
    at_once: int
    left: list[Job]
    seconds: Callable[[Sequence[Job]], float | None]

    def __post_init__(self) -> None:
        self.runs_dir = Path(self.args.runs_dir)
        self.workers = Workers(self.at_once, self.args.gpus_per_job)
        self.total, self.failed = len(self.left), []
        self.claims: dict[str, IO[str]] = {}
        self.began = time.time()

    def run(self) -> int:
        """Does the jobs; 0, 1 if any failed, 128 + a signal that stopped.

        What another process works on is left to it, and looked at again at the end: it
        may be another batch over the same folder, or a run may have died.
        """
        workers, told = self.workers, False
        with workers.at_work():
            while workers.jobs or (self.left and not workers.signals):
                if workers.are_free:
                    self._leave_what_has_no_time()
                if workers.are_free and (job := self._next_free()):
                    self._begin(job)
                    told = False
                    continue
                if not workers.jobs and not told:
                    told = True
                    self.console.print(f"waiting: {_holders(self.left)}")
                for ended in workers.wait(WAIT_S):
                    self._end(ended)
        if workers.signals:
            self.console.print(
                "batch stopped; the same command, without --force, goes on from here"
            )
            return 128 + workers.signals[-1]
        if self.failed:
            self.console.print(
                f"{len(self.failed)} of {self.total} runs failed: "
                f"{', '.join(self.failed)}; the reasons are in {self.runs_dir / LOG}"
            )
        return 1 if self.failed else 0

    def _leave_what_has_no_time(self) -> None:
        """Takes the jobs off the plan that would end after the budget, and says so."""
        if self.args.budget is None:
            return
        rest = 60 * self.args.budget - (time.time() - self.began)
        late = [job for job in self.left if (self.seconds([job]) or 0.0) > rest]
        if late:
            self.left = [job for job in self.left if job not in late]
            self.console.print(
                f"the budget of {self.args.budget:g} min leaves no time for "
                f"{', '.join(job.label for job in late)}; the same command goes on "
                "with what is left"
            )

    def _next_free(self) -> Job | None:
        """The first job whose folder nobody holds, which is then ours."""
        for job in self.left:
            if holder(job.folder) is None and (claimed := claim(job.folder)):
                self.claims[job.label] = claimed
                return job
        return None

    def _begin(self, job: Job) -> None:
        number = self.total - len(self.left) + 1
        # Those count with the epochs that they still have, not with those of the plan.
        under_way = [
            dataclasses.replace(each, epochs=runs.epochs_done(each.folder))
            for each in self.workers.jobs
        ]
        told = f"{number}/{self.total} {job.label}"
        told += _about(self.seconds(under_way + self.left))
        self.left.remove(job)
        if settled := _settled_since(job, self.began, self.args.force):
            self.console.print(f"{job.label}: {settled} in another process")
            self.failed += [job.label] * (settled == "failed")
            self.claims.pop(job.label).close()
            return
        if self.at_once == 1:
            self.console.rule(told, align="left")
        else:  # no heading: what follows may be another run's
            self.console.print(told)
        _log(self.runs_dir, job, event="started", jobs=self.at_once)
        self.workers.start(job, _command(job, self.args))

    def _end(self, ended: Ended) -> None:
        """Logs how a run's process ended, and draws the consequences."""
        job, status, error = ended.job, ended.status, ended.error
        log = functools.partial(_log, self.runs_dir, job)
        stopping = status in {128 + number for number in SIGNALS}
        if status == 0:
            log(event="finished", seconds=ended.seconds)
        elif _is_elsewhere(job, self.args.force):
            log(event="left to another process", error=error)
            self.left.append(job)
        elif stopping or self.workers.signals:
            log(event="interrupted", seconds=ended.seconds)
            if not self.workers.signals:  # someone told the run, and meant the batch
                self.workers.signals.append(status - 128)
        else:
            self.failed.append(job.label)
            if job.state != "blocked":  # else the folder is another run's
                runs.note_failure(job.folder, error)
            log(
                event="failed",
                seconds=ended.seconds,
                exit_status=status,
                error=error,
            )
            self.console.print(f"failed: {job.label} (exit status {status}): {error}")
        self.claims.pop(job.label).close()


def _holders(jobs: Sequence[Job]) -> str:
    held = {job.label: holder(job.folder) or "another process" for job in jobs}
    return "; ".join(f"{label} is in use by {by}" for label, by in held.items())


def _is_elsewhere(job: Job, force: bool) -> bool:
    """Whether our own attempt at a job only met another process that has it."""
    if holder(job.folder):
        return True
    return job.state != "blocked" and not force and runs.is_finished(job.folder)


def _settled_since(job: Job, began: float, force: bool) -> str:
    """ "finished" or "failed" if another process has brought the job there, or ""."""

    def is_newer(path: Path) -> bool:
        with contextlib.suppress(OSError):
            return path.stat().st_mtime > began
        return False

    if is_newer(job.folder / runs.RESULT):
        return "finished"
    if runs.is_finished(job.folder) and not force:
        return "finished"
    return "failed" if is_newer(job.folder / runs.FAILED) else ""


def _command(job: Job, args: argparse.Namespace) -> list[str]:
    command = [sys.executable, "-m", "fer_jax.train", str(job.path)]
    command += ["--runs_dir", str(args.runs_dir)]
    command += ["--seed", str(job.config.training.seed)]
    if args.data_root is not None:
        command += ["--data_root", args.data_root]
    switches = ("force", "skip_bad", "tensorboard")
    return command + [f"--{name}" for name in switches if getattr(args, name)]


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


def _log(runs_dir: Path, job: Job, **entry: object) -> None:
    """Appends one line to the batch log, in one write."""
    entry = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "run": job.label,
        "batch": os.getpid(),
        **entry,
    }
    try:
        runs_dir.mkdir(parents=True, exist_ok=True)
        with (runs_dir / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
    except OSError as error:
        raise UserError(
            f"{runs_dir / LOG} cannot be written: {error.strerror}; "
            "choose another folder with --runs_dir"
        ) from None


def _compare(console: Console, runs_dir: Path, filters: Sequence[str]) -> None:
    from fer_jax import compare  # with pandas and SciPy, which take their time, too

    console.rule("comparison", align="left")
    filters = [*filters, "baseline"] if filters else []
    try:
        finished, unfinished = compare.load_runs(runs_dir, filters)
        compare.show(console, finished, unfinished)
    except UserError as error:  # say so; the batch's own status stands
        console.print(f"no comparison: {error}")
