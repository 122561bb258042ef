"""The command `compare`: reads runs, shows what they say, and writes it to files."""

import argparse
import dataclasses
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from fer_jax.compare import content, export, tables
from fer_jax.compare.findings import findings, seeds_note
from fer_jax.compare.predictions import only_clean
from fer_jax.compare.report import write_report
from fer_jax.compare.results import (
    CLASS_METRICS,
    LABEL_SETS,
    SPLITS,
    Run,
    data_sets,
    load_runs,
    shortlist,
)
from fer_jax.compare.summary import BASELINE, SORTS, Summary, summarise
from fer_jax.compare.watch import watch
from fer_jax.errors import UserError
from fer_jax.runs.folder import failure, test_reads
from fer_jax.system.console import make_console
from fer_jax.system.files import check_target, write_whole

_EPILOG = """examples:
  bin/compare                                     all runs, on val
  bin/compare --split test --report report.html   the final figures, and a page
  bin/compare --filter baseline --filter loss_    some experiments
  bin/compare --experiment loss_focal baseline    two of them in depth
  bin/compare --watch --report report.html        while a batch runs
"""


_COSTS = "Seeds, epochs, time and calibration error (ECE, in %)"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command with `argv` (default: the process's own); returns 0."""
    argv = sys.argv[1:] if argv is None else list(argv)
    args = _parser().parse_args(argv)
    _check(args)  # before the reading goes to waste
    console = make_console(color=not args.no_color)
    args.command = shlex.join(["bin/compare", *argv])
    if args.watch:
        watch(console, args.runs_dir, lambda: _compare(console, args))
    _compare(console, args)
    return 0


def show(
    console: Console,
    runs: Sequence[Run],
    unfinished: Sequence[Path],
    *,
    split: str = "val",
    sort: str = "macro_f1",
    baseline: str = BASELINE,
) -> None:
    """Prints the header, the notes, all tables and what they say.

    Args:
      console: where to; its width decides how the tables are laid out.
      runs: finished runs, from `load_runs`.
      unfinished: the folders of the runs that are not, to be named.
      split: `val` or `test`.
      sort: one of `summary.SORTS`, the order of the rows.
      baseline: the experiment that the others are compared with.

    Raises:
      UserError: no run has results on `split`, or predictions cannot be used.
    """
    _with_split(runs, split)
    summary = summarise(runs, split, sort, baseline)
    _show(console, summary, runs, unfinished, sort, baseline)


def _show(
    console: Console,
    summary: Summary,
    runs: Sequence[Run],
    unfinished: Sequence[Path],
    sort: str,
    baseline: str,
) -> None:
    """Prints everything."""
    _head(console, summary, runs, unfinished)
    _overall(console, summary, unfinished, sort, baseline)
    _clean(console, summary)
    _emotions(console, summary)
    _heading(console, _COSTS)
    console.print(tables.costs(summary, console.width))
    _configs(console, runs, summary)
    _what_this_says(console, summary)


def _compare(console: Console, args: argparse.Namespace) -> None:
    """Reads, writes and shows, once."""
    runs, unfinished = load_runs(
        args.runs_dir, args.filter, mixed=args.mixed, labels=args.labels
    )
    if args.clean:
        runs = only_clean(runs)
    if args.experiment:
        runs, unfinished = _pick(runs, args.experiment), []
    _check_names(runs, args)
    _with_split(runs, args.split)
    baseline = args.experiment[1] if args.experiment else args.baseline or BASELINE
    summary = summarise(runs, args.split, args.sort, baseline)
    # First what is to be kept: the reader of a pipe may go before all is printed.
    written = _write(args, summary, runs, unfinished, baseline)
    if args.experiment:
        _two(console, summary, args.experiment, runs)
    elif args.emotion:
        _emotion(console, summary, args.emotion, runs, unfinished)
    elif args.watch:
        _head(console, summary, runs, unfinished)
        _overall(console, summary, unfinished, args.sort, baseline)
        _what_this_says(console, summary)
    else:
        _show(console, summary, runs, unfinished, args.sort, baseline)
    for path in written:
        _say(console, f"\nwritten: {path}")


def _write(
    args: argparse.Namespace,
    summary: Summary,
    runs: Sequence[Run],
    unfinished: Sequence[Path],
    baseline: str,
) -> list[Path]:
    """Writes what `--export` and `--report` ask for; returns the files."""
    whole: dict[str, Any] = {}
    if args.report or any(path.suffix == ".json" for path in args.export):
        others = {
            split: summarise(runs, split, args.sort, baseline)
            for split in SPLITS
            if split != args.split and any(split in run.scores for run in runs)
        }
        whole = content.build(
            others | {args.split: summary},
            runs,
            unfinished,
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


def _check(args: argparse.Namespace) -> None:
    """Refuses what could not be done in the end."""
    for path in args.export:
        check_target(path, "--export", export.SUFFIXES)
    if args.report:
        check_target(args.report, "--report", (".html",))
    files = [path.resolve() for path in [*args.export, args.report] if path]
    if twice := [path for path, n in Counter(files).items() if n > 1]:
        raise UserError(f"{twice[0]} is to be written twice; name two files")
    if args.experiment and args.baseline:
        raise UserError(
            "--experiment A B compares A with B; leave --baseline out, or give B"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="compare",
        description="Compares finished runs: which differences are real, by "
        "experiment and by emotion.",
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
    add("--sort", choices=SORTS, default="macro_f1", help="order (macro_f1)")
    add("--baseline", metavar="NAME", help=f"what to compare with ({BASELINE})")
    one_view = parser.add_mutually_exclusive_group()
    one_view.add_argument(
        "--experiment",
        nargs=2,
        metavar=("A", "B"),
        help="two experiments, or two runs as baseline/seed_42, in depth",
    )
    one_view.add_argument("--emotion", metavar="NAME", help="one emotion in depth")
    add(
        "--export",
        type=Path,
        metavar="FILE",
        action="append",
        default=[],
        help=".csv: one row a run; .json: everything; .md, .tex, .html: the tables; "
        "may be repeated",
    )
    add("--report", type=Path, metavar="FILE.html", help="write a page to look at")
    one_view.add_argument(
        "--watch", action="store_true", help="show it anew as runs finish"
    )
    add(
        "--mixed",
        action="store_true",
        help="allow runs of different data, kept apart in each table",
    )
    add(
        "--clean",
        action="store_true",
        help="score on those images only that have no copy in train, exact or near",
    )
    add(
        "--labels",
        choices=LABEL_SETS,
        help="score all runs by FER2013's labels, by FER+'s majority, or on the images "
        "on which the two agree, whichever they were trained on",
    )
    add("--no-color", action="store_true", help="no colours")
    return parser


def _check_names(runs: Sequence[Run], args: argparse.Namespace) -> None:
    """A baseline and an emotion that were asked for must be there."""
    names = list(dict.fromkeys(run.name for run in runs))
    if args.baseline and args.baseline not in names:
        raise UserError(
            f"--baseline {args.baseline}: there is no such experiment; there are "
            f"{shortlist(names, 20)}"
        )
    known = dict.fromkeys(name for run in runs for name in run.data["class_names"])
    if args.emotion and args.emotion not in known:
        raise UserError(
            f"--emotion {args.emotion}: the data have no such emotion; they have "
            f"{', '.join(known)}"
        )


def _pick(runs: Sequence[Run], names: Sequence[str]) -> list[Run]:
    """The runs of two experiments, or two runs, which then go by their labels."""
    picked: list[Run] = []
    for name in names:
        chosen = [run for run in runs if run.name == name]
        if not chosen:
            one = [run for run in runs if run.label == name]
            chosen = [dataclasses.replace(run, name=name) for run in one]
        if not chosen:
            known = dict.fromkeys(run.name for run in runs)
            raise UserError(
                f"--experiment {name}: there is no finished experiment or run of that "
                f"name; there are {shortlist(known, 20)}, and their runs as "
                f"{runs[0].label}"
            )
        picked += chosen
    if len({run.folder for run in picked}) < len(picked):
        raise UserError(
            f"--experiment {' '.join(names)}: name two that have no run in common"
        )
    if len({run.fingerprint for run in picked}) > 1:
        raise UserError(
            f"--experiment {' '.join(names)}: they are of different data and do not "
            "compare"
        )
    return picked


def _with_split(runs: Sequence[Run], split: str) -> list[Run]:
    scored = [run for run in runs if split in run.scores]
    if not scored:
        others = sorted({name for run in runs for name in run.scores})
        raise UserError(
            f"no run has {split} results: the data set has no {split} split; "
            f"use --split {' or '.join(others)}"
        )
    return scored


def _head(
    console: Console, summary: Summary, runs: Sequence[Run], unfinished: Sequence[Path]
) -> None:
    """The header and the notes."""
    scored = [run for run in runs if summary.split in run.scores]
    _header(console, scored, summary.split, summary.marks)
    _notes(console, runs, unfinished, _failures(unfinished), summary.split)


def _header(
    console: Console, scored: Sequence[Run], split: str, marks: Mapping[str, str]
) -> None:
    experiments = len({run.name for run in scored})
    runs_told = f"{_count(len(scored), 'run')} of {_count(experiments, 'experiment')}"
    _say(console, f"Comparison on {split}: {runs_told}", style="bold")
    for data in data_sets(scored).values():
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
    again = [
        f"{run.label} ({reads} times)"
        for run in runs
        if split == "test" and (reads := test_reads(run.folder)) > 1
    ]
    if again:
        _say(console, f"test was read more than once by {shortlist(again)}", "yellow")
    devices = Counter(run.device for run in runs if split in run.scores)
    if len(devices) > 1:
        told = ", ".join(f"{device} ({n})" for device, n in devices.items())
        _say(console, f"minutes do not compare across devices: {told}")


def _failures(unfinished: Sequence[Path]) -> dict[Path, str]:
    return {path: told for path in unfinished if (told := failure(path))}


def _overall(
    console: Console,
    summary: Summary,
    unfinished: Sequence[Path],
    sort: str,
    baseline: str,
) -> None:
    """The overall table, and the differences from the baseline."""
    _heading(console, f"{summary.split}: overall, in % [95 % interval], by {sort}")
    failures = _failures(unfinished)
    console.print(tables.overall(summary, console.width, failures))
    if _has_tests(summary):
        _heading(
            console,
            f"{summary.split}: macro F1 against {summary.baseline}, in points "
            "[95 % interval]",
        )
        console.print(tables.differences(summary, "macro_f1", console.width))
        _say(
            console,
            "could show: the true difference that these data find in 80 % of cases",
            style="dim",
        )
    lacking = [
        summary.label(each)
        for each in summary.experiments
        if each.versus is None and each.name != baseline
    ]
    if lacking and len(summary.experiments) > len(summary.images):
        _say(
            console,
            f"not tested: {shortlist(lacking)}, for want of {summary.split} "
            f"results of {baseline} on the same data; --baseline names another",
            style="yellow",
        )


def _clean(console: Console, summary: Summary) -> None:
    """What the scores are without the images that have a copy in train."""
    if not any(images.leaked for images in summary.images.values()):
        return
    told = ", ".join(
        f"{images.leaked:,} of {images.n:,} images"
        for images in summary.images.values()
        if images.leaked
    )
    _heading(
        console,
        f"{summary.split}: as usual, and clean of the {told} with a copy in train",
    )
    console.print(tables.clean(summary, console.width))


def _emotions(console: Console, summary: Summary) -> None:
    marks = [] if len(summary.experiments) == 1 else ["bold: the best"]
    if not console.is_terminal:
        marks = [mark.replace("bold", "*") for mark in marks]
    if _has_tests(summary):
        marks.append(f"+ -: better, worse than {summary.baseline}, significant")
    legend = f" ({'; '.join(marks)})" if marks else ""
    for metric in CLASS_METRICS:
        name = tables.METRIC_WORDS[metric]
        _heading(console, f"{summary.split}: {name} by emotion, in %{legend}")
        for table in tables.per_emotion(summary, metric, console):
            console.print(table)
    if len(summary.experiments) > 1:
        _heading(
            console, f"{summary.split}: best experiment for each emotion, by F1, in %"
        )
        console.print(tables.best_by_emotion(summary, console.width))


def _emotion(
    console: Console,
    summary: Summary,
    emotion: str,
    runs: Sequence[Run],
    unfinished: Sequence[Path],
) -> None:
    """One emotion in depth."""
    n = max(each.support.get(emotion, 0) for each in summary.images.values())
    if not n:
        support = [each.support for each in summary.images.values()]
        present = dict.fromkeys(
            name for each in support for name, count in each.items() if count
        )
        raise UserError(
            f"--emotion {emotion}: no {summary.split} image is of {emotion}; there are "
            f"images of {', '.join(present)}"
        )
    _head(console, summary, runs, unfinished)
    _heading(
        console,
        f"{summary.split}: {emotion}, {_count(n, 'image')}, in % [95 % interval]",
    )
    console.print(tables.one_emotion(summary, emotion, console.width))
    _seeds_note(console, summary)


def _two(
    console: Console, summary: Summary, names: Sequence[str], runs: Sequence[Run]
) -> None:
    """Two experiments in depth: all metrics, confusions, settings, costs."""
    by_name = {each.name: each for each in summary.experiments}
    if lacking := [name for name in names if name not in by_name]:
        raise UserError(f"{lacking[0]} has no {summary.split} results")
    one, other = (by_name[name] for name in names)
    _head(console, summary, runs, [])
    _heading(console, f"{summary.split}: {one.name} less {other.name}, in % and points")
    console.print(tables.in_depth(one, other))
    for each in (one, other):
        _heading(console, f"{each.name}: taken for, in % of each true emotion")
        console.print(tables.confusion(each, console.width))
    _heading(console, _COSTS)
    console.print(tables.costs(summary, console.width))
    _heading(console, f"What {one.name} changes in {other.name}")
    console.print(tables.changes(runs, names, console.width, other.name))
    _what_this_says(console, summary)


def _configs(console: Console, runs: Sequence[Run], summary: Summary) -> None:
    # The configs of runs that lack the split are still worth reading.
    names = list(
        dict.fromkeys(
            [each.name for each in summary.experiments] + [run.name for run in runs]
        )
    )
    _heading(console, "What each experiment asks")
    console.print(tables.descriptions(runs, names, console.width))
    if len(names) > 1:
        if summary.baseline:
            _heading(console, f"What each experiment changes in {summary.baseline}")
        else:
            _heading(console, "Where the experiments differ (none is the baseline)")
        console.print(tables.changes(runs, names, console.width, summary.baseline))


def _what_this_says(console: Console, summary: Summary) -> None:
    if found := findings(summary):
        _heading(console, f"What this says, on {summary.split}")
    for finding in found:
        _say(console, finding.question)
        _indented(console, finding.answer)
    _seeds_note(console, summary)


def _seeds_note(console: Console, summary: Summary) -> None:
    if told := seeds_note(summary):
        console.print()
        _say(console, told, style="yellow")


def _indented(console: Console, text: str) -> None:
    console.print(Padding(Text(text), (0, 0, 0, 2)))


def _has_tests(summary: Summary) -> bool:
    return any(each.versus is not None for each in summary.experiments)


def _heading(console: Console, text: str) -> None:
    console.print()
    _say(console, text, style="bold")


def _say(console: Console, text: str, style: str = "") -> None:
    # Text, not str: square brackets in a name are no markup.
    console.print(Text(text, style=style))


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
