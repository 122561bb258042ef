"""The command `bin/compare`: reads runs, prints a comparison, writes it to files."""

import argparse
import dataclasses
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from fer_jax.compare import export, outputs
from fer_jax.compare.against import got_worse, read, sheet, since
from fer_jax.compare.comparison import Comparison, load
from fer_jax.compare.folders import check_split
from fer_jax.compare.results import LABEL_SETS, SPLITS, FinishedRun, shortlist
from fer_jax.compare.summary import BASELINE, SORTS, Summary
from fer_jax.compare.terminal import Terminal
from fer_jax.compare.watch import watch
from fer_jax.errors import UserError, run_command
from fer_jax.system.arguments import Parser, typed
from fer_jax.system.console import make_console
from fer_jax.system.files import check_target

_EXAMPLES = """
  %                                     all runs, on val
  % --split test --report report.html   the final figures, and a page
  % --filter baseline --filter loss_    some experiments
  % --experiment loss_focal baseline    two of them in depth
  % --watch --report report.html        while a batch runs
  % --publish results/mine              small copies of the runs, to share
  % results/fer2013 runs                somebody's runs, and yours
  % --against last_week.json            did the change help since then?
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command with `argv` (default: the process's own).

    Returns 0, or 1 if something got worse since `--against`.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    args = _parser().parse_args(argv)
    if args.folders and args.runs_dir:
        raise UserError("name the folders of the runs once, without --runs_dir")
    args.folders = args.folders or [args.runs_dir or Path("runs")]
    _check_options(args)  # before any work
    console = make_console(color=not args.no_color)
    args.command = f"{typed('compare')} {shlex.join(argv)}".rstrip()
    if args.watch:
        watch(console, args.folders, lambda: _compare(console, args))
    return _compare(console, args)


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
    check_split(runs, split)
    comparison = Comparison(runs, unfinished, split=split, sort=sort, baseline=baseline)
    Terminal(console, comparison.summary, runs, unfinished).everything()


def _compare(console: Console, args: argparse.Namespace) -> int:
    """Prints and writes, once; returns 1 if something got worse since `--against`."""
    comparison = _load(args)
    summary, runs = comparison.summary, comparison.finished
    _check_view(summary, args)
    earlier = read(args.against, summary) if args.against else {}
    terminal = Terminal(console, summary, runs, comparison.unfinished)
    try:
        _print(terminal, args)
        found = since(earlier, summary) if args.against else []
        if args.against:
            terminal.show(sheet(found, earlier, summary, args.against))
        console.file.flush()
    except OSError:  # a reader that has seen enough, a full disk: write all the same
        outputs.write(comparison, args)
        raise
    for line in outputs.write(comparison, args):
        terminal.say(f"\n{line}")
    return 1 if got_worse(found) else 0


def _load(args: argparse.Namespace) -> Comparison:
    """The runs that are asked for."""
    comparison = load(
        *args.folders,
        split=args.split,
        filter=args.filter,
        sort=args.sort,
        labels=args.labels,
        clean=args.clean,
        mixed=args.mixed,
    )
    if args.experiment:
        picked = _pick(comparison.finished, args.experiment)
        return comparison.replace(runs=picked, baseline=args.experiment[1])
    return comparison.replace(baseline=args.baseline)


def _print(terminal: Terminal, args: argparse.Namespace) -> None:
    if args.experiment:
        by_name = {each.name: each for each in terminal.summary.experiments}
        terminal.pair(*(by_name[name] for name in args.experiment))
    elif args.emotion:
        terminal.emotion(args.emotion)
    elif args.watch:
        terminal.short()
    else:
        terminal.everything()


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        "compare",
        "Compare finished runs, and test which differences are significant, overall "
        "and by emotion.",
        _EXAMPLES,
    )
    add = parser.add_argument
    add("--split", choices=SPLITS, default="val", help="what to compare on (val)")
    add(
        "folders",
        nargs="*",
        type=Path,
        metavar="RUNS",
        help="folders of runs (runs); an experiment that is in several is shown under "
        "the name of each",
    )
    add("--runs_dir", type=Path, help="the same, for one folder")
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
    _add_outputs(parser)
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


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    """Adds the options that write something."""
    add = parser.add_argument
    add(
        "--export",
        type=Path,
        metavar="FILE",
        action="append",
        default=[],
        help=".csv, .parquet: one row per run; .json: everything; .md, .tex, .html: "
        "the tables; may repeat",
    )
    add("--report", type=Path, metavar="FILE.html", help="write a page with figures")
    add(
        "--figures",
        type=Path,
        metavar="DIR",
        help="write each figure as HTML, SVG, PDF and PNG (extra [figures])",
    )
    add(
        "--against",
        type=Path,
        metavar="FILE.json",
        help="test what changed since an earlier --export of the same data; the exit "
        "status is 1 if something got significantly worse",
    )
    add(
        "--mlflow",
        metavar="URI",
        help="log the runs to MLflow, as http://127.0.0.1:5000 (extra [mlflow])",
    )
    add(
        "--publish",
        type=Path,
        metavar="DIR",
        help="copy the runs with what a comparison needs, about 90 KB each and without "
        "paths, into a folder for --runs_dir",
    )


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
    if args.figures and args.figures.exists() and not args.figures.is_dir():
        raise UserError(f"--figures {args.figures} is a file; name a folder")
    given = [*args.export, args.report, args.against]
    for path, times in Counter(path.resolve() for path in given if path).items():
        if times > 1:
            raise UserError(f"{path} is named twice; name two files")
    if args.experiment and args.baseline:
        raise UserError(
            "--experiment A B compares A with B; leave --baseline out, or give B"
        )


def _check_view(summary: Summary, args: argparse.Namespace) -> None:
    """What was asked for by name has results."""
    split, names = summary.split, [each.name for each in summary.experiments]
    for name in args.experiment or ():
        if name not in names:
            raise UserError(f"{name} has no {split} results; use another --split")
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
