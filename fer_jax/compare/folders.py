"""Finds the finished runs of folders, and refuses those that must not be averaged."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from fer_jax.compare.results import FinishedRun, read_run, run_name, shortlist
from fer_jax.compare.summary import BASELINE
from fer_jax.config import differing_keys
from fer_jax.errors import UserError
from fer_jax.runs.folder import failure, is_finished
from fer_jax.system.arguments import typed

_TRAIN_FIRST = f"train first ({typed('train')} baseline) or give --runs_dir"


def load_runs(
    runs_dirs: str | Path | Sequence[str | Path],
    filters: Sequence[str] = (),
    *,
    mixed: bool = False,
    labels: str | None = None,
) -> tuple[list[FinishedRun], list[Path]]:
    """Reads the finished runs below one folder or several.

    An experiment that is in more than one of them gets the folder's name before its
    own, as `theirs/baseline` and `mine/baseline`.

    Args:
      runs_dirs: folders that hold `<name>/seed_<n>/result.json`.
      filters: prefixes of experiment names, any of which may match. Default: all runs.
      mixed: allow runs of different data sets.
      labels: one of `LABEL_SETS` to score all runs by. Default: those each run chose.

    Returns:
      The finished runs by folder, name and seed, and the folders of the unfinished
      ones.

    Raises:
      UserError: there is no finished run in a folder, a result is unreadable, runs are
        of different data (unless `mixed`), or runs of one experiment differ in
        settings.
    """
    given = [runs_dirs] if isinstance(runs_dirs, str | Path) else runs_dirs
    places = [Path(place) for place in given]
    for place, times in Counter(each.resolve() for each in places).items():
        if times > 1:
            raise UserError(f"{place} is given twice; name it once")
    found = {place: _find(place, filters) for place in places}
    runs = {
        place: [read_run(path) for path in done] for place, (done, _) in found.items()
    }
    every = _named_apart(runs)
    if labels:
        every = [run.scored_by(labels) for run in every]
    if not mixed:
        _check_data(every)
    _check_settings(every)
    return every, [path for _, others in found.values() for path in others]


def usual_baseline(runs: Sequence[FinishedRun]) -> str:
    """The name of the baseline: of several folders, the first one's."""
    names = dict.fromkeys(run.name for run in runs)
    ends = (name for name in names if name.endswith(f"/{BASELINE}"))
    return BASELINE if BASELINE in names else next(ends, BASELINE)


def check_split(runs: Sequence[FinishedRun], split: str) -> None:
    """Checks that there is something to compare.

    Raises:
      UserError: no run has the split.
    """
    if not any(split in run.scores for run in runs):
        others = sorted({name for run in runs for name in run.scores})
        raise UserError(
            f"no run has {split} results: the data set has no {split} split; "
            f"use --split {' or '.join(others)}"
        )


def _find(runs_dir: Path, filters: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """The run folders of a folder: the finished, and the others."""
    if not runs_dir.is_dir():
        raise UserError(f"there is no folder {runs_dir}: {_TRAIN_FIRST}")
    folders = sorted(
        (path for path in runs_dir.glob("*/seed_*") if path.is_dir()),
        key=lambda path: (path.parent.name, len(path.name), path.name),
    )
    chosen = [
        path
        for path in folders
        if not filters or path.parent.name.startswith(tuple(filters))
    ]
    finished = [path for path in chosen if is_finished(path)]
    unfinished = [path for path in chosen if not is_finished(path)]
    if not finished:
        raise UserError(_nothing_found(runs_dir, filters, folders, unfinished))
    return finished, unfinished


def _named_apart(runs: Mapping[Path, Sequence[FinishedRun]]) -> list[FinishedRun]:
    """All runs, with their folder's name before a name that several folders have."""
    names = Counter(name for each in runs.values() for name in {r.name for r in each})
    short = Counter(place.resolve().name for place in runs)
    told = []
    for place, own in runs.items():
        last = place.resolve().name
        head = last if short[last] == 1 else str(place)
        for run in own:
            name = f"{head}/{run.name}" if names[run.name] > 1 else run.name
            told.append(replace(run, name=name))
    return told


def _nothing_found(
    runs_dir: Path,
    filters: Sequence[str],
    folders: Sequence[Path],
    unfinished: Sequence[Path],
) -> str:
    if unfinished:
        labels = shortlist(
            run_name(path) + (f", which failed: {error}" if error else "")
            for path, error in ((path, failure(path)) for path in unfinished)
        )
        return (
            f"{runs_dir} holds no finished run (not finished: {labels}): wait for "
            "them, or start them again to resume"
        )
    if folders:
        names = shortlist(sorted({path.parent.name for path in folders}), limit=20)
        return (
            f"no experiment in {runs_dir} has a name that begins with "
            f"{' or '.join(filters)}: there are {names}"
        )
    return f"{runs_dir} holds no run (<name>/seed_<n>/result.json): {_TRAIN_FIRST}"


def _check_data(runs: Sequence[FinishedRun]) -> None:
    by_data: dict[tuple[str, str], list[str]] = defaultdict(list)
    for run in runs:
        by_data[run.fingerprint, run.data["description"]].append(run.label)
    if len({fingerprint for fingerprint, _ in by_data}) > 1:
        sets = "; ".join(
            f"{fingerprint} '{description}': {shortlist(labels)}"
            for (fingerprint, description), labels in by_data.items()
        )
        raise UserError(
            f"the runs are of different data and do not compare: {sets}; choose with "
            "--filter or --runs_dir, or keep them apart in each table with --mixed"
        )


def _check_settings(runs: Sequence[FinishedRun]) -> None:
    first_of: dict[str, FinishedRun] = {}
    for run in runs:
        first = first_of.setdefault(run.name, run)
        if keys := differing_keys([first.settings(), run.settings()]):
            values = shortlist(
                f"{key} is {first.config.get(key)} and {run.config.get(key)}"
                for key in keys
            )
            raise UserError(
                f"{first.label} and {run.label} are not seeds of one experiment: "
                f"{values}; give one of them another name, or train {run.name} again"
            )
