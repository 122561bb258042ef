"""What the finished runs of a recipe show: tables, and the time to a target."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from fer_jax import runs
from fer_jax.compare import FinishedRun, summarise
from fer_jax.compare.layout import Sheet
from fer_jax.compare.predictions import load_predictions
from fer_jax.compare.summary import Experiment
from fer_jax.compare.wording import ABSENT, percent, verdict, with_interval

TARGET = 0.70  # val accuracy of the speedrun


def ablation_sheet(finished: Sequence[FinishedRun]) -> Sheet:
    """What each change did, the most accurate on the fold first.

    Accuracies are in %, and differences from the baseline in points with 95 %
    intervals. The time is relative to the baseline's. The result is that of the
    permutation test on the fold's images, after Holm's correction.
    """
    fold, val = (summarise(finished, split, "accuracy") for split in ("val", "test"))
    on_val = {each.name: each for each in val.experiments}
    base = next(each for each in fold.experiments if each.name == "baseline")
    rows = []
    for each in fold.experiments:
        row = [each.name, str(len(each.runs))]
        for experiment in (each, on_val[each.name]):
            tested = experiment.versus.get("accuracy")
            difference = with_interval(tested, signed=True) if tested else ""
            row += [percent(experiment.mean("accuracy")), difference]
        row.append(f"{_mean_seconds(each) / _mean_seconds(base):.2f}")
        rows.append([*row, verdict(each.versus["accuracy"]) if each.versus else ""])
    headers = (
        "change",
        "n",
        "fold",
        "difference",
        "val",
        "difference",
        "time",
        "result",
    )
    return Sheet("One change at a time; accuracy in %", headers, "lrrrrrrl", rows)


def _mean_seconds(experiment: Experiment) -> float:
    return statistics.mean(run.timing["wall_s"] for run in experiment.runs)


def scores_sheet(finished: Sequence[FinishedRun]) -> Sheet:
    """The scores of several seeds of a config, and of their ensemble."""
    rows = []
    for split in ("val", "test"):
        scores = [run.scores[split] for run in finished if split in run.scores]
        if scores:
            keys = ("accuracy", "accuracy_clean", "macro_f1")
            cells = [_mean_percent(scores, key) for key in keys]
            rows.append([split, *cells, percent(ensemble_accuracy(finished, split))])
    seconds = [run.timing["wall_s"] for run in finished]
    rows.append(["seconds", _mean_sd(seconds), "", "", f"{sum(seconds):.0f}"])
    return Sheet(
        f"{finished[0].name}: accuracy in %, mean ± sd, n = {len(finished)}",
        ("", "one network", "clean", "macro F1", "ensemble"),
        "lrrrr",
        rows,
        note="val chose the epoch and the settings, so its scores are optimistic",
    )


def ensemble_accuracy(finished: Sequence[FinishedRun], split: str) -> float:
    """The accuracy of the runs' averaged probabilities, in 0..1.

    Raises:
      UserError: if the predictions of a run are missing or damaged.
    """
    predictions = load_predictions(finished, split)
    classes = predictions.probabilities.mean(axis=0).argmax(axis=1)
    return float((classes == predictions.labels).mean())


def time_to_target(finished: Sequence[FinishedRun]) -> str:
    """A sentence: when the mean over the seeds reaches `TARGET` on val."""
    histories = [runs.read_metrics(run.folder) for run in finished]
    epochs = list(zip(*histories, strict=False))  # the rows of all seeds
    means = [statistics.mean(row["val_accuracy"] for row in rows) for rows in epochs]
    subject = f"{finished[0].name}, {len(finished)} seeds, on {finished[0].device}"
    reached = [number for number, mean in enumerate(means) if mean >= TARGET]
    if not reached:
        return (
            f"{subject}: mean val accuracy is at most {100 * max(means):.1f} %; the "
            f"target is {100 * TARGET:.0f} %"
        )
    rows = epochs[reached[0]]
    scores = _mean_sd([100 * row["val_accuracy"] for row in rows])
    seconds = _mean_sd([row["wall_s"] for row in rows])
    return (
        f"{subject}: val accuracy {scores} % after {reached[0] + 1} epochs and "
        f"{seconds} s, with evaluation and compilation"
    )


def _mean_percent(scores: Sequence[Mapping[str, Any]], key: str) -> str:
    if any(each.get(key) is None for each in scores):
        return ABSENT
    return _mean_sd([100 * each[key] for each in scores])


def _mean_sd(values: Sequence[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.1f} (n = 1)"
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"
