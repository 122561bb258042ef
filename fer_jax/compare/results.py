"""Reads the result of one finished run, and checks it."""

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

from fer_jax.config import Asks, compared_settings, flatten
from fer_jax.errors import UserError
from fer_jax.metrics import from_confusion
from fer_jax.runs.folder import RESULT, read_result

SPLITS = ("val", "test")
LABEL_SETS = ("fer2013", "ferplus_majority", "agreed")

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


def read_run(run_dir: Path) -> FinishedRun:
    """The run of `run_dir/result.json`.

    Raises:
      UserError: the result cannot be read, lacks a field, or is of another run.
    """
    path, values = run_dir / RESULT, read_result(run_dir)
    try:
        result = _Result.model_validate(values)
        classes = [_writable(name) for name in result.data.class_names]
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
    # A folder of a class may have a name that no encoding can write.
    result.data.class_names = classes
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


def _writable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _one_line(text: str, longest: int = 200) -> str:
    """A config's text in one printable line, cut where it is too long."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= longest else line[: longest - 1].rstrip() + "…"
