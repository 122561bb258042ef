"""Writes the figures of a comparison to files: HTML, and pictures for a paper."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from fer_jax.compare.comparison import Comparison
from fer_jax.errors import UserError
from fer_jax.metrics import CLASS_METRICS

if TYPE_CHECKING:
    import plotly.graph_objects as go

PICTURES = ("svg", "pdf", "png")
_WIDTH, _SCALE = 900, 2  # of pictures, in pixels; a PNG has twice as many
LACKING = (
    "without SVG, PDF and PNG, which need Chrome or Chromium and kaleido: "
    'pip install "fer_jax[figures]"'
)


def write_figures(folder: Path, comparison: Comparison) -> tuple[int, str]:
    """Writes each figure as HTML and, where there is a browser, as SVG, PDF and PNG.

    The HTML files share the `plotly.min.js` beside them.

    Args:
      folder: is made if it is not there.
      comparison: of the figures.

    Returns:
      how many figures there are, and what could not be written; "" if all was.

    Raises:
      UserError: the folder or a file in it cannot be written.
    """
    import plotly.io

    made = _all(comparison)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in made.items():
            path = folder / f"{name}.html"
            figure.write_html(path, include_plotlyjs="directory", full_html=True)
        files = [folder / f"{name}.{kind}" for name in made for kind in PICTURES]
        each = [figure for figure in made.values() for _ in PICTURES]
        heights = [figure.layout.height for figure in each]
        plotly.io.write_images(each, files, width=_WIDTH, height=heights, scale=_SCALE)
    except OSError as error:
        raise UserError(f"--figures {folder}: {error.strerror or error}") from None
    except RuntimeError as error:  # plotly's, if kaleido or the browser is missing
        reason = str(error).strip().partition("\n")[0].rstrip(",")
        return len(made), f"{LACKING} ({reason})"
    return len(made), ""


def _all(comparison: Comparison) -> dict[str, "go.Figure"]:
    """The figures by the names of their files."""
    draw, summary = comparison.figures, comparison.summary
    made = {"scores": draw.scores(), "cost": draw.cost()}
    made["reliability"] = draw.reliability()
    if summary.has_tests:
        made["differences"] = draw.differences()
    if len(comparison.history):
        made["curves"] = draw.curves()
    for metric in CLASS_METRICS:
        made[f"emotions_{metric}"] = draw.emotions(metric)
    for name in comparison.experiments["experiment"]:
        made[f"confusion_{name}"] = draw.confusion(name)
    for name in summary.emotions:
        if summary.support(name):
            made[f"precision_recall_{name}"] = draw.precision_recall(name)
    files: dict[str, go.Figure] = {}
    for name, each in made.items():
        plain = re.sub(r"[^\w.-]+", "_", name)
        taken = sum(other.rstrip("_") == plain for other in files)
        files[plain + "_" * taken] = each
    return files
