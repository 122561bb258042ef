"""Writes a comparison to a file, whose suffix says how: csv, json, md, tex or html."""

import html
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from fer_jax.compare import tables
from fer_jax.compare.results import CLASS_METRICS, METRICS, Run, as_frame
from fer_jax.compare.summary import Experiment, Summary


class Sheet(NamedTuple):
    """A table of texts: its caption, its headers, and its rows."""

    caption: str
    headers: list[str]
    rows: list[list[str]]


def per_run_csv(runs: Sequence[Run], split: str) -> str:
    """One row for each run that has `split`, with every setting and score."""
    return as_frame(runs, split).to_csv(index=False)


def to_json(content: Mapping[str, Any]) -> str:
    """The whole analysis, as `content.build` describes it."""
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def to_markdown(sheets: Sequence[Sheet], notes: Sequence[str]) -> str:
    """The sheets as pipe tables, and notes below them."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    blocks = []
    for sheet in sheets:
        rule = ["---"] + ["---:"] * (len(sheet.headers) - 1)
        lines = [line(row) for row in (sheet.headers, rule, *sheet.rows)]
        blocks.append("\n".join([f"**{sheet.caption}**", "", *lines]))
    blocks.append("\n".join(f"- {note}" for note in notes))
    return "\n\n".join(blocks) + "\n"


def to_latex(sheets: Sequence[Sheet], notes: Sequence[str]) -> str:
    """The sheets as tables in the style of booktabs, and notes below them."""
    blocks = ["% needs \\usepackage{booktabs}"]
    for sheet in sheets:
        body = [" & ".join(map(_tex, row)) + r" \\" for row in sheet.rows]
        blocks.append(
            "\n".join(
                [
                    r"\begin{table}",
                    r"\centering\small",
                    rf"\caption{{{_tex(sheet.caption)}}}",
                    rf"\begin{{tabular}}{{l{'r' * (len(sheet.headers) - 1)}}}",
                    r"\toprule",
                    " & ".join(map(_tex, sheet.headers)) + r" \\",
                    r"\midrule",
                    *body,
                    r"\bottomrule",
                    r"\end{tabular}",
                    r"\end{table}",
                ]
            )
        )
    return "\n\n".join([*blocks, *map(_tex, notes)]) + "\n"


def to_html(sheets: Sequence[Sheet], notes: Sequence[str]) -> str:
    """The sheets as a plain page, to paste from; `--report` is the one to look at."""

    def row(cells: Sequence[str], first: str, tag: str) -> str:
        head, *rest = map(html.escape, cells)
        others = "".join(f"<{tag}>{cell}</{tag}>" for cell in rest)
        return f'<tr><th scope="{first}">{head}</th>{others}</tr>'

    blocks = []
    for sheet in sheets:
        body = "\n".join(row(cells, "row", "td") for cells in sheet.rows)
        head = row(sheet.headers, "col", "th").replace("<th>", '<th scope="col">')
        blocks.append(
            f"<table>\n<caption>{html.escape(sheet.caption)}</caption>\n"
            f"<thead>{head}</thead>\n<tbody>\n{body}\n</tbody>\n</table>"
        )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        "<title>fer_jax: comparison</title></head>\n<body>\n"
        + "\n".join([*blocks, *(f"<p>{html.escape(note)}</p>" for note in notes)])
        + "\n</body></html>\n"
    )


# What is written as tables, and by what.
SHEETS: dict[str, Callable[[Sequence[Sheet], Sequence[str]], str]] = {
    ".md": to_markdown,
    ".tex": to_latex,
    ".html": to_html,
}
SUFFIXES = (".csv", ".json", *SHEETS)


def sheets(summary: Summary) -> list[Sheet]:
    """Overall, differences from the baseline, and each emotion, with intervals."""
    made = [_overall(summary)]
    if any(each.versus is not None for each in summary.experiments):
        made.append(_differences(summary))
    return made + [_by_emotion(summary, metric) for metric in CLASS_METRICS]


def _overall(summary: Summary) -> Sheet:
    words = [tables.METRIC_WORDS[metric] for metric in METRICS]
    return Sheet(
        f"{summary.split}: mean over n seeds, in %, with 95 % intervals",
        ["experiment", "n", *words, "sd of macro F1", "best epoch", "min", "ECE"],
        [
            [
                summary.label(each),
                str(len(each.runs)),
                *(tables.with_interval(each.scores.loc[metric]) for metric in METRICS),
                tables.percent(each.scores.at["macro_f1", "sd"]),
                f"{each.best_epoch():.1f}",
                f"{each.minutes():.1f}",
                tables.percent(each.mean_ece()),
            ]
            for each in summary.experiments
        ],
    )


def _differences(summary: Summary) -> Sheet:
    def row(each: Experiment) -> list[str]:
        tested = each.versus.loc["macro_f1"]
        return [
            summary.label(each),
            tables.with_interval(tested, signed=True),
            tables.p_value(tested["p"]),
            tables.p_value(tested["p_holm"]),
            tables.percent(tested["detectable"]),
            tables.verdict(tested),
        ]

    return Sheet(
        f"{summary.split}: macro F1 against {summary.baseline}, in points",
        ["experiment", "difference", "p", "p (Holm)", "detectable", "verdict"],
        [row(each) for each in summary.experiments if each.versus is not None],
    )


def _by_emotion(summary: Summary, metric: str) -> Sheet:
    def cell(each: Experiment, emotion: str) -> str:
        column = f"{metric}_{emotion}"
        if column not in each.scores.index:
            return tables.ABSENT
        return tables.with_interval(each.scores.loc[column])

    return Sheet(
        f"{summary.split}: {tables.METRIC_WORDS[metric]} by emotion, in %, "
        "with 95 % intervals",
        ["experiment", *summary.emotions],
        [
            [summary.label(each), *(cell(each, name) for name in summary.emotions)]
            for each in summary.experiments
        ],
    )


_TEX = {char: rf"\{char}" for char in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


def _tex(text: str) -> str:
    escaped = "".join(_TEX.get(char, char) for char in text)
    return re.sub(r"(?<![\w\]])-(?=\d)", "$-$", escaped)  # a minus, no hyphen
