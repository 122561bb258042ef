"""The tables of a comparison, which the terminal and the exports show."""

import math
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from rich.text import Text

from fer_jax.compare.layout import Cell, Sheet
from fer_jax.compare.results import FinishedRun
from fer_jax.compare.summary import Comparison, Experiment, Leader, Summary
from fer_jax.compare.wording import (
    ABSENT,
    METRIC_WORDS,
    NOT_SIGNIFICANT,
    count,
    p_value,
    percent,
    verdict,
    with_interval,
    words,
)
from fer_jax.config import differing_keys
from fer_jax.metrics import CLASS_METRICS, METRICS


def overall(summary: Summary, failures: Collection[Path] = ()) -> Sheet:
    """Each experiment's seeds and overall metrics, and its runs that failed."""
    rows: list[list[Cell]] = [
        [
            summary.label(each),
            str(len(each.runs)),
            *(with_interval(each.scores[metric]) for metric in METRICS),
        ]
        for each in summary.experiments
    ]
    for name, n in Counter(path.parent.name for path in failures).items():
        rows.append([name, str(n), Text("failed", style="red"), "", ""])
    return Sheet(
        f"{summary.split}: overall, in % [95 % interval], by {summary.sort}",
        ["experiment", "n", *(METRIC_WORDS[metric] for metric in METRICS)],
        "lrrrr",
        rows,
    )


def differences(summary: Summary) -> Sheet:
    """Each experiment's difference from the baseline in macro-F1, and its test."""
    rows = [
        (summary.label(e), e.versus["macro_f1"])
        for e in summary.experiments
        if e.versus
    ]
    return Sheet(
        f"{summary.split}: macro F1 against {summary.baseline}, in points "
        "[95 % interval]",
        ["experiment", "difference", "p", "p (Holm)", "detectable", ""],
        "lrrrrl",
        [
            [
                name,
                with_interval(row, signed=True),
                p_value(row.p),
                p_value(row.p_holm),
                percent(row.detectable),
                _colored_verdict(row),
            ]
            for name, row in rows
        ],
        note="detectable: the minimum detectable effect (80 % power)",
    )


def clean(summary: Summary) -> Sheet:
    """The overall metrics on all images, and on those without a copy in train."""
    leaked = ", ".join(
        f"{images.leaked:,} of {images.n:,} images"
        for images in summary.images.values()
        if images.leaked
    )
    headers = (
        header
        for metric in METRICS
        for header in (METRIC_WORDS[metric].replace(" ", "\n"), "clean")
    )
    return Sheet(
        f"{summary.split}: as usual, and clean of the {leaked} with a copy in train",
        ["experiment", *headers],
        "l" + "rr" * len(METRICS),
        [
            [
                summary.label(each),
                *(
                    percent(score)
                    for metric in METRICS
                    for score in (each.mean(metric), each.clean.get(metric, np.nan))
                ),
            ]
            for each in summary.experiments
        ],
    )


def costs(summary: Summary) -> Sheet:
    """The spread over seeds, epochs, time, speed and calibration."""
    headers = [
        "n",
        "sd of\nmacro F1",
        "best of\nepochs",
        "train\nmin",
        "images/s",
        "ECE",
    ]
    return Sheet(
        f"{summary.split}: seeds, epochs, time, calibration error (ECE, in %)",
        ["experiment", *headers],
        "lrrrrrr",
        [
            [
                summary.label(each),
                str(len(each.runs)),
                percent(each.scores["macro_f1"].sd),
                f"{each.best_epoch():.0f}/{each.epochs_run():.0f}",
                f"{each.minutes():.1f}",
                f"{each.images_per_s():,.0f}",
                percent(each.ece),
            ]
            for each in summary.experiments
        ],
    )


def by_emotion(
    summary: Summary, metric: str, *, star: bool = False, intervals: bool = False
) -> Sheet:
    """A metric by emotion, and the best of each column, data set by data set.

    Args:
      summary: the experiments.
      metric: `f1`, `precision` or `recall`.
      star: mark the best by `*`, and not by its style alone.
      intervals: show intervals, and neither the best nor what is significant.
    """
    columns = [f"{metric}_{emotion}" for emotion in summary.emotions]
    best = set() if intervals else _best(summary, columns)
    legend = ["with 95 % intervals"] if intervals else []
    if len(summary.experiments) > 1 and not intervals:
        legend.append(f"{'*' if star else 'bold'}: the best")
    if summary.has_tests and not intervals:
        legend.append(f"+ -: better, worse than {summary.baseline}, significant")

    def cell(e: int, each: Experiment, column: str) -> Cell:
        if intervals:
            known = column in each.scores
            return with_interval(each.scores[column]) if known else ABSENT
        is_best = (e, column) in best
        mark = ("*" if is_best else " ") if star else ""
        sign = " "
        if column in each.versus and each.versus[column].significant:
            sign = "+" if each.versus[column].value > 0 else "-"
        style = "bold green" if is_best else ""
        return Text(f"{percent(each.mean(column))}{mark}{sign}", style=style)

    return Sheet(
        f"{summary.split}: {METRIC_WORDS[metric]} by emotion, in %"
        + (f" ({'; '.join(legend)})" if legend else ""),
        ["experiment", *summary.emotions],
        "l" + "r" * len(columns),
        [
            [summary.label(each), *(cell(e, each, column) for column in columns)]
            for e, each in enumerate(summary.experiments)
        ],
    )


def best_by_emotion(summary: Summary) -> Sheet:
    """The experiment with the highest F1 for each emotion, and its lead."""

    def row(leader: Leader) -> list[Cell]:
        best, other, margin = leader.best, leader.runner_up, leader.margin
        lead = with_interval(margin, signed=True) if margin else ABSENT
        return [
            summary.marked(leader.emotion, best.fingerprint),
            best.name,
            percent(best.mean(f"f1_{leader.emotion}")),
            lead,
            _p_if_significant(margin) if margin else ABSENT,
            other.name if other else ABSENT,
        ]

    return Sheet(
        f"{summary.split}: best experiment for each emotion, by F1, in %",
        ["emotion", "best", "F1", "margin", "p (Holm)", "runner-up"],
        "llrrrl",
        [row(leader) for leader in summary.leaders],
    )


def one_emotion(summary: Summary, emotion: str) -> Sheet:
    """One emotion: its scores, what its images are taken for, and its test."""

    def row(each: Experiment) -> list[Cell]:
        scores = [
            with_interval(each.scores[f"{metric}_{emotion}"]).replace(" ", "\n", 1)
            for metric in CLASS_METRICS
        ]
        versus: Cell = ABSENT
        if each.versus:
            tested = each.versus[f"f1_{emotion}"]
            value, ends = with_interval(tested, signed=True).split(" ", 1)
            versus = Text.assemble(value, " ", _colored_verdict(tested), "\n", ends)
        return [summary.label(each), *scores, _taken_for(each, emotion), versus]

    images = count(summary.support(emotion), "image")
    return Sheet(
        f"{summary.split}: {emotion}, {images}, in % [95 % interval]",
        ["experiment", "F1", "precision", "recall", "taken for", "F1 vs baseline"],
        "lrrrrr",
        [
            row(each)
            for each in summary.experiments
            if not math.isnan(each.mean(f"f1_{emotion}"))  # its data may have none
        ],
    )


def in_depth(summary: Summary, one: Experiment, other: Experiment) -> Sheet:
    """All metrics of two experiments, and their differences (`one` less `other`)."""
    return Sheet(
        f"{summary.split}: {one.name} less {other.name}, in % and points",
        ["metric", one.name, other.name, "difference", "p (Holm)"],
        "lrrrr",
        [
            [
                words(metric),
                percent(one.mean(metric)),
                percent(other.mean(metric)),
                with_interval(row, signed=True),
                _p_if_significant(row),
            ]
            for metric, row in one.versus.items()
        ],
    )


def confusion(experiment: Experiment) -> Sheet:
    """The rates of a confusion matrix in percent: each row adds up to 100."""
    rates = _rates(experiment)
    return Sheet(
        f"{experiment.name}: taken for, in % of each true emotion",
        ["true", *experiment.class_names],
        "l" + "r" * len(rates),
        [
            [
                name,
                *(
                    Text(percent(rate), style="bold" if c == k else "")
                    for k, rate in enumerate(rates[c])
                ),
            ]
            for c, name in enumerate(experiment.class_names)
        ],
    )


def questions(summary: Summary, runs: Sequence[FinishedRun]) -> Sheet:
    """What each experiment asks."""
    return Sheet(
        "What each experiment asks",
        ["experiment", "question"],
        "ll",
        [
            [
                summary.marked(group[0].name, *(run.fingerprint for run in group)),
                group[0].description,
            ]
            for group in _by_name(summary, runs)
        ],
    )


def changes(summary: Summary, runs: Sequence[FinishedRun]) -> Sheet:
    """What each config changes in the baseline's; without one, how they differ."""
    groups = _by_name(summary, runs)
    base = summary.baseline if summary.has_baseline else None
    rows = []
    for group in groups:
        if group[0].name == base:
            continue
        name = summary.marked(group[0].name, *(run.fingerprint for run in group))
        found = changed_settings(group[0], [each[0] for each in groups], base)
        for key, there, here in found or [("(nothing)", "", "")]:
            rows.append([name, key, there, here] if base else [name, key, here])
            name = ""
    if base:
        caption = f"What each experiment changes in {base}"
        return Sheet(caption, ["experiment", "key", base, "value"], "llll", rows)
    caption = "Where the experiments differ (none is the baseline)"
    return Sheet(caption, ["experiment", "key", "value"], "lll", rows)


def changed_settings(
    run: FinishedRun, others: Sequence[FinishedRun], baseline: str | None
) -> list[tuple[str, str, str]]:
    """The keys in which a run differs from the baseline, with its value and the run's.

    Without a baseline: the keys in which the others differ from each other.
    """
    own = run.settings()
    base = next((each.settings() for each in others if each.name == baseline), {})
    compared = [base, own] if base else [each.settings() for each in others]
    return [
        (key, str(base.get(key, ABSENT)), str(own.get(key, ABSENT)))
        for key in differing_keys(compared)
    ]


def _by_name(summary: Summary, runs: Sequence[FinishedRun]) -> list[list[FinishedRun]]:
    """The runs by experiment, in the summary's order; those without the split last."""
    names = [each.name for each in summary.experiments] + [run.name for run in runs]
    return [[run for run in runs if run.name == name] for name in dict.fromkeys(names)]


def _colored_verdict(row: Comparison) -> Text:
    text = verdict(row)
    return Text(text, style={"better": "green", "worse": "red"}.get(text, ""))


def _p_if_significant(row: Comparison) -> str:
    known = row.significant or math.isnan(row.p_holm)
    return p_value(row.p_holm) if known else NOT_SIGNIFICANT


def _rates(experiment: Experiment) -> np.ndarray:
    """The confusion matrix as shares of each true class; NaN for one without images."""
    counts = experiment.confusion
    totals = counts.sum(axis=1, keepdims=True)
    empty = np.full(counts.shape, np.nan)
    return np.divide(counts, totals, out=empty, where=totals > 0)


def _taken_for(experiment: Experiment, emotion: str, most: int = 2) -> str:
    """The classes that an emotion's images are most often taken for, in percent."""
    classes = experiment.class_names
    rates = _rates(experiment)[classes.index(emotion)]
    rates[classes.index(emotion)] = 0
    order = np.argsort(-rates, kind="stable")[:most]
    return "\n".join(f"{classes[k]} {percent(rates[k])}" for k in order if rates[k] > 0)


def _best(summary: Summary, columns: Sequence[str]) -> set[tuple[int, str]]:
    """The cells, as (row, column), that are the best of their column and data set."""
    best = set()
    by_data: dict[str, list[int]] = {}
    for e, each in enumerate(summary.experiments):
        by_data.setdefault(each.fingerprint, []).append(e)
    for rivals in by_data.values():
        for column in columns:
            values = {e: summary.experiments[e].mean(column) for e in rivals}
            known = [value for value in values.values() if not math.isnan(value)]
            if len(set(known)) > 1:  # none is best among equals
                best |= {(e, column) for e, v in values.items() if v == max(known)}
    return best
