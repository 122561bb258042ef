"""The figures of a comparison: each a function of data frames of `frames`.

A figure is a dict of data and layout, which plotly.js reads and `plotly.graph_objects`
as well; `comparison.Figures` gives those. A trace is of one experiment, whose name its
`meta` holds, or it holds those of its rows, so that a page can leave them out.
`layout.meta` is the figure's main fact in a sentence, for those who cannot see it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fer_jax.compare import figure_style as style
from fer_jax.compare.figure_parts import (
    check_name,
    colour_axis,
    detectable_trace,
    differences_fact,
    heat_map,
    hover,
    interval_trace,
    line_trace,
    marks,
    records,
    row_layout,
    ticks,
    with_legend,
)
from fer_jax.compare.figure_style import looks
from fer_jax.compare.wording import interval, percent, words
from fer_jax.metrics import CLASS_METRICS

if TYPE_CHECKING:
    import pandas as pd

Drawing = dict[str, Any]

_LINES = "the lines are 95 % intervals"
_FEW = 10  # predictions in a bin below which its accuracy says little
CURVES = {
    "val_macro_f1": "val macro F1, %",
    "val_accuracy": "val accuracy, %",
    "val_loss": "val loss",
    "train_loss": "train loss",
}


OVERALL = ("macro_f1", "accuracy", "balanced_accuracy")


def scores(
    experiments: pd.DataFrame, metric: str = "macro_f1", *, split: str = ""
) -> Drawing:
    """Each experiment's score with its 95 % interval.

    Args:
      experiments: from `frames.experiments`.
      metric: accuracy, macro_f1 or balanced_accuracy.
      split: that the title names.
    """
    check_name("metric", metric, OVERALL)
    columns = {metric: "value", f"{metric}_low": "low", f"{metric}_high": "high"}
    rows = experiments.rename(columns=columns).pipe(records)
    best = max(rows, key=lambda row: row["value"])
    return _figure(
        [interval_trace(row, style.BETTER, "circle") for row in rows],
        title=f"{_on(split)}{words(metric)}, %",
        fact=f"Highest {words(metric)}: {best['experiment']}, "
        f"{percent(best['value'])} {interval(best['low'], best['high'])}.",
        xaxis={"title": {"text": _LINES}},
        **row_layout([row["experiment"] for row in rows]),
    )


def differences(
    found: pd.DataFrame,
    metric: str = "macro_f1",
    emotion: str | None = None,
    *,
    split: str = "",
) -> Drawing:
    """Each experiment's difference from the baseline, with its 95 % interval.

    Filled marks are significant after Holm's correction, open ones are not. The grey
    bar reaches to the minimum detectable effect.

    Args:
      found: from `frames.differences`.
      metric: accuracy, macro_f1 or balanced_accuracy; or f1, precision or recall.
      emotion: of the last three.
      split: that the title names.
    """
    check_name("metric", metric, CLASS_METRICS if emotion else OVERALL)
    if emotion:
        check_name("emotion", emotion, found["emotion"].dropna())
    same = found["emotion"].isna() if emotion is None else found["emotion"] == emotion
    rows = found[same & (found["metric"] == metric)].pipe(records)
    traces = []
    for row in rows:
        sure, gain = row["significant"], row["value"] > 0
        colour = (style.BETTER if gain else style.WORSE) if sure else style.NEUTRAL
        traces.append(detectable_trace(row["experiment"], row["detectable"]))
        mark = "circle" if sure else "circle-open"
        traces.append(interval_trace(row, colour, mark, signed=True))
    name = words(metric if emotion is None else f"{metric}_{emotion}")
    baseline = rows[0]["baseline"] if rows else "the baseline"
    zero = {"type": "line", "x0": 0, "x1": 0, "y0": 0, "y1": 1, "yref": "y domain"}
    return _figure(
        traces,
        title=f"{_on(split)}{name} less {baseline}'s, points",
        fact=differences_fact(rows, name),
        xaxis={"title": {"text": f"points; {_LINES}"}},
        **row_layout([row["experiment"] for row in rows]),
        shapes=[zero | {"layer": "below", "line": {"color": style.NEUTRAL}}],
        barmode="overlay",
    )


def emotions(found: pd.DataFrame, metric: str = "f1", *, split: str = "") -> Drawing:
    """A heat map of a metric: a row for each experiment, a column for each emotion.

    Args:
      found: from `frames.emotions`.
      metric: f1, precision or recall.
      split: that the title names.
    """
    check_name("metric", metric, CLASS_METRICS)
    table = found[found["metric"] == metric]
    names = [*dict.fromkeys(table["experiment"])]
    columns = [*dict.fromkeys(table["emotion"])]
    values = table.pivot(index="experiment", columns="emotion", values="value")
    values = values.reindex(index=names, columns=columns)
    at = "<b>%{y}</b><br>%{x}: %{z:.1f} %<extra></extra>"
    heat = heat_map(values, meta=names, hovertemplate=at)
    known = values.dropna(axis=1, how="all")
    best = known.loc[:, (known != known.max()).any() | (len(known) < 2)].idxmax()
    told = (f"{emotion} {name}" for emotion, name in best.items())
    return _figure(
        [heat],
        title=f"{_on(split)}{words(metric)} by emotion, %",
        fact=f"Highest {words(metric)}: {', '.join(told)}.",
        **row_layout(names),
        xaxis={"tickangle": -40, "type": "category"} | ticks(columns),
        coloraxis=colour_axis(),
    )


def confusion(found: pd.DataFrame, experiment: str, *, split: str = "") -> Drawing:
    """What the images of each emotion are taken for, in % of the emotion.

    Args:
      found: from `frames.confusion`.
      experiment: its label.
      split: that the title names.
    """
    check_name("experiment", experiment, found["experiment"])
    own = found[found["experiment"] == experiment]
    names = [*dict.fromkeys(own["true"])]
    rates = own.pivot(index="true", columns="predicted", values="rate")
    counts = own.pivot(index="true", columns="predicted", values="images")
    trace = heat_map(
        rates.loc[names, names],
        0,
        customdata=counts.loc[names, names].to_numpy().tolist(),
        hovertemplate="%{y} taken for %{x}: %{z:.1f} % (%{customdata})<extra></extra>",
    )
    wrong = own[own["true"] != own["predicted"]].dropna()
    fact = ""
    if len(wrong):
        worst = max(records(wrong), key=lambda row: row["rate"])
        fact = (
            f"{experiment}: most often, {worst['true']} is taken for "
            f"{worst['predicted']} ({percent(worst['rate'])} %)."
        )
    square = {"type": "category", "constrain": "domain", "tickmode": "array"}
    return _figure(
        [trace],
        title=f"{_on(split)}{experiment}, taken for, %",
        fact=fact,
        height=480,
        xaxis=square
        | {"title": {"text": "taken for"}, "tickangle": -40}
        | {"constraintoward": "left"}
        | ticks(names),
        yaxis=square
        | {"title": {"text": "true"}, "autorange": "reversed", "scaleanchor": "x"}
        | {"constraintoward": "top"}
        | ticks(names),
        coloraxis=colour_axis(),
    )


def curves(history: pd.DataFrame, metric: str = "val_macro_f1") -> Drawing:
    """A metric by epoch: the mean over seeds, as far as all ran, and thin, each seed.

    Args:
      history: from `frames.history`.
      metric: val_macro_f1, val_accuracy, val_loss or train_loss.
    """
    check_name("curve", metric, CURVES)
    scale = 1 if metric.endswith("loss") else 100
    look, traces, ends = looks(history["experiment"]), [], []
    for name in look:
        own = history[history["experiment"] == name]
        table = scale * own.pivot(index="epoch", columns="seed", values=metric)
        mean = table.dropna().mean(axis=1)
        if not len(mean):
            continue
        line = {"color": look[name].colour, "dash": look[name].dash}
        if len(table.columns) > 1:
            traces += [
                line_trace(name, seed.dropna(), line | {"width": 1}, opacity=0.4)
                for _, seed in table.items()
            ]
        shown = {"showlegend": True, "hovertemplate": hover(name, "epoch %{x}: %{y}")}
        traces.append(line_trace(name, mean, line | {"width": 2.5}, **shown))
        value = mean.min() if scale == 1 else mean.max()
        ends.append((value, name, mean.index[mean == value][0]))
    ends.sort(reverse=scale == 100)
    digits = ".3f" if scale == 1 else ".1f"
    told = "; ".join(f"{n}, {v:{digits}} at epoch {at}" for v, n, at in ends[:2])
    best = "Lowest" if scale == 1 else "Highest"
    return _figure(
        traces,
        title=f"{CURVES[metric]} by epoch",
        fact=f"{best} mean {CURVES[metric].removesuffix(', %')}: {told}."
        if ends
        else "No run has its learning curve.",
        height=with_legend(len(look)),
        xaxis={"title": {"text": "epoch"}},
        yaxis={"title": {"text": CURVES[metric]}, "hoverformat": digits},
    )


def precision_recall(found: pd.DataFrame, emotion: str, *, split: str = "") -> Drawing:
    """What an emotion's recall costs in precision: a mark for each experiment.

    Args:
      found: from `frames.emotions`.
      emotion: a class.
      split: that the title names.
    """
    check_name("emotion", emotion, found["emotion"])
    own = found[found["emotion"] == emotion]
    table = 100 * own.pivot(index="experiment", columns="metric", values="value")
    names = [*dict.fromkeys(own["experiment"])]
    known = table[table["f1"] > 0].sort_values("f1")
    fact = f"No experiment finds {emotion}."
    if len(known):
        best = dict(known.iloc[-1])
        fact = (
            f"{emotion}: the highest F1 is {known.index[-1]}'s, {best['f1']:.1f}, at "
            f"precision {best['precision']:.1f} and recall {best['recall']:.1f}."
        )
    return _figure(
        marks(names, table["recall"], table["precision"], ("recall", "precision")),
        title=f"{_on(split)}{emotion}, precision against recall, %",
        fact=fact,
        height=with_legend(len(names)),
        xaxis={"title": {"text": "recall, %"}},
        yaxis={"title": {"text": "precision, %"}},
    )


def reliability(found: pd.DataFrame, *, split: str = "") -> Drawing:
    """The share of right predictions by stated confidence; ideal is the diagonal.

    Bins of fewer than 10 predictions are left out.

    Args:
      found: from `frames.reliability`.
      split: that the title names.
    """
    look, traces = looks(found["experiment"]), []
    gaps = {}
    for name in look:
        own = found[found["experiment"] == name]
        gap = (own["confidence"] - own["accuracy"]) * own["images"]
        gaps[name] = 100 * float(gap.sum() / own["images"].sum())
        many = own[own["images"] >= _FEW]
        curve = 100 * many.set_index("confidence")["accuracy"]
        curve.index = 100 * curve.index
        line = {"color": look[name].colour, "dash": look[name].dash, "width": 2}
        told = hover(name, "%{y:.1f} % right at a confidence of %{x:.1f} %")
        shown = {"showlegend": True, "hovertemplate": told, "mode": "lines+markers"}
        marker = {"symbol": look[name].symbol, "size": 7}
        traces.append(line_trace(name, curve, line, marker=marker, **shown))
    ideal = {"type": "line", "x0": 0, "y0": 0, "x1": 100, "y1": 100, "layer": "below"}
    order = sorted(gaps.items(), key=lambda item: abs(item[1]))
    return _figure(
        traces,
        title=f"{_on(split)}right predictions, % by confidence, %",
        fact="Mean confidence less accuracy, in points: "
        + "; ".join(f"{name} {gap:+.1f}" for name, gap in order)
        + ".",
        height=with_legend(len(look)),
        xaxis={"title": {"text": "confidence, %"}, "range": [0, 100]},
        yaxis={"title": {"text": "accuracy, %"}, "range": [0, 100]},
        shapes=[ideal | {"line": {"color": style.NEUTRAL, "dash": "dot"}}],
    )


def cost(
    experiments: pd.DataFrame, metric: str = "macro_f1", *, split: str = ""
) -> Drawing:
    """The score by the minutes of training a run: a mark for each experiment.

    Args:
      experiments: from `frames.experiments`.
      metric: accuracy, macro_f1 or balanced_accuracy.
      split: that the title names.
    """
    check_name("metric", metric, OVERALL)
    table = experiments.set_index("experiment")
    score = 100 * table[metric]
    rows = records(experiments)
    best = max(rows, key=lambda row: row[metric])
    cheapest = min(rows, key=lambda row: row["minutes"])
    told = [
        f"{row['experiment']}, {percent(row[metric])} % in {row['minutes']:.1f} minutes"
        for row in (best, cheapest)
    ]
    return _figure(
        marks([*table.index], table["minutes"], score, ("minutes", words(metric))),
        title=f"{_on(split)}{words(metric)}, %, by minutes of training",
        fact=f"Highest {words(metric)}: {told[0]}; cheapest: {told[1]}.",
        height=with_legend(len(table)),
        xaxis={"title": {"text": "minutes of training"}, "rangemode": "tozero"},
        yaxis={"title": {"text": f"{words(metric)}, %"}},
    )


def _figure(
    traces: Sequence[Mapping[str, Any]], *, title: str, fact: str, **layout: Any
) -> Drawing:
    heading = {"title": style.title(title), "meta": fact}
    return {"data": [*traces], "layout": heading | layout}


def _on(split: str) -> str:
    return f"{split}: " if split else ""
