"""Writes what the options of `bin/compare` ask for, after the tables are shown."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from fer_jax.compare import content, export
from fer_jax.compare.comparison import Comparison
from fer_jax.compare.publish import publish
from fer_jax.compare.results import SPLITS
from fer_jax.compare.wording import count
from fer_jax.system.files import write_whole


def write(comparison: Comparison, args: argparse.Namespace) -> list[str]:
    """Writes files, published runs and MLflow's; returns a line for each.

    Raises:
      UserError: one cannot be written.
    """
    return [*_files(comparison, args), *_others(comparison, args)]


def _files(comparison: Comparison, args: argparse.Namespace) -> Iterator[str]:
    has = [s for s in SPLITS if any(s in run.scores for run in comparison.finished)]
    whole = args.report or any(path.suffix == ".json" for path in args.export)
    splits = {
        split: comparison if split == args.split else comparison.replace(split=split)
        for split in (has if whole else [])
    }
    for path in args.export:
        _export(path, comparison, splits, args.command)
        yield f"written: {path}"
    if args.report:
        from fer_jax.compare.report import write_report  # half a second

        write_report(args.report, splits, split=args.split, command=args.command)
        yield f"written: {args.report}"


def _export(
    path: Path, comparison: Comparison, splits: dict[str, Comparison], command: str
) -> None:
    summary, split = comparison.summary, comparison.split
    if path.suffix == ".csv":
        write_whole(path, comparison.runs.to_csv(index=False))
    elif path.suffix == ".parquet":
        write_whole(path, export.to_parquet(comparison.runs))
    elif path.suffix == ".json":
        whole = content.build(
            {name: each.summary for name, each in splits.items()},
            comparison.finished,
            comparison.unfinished,
            split=split,
            command=command,
        )
        write_whole(path, export.to_json(whole))
    else:
        text = export.SHEETS[path.suffix](
            export.sheets(summary), content.notes(summary)
        )
        write_whole(path, text)


def _others(comparison: Comparison, args: argparse.Namespace) -> Iterator[str]:
    if args.figures:
        from fer_jax.compare.figure_files import write_figures

        written, lacking = write_figures(args.figures, comparison)
        yield f"written: {count(written, 'figure')} in {args.figures}" + (
            f", {lacking}" if lacking else ""
        )
    if args.publish:
        copies = publish([run.folder for run in comparison.finished], args.publish)
        yield f"written: {count(len(copies), 'run')} below {args.publish}"
    if args.mlflow:
        from fer_jax.compare import tracking

        new, there = tracking.log(comparison.finished, args.mlflow)
        already = f", {there} were there already" if there else ""
        yield f"logged: {count(new, 'run')} to {args.mlflow}{already}"
