"""How scores, differences and p-values are written in tables and sentences."""

import math

from fer_jax.compare.summary import Comparison, Score
from fer_jax.metrics import CLASS_METRICS

ABSENT = "-"  # stands for a value that there is not
BETTER, WORSE, NOT_SIGNIFICANT = "better", "worse", "n.s."
METRIC_WORDS = {
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "balanced_accuracy": "balanced accuracy",
    "f1": "F1",
    "precision": "precision",
    "recall": "recall",
}


def words(metric: str) -> str:
    """A metric in words: `f1_fear` is "fear F1"."""
    kind, _, emotion = metric.partition("_")
    if metric in METRIC_WORDS or kind not in CLASS_METRICS:
        return METRIC_WORDS.get(metric, metric)
    return f"{emotion} {METRIC_WORDS[kind]}"


def percent(score: float) -> str:
    """A score as it is printed, in percent."""
    return ABSENT if math.isnan(score) else f"{100 * score:.1f}"


def with_interval(row: Score | Comparison, *, signed: bool = False) -> str:
    """`84.9 [83.0, 86.8]`, in percent; with a sign for differences."""
    if math.isnan(row.value):
        return ABSENT
    value, low, high = (100 * end for end in row[:3])
    sign = "+" if signed else ""
    ends = "[-]" if math.isnan(low) else f"[{low:{sign}.1f}, {high:{sign}.1f}]"
    return f"{value:{sign}.1f} {ends}"


def p_value(p: float) -> str:
    """A p-value as it is printed."""
    if math.isnan(p):
        return ABSENT
    return "< 0.001" if p < 0.001 else f"{min(p, 1):.3f}"


def verdict(row: Comparison) -> str:
    """What the test of a difference says: better, worse or n.s."""
    if math.isnan(row.p_holm):
        return ABSENT
    if not row.significant:
        return NOT_SIGNIFICANT
    return BETTER if row.value > 0 else WORSE


def count(n: int, noun: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
