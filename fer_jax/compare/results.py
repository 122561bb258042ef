"""Reads finished runs, and refuses those that must not be averaged."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from fer_jax.config import Asks, compared_settings, differing_keys, flatten
from fer_jax.errors import UserError
from fer_jax.metrics import from_confusion
from fer_jax.runs.folder import RESULT, failure, is_finished, read_result
from fer_jax.system.arguments import typed

SPLITS = ("val", "test")
LABEL_SETS = ("fer2013", "ferplus_majority", "agreed")
_TRAIN_FIRST = f"train first ({typed('train')} baseline) or give --runs_dir"


_Count = Annotated[int, Field(ge=0, le=2**53)]  # larger ones overflow floats


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="allow")


class _Data(_Part):
    source: str
    description: str
    fingerprint: str
    class_names: list[str] = Field(min_length=1)
    notes: list[str] = []


class _Selection(_Part):
    split: str
    metric: str
    epoch: _Count
    value: float


class _Scores(_Part):
    loss: float
    confusion_matrix: list[list[_Count]]


class _Model(_Part):
    parameters: _Count


class _Environment(_Part):
    device: str


class _Timing(_Part):
    wall_s: float
    train_s: float
    images_per_s: float


class _Config(_Part):
    asks: Asks = Asks()


class _Result(_Part):
    """The fields of `result.json` that are read; it has others."""

    name: str
    description: str
    seed: _Count
    config: _Config
    data: _Data
    selection: _Selection
    epochs_run: _Count
    stopped_early: bool
    val: _Scores
    test: _Scores | None = None
    model: _Model
    environment: _Environment
    timing: _Timing
    overrides: list[str] = []

    @model_validator(mode="after")
    def _check_matrices(self) -> "_Result":
        for scores in filter(None, (self.val, self.test)):
            sizes = [len(scores.confusion_matrix), *map(len, scores.confusion_matrix)]
            if set(sizes) != {len(self.data.class_names)}:
                raise PydanticCustomError("size", "not of these classes")
        return self


@dataclass(frozen=True)
class FinishedRun:
    """One finished run, as its `result.json` states it."""

    folder: Path  # the run folder, which also holds the predictions
    name: str  # of the experiment, which runs of several seeds share
    description: str  # the question that the experiment asks
    seed: int
    config: dict[str, Any]  # every setting under its dotted key
    asks: Asks  # which scores answer the description
    data: dict[str, Any]  # source, description, fingerprint, class_names, notes
    selection: dict[str, Any]  # split, metric, epoch, value of the kept checkpoint
    scores: dict[str, dict[str, Any]]  # by split, from `metrics.score_with_clean`
    epochs_run: int
    stopped_early: bool  # before all epochs of the config
    parameters: int  # of the network
    device: str
    timing: dict[str, float]  # wall_s, train_s, images_per_s
    overrides: Sequence[str] = ()  # the --set items of its command
    label_set: str = ""  # the labels that score it; "" for those it chose
    clean: bool = False  # whether only images without a copy in train are scored

    @property
    def label(self) -> str:
        """The run folder below `runs/`, as `baseline/seed_1`."""
        return f"{self.name}/seed_{self.seed}"

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the data that the run was trained and scored on."""
        return self.data["fingerprint"]

    @property
    def class_names(self) -> list[str]:
        """The classes, in the order of the labels."""
        return self.data["class_names"]

    def settings(self) -> dict[str, Any]:
        """The settings that the runs of one experiment have in common."""
        return compared_settings(self.config)

    def scored_by(self, label_set: str) -> "FinishedRun":
        """The same run, scored by one of `LABEL_SETS`.

        Raises:
          UserError: its result has no scores by these labels.
        """
        scores = {
            split: found["label_sets"][label_set]
            for split, found in self.scores.items()
            if label_set in found.get("label_sets", {})
        }
        if not scores:
            raise UserError(
                f"{self.label} has no scores by {label_set}: it was trained without "
                "FER+'s fer2013new.csv beside the fer2013.csv; put the file there and "
                "repeat that run with --force"
            )
        # Runs with other classes are of other data, by whatever labels.
        fingerprint = (
            f"{self.data['source_fingerprint']}, labels {label_set}, "
            f"{len(self.class_names)} classes"
        )
        data = self.data | {"fingerprint": fingerprint}
        return replace(self, scores=scores, data=data, label_set=label_set)


def load_runs(
    runs_dir: str | Path,
    filters: Sequence[str] = (),
    *,
    mixed: bool = False,
    labels: str | None = None,
) -> tuple[list[FinishedRun], list[Path]]:
    """Reads the finished runs below `runs_dir`.

    Args:
      runs_dir: the folder that holds `<name>/seed_<n>/result.json`.
      filters: prefixes of experiment names, any of which may match. Default: all runs.
      mixed: allow runs of different data sets.
      labels: one of `LABEL_SETS` to score all runs by. Default: those each run chose.

    Returns:
      The finished runs by name and seed, and the folders of the unfinished ones.

    Raises:
      UserError: there is no finished run, a result is unreadable, runs are of
        different data (unless `mixed`), or runs of one experiment differ in settings.
    """
    runs_dir = Path(runs_dir)
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
    runs = [read_run(path) for path in finished]
    if labels:
        runs = [run.scored_by(labels) for run in runs]
    if not mixed:
        _check_data(runs)
    _check_settings(runs)
    return runs, unfinished


def read_run(run_dir: Path) -> FinishedRun:
    """The run of `run_dir/result.json`.

    Raises:
      UserError: the result cannot be read, lacks a field, or is of another run.
    """
    path, values = run_dir / RESULT, read_result(run_dir)
    try:
        result = _Result.model_validate(values)
        classes = result.data.class_names
        scores = {s: _rescored(values[s], classes) for s in SPLITS if s in values}
    except ValidationError as error:
        places = (".".join(map(str, each["loc"])) for each in error.errors())
        keys = shortlist(
            place or "a confusion matrix of its classes" for place in places
        )
        raise UserError(
            f"{path} lacks {keys}, or has an impossible value there; repeat that run "
            "with --force"
        ) from None
    same = {"name", "seed", "data", "selection", "timing", "epochs_run", "overrides"}
    run = FinishedRun(
        folder=run_dir,
        description=_one_line(result.description),
        config=flatten(values["config"]),
        asks=result.config.asks,
        scores=scores,
        stopped_early=result.stopped_early,
        parameters=result.model.parameters,
        device=result.environment.device,
        **result.model_dump(include=same),
    )
    # A copied folder would count one seed twice, or under a wrong name.
    if (run_dir.parent.name, run_dir.name) != (run.name, f"seed_{run.seed}"):
        raise UserError(
            f"{path} is the result of {run.label}, which is another folder: move it "
            "back, or out of the folder of the runs"
        )
    return run


def data_sets(runs: Sequence[FinishedRun]) -> dict[str, dict[str, Any]]:
    """What the runs say of their data, by fingerprint, with the notes they all share.

    What one run left out of train is no note on the data.
    """
    found: dict[str, dict[str, Any]] = {}
    for run in runs:
        facts = found.setdefault(run.fingerprint, {**run.data})
        own = run.data.get("notes", [])
        facts["notes"] = [note for note in facts.get("notes", []) if note in own]
    return found


def run_name(folder: Path) -> str:
    """A run folder as `baseline/seed_1`."""
    return f"{folder.parent.name}/{folder.name}"


def shortlist(items: Iterable[object], limit: int = 6) -> str:
    """The first `limit` items, and how many more there are."""
    texts = [str(item) for item in items]
    more = f" and {len(texts) - limit} more" if len(texts) > limit else ""
    return ", ".join(texts[:limit]) + more


def _rescored(stored: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    """Stored scores, as the present definitions have them for the stored counts."""
    matrix = np.array(stored["confusion_matrix"])
    sets = stored.get("label_sets", {}).items()
    rescored = {name: _rescored(scores, classes) for name, scores in sets}
    return {**stored, **from_confusion(matrix, classes), "label_sets": rescored}


def _one_line(text: str, longest: int = 200) -> str:
    """A config's text in one printable line, cut where it is too long."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= longest else line[: longest - 1].rstrip() + "…"


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
