"""A table as a value, and how it fits the width of a terminal."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

Cell = str | Text
_GAP = 2  # characters between two columns
_NAME = 19  # characters that a column of text keeps, before numbers go elsewhere


@dataclass(frozen=True)
class Sheet:
    """A table of text columns, which may be folded, and numbers, which never are."""

    caption: str
    headers: Sequence[str]
    align: str  # one letter for each column: "l" text, "r" a number
    rows: Sequence[Sequence[Cell]]
    note: str = ""  # what a reader needs to know below it


def print_sheet(console: Console, sheet: Sheet) -> None:
    """Prints a table below its caption, and its note."""
    console.print()
    console.print(Text(sheet.caption, style="bold"))
    for table in to_rich(sheet, console.width):
        console.print(table)
    if sheet.note:
        console.print(Text(sheet.note, style="dim"))


def to_rich(sheet: Sheet, width: int) -> list[Table]:
    """The table for a console of so many characters.

    Text is folded to the room that the numbers leave. Numbers that do not fit beside it
    continue in further tables.
    """
    names = [c for c, letter in enumerate(sheet.align) if letter == "l"]
    numbers = [c for c, letter in enumerate(sheet.align) if letter == "r"]
    wanted = [_width(sheet, c) for c in names]
    room = width - sum(min(want, _NAME) + _GAP for want in wanted) + _GAP
    blocks: list[list[int]] = [[]]
    for c in numbers:
        used = sum(_width(sheet, other) + _GAP for other in [*blocks[-1], c])
        if blocks[-1] and used > room:
            blocks.append([])
        blocks[-1].append(c)
    tables = []
    for block in blocks:
        left = width - sum(_width(sheet, c) + _GAP for c in block)
        tables.append(_table(sheet, sorted([*names, *block]), _limit(wanted, left)))
    return tables


def _table(sheet: Sheet, columns: Sequence[int], limit: int) -> Table:
    """The table of some of the columns, with text folded at `limit`."""
    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, _GAP - 1, 0, 0),
        header_style="",
    )
    for c in columns:
        justify: Literal["left", "right"] = "left" if sheet.align[c] == "l" else "right"
        table.add_column(
            Text(sheet.headers[c]), justify=justify, no_wrap=justify == "right"
        )
    for row in sheet.rows:
        is_text = (sheet.align[c] == "l" for c in columns)
        cells = zip((row[c] for c in columns), is_text, strict=True)
        table.add_row(*(_fold(cell, limit) if folds else cell for cell, folds in cells))
    return table


def _width(sheet: Sheet, column: int) -> int:
    """The characters of the longest line in a column."""
    texts = [sheet.headers[column], *(str(row[column]) for row in sheet.rows)]
    return max(len(line) for text in texts for line in text.split("\n"))


def _limit(wanted: Sequence[int], room: int) -> int:
    """The largest width at which columns of text fit into the room together."""
    room -= _GAP * (len(wanted) - 1)
    fits = (n for n in range(room, 0, -1) if sum(min(w, n) for w in wanted) <= room)
    return max(next(fits, 1), 8)


def _fold(cell: Cell, limit: int) -> Text:
    """Breaks a line that is longer than `limit` where its words end, and indents.

    rich would break in the middle of a name, and the rest would look like a row.
    """
    if isinstance(cell, Text):
        return cell
    lines, rest = [], cell
    while len(rest) > limit and "\n" not in rest:
        end = 1 + max(rest.rfind(mark, 3, limit) for mark in "_.- ")
        end = end or limit
        lines.append(rest[:end].rstrip())
        rest = "  " + rest[end:].lstrip()
    return Text("\n".join([*lines, rest]))
