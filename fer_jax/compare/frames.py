"""A comparison as pandas data frames: one tidy table for each thing it knows.

Scores, differences, intervals, rates and probabilities are in 0..1. A value that there
is not is NaN or None. `experiment` is the name, with a letter such as `[A]` where runs
of several data sets are kept apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_jax.compare.changes import changed_settings
from fer_jax.compare.export import run_row
from fer_jax.compare.results import FinishedRun
from fer_jax.compare.summary import Experiment, Score, Summary
from fer_jax.errors import UserError
from fer_jax.metrics import CLASS_METRICS, METRICS
from fer_jax.runs.folder import read_metrics

if TYPE_CHECKING:
    import pandas as pd


_HISTORY = (
    *("step", "lr", "train_loss", "train_accuracy", "val_loss", "val_accuracy"),
    *("val_macro_f1", "val_balanced_accuracy", "images_per_s", "wall_s"),
)


def runs(found: Sequence[FinishedRun], split: str) -> pd.DataFrame:
    """A row for each run that has the split.

    Columns: name, seed, data_fingerprint, data_source, data_description, split; each
    setting under its dotted key; n (images), loss (nats), the metrics, and
    `precision_`, `recall_`, `f1_` and `support_` (images) of each class;
    selection_split, selection_metric, selection_epoch, selection_value; epochs_run,
    stopped_early, parameters, device, wall_s and train_s (seconds), images_per_s.
    """
    return _table([run_row(run, split) for run in found if split in run.scores])


def experiments(summary: Summary) -> pd.DataFrame:
    """A row for each experiment, in the summary's order.

    Columns: experiment, question, seeds (how many); each of accuracy, macro_f1 and
    balanced_accuracy as the mean over seeds, with `_low` and `_high` (the 95 %
    interval), `_sd` (over seeds) and `_clean` (without the images that have a copy in
    train); ece and ece_sd (expected calibration error); minutes (of training a run),
    images_per_s, best_epoch, epochs_run (means over seeds), parameters, device.
    """
    return _table([_experiment(summary, each) for each in summary.experiments])


def emotions(summary: Summary) -> pd.DataFrame:
    """A row for each experiment, emotion and metric.

    Columns: experiment, emotion, images (of this emotion in the split), metric (f1,
    precision or recall), value (the mean over seeds), low and high (the 95 % interval),
    sd (over seeds).
    """
    rows = []
    for each in summary.experiments:
        support = summary.images[each.fingerprint].support
        for name in each.class_names:
            head = _head(summary, each) | {"emotion": name, "images": support[name]}
            for metric in CLASS_METRICS:
                score = each.scores[f"{metric}_{name}"]
                rows.append(head | {"metric": metric} | score._asdict())
    columns = ("experiment", "emotion", "images", "metric", *Score._fields)
    return _table(rows, columns=columns)


def differences(summary: Summary) -> pd.DataFrame:
    """A row for each experiment but the baseline, and each metric.

    Columns: experiment, baseline, metric (of all emotions, or f1, precision or recall),
    emotion (None for all), value (the experiment's less the baseline's, in -1..1), low
    and high (the 95 % interval), p, p_holm (after Holm's correction), detectable (the
    minimum detectable effect, 80 % power), significant (p_holm < 0.05), test
    (permutation or McNemar).
    """
    rows = []
    for each in summary.experiments:
        for key, tested in each.versus.items():
            metric, emotion = (key, None) if key in METRICS else key.split("_", 1)
            base = summary.marked(summary.baseline, each.fingerprint)
            head = _head(summary, each) | {"baseline": base}
            rows.append(
                head | {"metric": metric, "emotion": emotion} | tested._asdict()
            )
    columns = "experiment baseline metric emotion value low high p p_holm detectable "
    return _table(rows, columns=(columns + "significant test").split())


def changes(summary: Summary) -> pd.DataFrame:
    """A row for each setting in which an experiment differs from the baseline.

    Columns: experiment, key (dotted), baseline and value (both as text). Without a
    baseline: the settings in which the experiments differ from each other.
    """
    base = summary.baseline if summary.has_baseline else None
    firsts = [each.runs[0] for each in summary.experiments]
    rows = [
        _head(summary, each) | {"key": key, "baseline": there, "value": here}
        for each in summary.experiments
        if each.name != base
        for key, there, here in changed_settings(each.runs[0], firsts, base)
    ]
    return _table(rows, columns=["experiment", "key", "baseline", "value"])


def history(summary: Summary) -> pd.DataFrame:
    """A row for each epoch of each run: what its metrics.jsonl holds.

    Columns: experiment, seed, epoch (from 1), step, lr, train_loss and val_loss
    (nats), train_accuracy, val_accuracy, val_macro_f1, val_balanced_accuracy,
    images_per_s, wall_s (seconds since the start). A run whose file is gone or damaged
    has no rows.
    """
    rows = [
        _head(summary, each) | {"seed": run.seed} | row
        for each in summary.experiments
        for run in each.runs
        for row in _epochs(run)
    ]
    return _table(rows, ["experiment", "seed", "epoch", *_HISTORY])


def confusion(summary: Summary) -> pd.DataFrame:
    """A row for each experiment, true and predicted emotion.

    Columns: experiment, true, predicted, images (summed over seeds), rate (of the
    images of the true emotion; NaN if it has none).
    """
    rows = []
    for each in summary.experiments:
        names, counts, rates = each.class_names, each.confusion, each.rates()
        for t, true in enumerate(names):
            for p, predicted in enumerate(names):
                cell = {"images": int(counts[t, p]), "rate": float(rates[t, p])}
                pair = {"true": true, "predicted": predicted}
                rows.append(_head(summary, each) | pair | cell)
    return _table(rows)


def reliability(summary: Summary) -> pd.DataFrame:
    """A row for each experiment and bin of confidence that holds predictions.

    Columns: experiment, confidence (the mean probability of the predicted class),
    accuracy (the share that is right), images (predictions, of all seeds).
    """
    return _table(
        [
            _head(summary, each)
            | {"confidence": float(sure), "accuracy": float(right), "images": int(n)}
            for each in summary.experiments
            for sure, right, n in zip(*each.reliability, strict=True)
            if n
        ]
    )


def _table(
    rows: Sequence[dict[str, Any]], columns: Sequence[str] | None = None
) -> pd.DataFrame:
    import pandas as pd  # half a second, which `bin/compare` often does without

    return pd.DataFrame(rows, columns=[*columns] if columns else None)


def _head(summary: Summary, each: Experiment) -> dict[str, Any]:
    return {"experiment": summary.label(each)}


def _experiment(summary: Summary, each: Experiment) -> dict[str, Any]:
    row = _head(summary, each)
    row |= {"question": each.runs[0].description, "seeds": len(each.runs)}
    for metric in METRICS:
        score = each.scores[metric]
        row[metric] = score.value
        row |= {f"{metric}_{key}": getattr(score, key) for key in ("low", "high", "sd")}
        row[f"{metric}_clean"] = each.clean.get(metric, np.nan)
    row |= {"ece": each.ece, "ece_sd": each.ece_sd, "minutes": each.minutes()}
    row |= {"images_per_s": each.images_per_s(), "best_epoch": each.best_epoch()}
    row |= {"epochs_run": each.epochs_run(), "parameters": each.runs[0].parameters}
    return row | {"device": ", ".join(sorted(each.devices()))}


def _epochs(run: FinishedRun) -> Iterator[dict[str, Any]]:
    try:
        rows = read_metrics(run.folder)
    except UserError:
        return
    good = (row for row in rows if isinstance(row, dict))
    by_epoch = {row["epoch"]: row for row in good if type(row.get("epoch")) is int}
    for epoch, row in by_epoch.items():
        values = {key: row.get(key) for key in _HISTORY}
        known = {k: v for k, v in values.items() if isinstance(v, int | float)}
        yield {"epoch": epoch} | {key: known.get(key, np.nan) for key in _HISTORY}
