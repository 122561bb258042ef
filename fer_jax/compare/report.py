"""Writes a comparison as one HTML page that needs no other file and no network.

The page's own files are in `page/`. They draw the content, which is plain JSON, in the
browser, and treat all of its text as text. plotly.js comes from the installed package
and is embedded compressed, last, so that answers and tables appear before the charts.
"""

import base64
import functools
import gzip
import hashlib
import html
import json
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs

from fer_jax.system.files import write_whole

_SCRIPTS = ("basics", "colours", "tables", "texts", "charts", "report")


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
        "plain": _answers(content),
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
    packed = gzip.compress(get_plotlyjs().encode(), compresslevel=6, mtime=0)
    return base64.b64encode(packed).decode()


def _as_data(content: Mapping[str, Any]) -> str:
    """JSON that cannot end its script element: all but plain ASCII is escaped."""
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _answers(content: Mapping[str, Any]) -> str:
    """The answers, for a reader without scripts."""
    answers = "".join(
        f"<dt>{_escape(one['question'])}</dt>"
        f"<dd><strong>{_escape(one['verdict'])}</strong>: {_escape(one['answer'])}</dd>"
        for one in content["splits"][content["split"]]["findings"]
    )
    return (
        "<p>The charts and tables need JavaScript.</p>"
        f'<h2>Answers</h2><dl class="answers">{answers}</dl>'
    )


def _escape(text: str) -> str:
    # A folder's name may hold what no encoding can write.
    return html.escape(text.encode("utf-8", "replace").decode())
