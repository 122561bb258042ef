"""Images of a data set side by side on one HTML page, to look at and to keep local."""

import base64
import html
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

SHOWN = 200  # cells of a section, at most


def figure(image: np.ndarray, *lines: str) -> str:
    """An image with lines of text below it; the first is also read aloud.

    Args:
      image: uint8 `[S, S, C]`, grey or colour.
      lines: plain text.
    """
    told = [html.escape(line) for line in lines]
    return (
        f'<figure><img src="{_png(image)}" alt="{told[0]}">'
        f"<figcaption>{'<br>'.join(told)}</figcaption></figure>"
    )


def section(title: str, cells: Sequence[str], total: int) -> str:
    """A titled group of cells in HTML, the first `SHOWN` of `total`."""
    shown = min(len(cells), SHOWN)
    more = f", {shown} shown" if total > shown else ""
    inside = "".join(f"<div>{cell}</div>" for cell in cells[:SHOWN])
    return f"<h2>{html.escape(title)}: {total:,}{more}</h2><section>{inside}</section>"


def page(title: str, sections: Sequence[str]) -> str:
    """The whole page, without scripts and without anything from elsewhere."""
    return _PAGE.format(title=html.escape(title), body="\n".join(sections))


def _png(image: np.ndarray) -> str:
    data = io.BytesIO()
    pixels = image[:, :, 0] if image.shape[2] == 1 else image
    Image.fromarray(pixels).save(data, "PNG")
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"


_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Audit: {title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem; }}
section {{ display: flex; flex-wrap: wrap; gap: 1rem; }}
section div {{ display: flex; flex-wrap: wrap; max-width: 13rem; }}
figure {{ margin: 0 .5rem 0 0; width: 6rem; font-size: .8rem; }}
img {{ width: 6rem; image-rendering: pixelated; }}
p {{ margin: 0; width: 100%; font-size: .8rem; }}
</style></head>
<body><h1>{title}</h1>
<p>This page holds images of the data set: keep it where the data may be kept.</p>
{body}
</body></html>
"""
