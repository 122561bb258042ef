"""What experiments ask, and which settings they change."""

from collections.abc import Sequence

from fer_jax.compare.layout import Sheet
from fer_jax.compare.results import FinishedRun
from fer_jax.compare.summary import Summary
from fer_jax.compare.wording import ABSENT
from fer_jax.config import differing_keys


def questions(summary: Summary, runs: Sequence[FinishedRun]) -> Sheet:
    """What each experiment asks."""
    rows = [
        [_marked_name(summary, group), group[0].description]
        for group in _by_name(summary, runs)
    ]
    headers = ["experiment", "question"]
    return Sheet("What each experiment asks", headers, "ll", rows)


def changes(summary: Summary, runs: Sequence[FinishedRun]) -> Sheet:
    """What each config changes in the baseline's; without one, how they differ."""
    groups = _by_name(summary, runs)
    base = summary.baseline if summary.has_baseline else None
    rows = []
    for group in groups:
        if group[0].name == base:
            continue
        name = _marked_name(summary, group)
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


def _marked_name(summary: Summary, group: Sequence[FinishedRun]) -> str:
    return summary.marked(group[0].name, *(run.fingerprint for run in group))
