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
    value = points(row.value) if signed else percent(row.value)
    return f"{value} {interval(row.low, row.high, signed=signed)}"


def points(difference: float) -> str:
    """A difference as it is printed, in points."""
    return ABSENT if math.isnan(difference) else f"{100 * difference:+.1f}"


def interval(low: float, high: float, *, signed: bool = False) -> str:
    """`[83.0, 86.8]`, in percent; with signs for differences."""
    sign = "+" if signed else ""
    if math.isnan(low):
        return "[-]"
    return f"[{100 * low:{sign}.1f}, {100 * high:{sign}.1f}]"


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


def capital(text: str) -> str:
    """A text with a capital, as a sentence begins."""
    return text[:1].upper() + text[1:]


def count(n: int, noun: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


# What a reader must know once.
TERMS = {
    "95 % interval": "The values that fit the data: computed again and again on other "
    "images and seeds, 95 of 100 such intervals would hold the true value. It is not "
    "corrected, so it may exclude zero where p (Holm) is not below 0.05.",
    "significant": "p (Holm) < 0.05: by chance alone, so large a difference would "
    "arise in fewer than 5 of 100 cases, corrected for how many are tested (Holm). "
    "Only then does an answer say improved or lowered.",
    "n.s.": "Not significant. That does not mean equal; look at the minimum detectable "
    "effect.",
    "minimum detectable effect": "The true difference that this test finds in 80 of "
    "100 cases. A smaller one would often go unseen.",
    "macro F1": "F1 is the harmonic mean of precision and recall; macro F1 is its mean "
    "over the emotions, which all count alike.",
    "clean": "Scored without the images that have a copy in train.",
    "ECE": "Expected calibration error: how far the stated confidence is from the "
    "share that is right.",
}
