"""The tables of a comparison, which the terminal and the exports show."""

import math
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.text import Text

from fer_jax.compare.layout import Cell, Sheet
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
from fer_jax.metrics import CLASS_METRICS, METRICS

_Row = Callable[[Experiment], list[Cell]]


def overall(summary: Summary, failures: Collection[Path] = ()) -> Sheet:
    """Each experiment's seeds and overall metrics, and its runs that failed."""

    def row(each: Experiment) -> list[Cell]:
        scores = (with_interval(each.scores[metric]) for metric in METRICS)
        return [str(len(each.runs)), *scores]

    headers = ["n", *(METRIC_WORDS[metric] for metric in METRICS)]
    caption = f"{summary.split}: overall, in % [95 % interval], by {summary.sort}"
    sheet = _by_experiment(summary, caption, headers, row)
    failed = Counter(path.parent.name for path in failures)
    rows: list[list[Cell]] = [
        [name, str(n), Text("failed", "red"), "", ""] for name, n in failed.items()
    ]
    return replace(sheet, rows=[*sheet.rows, *rows])


def differences(summary: Summary) -> Sheet:
    """Each experiment's difference from the baseline in macro-F1, and its test."""

    def row(each: Experiment) -> list[Cell]:
        tested = each.versus["macro_f1"]
        return [
            with_interval(tested, signed=True),
            p_value(tested.p),
            p_value(tested.p_holm),
            percent(tested.detectable),
            _colored_verdict(tested),
        ]

    against = [each for each in summary.experiments if each.versus]
    return _by_experiment(
        replace(summary, experiments=against),
        f"{summary.split}: macro F1 against {summary.baseline}, in points "
        "[95 % interval]",
        ["difference", "p", "p (Holm)", "detectable", ""],
        row,
        note="detectable: the minimum detectable effect (80 % power)",
    )


def clean(summary: Summary) -> Sheet:
    """The overall metrics on all images, and on those without a copy in train."""

    def row(each: Experiment) -> list[Cell]:
        pairs = ((each.mean(m), each.clean.get(m, math.nan)) for m in METRICS)
        return [percent(score) for pair in pairs for score in pair]

    names = (METRIC_WORDS[metric].replace(" ", "\n") for metric in METRICS)
    leaked = ", ".join(
        f"{_leaked(summary, fingerprint)} of {images.n:,} images"
        for fingerprint, images in summary.images.items()
        if images.leaked
    )
    return _by_experiment(
        summary,
        f"{summary.split}: as usual, and clean of the {leaked} with a copy in train",
        [header for name in names for header in (name, "clean")],
        row,
    )


def _leaked(summary: Summary, fingerprint: str) -> str:
    """How many images have a copy in train: a range where pretrained runs saw more."""
    scores = [
        run.scores[summary.split]
        for each in summary.experiments
        if each.fingerprint == fingerprint
        for run in each.runs
    ]
    counts = {each["n"] - each.get("n_clean", each["n"]) for each in scores}
    least, most = min(counts), max(counts)
    return f"{most:,}" if least == most else f"{least:,} to {most:,}"


def costs(summary: Summary) -> Sheet:
    """The spread over seeds, epochs, time, speed and calibration."""

    def row(each: Experiment) -> list[Cell]:
        return [
            str(len(each.runs)),
            percent(each.scores["macro_f1"].sd),
            f"{each.best_epoch():.0f}/{each.epochs_run():.0f}",
            f"{each.minutes():.1f}",
            f"{each.images_per_s():,.0f}",
            percent(each.ece),
        ]

    return _by_experiment(
        summary,
        f"{summary.split}: seeds, epochs, time, calibration error (ECE, in %)",
        ["n", "sd of\nmacro F1", "best of\nepochs", "train\nmin", "images/s", "ECE"],
        row,
    )


def calibration(summary: Summary) -> Sheet:
    """How sure the predictions are, and how often they are right."""

    def row(each: Experiment) -> list[Cell]:
        sure = np.nan_to_num(each.reliability.confidence) * each.reliability.images
        confidence = sure.sum() / each.reliability.images.sum()
        scores = (each.mean("accuracy"), confidence, each.ece)
        return [percent(score) for score in scores]

    return _by_experiment(
        summary,
        f"{summary.split}: calibration, in %",
        ["accuracy", "mean confidence", "ECE"],
        row,
        note="ECE: expected calibration error; 0: an image of 80 % confidence is right "
        "in 80 of 100 cases",
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
    best = _best(summary, columns)

    def cell(each: Experiment, column: str) -> Cell:
        if intervals:
            known = column in each.scores
            return with_interval(each.scores[column]) if known else ABSENT
        is_best = (summary.label(each), column) in best
        mark = ("*" if is_best else " ") if star else ""
        sign = " "
        if column in each.versus and each.versus[column].significant:
            sign = "+" if each.versus[column].value > 0 else "-"
        style = "bold green" if is_best else ""
        return Text(f"{percent(each.mean(column))}{mark}{sign}", style=style)

    legend = []
    if len(summary.experiments) > 1:
        legend.append(f"{'*' if star else 'bold'}: the best")
    if summary.has_tests:
        legend.append(f"+ -: better, worse than {summary.baseline}, significant")
    legend = ["with 95 % intervals"] if intervals else legend
    return _by_experiment(
        summary,
        f"{summary.split}: {METRIC_WORDS[metric]} by emotion, in %"
        + (f" ({'; '.join(legend)})" if legend else ""),
        summary.emotions,
        lambda each: [cell(each, column) for column in columns],
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
        scores = (each.scores[f"{metric}_{emotion}"] for metric in CLASS_METRICS)
        cells = [with_interval(score).replace(" ", "\n", 1) for score in scores]
        versus: Cell = ABSENT
        if each.versus:
            tested = each.versus[f"f1_{emotion}"]
            value, ends = with_interval(tested, signed=True).split(" ", 1)
            versus = Text.assemble(value, " ", _colored_verdict(tested), "\n", ends)
        return [*cells, _taken_for(each, emotion), versus]

    # One of several data sets may have no such image.
    known = [e for e in summary.experiments if not math.isnan(e.mean(f"f1_{emotion}"))]
    images = count(summary.support(emotion), "image")
    return _by_experiment(
        replace(summary, experiments=known),
        f"{summary.split}: {emotion}, {images}, in % [95 % interval]",
        ["F1", "precision", "recall", "taken for", "F1 vs baseline"],
        row,
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


def each_emotion(summary: Summary, experiment: Experiment) -> Sheet:
    """The scores of one experiment by emotion, a row each."""
    images = summary.images[experiment.fingerprint]
    rows: list[list[Cell]] = []
    for name in experiment.class_names:
        scores = (experiment.scores[f"{metric}_{name}"] for metric in CLASS_METRICS)
        rows.append([name, f"{images.support[name]:,}", *map(with_interval, scores)])
    return Sheet(
        f"{experiment.name}: by emotion, in % [95 % interval]",
        ["emotion", "images", *(METRIC_WORDS[metric] for metric in CLASS_METRICS)],
        "lrrrr",
        rows,
    )


def confusion(experiment: Experiment) -> Sheet:
    """The rates of a confusion matrix in percent: each row adds up to 100."""
    names = experiment.class_names
    rows: list[list[Cell]] = []
    for name, rates in zip(names, experiment.rates(), strict=True):
        styles = ("bold" if other == name else "" for other in names)
        cells = zip(map(percent, rates), styles, strict=True)
        rows.append([name, *(Text(rate, style) for rate, style in cells)])
    caption = f"{experiment.name}: taken for, in % of each true emotion"
    return Sheet(caption, ["true", *names], "l" + "r" * len(names), rows)


def _by_experiment(
    summary: Summary, caption: str, headers: Sequence[str], row: _Row, note: str = ""
) -> Sheet:
    """A table with a row of numbers for each experiment."""
    rows = [[summary.label(each), *row(each)] for each in summary.experiments]
    align = "l" + "r" * len(headers)
    return Sheet(caption, ["experiment", *headers], align, rows, note)


def _colored_verdict(row: Comparison) -> Text:
    text = verdict(row)
    return Text(text, style={"better": "green", "worse": "red"}.get(text, ""))


def _p_if_significant(row: Comparison) -> str:
    known = row.significant or math.isnan(row.p_holm)
    return p_value(row.p_holm) if known else NOT_SIGNIFICANT


def _taken_for(experiment: Experiment, emotion: str, most: int = 2) -> str:
    """The classes that an emotion's images are most often taken for, in percent."""
    classes = experiment.class_names
    rates = experiment.rates()[classes.index(emotion)]
    rates[classes.index(emotion)] = 0
    order = np.argsort(-rates, kind="stable")[:most]
    return "\n".join(f"{classes[k]} {percent(rates[k])}" for k in order if rates[k] > 0)


def _best(summary: Summary, columns: Sequence[str]) -> set[tuple[str, str]]:
    """The (experiment, column) that are the best of their column and data set."""
    best = set()
    for fingerprint in summary.images:
        rivals = [e for e in summary.experiments if e.fingerprint == fingerprint]
        for column in columns:
            values = {summary.label(each): each.mean(column) for each in rivals}
            known = {value for value in values.values() if not math.isnan(value)}
            if len(known) > 1:  # none is best among equals
                best |= {(e, column) for e, v in values.items() if v == max(known)}
    return best
