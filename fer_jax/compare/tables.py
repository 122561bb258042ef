"""Turns a summary into the tables that a terminal shows, for 80 columns and wider."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fer_jax.compare.results import (
    ABSENT,
    CLASS_METRICS,
    METRICS,
    Run,
)
from fer_jax.compare.summary import Experiment, Leader, Summary, data_marks
from fer_jax.config import differing_keys

METRIC_WORDS = {
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "balanced_accuracy": "balanced accuracy",
    "f1": "F1",
    "precision": "precision",
    "recall": "recall",
}
NOT_SIGNIFICANT = "n.s."
_GAP = 2  # columns of the terminal between two columns of a table
_CELL = 6  # "100.0" and a mark
# Below this width of the console long names are folded, after a "_" or a ".".
_WIDE = 100


def words(metric: str) -> str:
    """A metric in words: `f1_fear` is "fear F1"."""
    kind, _, emotion = metric.partition("_")
    if metric in METRIC_WORDS or kind not in CLASS_METRICS:
        return METRIC_WORDS.get(metric, metric)
    return f"{emotion} {METRIC_WORDS[kind]}"


def percent(score: float) -> str:
    """A score as it is printed, in percent."""
    return ABSENT if pd.isna(score) else f"{100 * score:.1f}"


def with_interval(row: Mapping[str, float], *, signed: bool = False) -> str:
    """`84.9 [83.0, 86.8]`, in percent; with a sign for differences."""
    if pd.isna(row["value"]):
        return ABSENT
    value, low, high = (100 * row[key] for key in ("value", "low", "high"))
    sign = "+" if signed else ""
    ends = "[-]" if pd.isna(low) else f"[{low:{sign}.1f}, {high:{sign}.1f}]"
    return f"{value:{sign}.1f} {ends}"


def p_value(p: float) -> str:
    """A p-value as it is printed."""
    if pd.isna(p):
        return ABSENT
    return "< 0.001" if p < 0.001 else f"{min(p, 1):.3f}"


def verdict(row: pd.Series) -> str:
    """What the test of a difference says: better, worse or n.s."""
    if pd.isna(row["p_holm"]):
        return ABSENT
    if not row["real"]:
        return NOT_SIGNIFICANT
    return "better" if row["value"] > 0 else "worse"


def overall(summary: Summary, width: int, failures: Collection[Path] = ()) -> Table:
    """One row an experiment: seeds, and the metrics with their intervals, in percent.

    Below them one for each experiment that has failed runs, by their folders.
    """
    headers = [METRIC_WORDS[metric] for metric in METRICS]
    table = _table(["experiment"], ["n", *headers], marks=summary.marks)
    limit = _limit(width, 15 if summary.marks else 19)
    for each in summary.experiments:
        table.add_row(
            *_row_head(each.name, each.fingerprint, summary.marks, limit),
            str(len(each.runs)),
            *(with_interval(each.scores.loc[metric]) for metric in METRICS),
        )
    for name, count in Counter(path.parent.name for path in failures).items():
        head = [_fold(name, limit)]
        head += [Text(ABSENT)] if summary.marks else []
        table.add_row(*head, str(count), Text("failed", style="red"))
    return table


def differences(summary: Summary, metric: str, width: int) -> Table:
    """Each experiment's difference from the baseline by one metric, and its test."""
    table = _table(
        ["experiment"],
        ["difference", "p", "p (Holm)", "could show", ""],
        marks=summary.marks,
    )
    limit = _limit(width, 19)
    for each in summary.experiments:
        if each.versus is None or metric not in each.versus.index:
            continue
        row = each.versus.loc[metric]
        table.add_row(
            *_row_head(each.name, each.fingerprint, summary.marks, limit),
            with_interval(row, signed=True),
            p_value(row["p"]),
            p_value(row["p_holm"]),
            percent(row["detectable"]),
            _colored_verdict(row),
        )
    return table


def clean(summary: Summary, width: int) -> Table:
    """The overall metrics as usual, and of the images that have no copy in train."""
    headers = [
        header
        for metric in METRICS
        for header in (METRIC_WORDS[metric].replace(" ", "\n"), "clean")
    ]
    table = _table(["experiment"], headers, marks=summary.marks)
    limit = _limit(width, 22)
    for each in summary.experiments:
        pairs = ((each.mean(m), each.clean.get(m, np.nan)) for m in METRICS)
        table.add_row(
            *_row_head(each.name, each.fingerprint, summary.marks, limit),
            *(percent(score) for pair in pairs for score in pair),
        )
    return table


def costs(summary: Summary, width: int) -> Table:
    """Spread over seeds, epochs to the best val score, time, speed and calibration."""
    table = _table(
        ["experiment"],
        ["n", "sd of\nmacro F1", "best of\nepochs", "train\nmin", "images/s", "ECE"],
        marks=summary.marks,
    )
    limit = _limit(width, 22)
    for each in summary.experiments:
        epochs = np.mean([run.epochs_run for run in each.runs])
        table.add_row(
            *_row_head(each.name, each.fingerprint, summary.marks, limit),
            str(len(each.runs)),
            percent(each.scores.at["macro_f1", "sd"]),
            f"{each.best_epoch():.0f}/{epochs:.0f}",
            f"{each.minutes():.1f}",
            f"{each.images_per_s():,.0f}",
            percent(each.mean_ece()),
        )
    return table


def per_emotion(summary: Summary, metric: str, console: Console) -> list[Table]:
    """Means of `metric`, a column an emotion; the best of each column stands out.

    It is bold on a terminal and starred elsewhere; with several data sets there is
    one best for each. A + or - says that the difference from the baseline is real.
    Emotions that do not fit the console's width get shorter headers, or where that
    is not enough, further tables.
    """
    star = not console.is_terminal
    limit = _limit(console.width, 19)
    names = [each.name for each in summary.experiments]
    room = console.width - min(max(map(len, names)), limit)
    room -= len("data") + _GAP if summary.marks else 0
    columns = [f"{metric}_{emotion}" for emotion in summary.emotions]
    best = _best(summary, columns)
    tables = []
    for headers in column_blocks(summary.emotions, room, _CELL + star):
        table = _table(["experiment"], headers.values(), marks=summary.marks)
        for e, each in enumerate(summary.experiments):
            cells = (
                _score(each, column, best=(e, column) in best, star=star)
                for column in (f"{metric}_{emotion}" for emotion in headers)
            )
            head = _row_head(each.name, each.fingerprint, summary.marks, limit)
            table.add_row(*head, *cells)
        tables.append(table)
    return tables


def best_by_emotion(summary: Summary, width: int) -> Table:
    """The experiment with the highest F1 for each emotion, and how far it leads."""
    table = _table(
        ["emotion", "best"],
        ["F1", "margin", "p (Holm)"],
        marks=summary.marks,
        last=["runner-up"],
    )
    limit = _limit(width, 13 if summary.marks else 16)
    for leader in summary.leaders:
        table.add_row(
            *_row_head(leader.emotion, leader.best.fingerprint, summary.marks, limit),
            _fold(leader.best.name, limit),
            percent(leader.best.mean(f"f1_{leader.emotion}")),
            *_margin(leader),
            _fold(leader.runner_up.name if leader.runner_up else ABSENT, limit),
        )
    return table


def one_emotion(summary: Summary, emotion: str, width: int) -> Table:
    """One emotion by experiment: all three scores, what it is taken for, the test."""
    table = _table(
        ["experiment"],
        ["F1", "precision", "recall"],
        marks=summary.marks,
        last=["taken for", "F1 vs baseline"],
    )
    limit, most = _limit(width, 14), 1 if width < _WIDE else 2
    for each in summary.experiments:
        if pd.isna(each.mean(f"f1_{emotion}")):  # its data have no such image
            continue
        scores = (
            with_interval(each.scores.loc[f"{metric}_{emotion}"]).replace(" ", "\n", 1)
            for metric in CLASS_METRICS
        )
        versus = Text(ABSENT)
        if each.versus is not None:
            row = each.versus.loc[f"f1_{emotion}"]
            value, ends = with_interval(row, signed=True).split(" ", 1)
            versus = Text.assemble(value, " ", _colored_verdict(row), "\n", ends)
        head = _row_head(each.name, each.fingerprint, summary.marks, limit)
        table.add_row(*head, *scores, _taken_for(each, emotion, most), versus)
    return table


def in_depth(one: Experiment, other: Experiment) -> Table:
    """All metrics of two experiments, and their differences (`one` less `other`)."""
    table = _table(["metric"], [one.name, other.name, "difference", "p (Holm)"])
    for metric in one.scores.index:
        row = one.versus.loc[metric]
        table.add_row(
            words(metric),
            percent(one.mean(metric)),
            percent(other.mean(metric)),
            with_interval(row, signed=True),
            _p_or_not_significant(row),
        )
        if metric in (METRICS[-1], f"f1_{_emotions(one)[-1]}") or metric == (
            f"precision_{_emotions(one)[-1]}"
        ):
            table.add_section()
    return table


def confusion(experiment: Experiment, width: int) -> Table:
    """The rates of a confusion matrix in percent: each row adds up to 100."""
    emotions = _emotions(experiment)
    counts = experiment.confusion
    totals = counts.sum(axis=1, keepdims=True)
    rates = np.divide(
        counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0
    )
    room = width - max(map(len, emotions))
    headers = column_blocks(emotions, room, _CELL)[0]
    table = _table(["true"], [headers.get(name, name) for name in emotions])
    for c, name in enumerate(emotions):
        cells = [
            Text(percent(rate), style="bold" if c == k else "")
            for k, rate in enumerate(rates[c])
        ]
        table.add_row(name, *cells)
    return table


def descriptions(runs: Sequence[Run], names: Sequence[str], width: int) -> Table:
    """The question that each experiment asks."""
    marks = data_marks(runs)
    table = _table(["experiment", "question"], [], marks=marks)
    for name in names:
        group = [run for run in runs if run.name == name]
        head = _name_head(group, marks, _limit(width, 24))
        table.add_row(*head, Text(group[0].description))
    return table


def changes(
    runs: Sequence[Run], names: Sequence[str], width: int, baseline: str | None
) -> Table:
    """What each config changes relative to the one of the experiment `baseline`.

    Without such an experiment: each key in which the experiments differ, with all
    of its values and who has them.
    """
    groups = {name: [run for run in runs if run.name == name] for name in names}
    configs = {name: group[0].settings() for name, group in groups.items()}
    marks = data_marks(runs)
    if baseline not in configs:
        return _all_values(configs, groups, marks, _limit(width, 28))
    table = _table(["experiment", "key", baseline, "value"], [], marks=marks)
    base = configs[baseline]
    for name in names:
        if name == baseline:
            continue
        keys = differing_keys([base, configs[name]])
        head = _name_head(groups[name], marks, _limit(width, 24))
        if not keys:
            table.add_row(*head, "(nothing)", "", "")
        for key in keys:
            values = (base.get(key, ABSENT), configs[name].get(key, ABSENT))
            told = _fold(key, _limit(width, 20 if marks else 28))
            table.add_row(*head, told, *(Text(str(value)) for value in values))
            head = ["" for _ in head]  # say the name once
    return table


def column_blocks(
    emotions: Sequence[str], room: int, cell: int
) -> list[dict[str, str]]:
    """Headers for the emotions, in as few tables as fit `room` characters.

    Args:
      emotions: the names.
      room: the width that is left for their columns and the gaps before them.
      cell: the least width of a column.

    Returns:
      For each table, emotion → header; the headers are cut ("surpr.") where that
      makes one table of all, and stay apart from each other.
    """

    def width(headers: Mapping[str, str]) -> int:
        return sum(max(len(header), cell) + _GAP for header in headers.values())

    for longest in range(max(map(len, emotions)), 3, -1):
        headers = {name: _cut(name, longest) for name in emotions}
        if width(headers) <= room and len(set(headers.values())) == len(headers):
            return [headers]
    blocks: list[dict[str, str]] = [{}]
    for name in emotions:
        if blocks[-1] and width(blocks[-1] | {name: name}) > room:
            blocks.append({})
        blocks[-1][name] = name
    return blocks


def _all_values(
    configs: Mapping[str, Mapping[str, Any]],
    groups: Mapping[str, Sequence[Run]],
    marks: Mapping[str, str],
    limit: int,
) -> Table:
    table = _table(["key", "value", "experiments"], [])
    for key in differing_keys(configs.values()):
        holders: dict[str, list[str]] = {}
        for name, config in configs.items():
            mark = _marks_of(groups[name], marks)
            told = f"{name} ({mark})" if mark else name
            holders.setdefault(str(config.get(key, ABSENT)), []).append(told)
        head = _fold(key, limit)
        for value, names in holders.items():
            table.add_row(head, Text(value), Text(", ".join(names)))
            head = Text()
    return table


def _emotions(experiment: Experiment) -> list[str]:
    return experiment.runs[0].data["class_names"]


def _colored_verdict(row: pd.Series) -> Text:
    told = verdict(row)
    return Text(told, style={"better": "green", "worse": "red"}.get(told, ""))


def _margin(leader: Leader) -> list[str]:
    if leader.margin is None:
        return [ABSENT, ABSENT]
    told = with_interval(leader.margin, signed=True)
    return [told, _p_or_not_significant(leader.margin)]


def _p_or_not_significant(row: pd.Series) -> str:
    if pd.isna(row["p_holm"]):
        return ABSENT
    return p_value(row["p_holm"]) if row["real"] else NOT_SIGNIFICANT


def _taken_for(experiment: Experiment, emotion: str, most: int) -> str:
    """The classes that an emotion's images are most often taken for, in percent."""
    emotions = _emotions(experiment)
    c = emotions.index(emotion)
    counts = experiment.confusion[c].astype(float)
    if not counts.sum():
        return ABSENT
    rates = counts / counts.sum()
    rates[c] = 0
    order = np.argsort(-rates, kind="stable")[:most]
    return "\n".join(f"{emotions[k]} {percent(rates[k])}" for k in order if rates[k])


def _best(summary: Summary, columns: Sequence[str]) -> set[tuple[int, str]]:
    """The cells, as (row, column), that are the best of their column and data set."""
    best = set()
    by_data: dict[str, list[int]] = {}
    for e, each in enumerate(summary.experiments):
        by_data.setdefault(each.fingerprint, []).append(e)
    for rivals in by_data.values():
        for column in columns:
            values = np.array([summary.experiments[e].mean(column) for e in rivals])
            if len(set(values[~np.isnan(values)])) > 1:  # none is best among equals
                top = np.nanmax(values)
                best |= {
                    (e, column)
                    for e, value in zip(rivals, values, strict=True)
                    if value == top
                }
    return best


def _score(experiment: Experiment, column: str, *, best: bool, star: bool) -> Text:
    value = experiment.mean(column)
    mark = ("*" if best else " ") if star else ""
    real = " "
    if experiment.versus is not None and column in experiment.versus.index:
        row = experiment.versus.loc[column]
        real = ("+" if row["value"] > 0 else "-") if row["real"] else " "
    told = percent(value)
    return Text(f"{told}{mark}{real}", style="bold green" if best else "")


def _table(
    text: Sequence[str],
    numbers: Sequence[str],
    marks: Mapping[str, str] | None = None,
    last: Sequence[str] = (),
) -> Table:
    """Text columns fold where the width is short; numbers never do."""
    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, _GAP - 1, 0, 0),
        header_style="",
    )
    for n, header in enumerate(text):
        table.add_column(Text(header), overflow="fold", vertical="top")
        if n == 0 and marks:
            table.add_column("data", no_wrap=True)
    for header in numbers:
        table.add_column(Text(header), justify="right", no_wrap=True)
    for header in last:
        table.add_column(Text(header), overflow="fold")
    return table


def _row_head(
    name: str, fingerprint: str, marks: Mapping[str, str], limit: int
) -> list[Text]:
    """The first cells of a row: the name and, of several data sets, the letter."""
    return [_fold(name, limit)] + ([Text(marks[fingerprint])] if marks else [])


def _name_head(
    group: Sequence[Run], marks: Mapping[str, str], limit: int
) -> list[Text]:
    head = [_fold(group[0].name, limit)]
    return head + [Text(_marks_of(group, marks))] if marks else head


def _marks_of(group: Sequence[Run], marks: Mapping[str, str]) -> str:
    return ",".join(sorted({marks[run.fingerprint] for run in group if marks}))


def _cut(name: str, longest: int) -> str:
    return name if len(name) <= longest else name[: longest - 1] + "."


def _limit(width: int, narrow: int) -> int:
    """How long a name may be where the console is `width` wide."""
    return narrow if width < _WIDE else max(narrow, width // 3)


def _fold(name: str, limit: int) -> Text:
    """Breaks a name that is longer than `limit` where its words end, and indents.

    rich would break in the middle of a word, and the rest would look like a row.
    """
    lines, rest = [], name
    while len(rest) > limit:
        end = 1 + max(rest.rfind(mark, 3, limit) for mark in "_.-")
        end = end or limit
        lines.append(rest[:end])
        rest = "  " + rest[end:]
    return Text("\n".join([*lines, rest]))
