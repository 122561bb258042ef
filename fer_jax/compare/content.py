"""The whole analysis as one JSON-able dict: what `--export x.json` and the report hold.

Scores, differences and intervals are in 0..1; None stands where there is no value.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fer_jax import __version__
from fer_jax.compare import statistics
from fer_jax.compare.findings import findings, seeds_note
from fer_jax.compare.results import ABSENT, Run, data_sets
from fer_jax.compare.statistics import Reliability
from fer_jax.compare.summary import Experiment, Leader, Summary, metrics_of
from fer_jax.config import differing_keys
from fer_jax.errors import UserError
from fer_jax.runs.folder import failure, read_metrics

_CURVES = ("train_loss", "val_loss", "val_accuracy", "val_macro_f1")


def build(
    summaries: Mapping[str, Summary],
    runs: Sequence[Run],
    unfinished: Sequence[Path],
    *,
    split: str,
    command: str,
) -> dict[str, Any]:
    """All that is known of the runs.

    Args:
      summaries: by split.
      runs: finished runs.
      unfinished: the folders of those that are not.
      split: the one that is shown first.
      command: what was typed.
    """
    summary = summaries[split]
    failed = {path: told for path in unfinished if (told := failure(path))}
    data = data_sets(runs)
    return {
        "title": f"fer_jax: {len(summary.experiments)} experiments",
        "written": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "command": command,
        "version": __version__,
        "split": split,
        "emotions": summary.emotions,
        "baseline": _baseline(summary),
        "data": [
            {"mark": summary.marks.get(fingerprint, ""), "notes": []}
            | {
                key: facts[key]
                for key in ("description", "fingerprint", "source", "notes")
                if key in facts
            }
            for fingerprint, facts in data.items()
        ],
        "experiments": [
            _experiment(each, summary)
            for each in {
                other.label(each): each
                for other in (*reversed(summaries.values()), summary)
                for each in other.experiments
            }.values()
        ],
        "failed": [
            {"run": f"{path.parent.name}/{path.name}", "error": told}
            for path, told in failed.items()
        ],
        "unfinished": [
            f"{path.parent.name}/{path.name}"
            for path in unfinished
            if path not in failed
        ],
        "missing": _missing(runs, unfinished),
        "splits": {name: _split(each) for name, each in summaries.items()},
    }


def notes(summary: Summary) -> list[str]:
    """How the figures of a split came about, in sentences."""
    told = [
        f"Intervals are {100 * statistics.LEVEL:.0f} % bootstrap intervals over images "
        f"and seeds ({statistics.DRAWS:,} draws; the same images for all experiments; "
        "identical images together; the seeds' level by Student's t with their pooled "
        "spread, or an experiment's own where that is larger).",
        "p is of a permutation test that swaps two experiments' predictions image by "
        "image, all seeds together, and adds the seeds' spread; of accuracy with one "
        "seed each, of the exact McNemar test. p (Holm) is corrected for all "
        "experiments, and by emotion for all emotions as well: each score's tests are "
        "held at 5 % together, and different scores are not corrected for each other.",
        f"Detectable is the true difference that such a test finds in "
        f"{100 * statistics.POWER:.0f} % of all cases, after Holm's correction.",
    ]
    for images in summary.images.values():
        if images.repeated:
            told.append(
                f"{images.repeated} of the {images.n:,} images are identical to an "
                "earlier one and were resampled with it."
            )
        if images.leaked:
            told.append(
                f"{images.leaked:,} of the {images.n:,} images have a copy in train, "
                "exact or near; the clean scores leave them out."
            )
        if absent := [name for name, count in images.support.items() if not count]:
            told.append(
                f"There is no image of {', '.join(absent)}; a network that predicts it "
                "all the same has one class of F1 0 more in its macro F1."
            )
        if not images.identical_known:
            told.append(
                "The predictions do not tell which images are identical (an earlier "
                "version wrote them): each counts as one of its own."
            )
    if told_of_seeds := seeds_note(summary):
        told.append(told_of_seeds)
    return told


def _baseline(summary: Summary) -> str | None:
    for each in summary.experiments:
        if each.name == summary.baseline:
            return summary.label(each)
    return None


def _experiment(each: Experiment, summary: Summary) -> dict[str, Any]:
    first = each.runs[0]
    return {
        "id": summary.label(each),
        "description": first.description,
        "seeds": [run.seed for run in each.runs],
        "changes": _changes(each, summary),
        "best_epoch": each.best_epoch(),
        "epochs_run": float(np.mean([run.epochs_run for run in each.runs])),
        "epochs": first.config.get("training.epochs"),
        "minutes": each.minutes(),
        "images_per_s": each.images_per_s(),
        "device": ", ".join(sorted(each.devices())),
        "parameters": first.parameters,
        "curves": [curve for run in each.runs if (curve := _curve(run))],
    }


def _changes(each: Experiment, summary: Summary) -> list[dict[str, str]]:
    """The settings that are not the baseline's, or without one, that are not common."""
    own = each.runs[0].settings()
    settings = {other.name: other.runs[0].settings() for other in summary.experiments}
    base = settings.get(summary.baseline, {})
    keys = differing_keys([base, own] if base else settings.values())
    return [
        {
            "key": key,
            "baseline": str(base.get(key, ABSENT)),
            "value": str(own.get(key, ABSENT)),
        }
        for key in keys
    ]


def _curve(run: Run) -> dict[str, Any] | None:
    """The epochs of a run; None where its metrics file is gone or is damaged."""
    try:
        rows = read_metrics(run.folder)
        return {
            "seed": run.seed,
            "epoch": [int(row["epoch"]) for row in rows],
            **{key: [_number(row[key], 5) for row in rows] for key in _CURVES},
        }
    except (UserError, ValueError, KeyError, TypeError):
        return None


def _missing(runs: Sequence[Run], unfinished: Sequence[Path]) -> list[str]:
    """Seeds that other experiments have, of which there is not even a folder."""
    known = {f"{path.parent.name}/{path.name}" for path in unfinished}
    known |= {run.label for run in runs}
    missing = []
    for fingerprint in dict.fromkeys(run.fingerprint for run in runs):
        group = [run for run in runs if run.fingerprint == fingerprint]
        seeds = sorted({run.seed for run in group})
        for name in dict.fromkeys(run.name for run in group):
            labels = (f"{name}/seed_{seed}" for seed in seeds)
            missing += [label for label in labels if label not in known]
    return missing


def _split(summary: Summary) -> dict[str, Any]:
    images = list(summary.images.values())
    support = dict.fromkeys(summary.emotions, 0)
    for each in images:
        support |= each.support
    experiments = {summary.label(each): each for each in summary.experiments}
    metrics = metrics_of(summary.emotions)
    return {
        "n": sum(each.n for each in images),
        "support": support,
        "identical": sum(each.repeated for each in images),
        "selected_here": any(
            run.selection["split"] == summary.split
            for each in summary.experiments
            for run in each.runs
        ),
        "findings": [vars(finding) for finding in findings(summary)],
        "notes": notes(summary),
        "scores": {
            label: _rows(each.scores, metrics) for label, each in experiments.items()
        },
        "differences": {
            label: _rows(each.versus, metrics)
            for label, each in experiments.items()
            if each.versus is not None
        },
        "confusion": {
            label: each.confusion.tolist() for label, each in experiments.items()
        },
        "calibration": {
            label: _calibration(each) for label, each in experiments.items()
        },
        "best": [_leader(leader, summary) for leader in summary.leaders],
        "leaked": sum(each.leaked or 0 for each in images),
        "clean": {
            label: {metric: _number(value) for metric, value in each.clean.items()}
            for label, each in experiments.items()
        },
    }


def _rows(frame: pd.DataFrame, metrics: Sequence[str]) -> dict[str, Any]:
    known = {metric: _row(row) for metric, row in frame.iterrows()}
    return {metric: known.get(metric) for metric in metrics}


def _row(row: pd.Series) -> dict[str, Any] | None:
    """A row with plain values; None where it has no value at all."""
    if pd.isna(row["value"]):
        return None
    return {key: _plain(value) for key, value in row.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return value
    return bool(value) if isinstance(value, bool | np.bool_) else _number(value)


def _number(value: Any, digits: int = 6) -> float | None:
    return None if value is None or not np.isfinite(value) else round(value, digits)


def _calibration(each: Experiment) -> dict[str, Any]:
    curve: Reliability = each.reliability
    return {
        "ece": _number(each.mean_ece()),
        "sd": _number(float(np.std(each.ece, ddof=1))) if len(each.ece) > 1 else None,
        "bins": [
            {
                "confidence": _number(float(confidence)),
                "accuracy": _number(float(accuracy)),
                "count": int(count),
            }
            for confidence, accuracy, count in zip(*curve, strict=True)
            if count
        ],
    }


def _leader(leader: Leader, summary: Summary) -> dict[str, Any]:
    runner_up = leader.runner_up
    return {
        "emotion": leader.emotion,
        "id": summary.label(leader.best),
        "value": _number(leader.best.mean(f"f1_{leader.emotion}")),
        "runner_up": summary.label(runner_up) if runner_up else None,
        "margin": _row(leader.margin) if leader.margin is not None else None,
    }
