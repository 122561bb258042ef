"""What the figures are made of: traces and axes, as dicts for plotly, and facts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fer_jax.compare import figure_style as style
from fer_jax.compare.figure_style import label, looks, safe
from fer_jax.compare.wording import count, interval, percent, points
from fer_jax.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

_ROW, _EDGES = 34, 120  # pixels of an experiment's row, and above and below the rows


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table, each by its columns."""
    return [dict(zip(table.columns, row, strict=True)) for row in table.to_numpy()]


def row_layout(names: Sequence[str]) -> dict[str, Any]:
    """Height and axis of a figure with a row for each experiment, from the top."""
    return {
        "height": _EDGES + _ROW * max(len(names), 2),
        "showlegend": False,
        "yaxis": {"type": "category", "autorange": "reversed", **ticks(names)},
    }


def ticks(names: Sequence[str]) -> dict[str, Any]:
    """The names of categories, broken into lines."""
    return {
        "tickmode": "array",
        "tickvals": [*names],
        "ticktext": [label(name) for name in names],
    }


def hover(name: str, text: str) -> str:
    """What is shown at a mark, below the experiment's name."""
    return f"<b>{safe(name)}</b><br>{text}<extra></extra>"


def interval_trace(
    row: Mapping[str, Any], colour: str, symbol: str, *, signed: bool = False
) -> dict[str, Any]:
    """A score or difference in percent with its interval: a mark in its row.

    Args:
      row: experiment, value, low and high.
      colour: of the mark.
      symbol: plotly's name of it.
      signed: whether it is a difference.
    """
    name, value = row["experiment"], row["value"]
    told = points(value) if signed else percent(value)
    low, high = (0 if math.isnan(row[e]) else 100 * row[e] for e in ("low", "high"))
    known = not math.isnan(row["low"])
    return _scatter(
        x=[100 * value],
        y=[name],
        mode="markers",
        marker={
            "size": 11,
            "color": colour,
            "symbol": symbol,
            "line": {"width": 2, "color": colour},
        },
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [high - 100 * value if known else 0],
            "arrayminus": [100 * value - low if known else 0],
            "color": colour,
            "thickness": 2,
            "width": 0,
        },
        hovertemplate=hover(
            name, f"{told} {interval(row['low'], row['high'], signed=signed)}"
        ),
        showlegend=False,
        meta=name,
    )


def detectable_trace(name: str, size: float) -> dict[str, Any]:
    """A grey bar as far as the minimum detectable effect, on both sides of zero."""
    known = 0 if math.isnan(size) else 100 * size
    return dict(
        type="bar",
        x=[2 * known],
        y=[name],
        base=[-known],
        orientation="h",
        width=0.5,
        marker={"color": style.NEUTRAL, "opacity": 0.22},
        hovertemplate=hover(name, f"minimum detectable effect {known:.1f} points"),
        showlegend=False,
        meta=name,
    )


def heat_map(table: pd.DataFrame, digits: int = 1, **more: Any) -> dict[str, Any]:
    """A table of shares as a heat map, in percent; `meta` names its rows."""
    return dict(
        type="heatmap",
        z=(100 * table).to_numpy().tolist(),
        x=[*table.columns],
        y=[*table.index],
        coloraxis="coloraxis",
        texttemplate=f"%{{z:.{digits}f}}",
        xgap=1,
        ygap=1,
        **more,
    )


def colour_axis() -> dict[str, Any]:
    """From light to dark blue, for 0 to 100 %; the numbers stand in the cells."""
    return {"colorscale": style.SCALE, "cmin": 0, "cmax": 100, "showscale": False}


def line_trace(
    name: str, values: pd.Series[Any], line: Mapping[str, Any], **more: Any
) -> dict[str, Any]:
    """A line through values by their index."""
    plain = {"mode": "lines", "hoverinfo": "skip", "showlegend": False, "meta": name}
    if "hovertemplate" in more:
        del plain["hoverinfo"]
    return _scatter(
        x=values.index.tolist(),
        y=values.tolist(),
        line=line,
        name=label(name),
        legendgroup=name,
        **(plain | more),
    )


def marks(
    names: Sequence[str], x: pd.Series, y: pd.Series, units: tuple[str, str]
) -> list[dict[str, Any]]:
    """A mark for each experiment, by its look.

    Args:
      names: of the experiments.
      x: by experiment.
      y: likewise.
      units: what the two are, in words.
    """
    look = looks(names)
    text = f"{units[0]} %{{x:.1f}}, {units[1]} %{{y:.1f}}"
    return [
        _scatter(
            x=[float(x[name])],
            y=[float(y[name])],
            mode="markers",
            marker={
                "size": 12,
                "color": look[name].colour,
                "symbol": look[name].symbol,
            },
            name=label(name),
            hovertemplate=hover(name, text),
            showlegend=True,
            meta=name,
        )
        for name in names
    ]


def with_legend(n: int) -> int:
    """The height of a figure whose legend has so many entries."""
    return 420 + 12 * n


def check_name(what: str, value: str, known: Iterable[str]) -> None:
    """Raises a UserError for a name that there is not."""
    names = dict.fromkeys(known)
    if value not in names:
        raise UserError(f"there is no {what} {value!r}; there are {', '.join(names)}")


def differences_fact(rows: Sequence[dict[str, Any]], name: str) -> str:
    """How many differences are significant, and the largest of them."""
    known = [row for row in rows if row["value"] == row["value"]]
    if not known:
        return "There is no difference to show."
    sure = sum(row["significant"] for row in known)
    order = sorted(known, key=lambda row: -row["value"])
    ends = order[:1] if len(order) == 1 else [order[0], order[-1]]
    told = (
        f"{row['experiment']} {points(row['value'])} "
        f"{interval(row['low'], row['high'], signed=True)}"
        for row in ends
    )
    ends_are = "highest and lowest: " if len(order) > 1 else ""
    return (
        f"{sure or 'None'} of {count(len(known), 'difference')} in {name} "
        f"{'are' if sure > 1 else 'is'} significant; {ends_are}{', '.join(told)}."
    )


def _scatter(**options: Any) -> dict[str, Any]:
    return {"type": "scatter", **options}
