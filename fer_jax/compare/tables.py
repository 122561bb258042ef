"""Turns runs into the tables that a terminal shows: means over seeds, side by side."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    as_frame,
    differing_keys,
)

BASELINE = "baseline"
SORTS = ("macro_f1", "accuracy", "balanced_accuracy", "name", "time")
_GAP = 2  # columns of the terminal between two columns of a table
_CELL = 5  # "100.0"
# Below this width of the console long names are folded, after a "_" or a ".".
_WIDE = 100


@dataclass(frozen=True)
class Summary:
    """One split of all experiments, averaged over seeds; rows in the tables' order.

    Attributes:
      mean: indexed by (name, fingerprint), so that data sets are never averaged
        together; the scores in percent, the epochs, `minutes` of training.
      sd: the sample standard deviations (ddof=1) of the same; NaN for one seed.
      seeds: the number of runs in each row.
      emotions: the classes, in the order of the labels.
      marks: a letter for each fingerprint; empty where all runs share one.
    """

    mean: pd.DataFrame
    sd: pd.DataFrame
    seeds: pd.Series
    emotions: list[str]
    marks: dict[str, str]


def summarise(runs: Sequence[Run], split: str, sort: str) -> Summary:
    """Averages over seeds the runs that have `split`, and sorts by `sort`.

    The scores of an emotion without images in the split are left out (NaN): an F1
    of zero there would be no finding.
    """
    frame = as_frame(runs, split)
    scored = [run for run in runs if split in run.scores]
    emotions = list(
        dict.fromkeys(name for run in scored for name in run.data["class_names"])
    )
    numbers = frame[[*METRICS]] * 100
    for emotion in emotions:
        occurs = frame[f"support_{emotion}"] > 0
        for metric in CLASS_METRICS:
            column = f"{metric}_{emotion}"
            numbers[column] = 100 * frame[column].where(occurs)
    numbers[["best", "run"]] = frame[["selection_epoch", "epochs_run"]]
    numbers["minutes"] = frame["train_s"] / 60
    groups = numbers.groupby([frame["name"], frame["data_fingerprint"]])
    mean = groups.mean()
    if sort != "name":  # the groups come by name
        key = "minutes" if sort == "time" else sort
        mean = mean.sort_values(key, ascending=sort == "time", kind="stable")
    # Data sets stand below each other: a rank across them would mean nothing.
    order = {run.fingerprint: n for n, run in reversed(list(enumerate(runs)))}
    mean = mean.sort_index(
        level="data_fingerprint",
        key=lambda index: index.map(order),
        sort_remaining=False,
        kind="stable",
    )
    return Summary(
        mean=mean,
        sd=groups.std(ddof=1).reindex(mean.index),
        seeds=groups.size().reindex(mean.index),
        emotions=emotions,
        marks=data_marks(runs),
    )


def data_marks(runs: Sequence[Run]) -> dict[str, str]:
    """A letter for each fingerprint, or nothing where all runs share one."""
    prints = list(dict.fromkeys(run.fingerprint for run in runs))
    if len(prints) == 1:
        return {}
    return {fingerprint: _letter(n) for n, fingerprint in enumerate(prints)}


def overall(summary: Summary, width: int, failures: Collection[Path] = ()) -> Table:
    """One row an experiment: seeds, the metrics in percent, epochs, minutes.

    Below them one for each experiment that has failed runs, by their folders.
    """
    table = _table(
        ["experiment"],
        ["n", "accuracy", "macro F1", "balanced\naccuracy"]
        + ["best of\nepochs", "train\nmin"],
        marks=summary.marks,
    )
    for key in summary.mean.index:
        mean, sd = summary.mean.loc[key], summary.sd.loc[key]
        table.add_row(
            *_row_head(key, summary.marks, _limit(width, 19 if summary.marks else 25)),
            str(summary.seeds[key]),
            *(_plus_minus(mean[metric], sd[metric]) for metric in METRICS),
            f"{mean['best']:.0f}/{mean['run']:.0f}",
            f"{mean['minutes']:.1f}",
        )
    for name, count in Counter(path.parent.name for path in failures).items():
        head = [_fold(name, _limit(width, 19 if summary.marks else 25))]
        head += [Text(ABSENT)] if summary.marks else []
        table.add_row(*head, str(count), Text("failed", style="red"))
    return table


def per_emotion(summary: Summary, metric: str, console: Console) -> list[Table]:
    """Means of `metric`, a column an emotion; the best of each column stands out.

    It is bold on a terminal and starred elsewhere; with several data sets there is
    one best for each. Emotions that do not fit the console's width get shorter
    headers, or where that is not enough, further tables.
    """
    star = not console.is_terminal
    names = summary.mean.index.get_level_values("name")
    limit = _limit(console.width, 24)
    room = console.width - min(max(map(len, names)), limit)
    room -= len("data") + _GAP if summary.marks else 0
    values = summary.mean[[f"{metric}_{emotion}" for emotion in summary.emotions]]
    groups = values.groupby(level="data_fingerprint")
    rivals = groups.transform("size") > 1  # none is the best of one
    best = values.eq(groups.transform("max")).mul(rivals, axis=0)
    tables = []
    for headers in column_blocks(summary.emotions, room, _CELL + star):
        table = _table(["experiment"], headers.values(), marks=summary.marks)
        for key in values.index:
            cells = (
                _score(
                    values.at[key, f"{metric}_{emotion}"],
                    best=best.at[key, f"{metric}_{emotion}"],
                    star=star,
                )
                for emotion in headers
            )
            table.add_row(*_row_head(key, summary.marks, limit), *cells)
        tables.append(table)
    return tables


def best_by_emotion(summary: Summary, width: int) -> tuple[Table, bool]:
    """The experiment with the highest F1 for each emotion, and how far it leads.

    Returns:
      The table, and whether a margin in it is marked `~`: no larger than the sd
      over the seeds of the best experiment or of the runner-up.
    """
    table = _table(
        ["emotion", "best"],
        ["F1", "prec.", "recall", "margin"],
        marks=summary.marks,
        last=["runner-up"],
    )
    limit = _limit(width, 16 if summary.marks else 19)
    any_close = False
    for fingerprint, group in summary.mean.groupby(
        level="data_fingerprint", sort=False
    ):
        for emotion in summary.emotions:
            ranked = group[f"f1_{emotion}"].dropna()
            ranked = ranked.sort_values(ascending=False, kind="stable")
            if ranked.empty:
                continue
            cells, close = _leader(summary, emotion, ranked, limit)
            any_close |= close
            head = _row_head((emotion, fingerprint), summary.marks, limit)
            table.add_row(*head, *cells)
    return table, any_close


def descriptions(runs: Sequence[Run], names: Sequence[str], width: int) -> Table:
    """The question that each experiment asks."""
    marks = data_marks(runs)
    table = _table(["experiment", "question"], [], marks=marks)
    for name in names:
        group = [run for run in runs if run.name == name]
        head = _name_head(group, marks, _limit(width, 24))
        table.add_row(*head, Text(group[0].description))
    return table


def changes(runs: Sequence[Run], names: Sequence[str], width: int) -> Table:
    """What each config changes relative to the experiment named `baseline`.

    Without such an experiment: each key in which the experiments differ, with all
    of its values and who has them.
    """
    groups = {name: [run for run in runs if run.name == name] for name in names}
    configs = {name: group[0].settings() for name, group in groups.items()}
    marks = data_marks(runs)
    if BASELINE not in configs:
        return _all_values(configs, groups, marks, _limit(width, 28))
    table = _table(["experiment", "key", "baseline", "value"], [], marks=marks)
    base = configs[BASELINE]
    for name in names:
        if name == BASELINE:
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


def _leader(
    summary: Summary, emotion: str, ranked: pd.Series, limit: int
) -> tuple[list[str | Text], bool]:
    best = ranked.index[0]
    mean = summary.mean.loc[best]
    margin, runner_up, close = ABSENT, ABSENT, False
    if len(ranked) > 1:
        second = ranked.index[1]
        lead = ranked.iloc[0] - ranked.iloc[1]
        # A comparison with the NaN of a single seed is False.
        deviations = (summary.sd.at[key, f"f1_{emotion}"] for key in (best, second))
        close = any(lead <= deviation for deviation in deviations)
        margin, runner_up = f"{lead:.1f}{'~' if close else ' '}", second[0]
    cells = [
        _fold(best[0], limit),
        *(f"{mean[f'{metric}_{emotion}']:.1f}" for metric in CLASS_METRICS),
        margin,
        _fold(runner_up, limit),
    ]
    return cells, close


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


def _row_head(key: tuple[str, str], marks: Mapping[str, str], limit: int) -> list[Text]:
    """The first cells of a row: the name and, of several data sets, the letter."""
    name, fingerprint = key
    return [_fold(name, limit)] + ([Text(marks[fingerprint])] if marks else [])


def _name_head(
    group: Sequence[Run], marks: Mapping[str, str], limit: int
) -> list[Text]:
    head = [_fold(group[0].name, limit)]
    return head + [Text(_marks_of(group, marks))] if marks else head


def _marks_of(group: Sequence[Run], marks: Mapping[str, str]) -> str:
    return ",".join(sorted({marks[run.fingerprint] for run in group if marks}))


def _plus_minus(mean: float, sd: float) -> str:
    return f"{mean:.1f}" if pd.isna(sd) else f"{mean:.1f} ± {sd:.1f}"


def _score(value: float, *, best: bool, star: bool) -> Text:
    mark = ("*" if best else " ") if star else ""
    if pd.isna(value):
        return Text(ABSENT + mark)
    return Text(f"{value:.1f}{mark}", style="bold green" if best else "")


def _cut(name: str, longest: int) -> str:
    return name if len(name) <= longest else name[: longest - 1] + "."


def _limit(width: int, narrow: int) -> int:
    """How long a name may be where the console is `width` wide."""
    return narrow if width < _WIDE else width


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


def _letter(n: int) -> str:
    return chr(ord("A") + n) if n < 26 else f"Z{n}"
