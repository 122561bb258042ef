"""Writes a comparison as one HTML page that needs nothing else, nor any network.

`content` is plain JSON: what was compared, scores, intervals, differences, curves. The
page's own files are in `page/`; they draw the content in the browser and take every
text of it for text, whatever it holds. plotly.js comes from the installed package and
goes in compressed, last, so that answers and tables are there before the charts.
"""

import base64
import functools
import gzip
import hashlib
import html
import json
import math
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs

from fer_jax.system.files import write_whole

_SCRIPTS = ("basics", "colours", "tables", "texts", "charts", "report")
# The function that plotly.js is handed in as; its comment and its content are kept.
_WRAPPER = re.compile(
    r"(/\*\*.{,300}?\*/\n)\(\n function\(root, factory\).{,300}?, \(\) => \{\n"
    r"(.*)\nreturn Plotly;\n\}\)\);?\s*",
    re.DOTALL,
)
_DIGITS = 6  # of every number; the page shows four at most
_PLAIN_METRICS = {
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "balanced_accuracy": "balanced accuracy",
}


def write_report(path: Path, content: Mapping[str, Any]) -> None:
    """Writes the page of `content`; it appears whole or not at all.

    Raises:
      UserError: the file cannot be written.
    """
    write_whole(path, render(content))


def render(content: Mapping[str, Any]) -> str:
    """The page of `content` as HTML."""
    script = f"(() => {{\n'use strict';\n{_scripts()}}})();"
    parts = {
        "policy": _policy(script),
        "title": _escape(content["title"]),
        "style": _read("style.css"),
        "plain": _plain(content),
        "content": _as_data(content),
        "script": script,
        "plotly": _packed_plotly(),
    }
    # One pass: a name that looks like a place to fill is left as it is.
    return re.sub(r"@@(\w+)@@", lambda match: parts[match[1]], _read("template.html"))


def _read(name: str) -> str:
    return resources.files("fer_jax.compare").joinpath("page", name).read_text("utf-8")


def _scripts() -> str:
    return "".join(_read(f"{name}.js") for name in _SCRIPTS)


def _policy(script: str) -> str:
    """Only the page's own two scripts run, and nothing is loaded from anywhere."""
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {_hash(script)} {_hash(_plotly())}",
            "style-src 'unsafe-inline'",  # plotly.js writes its rules into the page
            "img-src data: blob:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def _hash(script: str) -> str:
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _plotly() -> str:
    """plotly.js without its wrapper, where that has the known form.

    A browser parses a function's body once to skip it and again to run it; for 4.8 MB
    that is a third of a second.
    """
    text = get_plotlyjs()
    match = _WRAPPER.fullmatch(text)
    return match[1] + match[2] if match else text


@functools.cache
def _packed_plotly() -> str:
    packed = gzip.compress(_plotly().encode(), compresslevel=6, mtime=0)
    return base64.b64encode(packed).decode()


def _as_data(content: Mapping[str, Any]) -> str:
    """JSON that cannot end its script element: all but plain ASCII is escaped."""
    text = json.dumps(_rounded(content), allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
    return value


def _plain(content: Mapping[str, Any]) -> str:
    """The answers and the overall table for a reader without scripts."""
    split = content["splits"][content["split"]]
    answers = "".join(
        f"<dt>{_escape(one['question'])}</dt>"
        f"<dd><strong>{_escape(one['verdict'])}</strong>: {_escape(one['answer'])}</dd>"
        for one in split["findings"]
    )
    head = "".join(f'<th scope="col">{name}</th>' for name in _PLAIN_METRICS.values())
    rows = "".join(
        f'<tr><th scope="row">{_escape(name)}</th>'
        + "".join(f"<td>{_plain_score(scores.get(key))}</td>" for key in _PLAIN_METRICS)
        + "</tr>"
        for name, scores in split["scores"].items()
    )
    return (
        "<p>The charts and the other tables need JavaScript.</p>"
        f'<h2>Answers</h2><dl class="answers">{answers}</dl>'
        '<h2>All experiments</h2><div class="scroll"><table>'
        f"<caption>Scores on {_escape(content['split'])}, in %</caption>"
        f'<thead><tr><th scope="col">Experiment</th>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _plain_score(score: Mapping[str, Any] | None) -> str:
    if score is None or score["value"] is None:
        return "–"
    if score["low"] is None or score["high"] is None:
        return f"{100 * score['value']:.1f}"
    low, high = 100 * score["low"], 100 * score["high"]
    return f"{100 * score['value']:.1f} <small>[{low:.1f}, {high:.1f}]</small>"


def _escape(text: str) -> str:
    # A folder's name may hold what no encoding can write.
    return html.escape(text.encode("utf-8", "replace").decode())
