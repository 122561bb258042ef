"""The command `bin/compare`: reads runs, prints a comparison, writes it to files."""

import argparse
import dataclasses
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from fer_jax.compare import content, export
from fer_jax.compare.analysis import summarise
from fer_jax.compare.predictions import only_clean
from fer_jax.compare.publish import publish
from fer_jax.compare.report import write_report
from fer_jax.compare.results import (
    LABEL_SETS,
    SPLITS,
    FinishedRun,
    load_runs,
    shortlist,
)
from fer_jax.compare.summary import BASELINE, SORTS, Summary
from fer_jax.compare.terminal import Terminal
from fer_jax.compare.watch import watch
from fer_jax.errors import UserError, run_command
from fer_jax.system.arguments import Parser, typed
from fer_jax.system.console import make_console
from fer_jax.system.files import check_target, write_whole

_EXAMPLES = """
  %                                     all runs, on val
  % --split test --report report.html   the final figures, and a page
  % --filter baseline --filter loss_    some experiments
  % --experiment loss_focal baseline    two of them in depth
  % --watch --report report.html        while a batch runs
  % --publish results/mine              small copies of the runs, to share
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command with `argv` (default: the process's own); returns 0."""
    argv = sys.argv[1:] if argv is None else list(argv)
    args = _parser().parse_args(argv)
    _check_options(args)  # before any work
    console = make_console(color=not args.no_color)
    args.command = f"{typed('compare')} {shlex.join(argv)}".rstrip()
    if args.watch:
        watch(console, args.runs_dir, lambda: _compare(console, args))
    _compare(console, args)
    return 0


def show(
    console: Console,
    runs: Sequence[FinishedRun],
    unfinished: Sequence[Path],
    *,
    split: str = "val",
    sort: str = "macro_f1",
    baseline: str = BASELINE,
) -> None:
    """Prints all tables of runs from `load_runs`, and what they say.

    Raises:
      UserError: no run has results on `split`, or predictions cannot be used.
    """
    _check_split(runs, split)
    summary = summarise(runs, split, sort, baseline)
    Terminal(console, summary, runs, unfinished).everything()


def _compare(console: Console, args: argparse.Namespace) -> None:
    """Reads, writes and prints, once."""
    runs, unfinished = load_runs(
        args.runs_dir, args.filter, mixed=args.mixed, labels=args.labels
    )
    if args.clean:
        runs = [only_clean(run) for run in runs]
    if args.experiment:
        runs, unfinished = _pick(runs, args.experiment), []
    _check_split(runs, args.split)
    baseline = args.experiment[1] if args.experiment else args.baseline or BASELINE
    summary = summarise(runs, args.split, args.sort, baseline)
    _check_view(summary, args)
    terminal = Terminal(console, summary, runs, unfinished)
    written = _write(args, terminal)  # first: the reader of a pipe may go away
    if args.experiment:
        by_name = {each.name: each for each in summary.experiments}
        terminal.pair(*(by_name[name] for name in args.experiment))
    elif args.emotion:
        terminal.emotion(args.emotion)
    elif args.watch:
        terminal.short()
    else:
        terminal.everything()
    for path in written:
        terminal.say(f"\nwritten: {path}")
    if args.publish:
        copies = publish([run.folder for run in runs], args.publish)
        terminal.say(f"\nwritten: {len(copies)} runs below {args.publish}")


def _write(args: argparse.Namespace, shown: Terminal) -> list[Path]:
    """Writes what `--export` and `--report` ask for; returns the files."""
    whole: dict[str, Any] = {}
    summary, runs = shown.summary, shown.runs
    if args.report or any(path.suffix == ".json" for path in args.export):
        splits = [s for s in SPLITS if any(s in run.scores for run in runs)]
        summaries = {
            split: summarise(runs, split, summary.sort, summary.baseline)
            for split in splits
            if split != args.split
        }
        whole = content.build(
            summaries | {args.split: summary},
            runs,
            shown.unfinished,
            split=args.split,
            command=args.command,
        )
    for path in args.export:
        if path.suffix == ".csv":
            text = export.per_run_csv(runs, args.split)
        elif path.suffix == ".json":
            text = export.to_json(whole)
        else:
            sheets = export.sheets(summary)
            text = export.SHEETS[path.suffix](sheets, content.notes(summary))
        write_whole(path, text)
    if args.report:
        write_report(args.report, whole)
    return [*args.export, *([args.report] if args.report else [])]


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        "compare",
        "Compare finished runs, and test which differences are significant, overall "
        "and by emotion.",
        _EXAMPLES,
    )
    add = parser.add_argument
    add("--split", choices=SPLITS, default="val", help="what to compare on (val)")
    add("--runs_dir", type=Path, default=Path("runs"), help="the runs' folder (runs)")
    add(
        "--filter",
        metavar="PREFIX",
        action="append",
        default=[],
        help="only experiments whose name begins so; may repeat",
    )
    add("--sort", choices=SORTS, default="macro_f1", help="order (macro_f1)")
    add("--baseline", metavar="NAME", help=f"what to compare with ({BASELINE})")
    _add_views(parser)
    add(
        "--export",
        type=Path,
        metavar="FILE",
        action="append",
        default=[],
        help=".csv: one row per run; .json: everything; .md, .tex, .html: the tables; "
        "may repeat",
    )
    add("--report", type=Path, metavar="FILE.html", help="write a page with charts")
    add(
        "--publish",
        type=Path,
        metavar="DIR",
        help="copy the runs with what a comparison needs, about 90 KB each and without "
        "paths, into a folder for --runs_dir",
    )
    add(
        "--mixed",
        action="store_true",
        help="allow runs of different data, kept apart in each table",
    )
    add(
        "--clean",
        action="store_true",
        help="score only the images without a copy in train, exact or near",
    )
    add(
        "--labels",
        choices=LABEL_SETS,
        help="score all runs by FER2013's labels, by FER+'s majority, or on the images "
        "where the two agree, whichever they were trained on",
    )
    add("--no_color", action="store_true", help="no colours")
    return parser


def _add_views(parser: argparse.ArgumentParser) -> None:
    """Adds the options of which one at most can be given."""
    one_view = parser.add_mutually_exclusive_group()
    one_view.add_argument(
        "--experiment",
        nargs=2,
        metavar=("A", "B"),
        help="two experiments, or two runs as baseline/seed_42, in depth",
    )
    one_view.add_argument("--emotion", metavar="NAME", help="one emotion in depth")
    one_view.add_argument(
        "--watch", action="store_true", help="show it again as runs finish"
    )


def _check_options(args: argparse.Namespace) -> None:
    """Refuses options that could not be followed in the end."""
    for path in args.export:
        check_target(path, "--export", export.SUFFIXES)
    if args.report:
        check_target(args.report, "--report", (".html",))
    files = Counter(path.resolve() for path in [*args.export, args.report] if path)
    for path, times in files.items():
        if times > 1:
            raise UserError(f"{path} is to be written twice; name two files")
    if args.experiment and args.baseline:
        raise UserError(
            "--experiment A B compares A with B; leave --baseline out, or give B"
        )


def _check_split(runs: Sequence[FinishedRun], split: str) -> None:
    if not any(split in run.scores for run in runs):
        others = sorted({name for run in runs for name in run.scores})
        raise UserError(
            f"no run has {split} results: the data set has no {split} split; "
            f"use --split {' or '.join(others)}"
        )


def _check_view(summary: Summary, args: argparse.Namespace) -> None:
    """What was asked for by name has results."""
    split, names = summary.split, [each.name for each in summary.experiments]
    for name in args.experiment or ():
        if name not in names:
            raise UserError(f"{name} has no {split} results; use another --split")
    if args.baseline and not summary.has_baseline:
        raise UserError(
            f"--baseline {args.baseline}: no experiment of that name has {split} "
            f"results; there are {shortlist(dict.fromkeys(names), 20)}"
        )
    if args.emotion and not summary.support(args.emotion):
        present = [name for name in summary.emotions if summary.support(name)]
        raise UserError(
            f"--emotion {args.emotion}: no {split} image is of {args.emotion}; there "
            f"are images of {', '.join(present)}"
        )


def _pick(runs: Sequence[FinishedRun], names: Sequence[str]) -> list[FinishedRun]:
    """The runs of two experiments, or two runs, which then go by their labels."""
    option = f"--experiment {' '.join(names)}"
    picked: list[FinishedRun] = []
    for name in names:
        chosen = [run for run in runs if run.name == name]
        chosen = chosen or [
            dataclasses.replace(run, name=name) for run in runs if run.label == name
        ]
        if not chosen:
            known = dict.fromkeys(run.name for run in runs)
            raise UserError(
                f"{option}: there is no finished experiment or run {name}; there are "
                f"{shortlist(known, 20)}, and their runs as {runs[0].label}"
            )
        picked += chosen
    if len({run.folder for run in picked}) < len(picked):
        raise UserError(f"{option}: they have a run in common; name two others")
    if len({run.fingerprint for run in picked}) > 1:
        raise UserError(f"{option}: they are of different data and do not compare")
    return picked


if __name__ == "__main__":
    raise SystemExit(run_command(main))
