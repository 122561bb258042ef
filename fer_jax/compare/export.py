"""A comparison as the content of a file: json, parquet, md, tex or html."""

import html
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fer_jax.compare import tables
from fer_jax.compare.layout import Sheet
from fer_jax.compare.results import FinishedRun
from fer_jax.compare.summary import Summary
from fer_jax.metrics import CLASS_METRICS, METRICS

if TYPE_CHECKING:
    import pandas as pd


def to_parquet(runs: "pd.DataFrame") -> bytes:
    """A table of runs; a setting of several types becomes text."""
    mixed = [
        name
        for name in runs
        if runs[name].dtype == object and not _is_of_one(runs[name])
    ]
    text = {str(name): runs[name].map(str, na_action="ignore") for name in mixed}
    return runs.assign(**text).to_parquet(index=False)


def _is_of_one(column: "pd.Series[Any]") -> bool:
    kinds = {type(value) for value in column.dropna()}
    return len(kinds) < 2 and not kinds & {list, dict, tuple}


def to_json(content: Mapping[str, Any]) -> str:
    """The whole analysis, as `content.build` describes it."""
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def sheets(summary: Summary) -> list[Sheet]:
    """The tables for a paper: overall, differences, costs, and by emotion."""
    made = [tables.overall(summary)]
    if summary.has_tests:
        made.append(tables.differences(summary))
    by_emotion = (tables.by_emotion(summary, m, intervals=True) for m in CLASS_METRICS)
    return [*made, tables.costs(summary), *by_emotion]


def to_markdown(sheets: Sequence[Sheet], notes: Sequence[str]) -> str:
    """The sheets as pipe tables, and notes below them."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    blocks = []
    for sheet in sheets:
        headers, *rows = _texts(sheet)
        rule = ["---:" if letter == "r" else "---" for letter in sheet.align]
        lines = [line(row) for row in (headers, rule, *rows)]
        blocks.append("\n".join([f"**{sheet.caption}**", "", *lines]))
    blocks.append("\n".join(f"- {note}" for note in notes))
    return "\n\n".join(blocks) + "\n"


def to_latex(sheets: Sequence[Sheet], notes: Sequence[str]) -> str:
    """The sheets as tables in the style of booktabs, and notes below them."""
    blocks = ["% needs \\usepackage{booktabs}"]
    for sheet in sheets:
        headers, *rows = (" & ".join(map(_tex, row)) + r" \\" for row in _texts(sheet))
        lines = [r"\begin{table}", r"\centering\small"]
        lines += [rf"\caption{{{_tex(sheet.caption)}}}"]
        lines += [rf"\begin{{tabular}}{{{sheet.align}}}", r"\toprule", headers]
        lines += [r"\midrule", *rows, r"\bottomrule", r"\end{tabular}", r"\end{table}"]
        blocks.append("\n".join(lines))
    return "\n\n".join([*blocks, *map(_tex, notes)]) + "\n"


def to_html(sheets: Sequence[Sheet], notes: Sequence[str]) -> str:
    """The sheets as a plain page, to paste from; `--report` is the one to look at."""

    def row(cells: Sequence[str], scope: str, tag: str) -> str:
        first, *rest = (html.escape(cell) for cell in cells)
        others = "".join(f"<{tag}>{cell}</{tag[:2]}>" for cell in rest)
        return f'<tr><th scope="{scope}">{first}</th>{others}</tr>'

    blocks = []
    for sheet in sheets:
        headers, *rows = _texts(sheet)
        head = row(headers, "col", 'th scope="col"')
        body = "\n".join(row(cells, "row", "td") for cells in rows)
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
SUFFIXES = (".csv", ".parquet", ".json", *SHEETS)


def _texts(sheet: Sheet) -> list[list[str]]:
    """The headers and the rows, in one line each."""
    rows = [sheet.headers, *sheet.rows]
    return [[str(cell).replace("\n", " ").strip() for cell in row] for row in rows]


def run_row(run: FinishedRun, split: str) -> dict[str, Any]:
    """A run as a row of a table; `frames.runs` has the columns."""
    scores = run.scores[split]
    head = {
        "name": run.name,
        "seed": run.seed,
        "data_fingerprint": run.fingerprint,
        "data_source": run.data["source"],
        "data_description": run.data["description"],
        "split": split,
    }
    tail = {key: scores[key] for key in ("n", "loss", *METRICS)}
    for emotion in run.class_names:
        for metric in (*CLASS_METRICS, "support"):
            tail[f"{metric}_{emotion}"] = scores["per_class"][emotion][metric]
    for key in ("split", "metric", "epoch", "value"):
        tail[f"selection_{key}"] = run.selection[key]
    tail |= {"epochs_run": run.epochs_run, "stopped_early": run.stopped_early}
    tail |= {"parameters": run.parameters, "device": run.device}
    tail |= {key: run.timing[key] for key in ("wall_s", "train_s", "images_per_s")}
    words = ("name", "description", "asks.metrics", "asks.emotions")
    settings = {
        # A key of the config may be the name of a column of ours.
        f"config.{key}" if key in head | tail else key: value
        for key, value in run.config.items()
        if key not in words
    }
    return head | settings | tail


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
