"""What a terminal shows: the shared rich console, its bars, a run's score table."""

import sys
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table


def make_console(*, color: bool = True, stderr: bool = False) -> Console:
    """A console that is plain when it is piped, and never narrower than a table.

    rich falls back to 80 columns where there is no terminal; a file has no width,
    so lines written to one are not folded below 120.
    """
    if hasattr(sys.stdout, "reconfigure"):  # a terminal without ± gets a ? there
        sys.stdout.reconfigure(errors="replace")
    # None leaves the choice to the environment variable NO_COLOR.
    no_color = None if color else True
    console = Console(no_color=no_color, stderr=stderr, highlight=False, markup=False)
    if not console.is_terminal:
        console.width = max(console.width, 120)
    return console


def progress(console: Console, *extra: TextColumn, count: bool = True) -> Progress:
    """A live progress bar that leaves nothing behind, and nothing in a log file."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        *((MofNCompleteColumn(),) if count else ()),
        *extra,
        TimeRemainingColumn(compact=True),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def scores_table(result: dict[str, Any]) -> Table:
    """The scores of one run, by class and overall, in %, as a table of 80 columns."""
    splits = [split for split in ("val", "test") if split in result]
    best, total = result["selection"]["epoch"], result["epochs_run"]
    table = Table(
        title=f"{result['name']}, seed {result['seed']}: the checkpoint of epoch "
        f"{best} of {total},\nchosen by val macro-F1; in %",
        title_justify="left",
        box=box.SIMPLE,
        pad_edge=False,
    )
    table.add_column("")
    for split in splits:
        for name in (f"{split}\nprec.", "\nrecall", "\nF1", "\nimages"):
            table.add_column(name, justify="right")
    for name in result["data"]["class_names"]:
        scores = [result[split]["per_class"][name] for split in splits]
        table.add_row(
            name,
            *(
                cell
                for each in scores
                for cell in (
                    *(
                        f"{100 * each[key]:.1f}"
                        for key in ("precision", "recall", "f1")
                    ),
                    f"{each['support']:,}",
                )
            ),
        )
    table.add_section()
    for key in ("macro_f1", "balanced_accuracy", "accuracy"):
        cells = []
        for split in splits:
            cells += ["", "", f"{100 * result[split][key]:.1f}"]
            cells += [f"{result[split]['n']:,}" if key == "accuracy" else ""]
        table.add_row(key.replace("_", " ").replace("accuracy", "acc."), *cells)
    return table
