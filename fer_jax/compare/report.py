"""Writes a comparison as one HTML page that needs no other file and no network.

The page's own files are in `page/`: a Jinja2 template, a style sheet and a script that
sorts, chooses and draws. The tables are those of the terminal, the figures those of
`figures`. plotly.js comes from the installed package and is embedded compressed, last,
so that answers and tables appear before the figures.
"""

import base64
import functools
import gzip
import hashlib
import json
import time
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from plotly.offline import get_plotlyjs
from rich.text import Text

from fer_jax import __version__
from fer_jax.compare import changes, figure_style, figures, tables
from fer_jax.compare.comparison import Comparison
from fer_jax.compare.content import data_facts, left_over, notes, plain
from fer_jax.compare.figures import CURVES, OVERALL, Drawing
from fer_jax.compare.findings import seeds_note
from fer_jax.compare.layout import Cell, Sheet
from fer_jax.compare.wording import TERMS, count, words
from fer_jax.metrics import CLASS_METRICS
from fer_jax.system.files import write_whole

_SIGNS = {"better": "▲", "worse": "▼", "n.s.": "◇", "mixed": "◆"}
_Variants = dict[str, dict[str, Drawing]]  # by name, and by what a select offers


def write_report(
    path: Path, splits: Mapping[str, Comparison], *, split: str, command: str
) -> None:
    """Writes the page; it appears whole or not at all.

    Args:
      path: of the file.
      splits: the comparison on each split.
      split: the one that is shown first.
      command: what was typed.

    Raises:
      UserError: the file cannot be written.
    """
    write_whole(path, render(splits, split=split, command=command))


def render(splits: Mapping[str, Comparison], *, split: str, command: str) -> str:
    """The page as HTML; see `write_report`."""
    script = f"(() => {{\n'use strict';\n{_read('report.js')}}})();"
    drawn = {name: _figures(each) for name, each in splits.items()}
    drawn["any"] = _curves(max(splits.values(), key=lambda each: len(each.history)))
    content = {
        "split": split,
        "templates": {
            "light": figure_style.template(dark=False),
            "dark": figure_style.template(dark=True),
        },
    }
    values = {
        "policy": _policy(script),
        "style": Markup(_read("style.css")),
        "script": Markup(script),
        "plotly": _packed_plotly(),
        "figures": _packed(json.dumps(plain(drawn), allow_nan=False)),
        "content": Markup(_as_data(content)),
        "written": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "version": __version__,
        "command": command,
        "shown": split,
        "splits": [_split(each) for each in splits.values()],
        "variants": _variants(drawn),
        "signs": _SIGNS,
        "terms": TERMS,
        **_runs(splits),
    }
    values["title"] = f"fer_jax: {count(len(values['experiments']), 'experiment')}"
    values["contents"] = _contents(values, drawn)
    page = _environment().get_template("template.html").render(values)
    # A folder's name may hold what no encoding can write.
    return page.encode("utf-8", "replace").decode()


def _split(comparison: Comparison) -> dict[str, Any]:
    """What the page says of a split, besides its figures."""
    summary = comparison.summary
    runs = [run for each in summary.experiments for run in each.runs]
    return {
        "name": summary.split,
        "selected_here": any(run.selection["split"] == summary.split for run in runs),
        "has_baseline": summary.has_baseline,
        "findings": comparison.answers,
        "seeds_note": seeds_note(summary),
        "notes": notes(summary),
        "sheets": _sheets(comparison),
    }


def _sheets(comparison: Comparison) -> dict[str, list[Sheet]]:
    summary = comparison.summary
    leaked = any(images.leaked for images in summary.images.values())
    several = len(summary.experiments) > 1
    return {
        "overall": [tables.overall(summary)]
        + ([tables.clean(summary)] if leaked else []),
        "differences": [tables.differences(summary)] if summary.has_tests else [],
        "emotions": [tables.by_emotion(summary, m, star=True) for m in CLASS_METRICS]
        + ([tables.best_by_emotion(summary)] if several else []),
        "calibration": [tables.calibration(summary)],
        "settings": [changes.questions(summary, comparison.finished)]
        + ([changes.changes(summary, comparison.finished)] if several else []),
        "cost": [tables.costs(summary)],
    }


def _figures(comparison: Comparison) -> _Variants:
    """The figures of a split, each with its variants."""
    of, summary, split = comparison, comparison.summary, comparison.split
    made: _Variants = {
        "scores": {m: figures.scores(of.experiments, m, split=split) for m in OVERALL},
        "emotions": {
            metric: figures.emotions(of.emotions, metric, split=split)
            for metric in CLASS_METRICS
        },
        "confusion": {
            name: figures.confusion(of.confusion, name, split=split)
            for name in of.experiments["experiment"]
        },
        "precision_recall": {
            name: figures.precision_recall(of.emotions, name, split=split)
            for name in summary.emotions
            if summary.support(name)
        },
        "reliability": {"": figures.reliability(of.reliability, split=split)},
        "cost": {m: figures.cost(of.experiments, m, split=split) for m in OVERALL},
    }
    if summary.has_tests:
        asked: list[tuple[str, str | None]] = [(metric, None) for metric in OVERALL]
        asked += [(m, name) for name in summary.emotions for m in CLASS_METRICS]
        made["differences"] = {
            "_".join(filter(None, pair)): figures.differences(
                of.differences, *pair, split=split
            )
            for pair in asked
        }
    return made


def _curves(comparison: Comparison) -> _Variants:
    if not len(comparison.history):
        return {}
    history = comparison.history
    return {"curves": {metric: figures.curves(history, metric) for metric in CURVES}}


def _variants(drawn: Mapping[str, _Variants]) -> dict[str, dict[str, str]]:
    """What each select offers: a key and its words, over all splits."""
    found: dict[str, dict[str, str]] = {}
    for named in drawn.values():
        for name, variants in named.items():
            for key in variants:
                plain_key = name in ("confusion", "precision_recall")
                told = key if plain_key else _words(key)
                found.setdefault(name, {})[key] = told
    return found


def _words(key: str) -> str:
    """A metric, or a curve such as val_macro_f1, in words."""
    split, _, metric = key.partition("_")
    return f"{split} {words(metric)}" if key in CURVES else words(key)


def _runs(splits: Mapping[str, Comparison]) -> dict[str, Any]:
    """What the page says of all runs, whatever the split."""
    first = next(iter(splits.values()))
    labels = dict.fromkeys(
        each.summary.label(one)
        for each in splits.values()
        for one in each.summary.experiments
    )
    data = data_facts(first.summary, first.finished)
    drawn = any(each["source"] == "embedded" for each in data)
    warning = "Drawn faces, not photographs: no evidence about real data."
    return {
        "experiments": [*labels],
        **left_over(first.unfinished),
        "data_sets": data,
        "warnings": [warning] if drawn else [],
    }


def _contents(
    values: Mapping[str, Any], drawn: Mapping[str, _Variants]
) -> dict[str, str]:
    """The sections by their ids; those without content are left out."""
    there = {name for named in drawn.values() for name in named}
    found = {
        "answers": "Answers",
        "trouble": "Runs that are not in the figures",
        "overall": "All experiments",
        "differences": "Differences from the baseline",
        "emotions": "By emotion",
        "curves": "Learning curves",
        "confusions": "Which emotions are confused",
        "trade": "What recall costs in precision",
        "calibration": "Calibration",
        "settings": "What each experiment changes",
        "cost": "Time and cost",
        "method": "How it was computed",
    }
    if not values["failed"] and not values["unfinished"]:
        del found["trouble"]
    return {
        name: title
        for name, title in found.items()
        if name not in ("differences", "curves") or name in there
    }


def _environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.FunctionLoader(_read),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    made.filters |= {"line": _line, "style": _style, "owner": _owner}
    return made


def _line(cell: Cell) -> str:
    return " ".join(str(cell).split())


def _style(cell: Cell) -> str:
    """The class of a cell, by its style in the terminal."""
    style = str(cell.style) if isinstance(cell, Text) else ""
    return {"green": "better", "red": "worse", "bold green": "best"}.get(style, "")


def _owner(sheet: Sheet, row: int) -> str:
    """The experiment of a row: a row without a name continues the one above."""
    names = [str(each[0]) for each in sheet.rows[: row + 1] if str(each[0])]
    return names[-1] if names else ""


def _read(name: str) -> str:
    return resources.files("fer_jax.compare").joinpath("page", name).read_text("utf-8")


def _policy(script: str) -> str:
    """Only the page's own two scripts run, and nothing is loaded from anywhere."""
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {_hash(script)} {_hash(get_plotlyjs())}",
            "style-src 'unsafe-inline'",  # plotly.js writes its rules into the page
            "img-src data: blob:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def _hash(script: str) -> str:
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


@functools.cache
def _packed_plotly() -> str:
    return _packed(get_plotlyjs())


def _packed(text: str) -> str:
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def _as_data(content: Mapping[str, Any]) -> str:
    """JSON that cannot end its script element: all but plain ASCII is escaped."""
    text = json.dumps(content, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text
