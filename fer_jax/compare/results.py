"""Reads finished runs from disk and refuses those that must not be averaged."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import ValidationError

from fer_jax.config import Asks, compared_settings, differing_keys, flatten
from fer_jax.errors import UserError
from fer_jax.runs.folder import RESULT, failure, is_finished, read_result

METRICS = ("accuracy", "macro_f1", "balanced_accuracy")
CLASS_METRICS = ("f1", "precision", "recall")
SPLITS = ("val", "test")
LABEL_SETS = ("fer2013", "ferplus_majority", "agreed")
ABSENT = "-"  # stands in tables and messages for what a run does not have

_NUMBER = (int, float)
# What the tables and the CSV read from each result, and its type.
_FIELDS: dict[tuple[str, ...], type | tuple[type, ...]] = {
    ("name",): str,
    ("description",): str,
    ("seed",): int,
    ("config",): dict,
    ("data", "source"): str,
    ("data", "description"): str,
    ("data", "fingerprint"): str,
    ("data", "class_names"): list,
    ("selection", "split"): str,
    ("selection", "metric"): str,
    ("selection", "epoch"): int,
    ("selection", "value"): _NUMBER,
    ("epochs_run",): int,
    ("stopped_early",): bool,
    ("val",): dict,
    ("model", "parameters"): int,
    ("environment", "device"): str,
    ("timing", "wall_s"): _NUMBER,
    ("timing", "train_s"): _NUMBER,
    ("timing", "images_per_s"): _NUMBER,
}


@dataclass(frozen=True)
class Run:
    """One finished run, as its `result.json` tells it.

    Attributes:
      folder: where it lies, with its predictions.
      name: the experiment, which runs of several seeds share.
      description: the question that the experiment asks.
      seed: the seed.
      config: every hyperparameter under its dotted key, the seed's among them.
      asks: which scores answer the description.
      data: `source`, `description`, `fingerprint`, `class_names`, perhaps `notes`.
      selection: `split`, `metric`, `epoch` and `value` of the kept checkpoint.
      scores: for each split that was evaluated its metrics, in 0..1.
      epochs_run: how many epochs were trained.
      stopped_early: whether that is fewer than the config allows.
      parameters: the size of the model.
      device: what it was trained on.
      timing: `wall_s`, `train_s`, `images_per_s`.
      label_set: by which labels it is scored, where not by those it chose; else "".
      clean: whether it is scored on those images only that have no copy in train.
    """

    folder: Path
    name: str
    description: str
    seed: int
    config: dict[str, Any]
    asks: Asks
    data: dict[str, Any]
    selection: dict[str, Any]
    scores: dict[str, dict[str, Any]]
    epochs_run: int
    stopped_early: bool
    parameters: int
    device: str
    timing: dict[str, float]
    label_set: str = ""
    clean: bool = False

    @property
    def label(self) -> str:
        """The run folder below `runs/`, as `baseline/seed_1`."""
        return f"{self.name}/seed_{self.seed}"

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the data that the run was trained and scored on."""
        return self.data["fingerprint"]

    def settings(self) -> dict[str, Any]:
        """The settings that the runs of one experiment have in common."""
        return compared_settings(self.config)

    def scored_by(self, labels: str) -> "Run":
        """The same run, scored by one of `LABEL_SETS`.

        Raises:
          UserError: where its result has no scores by that.
        """
        by = {
            split: scores["label_sets"][labels]
            for split, scores in self.scores.items()
            if labels in scores.get("label_sets", {})
        }
        if not by:
            raise UserError(
                f"{self.label} has no scores by {labels}: they need FER+'s "
                "fer2013new.csv beside the fer2013.csv when it is trained; put it "
                "there and repeat that run with --force"
            )
        data = self.data | {
            "fingerprint": f"{self.data['source_fingerprint']}, labels {labels}"
        }
        return replace(self, scores=by, data=data, label_set=labels)


def load_runs(
    runs_dir: str | Path,
    filters: Sequence[str] = (),
    *,
    mixed: bool = False,
    labels: str | None = None,
) -> tuple[list[Run], list[Path]]:
    """Reads the finished runs below `runs_dir`.

    Args:
      runs_dir: the folder that holds `<name>/seed_<n>/result.json`.
      filters: prefixes of experiment names; a run needs to match one of them.
        Without any, all runs are read.
      mixed: allow runs of different data sets.
      labels: one of `LABEL_SETS`, to score all runs by, whichever they chose.

    Returns:
      The finished runs, by name and seed, and the folders of the unfinished ones.

    Raises:
      UserError: no run, an unreadable result, runs of different data (unless
        `mixed`), or runs of one experiment whose configs differ.
    """
    runs_dir = Path(runs_dir)
    if not runs_dir.is_dir():
        raise UserError(
            f"there is no folder {runs_dir}: train first "
            "(python -m fer_jax.train configs/baseline.yaml) or give --runs_dir"
        )
    folders = [path for path in runs_dir.glob("*/seed_*") if path.is_dir()]
    chosen = sorted(
        (path for path in folders if _matches(path.parent.name, filters)),
        key=lambda path: (path.parent.name, len(path.name), path.name),
    )
    unfinished = [path for path in chosen if not is_finished(path)]
    finished = [path for path in chosen if is_finished(path)]
    if not finished:
        raise UserError(_nothing_found(runs_dir, filters, folders, unfinished))
    runs = [read_run(path) for path in finished]
    if labels:
        runs = [run.scored_by(labels) for run in runs]
        _check_one_set_of_classes(runs)
    if not mixed:
        _check_one_data_set(runs)
    _check_configs(runs)
    return runs, unfinished


def read_run(run_dir: Path) -> Run:
    """The run that `run_dir/result.json` describes; a UserError says what it lacks."""
    path, result = run_dir / RESULT, read_result(run_dir)
    if missing := _missing(result):
        raise UserError(
            f"{path} lacks {', '.join(missing)} (absent, or no such value can be); "
            "remove it and run that training again"
        )
    run = Run(
        folder=run_dir,
        config=flatten(result["config"]),
        asks=Asks.model_validate(result["config"].get("asks", {})),
        scores={split: result[split] for split in SPLITS if split in result},
        parameters=result["model"]["parameters"],
        device=result["environment"]["device"],
        **{
            key: result[key]
            for key in ("name", "seed", "data", "selection")
            + ("epochs_run", "stopped_early", "timing")
        },
        description=_one_line(result["description"]),
    )
    # A copied folder would count one seed twice, or under a wrong name.
    if (run_dir.parent.name, run_dir.name) != (run.name, f"seed_{run.seed}"):
        raise UserError(
            f"{path} is the result of {run.label}, which is not where it lies: "
            "move the folder back, or out of the folder of the runs"
        )
    return run


def as_frame(runs: Sequence[Run], split: str) -> pd.DataFrame:
    """One row for each run that has `split`, with all that is known of it.

    Columns: name, seed, the data, split, each hyperparameter under its dotted key,
    the metrics, `precision_`, `recall_`, `f1_` and `support_` of each class,
    selection, epochs, parameters, timing and device.
    """
    return pd.DataFrame([_row(run, split) for run in runs if split in run.scores])


def data_sets(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """By fingerprint what the runs say of their data, and only notes that all share.

    What a single run left out of train is no note on the data.
    """
    found: dict[str, dict[str, Any]] = {}
    for run in runs:
        facts = found.setdefault(run.fingerprint, {**run.data})
        own = run.data.get("notes", [])
        facts["notes"] = [note for note in facts.get("notes", []) if note in own]
    return found


def shortlist(items: Iterable[object], limit: int = 6) -> str:
    """The first `limit` items, and how many more there are."""
    items = [str(item) for item in items]
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more


def _row(run: Run, split: str) -> dict[str, Any]:
    scores = run.scores[split]
    head = {
        "name": run.name,
        "seed": run.seed,
        "data_fingerprint": run.fingerprint,
        "data_source": run.data["source"],
        "data_description": run.data["description"],
        "split": split,
    }
    tail = {key: scores[key] for key in ("n", "loss", *METRICS)}
    for emotion in run.data["class_names"]:
        for metric in (*CLASS_METRICS, "support"):
            tail[f"{metric}_{emotion}"] = scores["per_class"][emotion][metric]
    for key in ("split", "metric", "epoch", "value"):
        tail[f"selection_{key}"] = run.selection[key]
    tail |= {"epochs_run": run.epochs_run, "stopped_early": run.stopped_early}
    tail |= {"parameters": run.parameters, "device": run.device}
    tail |= {key: run.timing[key] for key in ("wall_s", "train_s", "images_per_s")}
    settings = {
        # A bare key of the config may be the name of a column of ours.
        f"config.{key}" if key in head | tail else key: value
        for key, value in run.config.items()
        if key not in ("name", "description") and not key.startswith("asks.")
    }
    return head | settings | tail


def _missing(result: dict[str, Any]) -> list[str]:
    """The dotted names of the fields that are absent or of another type."""
    missing = _absent(result, _FIELDS)
    if missing:
        return missing
    try:
        Asks.model_validate(result["config"].get("asks", {}))
    except ValidationError:
        return ["config.asks"]
    classes, notes = result["data"]["class_names"], result["data"].get("notes", [])
    if not classes or not all(isinstance(name, str) for name in classes):
        return ["data.class_names"]
    if not isinstance(notes, list):
        return ["data.notes"]
    metric_fields = dict.fromkeys([("n",), ("loss",)] + [(m,) for m in METRICS])
    for emotion in classes:
        for metric in (*CLASS_METRICS, "support"):
            metric_fields["per_class", emotion, metric] = None
    return _absent(
        result,
        {
            (split, *path): _NUMBER
            for split in SPLITS
            if split in result
            for path in metric_fields
        },
    )


def _absent(result: dict[str, Any], fields: Mapping[tuple[str, ...], Any]) -> list[str]:
    missing = []
    for path, kind in fields.items():
        value: Any = result
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        if not isinstance(value, kind) or not _is_sound(value):
            missing.append(".".join(path))
    return missing


def _is_sound(value: Any) -> bool:
    """Whether a number is finite and no larger than a float can be."""
    return not isinstance(value, _NUMBER) or -1e308 < value < 1e308


def _one_line(text: str, longest: int = 200) -> str:
    """A text of a config in one printable line, cut where it is too long."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= longest else line[: longest - 1].rstrip() + "…"


def _matches(name: str, filters: Sequence[str]) -> bool:
    return not filters or name.startswith(tuple(filters))


def _nothing_found(
    runs_dir: Path,
    filters: Sequence[str],
    folders: Sequence[Path],
    unfinished: Sequence[Path],
) -> str:
    if unfinished:
        labels = shortlist(
            f"{path.parent.name}/{path.name}"
            + (f", which failed: {told}" if (told := failure(path)) else "")
            for path in unfinished
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
    return (
        f"{runs_dir} holds no run (<name>/seed_<n>/result.json): train first "
        "(python -m fer_jax.train configs/baseline.yaml) or give another --runs_dir"
    )


def _check_one_data_set(runs: Sequence[Run]) -> None:
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


def _check_one_set_of_classes(runs: Sequence[Run]) -> None:
    classes = {tuple(run.data["class_names"]): run.label for run in runs}
    if len(classes) > 1:
        told = "; ".join(
            f"{each}: {', '.join(names)}" for names, each in classes.items()
        )
        raise UserError(
            f"the runs have other classes and do not compare: {told}; choose with "
            "--filter"
        )


def _check_configs(runs: Sequence[Run]) -> None:
    by_name: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_name[run.name].append(run)
    for name, group in by_name.items():
        first, *others = group
        for other in others:
            keys = differing_keys([first.settings(), other.settings()])
            if keys:
                raise UserError(
                    f"{first.label} and {other.label} are not seeds of one "
                    f"experiment, since {_difference(keys, first, other)}: give one "
                    f"of them another name, or train {name} again"
                )


def _difference(keys: Sequence[str], first: Run, other: Run) -> str:
    told = (
        f"{key} is {first.config.get(key, ABSENT)} and {other.config.get(key, ABSENT)}"
        for key in keys
    )
    return shortlist(told)
