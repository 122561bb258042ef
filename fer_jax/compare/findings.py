"""What the tests say in words: a sentence for each question that the experiments ask.

The config's `asks` says which scores answer its description. "improved" and "lowered"
stand for what is significant after Holm's correction. All figures are differences from
the baseline in points.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fer_jax.compare.results import shortlist
from fer_jax.compare.statistics import LEVEL
from fer_jax.compare.summary import BASELINE, Comparison, Experiment, Summary
from fer_jax.compare.wording import (
    BETTER,
    NOT_SIGNIFICANT,
    WORSE,
    capital,
    p_value,
    percent,
    points,
    verdict,
    words,
)
from fer_jax.config import RARE, Asks
from fer_jax.emotions import emotion

MIXED = "mixed"
_LEVEL = f"{100 * LEVEL:.0f} %"
_RARE = 0.5  # an emotion with less than this share of an even one is rare
_ALIKE = 1.25  # training times within this factor are not mentioned


@dataclass(frozen=True)
class Finding:
    """One question and its answer."""

    question: str
    answer: str  # in sentences
    # better or worse if all decisive scores are, n.s. if none is significant, or mixed
    verdict: str
    experiments: list[str]  # that it rests on, by their labels


def findings(summary: Summary) -> list[Finding]:
    """One finding for each question, after one on all experiments together.

    Without a baseline there is nothing to compare with, and no finding.
    """
    tested = [each for each in summary.experiments if each.versus]
    questions: dict[tuple[str, str], list[Experiment]] = {}
    for each in tested:
        asked = _question(each, summary), each.fingerprint
        questions.setdefault(asked, []).append(each)
    overall = [_overall(summary, tested)] if len(tested) > 1 else []
    return overall + [
        _answer(summary, question, group) for (question, _), group in questions.items()
    ]


def seeds_note(summary: Summary) -> str:
    """What the number of seeds says of the reach of the findings; may be empty."""
    counts = [len(each.runs) for each in summary.experiments]
    if len(counts) > 1 and max(counts) == 1:
        return (
            "One seed each: this compares these networks, not the settings. How much "
            "another seed would change is unknown (train with --seeds 3 or more)."
        )
    if min(counts) == 1 < max(counts):
        return (
            "Some experiments have one seed: the spread of the others' seeds stands in "
            "for theirs."
        )
    return ""


def _question(each: Experiment, summary: Summary) -> str:
    """What it asks; its description was written with the usual baseline in mind."""
    if summary.baseline == BASELINE and each.runs[0].description:
        return each.runs[0].description
    return f"{each.name} against {summary.baseline}?"


def _overall(summary: Summary, tested: Sequence[Experiment]) -> Finding:
    """Which experiments differ significantly from the baseline."""
    rows = {
        summary.label(each): each.versus["macro_f1"]
        for each in sorted(tested, key=lambda each: -each.mean("macro_f1"))
    }
    parts = []
    for word in (BETTER, WORSE):
        if names := [name for name, row in rows.items() if verdict(row) == word]:
            be = "is" if len(names) == 1 else "are"
            parts.append(f"{shortlist(names, 12)} {be} {word} than {summary.baseline}")
    if rest := sum(not row.significant for row in rows.values()):
        part = f"{rest} of {len(rows)} do not differ measurably from it"
        if not parts:
            part = f"none of {len(rows)} differs measurably from {summary.baseline}"
        sizes = [row.detectable for row in rows.values() if row.detectable > 0]
        if sizes:
            size = percent(np.median(sizes))
            part += f" (minimum detectable effect {size} points)"
        parts.append(part)
    return Finding(
        "Which experiments differ from the baseline?",
        f"By macro F1, {'; '.join(parts)}.",
        _verdict(list(rows.values())),
        list(rows),
    )


def _answer(
    summary: Summary, question: str, experiments: Sequence[Experiment]
) -> Finding:
    """The answer of the experiments that ask the same question."""
    answers, decisive = [], []
    for each in experiments:
        asks = each.runs[0].asks if summary.baseline == BASELINE else Asks()
        note, told, rows = _asked(each, asks)
        answers += [note, _sentence(summary.label(each), each, told)]
        answers.append(_time(each, summary))
        decisive += rows
    labels = [summary.label(each) for each in experiments]
    return Finding(
        question, " ".join(filter(None, answers)), _verdict(decisive), labels
    )


def _asked(each: Experiment, asks: Asks) -> tuple[str, list[str], list[Comparison]]:
    """What cannot be answered, the metrics that answer, and what decides."""
    emotions, has_rare = _asked_emotions(each, asks)
    if not emotions:
        note = ""
        if has_rare:
            note = "No emotion is rare here."
        elif asks.emotions:
            note = f"There is no class {' or '.join(asks.emotions)} here."
        return (
            note,
            list(asks.metrics),
            [each.versus[metric] for metric in asks.metrics],
        )
    kinds = ("f1", "recall", "precision") if has_rare else ("f1",)
    asked = [f"{kind}_{emotion}" for emotion in emotions for kind in kinds]
    more = [
        metric
        for emotion in emotions
        for metric in (f"recall_{emotion}", f"precision_{emotion}")
        if metric not in asked and each.versus[metric].significant
    ]
    told = [*asked, *more, *asks.metrics]
    return "", told, [each.versus[metric] for metric in asked]


def _sentence(name: str, each: Experiment, metrics: Sequence[str]) -> str:
    """What an experiment did to some metrics, by what the tests say of them."""
    verbs = {
        BETTER: "improved",
        WORSE: "lowered",
        NOT_SIGNIFICANT: "did not measurably change",
    }
    parts = []
    for word, verb in verbs.items():
        same = [metric for metric in metrics if verdict(each.versus[metric]) == word]
        if same:
            told = [
                f"{words(metric)} {_figures(each.versus[metric])}" for metric in same
            ]
            parts.append(f"{verb} {_list(told)}")
    unknown = [words(m) for m in metrics if math.isnan(each.versus[m].value)]
    sentences = [f"{name} {'; it '.join(parts)}."] if parts else []
    if unknown:
        be = "is" if len(unknown) == 1 else "are"
        sentences.append(f"{capital(_list(unknown))} {be} undefined without images.")
    return " ".join(sentences)


def _list(texts: Sequence[str]) -> str:
    *first, last = texts
    return f"{', '.join(first)} and {last}" if first else last


def _figures(row: Comparison) -> str:
    """A difference in brackets, with its interval and what a reader weighs it by."""
    if row.value == 0 and math.isnan(row.low):
        return "(their predictions do not differ)"
    low, high = points(row.low), points(row.high)
    text = f"{points(row.value)}, {_LEVEL} interval {low} to {high}"
    if row.significant:
        p = p_value(row.p_holm)
        return f"({text}; p {p if p[0] == '<' else f'= {p}'})"
    if math.isnan(row.detectable):
        return f"({text}; these data can detect no difference)"
    return f"({text}; minimum detectable effect {percent(row.detectable)})"


def _time(each: Experiment, summary: Summary) -> str:
    """How the training time compares with the baseline's, where that matters."""
    key = (summary.baseline, each.fingerprint)
    base = next(e for e in summary.experiments if (e.name, e.fingerprint) == key)
    ratio = each.minutes() / base.minutes() if base.minutes() else 1.0
    if 1 / _ALIKE < ratio < _ALIKE or each.devices() != base.devices():
        return ""
    if ratio < 1:
        return f"Training took {100 * ratio:.0f} % of the time."
    return f"Training took {ratio:.1f} times as long."


def _verdict(rows: Sequence[Comparison]) -> str:
    found = {verdict(row) if row.significant else NOT_SIGNIFICANT for row in rows}
    return found.pop() if len(found) == 1 else MIXED


def _asked_emotions(each: Experiment, asks: Asks) -> tuple[list[str], bool]:
    """The classes that are asked about, and whether rare ones are."""
    support = each.confusion.sum(axis=1)
    few = (support > 0) & (support < _RARE * support.mean())
    rare = [n for n, is_rare in zip(each.class_names, few, strict=True) if is_rare]
    asked: list[str] = []
    for one in asks.emotions:
        same = [name for name in each.class_names if name in (one, emotion(one))]
        asked += rare if one == RARE else same
    return list(dict.fromkeys(asked)), RARE in asks.emotions
