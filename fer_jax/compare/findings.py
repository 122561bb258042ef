"""What the tests say in words: a sentence for each question that the experiments ask.

The config's `asks` says which scores answer its description. "better" and "worse" stand
for what is significant after Holm's correction. All figures are differences from the
baseline in points.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fer_jax.compare.results import shortlist
from fer_jax.compare.summary import BASELINE, Comparison, Experiment, Summary
from fer_jax.compare.wording import (
    BETTER,
    NOT_SIGNIFICANT,
    WORSE,
    p_value,
    percent,
    verdict,
    with_interval,
    words,
)
from fer_jax.config import RARE, Asks
from fer_jax.emotions import emotion

MIXED = "mixed"
_RARE = 0.5  # an emotion with less than this share of an even one is rare
_ALIKE = 1.25  # training times within this factor are not mentioned


@dataclass(frozen=True)
class Finding:
    """One question and its answer."""

    question: str
    answer: str  # a sentence
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
            parts.append(f"{word}: {shortlist(names, 12)}")
    if rest := sum(not row.significant for row in rows.values()):
        part = f"{rest} of {len(rows)} n.s."
        sizes = [row.detectable for row in rows.values() if row.detectable > 0]
        if sizes:
            part += f" (minimum detectable effect {percent(np.median(sizes))} points)"
        parts.append(part)
    return Finding(
        "Which experiments differ from the baseline?",
        f"By macro F1 against {summary.baseline}, {'; '.join(parts)}",
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
        clauses, rows = _clauses(each, asks)
        clauses += _time(each, summary)
        answers.append(f"{summary.label(each)}: {', '.join(clauses)}")
        decisive += rows
    labels = [summary.label(each) for each in experiments]
    return Finding(question, "; ".join(answers), _verdict(decisive), labels)


def _clauses(each: Experiment, asks: Asks) -> tuple[list[str], list[Comparison]]:
    """What one experiment answers, and the comparisons that decide the verdict."""
    emotions, has_rare = _asked_emotions(each, asks)
    if not emotions:
        clauses = [_clause(each, metric, detectable=True) for metric in asks.metrics]
        if has_rare:
            clauses.insert(0, "no emotion is rare here")
        elif asks.emotions:
            clauses.insert(0, f"there is no class {' or '.join(asks.emotions)} here")
        return clauses, [each.versus[metric] for metric in asks.metrics]
    kinds = ("f1", "recall", "precision") if has_rare else ("f1",)
    asked = [f"{kind}_{emotion}" for emotion in emotions for kind in kinds]
    more = [
        metric
        for emotion in emotions
        for metric in (f"recall_{emotion}", f"precision_{emotion}")
        if metric not in asked and each.versus[metric].significant
    ]
    clauses = [_clause(each, metric) for metric in [*asked, *more, *asks.metrics]]
    return clauses, [each.versus[metric] for metric in asked]


def _clause(each: Experiment, metric: str, *, detectable: bool = False) -> str:
    """One difference and its test, perhaps with the minimum detectable effect."""
    row = each.versus[metric]
    if math.isnan(row.value):
        return f"{words(metric)} is undefined without images"
    text = f"{words(metric)} {with_interval(row, signed=True)} {verdict(row)}"
    if row.significant:
        p = p_value(row.p_holm)
        return f"{text}, p {p if p[0] == '<' else f'= {p}'}"
    if not detectable:
        return text
    if row.value == 0 and math.isnan(row.low):
        return f"{text} (their predictions do not differ)"
    if math.isnan(row.detectable):
        return f"{text} (these data can detect no difference)"
    return f"{text} (minimum detectable effect {percent(row.detectable)})"


def _time(each: Experiment, summary: Summary) -> list[str]:
    """How the training time compares with the baseline's, where that matters."""
    key = (summary.baseline, each.fingerprint)
    base = next(e for e in summary.experiments if (e.name, e.fingerprint) == key)
    ratio = each.minutes() / base.minutes() if base.minutes() else 1.0
    if 1 / _ALIKE < ratio < _ALIKE or each.devices() != base.devices():
        return []
    return [f"training {ratio:.1f} times as long"]


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
