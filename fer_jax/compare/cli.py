"""The command `compare`: reads runs, prints their tables, writes one row a run."""

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from fer_jax.compare import tables
from fer_jax.compare.results import (
    CLASS_METRICS,
    SPLITS,
    Run,
    as_frame,
    load_runs,
    shortlist,
)
from fer_jax.console import make_console
from fer_jax.errors import UserError
from fer_jax.runs import failure, replacing

_EPILOG = """examples:
  bin/compare                                     all runs, on val
  bin/compare --split test --export results.csv   the final figures, and a CSV
  bin/compare --filter baseline --filter loss_    some experiments
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command with `argv` (default: the process's own); returns 0."""
    args = _parser().parse_args(argv)
    if args.export:
        _check_export(args.export)  # before minutes of reading go to waste
    console = make_console(color=not args.no_color)
    runs, unfinished = load_runs(args.runs_dir, args.filter, mixed=args.mixed)
    show(console, runs, unfinished, split=args.split, sort=args.sort)
    if args.export:
        rows = export(runs, args.split, args.export)
        _say(console, f"{_count(rows, 'run')} written to {args.export}")
    return 0


def show(
    console: Console,
    runs: Sequence[Run],
    unfinished: Sequence[Path],
    *,
    split: str = "val",
    sort: str = "macro_f1",
) -> None:
    """Prints the header, the notes and all tables.

    Args:
      console: where to; its width decides how the tables are laid out.
      runs: finished runs, from `load_runs`.
      unfinished: the folders of the runs that are not, to be named.
      split: `val` or `test`.
      sort: one of `tables.SORTS`, the order of the rows.

    Raises:
      UserError: no run has results on `split`.
    """
    scored = _with_split(runs, split)
    summary = tables.summarise(runs, split, sort)
    failures = {path: told for path in unfinished if (told := failure(path))}
    _header(console, scored, split, summary.marks)
    _notes(console, runs, unfinished, failures, split)
    _heading(console, f"{split}: overall, in %, by {sort}")
    console.print(tables.overall(summary, console.width, failures))
    if summary.seeds.max() > 1:
        _say(console, "mean ± sample sd over n seeds; no sd where n is 1")
    _emotions(console, summary, split)
    _configs(console, runs, summary)


def export(runs: Sequence[Run], split: str, path: Path) -> int:
    """Writes a CSV with a row for each run that has `split`; returns their number.

    The file appears whole or not at all; one that is there is replaced.
    """
    _check_export(path)
    frame = as_frame(_with_split(runs, split), split)
    try:
        with replacing(path) as partial:
            frame.to_csv(partial, index=False)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error
    return len(frame)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="compare",
        description="Compares finished runs: tables by experiment and by emotion.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--split", choices=SPLITS, default="val", help="what to compare on (val)")
    add("--runs_dir", type=Path, default=Path("runs"), help="the runs' folder (runs)")
    add(
        "--filter",
        metavar="PREFIX",
        action="append",
        default=[],
        help="only experiments whose name begins so; may be repeated",
    )
    add("--sort", choices=tables.SORTS, default="macro_f1", help="order (macro_f1)")
    add("--export", type=Path, metavar="FILE.csv", help="write one row a run")
    add(
        "--mixed",
        action="store_true",
        help="allow runs of different data, kept apart in each table",
    )
    add("--no-color", action="store_true", help="no colours")
    return parser


def _check_export(path: Path) -> None:
    if path.suffix != ".csv":
        raise UserError(f"--export writes CSV, and {path} does not end in .csv")
    if not path.parent.is_dir():
        raise UserError(
            f"--export {path}: there is no folder {path.parent}; make it first"
        )


def _with_split(runs: Sequence[Run], split: str) -> list[Run]:
    scored = [run for run in runs if split in run.scores]
    if not scored:
        others = sorted({name for run in runs for name in run.scores})
        raise UserError(
            f"no run has {split} results: the data set has no {split} split; "
            f"use --split {' or '.join(others)}"
        )
    return scored


def _header(
    console: Console, scored: Sequence[Run], split: str, marks: Mapping[str, str]
) -> None:
    experiments = len({run.name for run in scored})
    runs_told = f"{_count(len(scored), 'run')} of {_count(experiments, 'experiment')}"
    _say(console, f"Comparison on {split}: {runs_told}", style="bold")
    for data in {run.fingerprint: run.data for run in scored}.values():
        mark = marks.get(data["fingerprint"], "")
        _say(
            console,
            f"data{' ' + mark if mark else ''}: {data['description']}, "
            f"fingerprint {data['fingerprint']}",
        )
        if data["source"] == "embedded":
            _say(
                console,
                "drawn faces, not photographs: the figures say nothing of real data",
                style="yellow",
            )
        for note in data.get("notes", []):
            _say(console, f"note: {note}")
    if any(run.selection["split"] == split for run in scored):
        _say(
            console,
            f"{split} has selected each run's checkpoint: its figures are optimistic",
            style="yellow",
        )


def _notes(
    console: Console,
    runs: Sequence[Run],
    unfinished: Sequence[Path],
    failures: Mapping[Path, str],
    split: str,
) -> None:
    for path, told in failures.items():
        _say(console, f"failed: {path.parent.name}/{path.name}: {told}", style="red")
    if left := [path for path in unfinished if path not in failures]:
        labels = shortlist(f"{path.parent.name}/{path.name}" for path in left)
        _say(console, f"{_count(len(left), 'run')} not finished: {labels}")
    without = [run.label for run in runs if split not in run.scores]
    if without:
        told = _count(len(without), "run")
        _say(console, f"{told} without {split} results, left out: {shortlist(without)}")
    devices = Counter(run.device for run in runs if split in run.scores)
    if len(devices) > 1:
        told = ", ".join(f"{device} ({n})" for device, n in devices.items())
        _say(console, f"minutes do not compare across devices: {told}")


def _emotions(console: Console, summary: tables.Summary, split: str) -> None:
    alone = len(summary.mean) == 1
    best_is = "" if alone else " (bold: the best)"
    if not console.is_terminal:
        best_is = best_is.replace("bold", "*")
    for metric in CLASS_METRICS:
        name = "F1" if metric == "f1" else metric
        _heading(console, f"{split}: {name} by emotion, in %{best_is}")
        for table in tables.per_emotion(summary, metric, console):
            console.print(table)
    if alone:
        return
    _heading(console, f"{split}: best experiment for each emotion, by F1, in %")
    table, any_close = tables.best_by_emotion(summary, console.width)
    console.print(table)
    if any_close:
        _say(console, "~ no more than the sd over seeds of either: may be chance")


def _configs(console: Console, runs: Sequence[Run], summary: tables.Summary) -> None:
    # The configs of runs that lack the split are still worth reading.
    names = list(
        dict.fromkeys(
            [*summary.mean.index.get_level_values("name")] + [run.name for run in runs]
        )
    )
    _heading(console, "What each experiment asks")
    console.print(tables.descriptions(runs, names, console.width))
    if len(names) > 1:
        if tables.BASELINE in names:
            _heading(console, "What each experiment changes in the baseline")
        else:
            _heading(console, "Where the experiments differ (none is named baseline)")
        console.print(tables.changes(runs, names, console.width))


def _heading(console: Console, text: str) -> None:
    console.print()
    _say(console, text, style="bold")


def _say(console: Console, text: str, style: str = "") -> None:
    # Text, not str: square brackets in a name are no markup.
    console.print(Text(text, style=style))


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"
