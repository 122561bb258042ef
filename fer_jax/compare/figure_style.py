"""The looks of the figures: colours, marks, sizes, and a light and a dark template.

The colours are those of Okabe and Ito (2008), some of them darker or lighter, so that
each can be told from a white and from a black ground (contrast of 3 : 1, WCAG 1.4.11)
and from the others by people who are colour-blind. Marks and dashes differ as well.
"""

import html
import itertools
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

BETTER, WORSE, NEUTRAL = "#1f7ec2", "#d55e00", "#7f868d"
COLOURS = ("#1f7ec2", "#d55e00", "#009e73", "#c264a0", "#7f868d")
_SYMBOLS = ("circle", "diamond", "square", "triangle-up")
_DASHES = ("solid", "dash", "dot", "dashdot")
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', sans-serif"
_LABEL = 16  # characters in a line of a label
_TITLE = 50  # characters of a title
SCALE = [[0, "#f1f6fa"], [0.5, "#6aa9d6"], [1, "#0b4a7d"]]


class Look(NamedTuple):
    """How the marks of an experiment look."""

    colour: str
    symbol: str
    dash: str


def looks(names: Iterable[str]) -> dict[str, Look]:
    """A look for each of 20 experiments; then they repeat."""
    made = zip(*map(itertools.cycle, (COLOURS, _SYMBOLS, _DASHES)), strict=True)
    unique = dict.fromkeys(names)
    return {name: Look(*look) for name, look in zip(unique, made, strict=False)}


def safe(text: object) -> str:
    """Text in which plotly finds neither a tag nor an entity."""
    return html.escape(str(text), quote=False)


def label(name: str) -> str:
    """A name in lines of at most 16 characters where it has joints, for an axis."""
    lines, line = [], ""
    for part in re.findall(r"[^_/. -]*[_/. -]?", name):
        if line and len(line) + len(part) > _LABEL:
            lines.append(line)
            line = ""
        line += part
    whole = [piece for each in [*lines, line] for piece in _pieces(each)]
    return "<br>".join(safe(each) for each in whole[:3])


def _pieces(text: str) -> list[str]:
    width = 2 * _LABEL
    return [text[k : k + width] for k in range(0, len(text), width)]


def title(text: str) -> dict[str, object]:
    """The title of a figure, as much of it as a phone shows in a line."""
    cut = text if len(text) <= _TITLE else text[: _TITLE - 1].rstrip() + "…"
    return {"text": safe(cut)}


def template(*, dark: bool) -> dict[str, Any]:
    """The template of all figures, on white or on a dark ground."""
    ink, ground, grid = ("#e8eaed", "#14171a", "#363c43")
    if not dark:
        ink, ground, grid = ("#1a1d21", "#ffffff", "#dfe3e7")
    axis = {
        "gridcolor": grid,
        "linecolor": NEUTRAL,
        "zeroline": False,
        "automargin": True,
        "title": {"standoff": 10, "font": {"size": 13}},
    }
    return {
        "layout": {
            "font": {"family": _FONT, "size": 13, "color": ink},
            "title": {
                "font": {"size": 14},
                "x": 0,
                "xref": "container",
                "xanchor": "left",
                "y": 1,
                "yref": "container",
                "yanchor": "top",
                "pad": {"l": 8, "t": 8},
            },
            "paper_bgcolor": ground,
            "plot_bgcolor": ground,
            "colorway": COLOURS,
            "xaxis": axis,
            "yaxis": axis,
            "margin": {"l": 8, "r": 16, "t": 44, "b": 8},
            "hovermode": "closest",
            "dragmode": False,
            "legend": {"orientation": "h", "yref": "container", "y": 0, "x": 0},
        }
    }
