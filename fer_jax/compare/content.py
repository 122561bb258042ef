"""The whole analysis as one JSON-able dict: what `--export x.json` and the report hold.

Scores, differences and intervals are in 0..1. None stands where there is no value.
"""

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fer_jax import __version__
from fer_jax.compare import statistics
from fer_jax.compare.against import pack
from fer_jax.compare.changes import changed_settings
from fer_jax.compare.findings import findings, seeds_note
from fer_jax.compare.results import (
    FinishedRun,
    data_sets,
    run_name,
)
from fer_jax.compare.summary import (
    Comparison,
    Experiment,
    Score,
    Summary,
    shared_overrides,
)
from fer_jax.compare.wording import count
from fer_jax.errors import UserError
from fer_jax.metrics import metric_names
from fer_jax.runs.folder import failure, read_metrics

_CURVES = ("train_loss", "val_loss", "val_accuracy", "val_macro_f1")
_DIGITS = 6  # of every number


def build(
    summaries: Mapping[str, Summary],
    runs: Sequence[FinishedRun],
    unfinished: Sequence[Path],
    *,
    split: str,
    command: str,
) -> dict[str, Any]:
    """All that is known of the runs.

    Args:
      summaries: by split.
      runs: finished runs.
      unfinished: the folders of the others.
      split: the one that is shown first.
      command: what was typed.
    """
    summary = summaries[split]
    experiments = {
        other.label(each): each
        for other in (*summaries.values(), summary)
        for each in other.experiments
    }
    base = [each for each in summary.experiments if each.name == summary.baseline]
    return plain(
        {
            "title": f"fer_jax: {count(len(summary.experiments), 'experiment')}",
            "written": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
            "command": command,
            "version": __version__,
            "split": split,
            "emotions": summary.emotions,
            "baseline": summary.label(base[0]) if base else None,
            "data": data_facts(summary, runs),
            "experiments": [
                _experiment(label, each, summary) for label, each in experiments.items()
            ],
            **left_over(unfinished),
            "splits": {name: _split(each) for name, each in summaries.items()},
        }
    )


def left_over(unfinished: Sequence[Path]) -> dict[str, Any]:
    """The runs that are in no figure: `failed`, with their errors, and `unfinished`."""
    errors = {run_name(path): failure(path) for path in unfinished}
    return {
        "failed": [{"run": run, "error": each} for run, each in errors.items() if each],
        "unfinished": [run for run, each in errors.items() if not each],
    }


def data_facts(summary: Summary, runs: Sequence[FinishedRun]) -> list[dict[str, Any]]:
    """What the runs say of each of their data sets, with its letter."""
    return [
        {"mark": summary.marks.get(fingerprint, ""), "fingerprint": fingerprint}
        | {key: facts[key] for key in ("description", "source", "notes")}
        for fingerprint, facts in data_sets(runs).items()
    ]


def notes(summary: Summary) -> list[str]:
    """How the figures of a split were computed, in sentences."""
    found = [
        f"Intervals are {100 * statistics.LEVEL:.0f} % bootstrap intervals over images "
        f"and seeds ({statistics.DRAWS:,} draws). All experiments share the resampled "
        "images, and identical images are resampled together. Seeds enter by Student's "
        "t with their pooled spread, or an experiment's own where that is larger.",
        "p is of a permutation test that swaps two experiments' predictions image by "
        "image and adds the seeds' spread; of accuracy with one seed each, of the "
        "exact McNemar test. p (Holm) is corrected for all experiments, and by emotion "
        "for all emotions as well; different scores are not corrected for each other.",
        "Detectable is the minimum detectable effect: the true difference that such a "
        f"test finds with {100 * statistics.POWER:.0f} % power after the correction.",
        "Macro F1 and balanced accuracy average over the emotions that have images.",
    ]
    for images in summary.images.values():
        of = f"of the {images.n:,} images"
        if images.repeated:
            found.append(
                f"{images.repeated} {of} are identical to an earlier one and were "
                "resampled with it."
            )
        if images.leaked:
            found.append(
                f"{images.leaked:,} {of} have a copy in train, exact or near; clean "
                "scores leave them out."
            )
        if absent := [name for name, count in images.support.items() if not count]:
            found.append(f"There is no image of {', '.join(absent)}.")
    runs = [run for each in summary.experiments for run in each.runs]
    if shared := shared_overrides(runs):
        found.append(f"Set in all runs: {', '.join(shared)}.")
    return [*found, *filter(None, [seeds_note(summary)])]


def plain(value: Any) -> Any:
    """A value for JSON: numbers rounded, None for those that are not finite."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(item) for item in value]
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, np.integer):
        return int(value)
    return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None


def _experiment(label: str, each: Experiment, summary: Summary) -> dict[str, Any]:
    first = each.runs[0]
    changes = changed_settings(
        first,
        [other.runs[0] for other in summary.experiments],
        summary.baseline if summary.has_baseline else None,
    )
    return {
        "id": label,
        "description": first.description,
        "seeds": [run.seed for run in each.runs],
        "changes": [
            {"key": key, "baseline": there, "value": here}
            for key, there, here in changes
        ],
        "best_epoch": each.best_epoch(),
        "epochs_run": each.epochs_run(),
        "epochs": first.config.get("training.epochs"),
        "minutes": each.minutes(),
        "images_per_s": each.images_per_s(),
        "device": ", ".join(sorted(each.devices())),
        "parameters": first.parameters,
        "curves": [curve for run in each.runs if (curve := _curve(run))],
    }


def _curve(run: FinishedRun) -> dict[str, Any] | None:
    """The epochs of a run; None where its metrics file is gone or damaged."""
    try:
        rows = read_metrics(run.folder)
        return {
            "seed": run.seed,
            "epoch": [int(row["epoch"]) for row in rows],
            **{key: [float(row[key]) for row in rows] for key in _CURVES},
        }
    except (UserError, ValueError, KeyError, TypeError):
        return None


def _split(summary: Summary) -> dict[str, Any]:
    experiments = {summary.label(each): each for each in summary.experiments}
    images = summary.images.values()
    metrics = metric_names(summary.emotions)

    def rows(found: Mapping[str, Score | Comparison]) -> dict[str, Any]:
        return {metric: _row(found.get(metric)) for metric in metrics}

    return {
        "n": sum(each.n for each in images),
        "support": {name: summary.support(name) for name in summary.emotions},
        "identical": sum(each.repeated for each in images),
        "leaked": sum(each.leaked for each in images),
        "selected_here": any(
            run.selection["split"] == summary.split
            for each in summary.experiments
            for run in each.runs
        ),
        "findings": [vars(finding) for finding in findings(summary)],
        "notes": notes(summary),
        "scores": {label: rows(each.scores) for label, each in experiments.items()},
        "differences": {
            label: rows(each.versus)
            for label, each in experiments.items()
            if each.versus
        },
        "predicted": {
            label: [pack(run) for run in each.predicted]
            for label, each in experiments.items()
        },
        "confusion": {label: each.confusion for label, each in experiments.items()},
        "calibration": {label: _calibration(e) for label, e in experiments.items()},
        "best": [
            {
                "emotion": leader.emotion,
                "id": summary.label(leader.best),
                "value": leader.best.mean(f"f1_{leader.emotion}"),
                "runner_up": leader.runner_up and summary.label(leader.runner_up),
                "margin": _row(leader.margin),
            }
            for leader in summary.leaders
        ],
        "clean": {label: each.clean for label, each in experiments.items()},
    }


def _row(row: Score | Comparison | None) -> dict[str, Any] | None:
    return None if row is None or math.isnan(row.value) else row._asdict()


def _calibration(each: Experiment) -> dict[str, Any]:
    curve = zip(*each.reliability, strict=True)
    bins = (
        dict(zip(("confidence", "accuracy", "count"), b, strict=True)) for b in curve
    )
    return {
        "ece": each.ece,
        "sd": each.ece_sd,
        "bins": [each for each in bins if each["count"]],
    }
