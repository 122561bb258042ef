"""Runs experiments × seeds one after the other: `bin/run_batch --filter loss_`.

Each run is a process of its own, so that one that fails, or is killed for memory,
takes nothing with it. What is finished is skipped, and what is half done goes on.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

from rich import box
from rich.console import Console
from rich.table import Table

from fer_jax import compare, data, runs
from fer_jax.console import make_console
from fer_jax.errors import UserError
from fer_jax.lock import holder
from fer_jax.plan import Job, find_configs, plan_job, seconds_per_image
from fer_jax.stop import SIGNALS, handling

LOG = "batch_log.jsonl"
MAX_SEEDS = 10_000
WAIT_S = 2.0  # between looks at runs that other processes hold


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status, 1 if any run failed."""
    args = _parse(argv)
    console, runs_dir = make_console(), Path(args.runs_dir)
    configs = find_configs(Path(args.configs), args.filter, args.order)
    sizes = {config.data.image_size for _, config in configs}
    loaded = {
        size: data.load(
            args.data_root, image_size=size, skip_bad=args.skip_bad, console=console
        )
        for size in sizes
    }
    jobs = [
        plan_job(path, config, seed, runs_dir, loaded[config.data.image_size])
        for seed in range(args.seeds)
        for path, config in configs
    ]
    todo = [job for job in jobs if args.force or job.state != "finished"]
    train_images = {k: len(v.splits["train"].labels) for k, v in loaded.items()}

    def estimate(left: Sequence[Job]) -> float | None:
        """Seconds for some jobs, by the runs that are finished by now."""
        seconds = seconds_per_image(runs_dir)
        if seconds is None:
            return None
        return seconds * sum(
            (job.config.training.epochs - (0 if args.force else job.epochs))
            * train_images[job.config.data.image_size]
            for job in left
            if args.force or job.state != "blocked"
        )

    first = next(iter(loaded.values()))
    console.print(f"data: {first.description}, {first.fingerprint}")
    console.print(_plan_table(jobs, args.force))
    console.print(f"{len(todo)} of {len(jobs)} runs to do{_about(estimate(todo))}")
    if args.dry_run:
        return 0
    if todo and not args.yes and sys.stdin.isatty() and not _confirm():
        return 0
    status = _run_all(todo, args, runs_dir, console, estimate)
    if status < 128:  # not interrupted
        filters = [*args.filter, "baseline"] if args.filter else []
        _compare(console, runs_dir, filters)
    return status


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bin/run_batch", description="Run experiments one after the other."
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
    parser.add_argument("--runs_dir", default="runs", help="default: runs")
    parser.add_argument("--configs", default="configs", help="default: configs")
    parser.add_argument(
        "--order",
        choices=("phases", "name"),
        default="phases",
        help="phases (default): short runs first, then question by question",
    )
    parser.add_argument("--dry-run", action="store_true", help="show the plan only")
    parser.add_argument("--yes", action="store_true", help="do not ask before starting")
    parser.add_argument(
        "--force", action="store_true", help="repeat what is finished or half done"
    )
    parser.add_argument(
        "--skip_bad", action="store_true", help="drop unreadable images and count them"
    )
    args = parser.parse_args(argv)
    if not 1 <= args.seeds <= MAX_SEEDS:
        raise UserError(f"--seeds is {args.seeds}; expected 1 to {MAX_SEEDS:,}")
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


def _run_all(
    jobs: Sequence[Job],
    args: argparse.Namespace,
    runs_dir: Path,
    console: Console,
    estimate: Callable[[Sequence[Job]], float | None],
) -> int:
    """Runs the jobs, logging each; 0, 1 if any failed, 128 + a signal that stopped.

    What another process works on is left to it, and looked at again at the end: it
    may be another batch over the same folder, or a run may have died.
    """
    began, left, failed = time.time(), list(jobs), []
    while left:
        job = _next_free(left, console)
        number = len(jobs) - len(left) + 1
        told = _about(estimate(left))
        left.remove(job)
        if settled := _settled_since(job, began, args.force):
            console.print(f"{job.label}: {settled} in another process")
            failed += [job.label] * (settled == "failed")
            continue
        console.rule(f"{number}/{len(jobs)} {job.label}{told}", align="left")
        _log(runs_dir, job, event="started")
        started = time.monotonic()
        status, error = _run_one(job, args)
        seconds = round(time.monotonic() - started, 1)
        if status == 0:
            _log(runs_dir, job, event="finished", seconds=seconds)
        elif _is_elsewhere(job, args.force):
            _log(runs_dir, job, event="left to another process", error=error)
            left.append(job)
        elif status in {128 + number for number in SIGNALS}:
            _log(runs_dir, job, event="interrupted", seconds=seconds)
            console.print(
                "batch stopped; the same command, without --force, goes on from here"
            )
            return status
        else:
            failed.append(job.label)
            if job.state != "blocked":  # else the folder is another run's
                runs.note_failure(job.folder, error)
            _log(
                runs_dir,
                job,
                event="failed",
                seconds=seconds,
                exit_status=status,
                error=error,
            )
            console.print(f"failed: {job.label} (exit status {status}): {error}")
    if failed:
        console.print(
            f"{len(failed)} of {len(jobs)} runs failed: {', '.join(failed)}; "
            f"the reasons are in {runs_dir / LOG}"
        )
    return 1 if failed else 0


def _next_free(jobs: Sequence[Job], console: Console) -> Job:
    """The first job whose folder nobody holds; waits where each is held."""
    told = False
    while True:
        for job in jobs:
            if holder(job.folder) is None:
                return job
        if not told:
            holders = {job.label: holder(job.folder) for job in jobs}
            told = "; ".join(f"{k} is in use by {v}" for k, v in holders.items())
            console.print(f"waiting: {told}")
        time.sleep(WAIT_S)


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


def _run_one(job: Job, args: argparse.Namespace) -> tuple[int, str]:
    """Trains in a process of its own; its exit status, and its last line on stderr."""
    command = [sys.executable, "-m", "fer_jax.train", str(job.path)]
    command += ["--runs_dir", str(args.runs_dir)]
    command += ["--seed", str(job.config.training.seed)]
    if args.data_root is not None:
        command += ["--data_root", args.data_root]
    command += ["--force"] * args.force + ["--skip_bad"] * args.skip_bad
    # The child finds this very package, installed or not.
    root = str(Path(__file__).resolve().parents[1])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    last = ""
    # A process group of its own: Ctrl-C reaches it once, through us, and not twice.
    with (
        _forwarding() as (received, children),
        subprocess.Popen(
            command,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            process_group=0,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        ) as process,
    ):
        children.append(process)
        for number in received:  # before there was a child to tell
            process.send_signal(number)
        for line in process.stderr:
            sys.stderr.write(line)
            last = line.strip() or last
    code = process.returncode
    if received:  # the batch ends, even if this run just did
        return 128 + received[-1], ""
    if code < 0:
        return 128 - code, last or f"killed by {signal.Signals(-code).name}"
    return code, last.removeprefix("error: ")


@contextlib.contextmanager
def _forwarding() -> Iterator[tuple[list[int], list[subprocess.Popen]]]:
    """Notes signals, and passes them on to the children, which save and end."""
    received: list[int] = []
    children: list[subprocess.Popen] = []

    def forward(signum: int, _: FrameType | None) -> None:
        received.append(signum)
        for process in children:
            process.send_signal(signum)

    with handling(forward):
        yield received, children


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
    console.rule("comparison", align="left")
    try:
        finished, unfinished = compare.load_runs(runs_dir, filters)
        compare.show(console, finished, unfinished)
    except UserError as error:  # say so; the batch's own status stands
        console.print(f"no comparison: {error}")
