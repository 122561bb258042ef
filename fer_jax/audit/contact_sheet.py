"""An HTML page of images of a data set, which has to stay where the data may be."""

import base64
import html
import io
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from PIL import Image

T = TypeVar("T")
SHOWN = 200  # cells of a section


def page(title: str, sections: Sequence[str], summary: Sequence[str] = ()) -> str:
    """Returns the page, which has no scripts and loads nothing.

    `summary` are sentences, which come first.
    """
    items = "".join(f"<li>{html.escape(line)}</li>" for line in summary)
    first = [f"<ul>{items}</ul>"] if summary else []
    return _PAGE.format(title=html.escape(title), body="\n".join([*first, *sections]))


def section(title: str, items: Sequence[T], render: Callable[[T], str]) -> str:
    """Returns the first `SHOWN` items as HTML under a title that counts them all."""
    more = f", {SHOWN} shown" if len(items) > SHOWN else ""
    cells = "".join(f"<div>{render(item)}</div>" for item in items[:SHOWN])
    heading = f"<h2>{html.escape(title)}: {len(items):,}{more}</h2>"
    return f"{heading}<section>{cells}</section>"


def figure(image: np.ndarray, *lines: str) -> str:
    """Returns an image above lines of plain text; the first is its alternative text.

    Args:
      image: uint8 `[S, S, C]`, grey or colour.
      lines: plain text.
    """
    caption = [html.escape(line) for line in lines]
    buffer = io.BytesIO()
    pixels = image[:, :, 0] if image.shape[2] == 1 else image
    Image.fromarray(pixels).save(buffer, "PNG")
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<figure><img src="data:image/png;base64,{encoded}" alt="{caption[0]}">'
        f"<figcaption>{'<br>'.join(caption)}</figcaption></figure>"
    )


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
<p>This page contains images of the data set: keep it where the data may be kept.</p>
{body}
</body></html>
"""
