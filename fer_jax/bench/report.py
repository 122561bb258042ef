"""What the parts of `bench` share: options, tables, and the form of a report.

A report maps a part to its figures, and `ratio_<part>` to how many times as good
fer_jax is as the best of PyTorch's contenders.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

from fer_jax.bench.contest import Outcome

Report = dict[str, Any]


class Options(NamedTuple):
    """What the command line settles."""

    console: Console
    rounds: int
    batch: int
    image_size: int
    images: int  # in an epoch
    runs: int  # at once
    limit_s: float  # of a point of a slope
    on_cpu: bool

    @property
    def few(self) -> int:
        """Rounds of what takes long."""
        return max(1, self.rounds // 3)

    @property
    def network(self) -> dict[str, Any]:
        """The settings of all contenders that run a network."""
        return {"arch": "fernet", "image_size": self.image_size}

    @property
    def step(self) -> dict[str, Any]:
        """Those of a contender of the task `step`."""
        steps = 4 if self.on_cpu else 64
        return self.network | {"batch": self.batch, "steps": steps}


def report(options: Options, part: str, outcome: Outcome) -> Report:
    """Shows an outcome, and compares ours, its first score, with the best other."""
    show_outcome(options.console, outcome)
    ours, *others = outcome.scores.values()
    ratio = ours.per_s / max(score.per_s for score in others)
    options.console.print(f"ratio to PyTorch's best: {ratio:.2f}")
    return {f"ratio_{part}": ratio, part: figures(outcome)}


def figures(outcome: Outcome) -> Report:
    """An outcome as JSON."""
    reached = {name: score._asdict() for name, score in outcome.scores.items()}
    return reached | {name: {"failed": why} for name, why in outcome.failed.items()}


def show(
    console: Console, header: Sequence[str], rows: Sequence[Sequence[str]]
) -> None:
    """A table whose first column is text, and whose others are figures."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(header):
        table.add_column(name, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def show_outcome(console: Console, outcome: Outcome) -> None:
    """What contenders reached, and why others did not."""
    rows = [
        (
            name,
            f"{score.per_s:,.0f}",
            f"{100 * score.spread:.0f} %",
            f"{score.told.get('compile_s', 0.0):.1f}",
            f"{score.told['setup_s']:.1f}",
            f"{score.memory_mb:,.0f}",
            f"{score.figures['device_mb']:,.0f}"
            if "device_mb" in score.figures
            else "",
        )
        for name, score in outcome.scores.items()
    ]
    rows += [(name, "failed", *[""] * 5) for name in outcome.failed]
    header = ("images/s", "spread", "compile s", "set up s", "host MB", "device MB")
    show(console, ("contender", *header), rows)
    show_failed(console, outcome.failed)


def show_failed(console: Console, failed: Mapping[str, str]) -> None:
    """The reasons."""
    for reason in failed.values():
        console.print(f"note: {reason}")
