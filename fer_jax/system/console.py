"""The terminal: a shared rich console, progress bars, the score table of a run."""

import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Self, SupportsFloat

from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from fer_jax import metrics

_UNLIMITED = 10_000  # columns


class _Console(Console):
    """Raises BrokenPipeError for `run_command`; rich would end the process."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError

    def _render_buffer(self, buffer: Any) -> str:
        """Leaves out the blanks that fill table cells up, before a line's end."""
        text = super()._render_buffer(buffer)
        return text if self.is_terminal else re.sub(r"[ \t]+(?=\n|$)", "", text)


def make_console(*, color: bool = True, stderr: bool = False) -> Console:
    """Returns a console; in a pipe, lines are as long as they are, or $COLUMNS.

    It prints to standard output, or with `stderr` beside what is printed there.
    """
    if hasattr(sys.stdout, "reconfigure"):  # ± becomes ? on terminals without it
        sys.stdout.reconfigure(errors="replace")
    # None: the environment variable NO_COLOR decides.
    no_color = None if color else True
    console = _Console(no_color=no_color, highlight=False, markup=False, stderr=stderr)
    if not console.is_terminal and not os.environ.get("COLUMNS", "").isdigit():
        console.width = _UNLIMITED
    return console


def heading(console: Console, text: str) -> None:
    """Prints a heading: a rule across a terminal, the text alone in a pipe."""
    if console.is_terminal:
        console.rule(text, align="left")
    else:
        console.print(text, soft_wrap=True)


def progress(console: Console, *extra: TextColumn) -> Progress:
    """Returns a progress bar that is removed at its end and never written to a file."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        *extra,
        TimeRemainingColumn(compact=True),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


class TrainingBar:
    """The progress bar of a run: epoch, loss, lr, images/s, time left.

    A context manager that shows it, and a reporter of the training loop.
    """

    def __init__(
        self,
        console: Console,
        epochs: int,
        steps_per_epoch: int,
        batch_size: int,
        schedule: Callable[[int], SupportsFloat],
    ):
        self._progress = progress(console, TextColumn("{task.fields[detail]}"))
        self._epochs, self._per_epoch = epochs, steps_per_epoch
        self._batch_size, self._schedule = batch_size, schedule
        self._first: tuple[int, float] | None = None  # a step, and when it was taken
        self._shown = 0.0

    def __enter__(self) -> Self:
        self._progress.start()
        total = self._epochs * self._per_epoch
        self._task = self._progress.add_task("compiling", total=total, detail="")
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def on_epoch(self, history: Sequence[Any]) -> None:
        """Does nothing: the loop prints a line for each epoch."""

    def on_step(self, step: int, loss: float) -> None:
        """Updates the bar at most four times per second."""
        now = time.monotonic()
        first, started = self._first = self._first or (step, now)
        if self._progress.disable or now - self._shown < 0.25:
            return
        self._shown = now
        speed = (step - first) * self._batch_size / max(now - started, 1e-9)
        self._progress.update(
            self._task,
            completed=step,
            description=f"epoch {-(-step // self._per_epoch)}/{self._epochs}",
            detail=f"loss {loss:.3f}  "
            f"lr {float(self._schedule(step - 1)):.1e}  {speed:,.0f} img/s",
        )


def print_scores(console: Console, result: dict[str, Any]) -> None:
    """Prints the scores of a run by class and overall, in 80 columns."""
    splits = [split for split in ("val", "test") if split in result]
    best, total = result["selection"]["epoch"], result["epochs_run"]
    console.print(
        f"\n{result['name']}, seed {result['seed']}: epoch {best} of {total}, "
        "selected by val macro-F1; in %"
    )
    table = Table(box=box.SIMPLE, pad_edge=False)
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
    for name, scores in _overall_rows([result[split] for split in splits]).items():
        cells = (("", "", _percent(score), n) for score, n in scores)
        table.add_row(name, *(cell for row in cells for cell in row))
    console.print(table)
    if any(
        result[split].get("n_clean", result[split]["n"]) < result[split]["n"]
        for split in splits
    ):
        console.print("clean: images without an exact or near copy in train")
    if none := [split for split in splits if result[split].get("n_clean") == 0]:
        console.print(
            f"note: every image of {' and '.join(none)} has a copy in train, or in the "
            "images that the weights at the start were trained on"
        )
    if why := metrics.not_learnt(result["val"]):
        console.print(
            "note: the network has not learnt to tell the classes apart: on val, "
            f"{why}; train longer, or with another learning rate"
        )


_LABEL_SETS = {
    "fer2013": "by FER2013",
    "ferplus_majority": "by FER+",
    "agreed": "both agree",
}


def _overall_rows(
    splits: Sequence[dict[str, Any]],
) -> dict[str, list[tuple[float | None, str]]]:
    """Returns by name the overall score and the number of images of each split."""

    def row(key: str, count: str = "") -> list[tuple[float | None, str]]:
        return [(each[key], f"{each[count]:,}" if count else "") for each in splits]

    rows = {
        "macro F1": row("macro_f1"),
        "balanced": row("balanced_accuracy"),
        "accuracy": row("accuracy", "n"),
    }
    if any(each.get("n_clean", each["n"]) < each["n"] for each in splits):
        rows["macro F1, clean"] = row("macro_f1_clean")
        rows["accuracy, clean"] = row("accuracy_clean", "n_clean")
    for key, name in _LABEL_SETS.items():
        if all(key in each.get("label_sets", {}) for each in splits):
            found = [each["label_sets"][key] for each in splits]
            rows[name] = [(each["accuracy"], f"{each['n']:,}") for each in found]
    return rows


def _percent(score: float | None) -> str:
    return "-" if score is None else f"{100 * score:.1f}"


def plain_table(title: str, headers: Sequence[str]) -> Table:
    """Returns an empty table: text in the first column, numbers in the others."""
    table = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for n, header in enumerate(headers):
        table.add_column(header, justify="right" if n else "left")
    return table


def format_duration(seconds: float) -> str:
    """Returns a duration in a suitable unit, as "40 s" or "1.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"
