"""What the tests say, in words: one sentence for each question an experiment asks.

The config's `asks` says which scores answer its description. "better" and
"worse" stand for what is significant after Holm's correction, and nothing else does.
All figures are differences from the baseline in points.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fer_jax.compare.results import shortlist
from fer_jax.compare.summary import BASELINE, Experiment, Summary
from fer_jax.compare.tables import p_value, percent, with_interval, words
from fer_jax.config import RARE, Asks
from fer_jax.emotions import emotion

BETTER, WORSE, MIXED, NOT_SHOWN = "better", "worse", "mixed", "not shown"
# Fewer images than this share of an even one make an emotion rare.
_RARE = 0.5
# Training times within this factor are not worth a word.
_ALIKE = 1.25


@dataclass(frozen=True)
class Finding:
    """One question and its answer.

    Attributes:
      question: what the experiments were made to ask.
      answer: a sentence.
      verdict: `better` or `worse` if all that was asked about is, `not shown` if
        nothing is significant, else `mixed`.
      experiments: those that it rests on, by their labels.
    """

    question: str
    answer: str
    verdict: str
    experiments: list[str]


def findings(summary: Summary) -> list[Finding]:
    """One finding for each question, after one on all experiments together.

    Without a baseline there is nothing to compare with, and no finding.
    """
    tested = [each for each in summary.experiments if each.versus is not None]
    if not tested:
        return []
    questions: dict[tuple[str, str], list[Experiment]] = {}
    for each in tested:
        asked = _question(each, summary), each.fingerprint
        questions.setdefault(asked, []).append(each)
    overall = [_overall(summary, tested)] if len(tested) > 1 else []
    return overall + [
        _answer(summary, question, group) for (question, _), group in questions.items()
    ]


def _question(each: Experiment, summary: Summary) -> str:
    """What it asks; its description was written with the usual baseline in mind."""
    if summary.baseline == BASELINE and each.runs[0].description:
        return each.runs[0].description
    return f"{each.name} against {summary.baseline}?"


def seeds_note(summary: Summary) -> str:
    """How far what is said reaches, given how many seeds there are."""
    counts = [len(each.runs) for each in summary.experiments]
    if len(counts) > 1 and max(counts) == 1:
        return (
            "One seed each: this compares these networks, not the settings; how much "
            "another seed would change is unknown (--seeds 3 or more tells)."
        )
    if min(counts) == 1 < max(counts):
        return (
            "Some experiments have one seed: the spread of the others' seeds stands in "
            "for theirs."
        )
    return ""


def _overall(summary: Summary, tested: Sequence[Experiment]) -> Finding:
    """Which experiments are shown to differ from the baseline at all."""
    rows = {
        summary.label(each): each.versus.loc["macro_f1"]
        for each in sorted(tested, key=lambda each: -each.mean("macro_f1"))
    }
    better = [name for name, row in rows.items() if row["real"] and row["value"] > 0]
    worse = [name for name, row in rows.items() if row["real"] and row["value"] < 0]
    parts = [f"better: {shortlist(better, 12)}"] if better else []
    parts += [f"worse: {shortlist(worse, 12)}"] if worse else []
    if rest := len(rows) - len(better) - len(worse):
        told = f"{rest} of {len(rows)} not shown to differ"
        sizes = [row["detectable"] for row in rows.values() if row["detectable"] > 0]
        if sizes:
            size = percent(np.median(sizes))
            told += f" (these data would mostly show {size} points and more)"
        parts.append(told)
    answer = f"By macro F1 against {summary.baseline}, {'; '.join(parts)}"
    return Finding(
        "Which experiments differ from the baseline?",
        answer,
        _verdict([row for row in rows.values()]),
        list(rows),
    )


def _answer(
    summary: Summary, question: str, experiments: Sequence[Experiment]
) -> Finding:
    """The answer of the experiments that ask the same question."""
    told, judged = [], []
    for each in experiments:
        is_own = summary.baseline == BASELINE
        asks = each.runs[0].asks if is_own else Asks()
        text, rows = _told(each, asks, summary)
        told.append(f"{summary.label(each)}: {text}")
        judged += rows
    return Finding(
        question,
        "; ".join(told),
        _verdict(judged),
        [summary.label(each) for each in experiments],
    )


def _told(
    each: Experiment, asks: Asks, summary: Summary
) -> tuple[str, list[pd.Series]]:
    """What one experiment answers, and the tests that the verdict rests on."""
    emotions, rare = _asked_emotions(each, asks)
    if emotions:
        kinds = ("f1", "recall", "precision") if rare else ("f1",)
        asked = [f"{kind}_{emotion}" for emotion in emotions for kind in kinds]
        more = [
            metric
            for emotion in emotions
            for metric in (f"recall_{emotion}", f"precision_{emotion}")
            if metric not in asked and each.versus.at[metric, "real"]
        ]
        clauses = [_clause(each, metric) for metric in [*asked, *more, *asks.metrics]]
    else:
        asked = list(asks.metrics)
        clauses = [
            _clause(each, metric) + _could_show(each, metric) for metric in asked
        ]
        if rare:
            clauses.insert(0, "no emotion is rare here")
        elif asks.emotions:
            clauses.insert(0, f"there is no class {' or '.join(asks.emotions)} here")
    text = ", ".join(clauses)
    return text + _time(each, summary), [each.versus.loc[metric] for metric in asked]


def _clause(each: Experiment, metric: str) -> str:
    row = each.versus.loc[metric]
    if pd.isna(row["p_holm"]):
        return f"{words(metric)} has no test"
    told = f"{words(metric)} {with_interval(row, signed=True)}"
    if not row["real"]:
        return f"{told} n.s."
    p = p_value(row["p_holm"])
    verdict = BETTER if row["value"] > 0 else WORSE
    return f"{told} {verdict}, p {p if p[0] == '<' else f'= {p}'}"


def _could_show(each: Experiment, metric: str) -> str:
    """What would have been found, where nothing was."""
    row = each.versus.loc[metric]
    if row["real"]:
        return ""
    if row["value"] == 0 and pd.isna(row["low"]):
        return " (their predictions do not differ)"
    if pd.isna(row["detectable"]):
        return " (these data could show no difference)"
    return f" ({percent(row['detectable'])} would mostly have shown)"


def _time(each: Experiment, summary: Summary) -> str:
    """How much longer or shorter it trains than the baseline, where that matters."""
    base = next(
        other
        for other in summary.experiments
        if (other.name, other.fingerprint) == (summary.baseline, each.fingerprint)
    )
    ratio = each.minutes() / base.minutes() if base.minutes() else 1.0
    if 1 / _ALIKE < ratio < _ALIKE or each.devices() != base.devices():
        return ""
    return f", training {ratio:.1f} times as long"


def _verdict(rows: Sequence[pd.Series]) -> str:
    told = {(row["value"] > 0) if row["real"] else None for row in rows}
    if told == {None}:
        return NOT_SHOWN
    if len(told) > 1:
        return MIXED
    return BETTER if told.pop() else WORSE


def _asked_emotions(each: Experiment, asks: Asks) -> tuple[list[str], bool]:
    """The classes that are asked about, and whether rare ones are among them."""
    names = each.runs[0].data["class_names"]
    support = each.confusion.sum(axis=1)
    few = (support > 0) & (support < _RARE * support.mean())
    asked: list[str] = []
    for one in asks.emotions:
        if one == RARE:
            asked += [name for name, is_rare in zip(names, few, strict=True) if is_rare]
        else:
            asked += [name for name in names if name in (one, emotion(one))]
    return list(dict.fromkeys(asked)), RARE in asks.emotions
