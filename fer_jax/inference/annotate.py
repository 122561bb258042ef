"""Draws boxes, labels and bars of probabilities into pictures."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from fer_jax.inference.results import Face

_BOX, _PAPER, _INK, _BAR = "#ffd34d", "#111111", "#ffffff", "#4da3ff"
_BARS = 3  # the most probable labels that have one


def annotate(
    picture: Image.Image, faces: Sequence[Face], min_confidence: float = 0.0
) -> Image.Image:
    """Returns a copy with a box, a label and bars for each face.

    Args:
      picture: in mode RGB.
      faces: of the picture; one without a box gets none.
      min_confidence: below it, the label is "unsure".
    """
    drawn = picture.copy()
    draw = ImageDraw.Draw(drawn)
    unit = max(11, round(max(picture.size) / 60))  # of the letters, in pixels
    font = ImageFont.load_default(unit)
    for face in faces:
        left, top, width, height = face.box or (0, 0, *picture.size)
        line = max(2, unit // 6)
        draw.rectangle(
            (left, top, left + width, top + height), outline=_BOX, width=line
        )
        _write_label(draw, font, unit, (left, top, width, height), face, min_confidence)
    return drawn


def _write_label(
    draw: ImageDraw.ImageDraw,
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
    unit: int,
    box: tuple[int, int, int, int],
    face: Face,
    min_confidence: float,
) -> None:
    """Writes a panel above the box, or below it, or inside, where there is room."""
    labels, p = face.probabilities.labels, face.probabilities.tolist()
    order = sorted(range(len(p)), key=lambda n: -p[n])[:_BARS]
    head = face.shown_label(min_confidence)
    lines = [f"{labels[n]} {100 * p[n]:.0f} %" for n in order]
    widest = max(draw.textlength(text, font=font) for text in [head, *lines])
    bar, step = 4 * unit, round(1.3 * unit)
    size = widest + bar + unit, step * (1 + len(lines)) + unit // 2
    left, top, width, height = box
    x = min(max(0, left), max(0, draw.im.size[0] - size[0]))
    above, below = top - size[1], top + height
    fits_below = below + size[1] <= draw.im.size[1]
    y = above if above >= 0 else below if fits_below else max(0, top)
    draw.rectangle((x, y, x + size[0], y + size[1]), fill=_PAPER)
    draw.text((x + unit // 3, y + unit // 4), head, fill=_BOX, font=font)
    for row, (n, text) in enumerate(zip(order, lines, strict=True), 1):
        at = y + unit // 4 + row * step
        draw.text((x + unit // 3, at), text, fill=_INK, font=font)
        start = x + widest + unit * 2 / 3
        draw.rectangle((start, at + 2, start + bar * p[n], at + unit - 2), fill=_BAR)
