"""docs/results.md: each figure in it is what the published runs say.

`PYTHONPATH=. python tests/compare/test_results_page.py` writes its table and the quoted
answers anew.
"""

import functools
import re
from pathlib import Path

import pytest

from fer_jax.compare import Comparison, load
from fer_jax.compare.wording import interval, percent, points, verdict

ROOT = Path(__file__).resolve().parents[2]
RUNS, PAGE = ROOT / "results/fer2013", ROOT / "docs/results.md"
BEGIN, END = "<!-- scores, written by the test -->\n", "<!-- end of scores -->\n"
# Other figures of a comparison, by the word that a sentence gives them.
SETS = {
    "": {},
    "clean": {"clean": True},
    "FER+": {"labels": "ferplus_majority"},
    "agreed": {"labels": "agreed"},
}
HEAD = """\
| experiment | accuracy | clean | FER+ | macro-F1 | difference | | best epoch | wait |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""

pytestmark = pytest.mark.slow


@functools.cache
def comparison(kind: str) -> Comparison:
    return load(RUNS, **SETS[kind])


def longest_wait(history) -> int:
    """The most epochs in a row that had no better val macro-F1 than one before."""
    best, since, longest = -1.0, 0, 0
    for score in history.sort_values("epoch").val_macro_f1:
        since = 0 if score > best else since + 1
        best, longest = max(best, score), max(longest, since)
    return longest


def table() -> str:
    usual = comparison("")
    others = {
        kind: comparison(kind).experiments.set_index("experiment").accuracy
        for kind in ("clean", "FER+")
    }
    differences = usual.differences
    differences = differences[differences.metric == "macro_f1"].set_index("experiment")
    lines = []
    for row in usual.experiments.itertuples():
        name = row.experiment
        told, word = "", ""
        if name in differences.index:
            each = differences.loc[name]
            told = f"{points(each.value)} {interval(each.low, each.high, signed=True)}"
            word = verdict(each)
        run = usual.runs[usual.runs.name == name].iloc[0]
        history = usual.history[usual.history.experiment == name]
        columns = (
            *(f"`{name}`", percent(row.accuracy)),
            *(percent(others[kind][name]) for kind in others),
            *(percent(row.macro_f1), told, word),
            f"{row.best_epoch:.0f}/{row.epochs_run:.0f}",
            f"{longest_wait(history)} of {run['training.patience']}",
        )
        lines.append("| " + " | ".join(columns) + " |\n")
    return HEAD + "".join(lines)


def written_table(page: str) -> str:
    return page.partition(BEGIN)[2].partition(END)[0]


def answers() -> dict[str, str]:
    """What the command says of each experiment, without its time."""
    found = re.findall(r"(?m)^  ((?!By )(\w+) .*?\))\.", comparison("").findings)
    return {name: f"{answer}." for answer, name in found}


def prose() -> str:
    page = PAGE.read_text("utf-8")
    return page.replace(written_table(page), "")


def test_the_table_is_of_the_published_runs():
    assert written_table(PAGE.read_text("utf-8")) == table()


def test_quoted_answers_are_those_of_the_command():
    quoted = re.findall(r"(?m)^> (.*)", prose())
    assert sorted(quoted) == sorted(answers().values())


def test_each_difference_in_the_prose_is_one_of_the_comparison():
    """With its interval, as in `fear F1 +1.2 [-1.5, +3.8]`, or without."""
    rows = [row for kind in SETS for row in comparison(kind).differences.itertuples()]
    whole = {
        f"{points(row.value)} {interval(row.low, row.high, signed=True)}"
        for row in rows
    }
    text = re.sub(r"\s+", " ", re.sub(r"(?m)^> .*$", "", prose()))
    with_intervals = r"[+-]\d+\.\d \[[^\]]*\]"
    found = re.findall(with_intervals, text)
    assert len(found) >= 5
    assert set(found) <= whole
    alone = re.findall(r"[+-]\d+\.\d", re.sub(with_intervals, "", text))
    assert set(alone) <= {points(row.value) for row in rows}


def test_each_score_in_the_prose_is_one_of_the_comparison():
    known = set()
    for kind in SETS:
        made = comparison(kind)
        columns = [made.experiments[name] for name in ("accuracy", "macro_f1", "ece")]
        columns += [made.emotions.value, made.history.train_accuracy]
        known |= {percent(score) for column in columns for score in column}
    found = re.findall(r"(?<![\d.+-])\d+\.\d(?= %)", prose())
    assert found
    assert set(found) <= known


if __name__ == "__main__":
    whole = PAGE.read_text("utf-8")
    whole = whole.replace(written_table(whole), table())
    for experiment, answer in answers().items():
        whole = re.sub(rf"(?m)^> {experiment} .*", f"> {answer}", whole)
    PAGE.write_text(whole, "utf-8")
