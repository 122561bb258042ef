"""The command `bench`: fer_jax beside PyTorch, part by part, in ratios of one run."""

import argparse
import importlib.util
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from fer_jax.bench.contest import Score, contest
from fer_jax.console import make_console
from fer_jax.errors import UserError
from fer_jax.runs import write_json

Report = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the parts that were asked for; returns 0."""
    parser = argparse.ArgumentParser(
        prog="bin/bench", description="Measure fer_jax beside PyTorch."
    )
    add = parser.add_argument
    add("--only", choices=PARTS, action="append", help="a part; may repeat")
    add("--json", type=Path, metavar="FILE", help="write all figures there as well")
    add("--rounds", type=int, default=7, help="turns that each contender takes (7)")
    add("--batch", type=int, default=128, help="images in a batch (128)")
    args = parser.parse_args(argv)
    if args.rounds < 1 or args.batch < 1:
        raise UserError("--rounds and --batch must be at least 1")
    if importlib.util.find_spec("torch") is None:
        raise UserError(
            "PyTorch is not installed, and it is what fer_jax is measured beside; "
            "install it with pip install -e '.[bench]'"
        )
    console, report = make_console(), {"machine": platform.processor() or "?"}
    for name in args.only or PARTS:
        console.rule(name, align="left")
        report |= PARTS[name](console, args.rounds, args.batch)
    if args.json:
        write_json(args.json, report)
        console.print(f"written to {args.json}")
    return 0


def _show(console: Console, unit: str, scores: Mapping[str, Score]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("contender")
    for header in (f"{unit}/s", "spread", "set up s", "memory MB"):
        table.add_column(header, justify="right")
    for name, score in scores.items():
        table.add_row(
            name,
            f"{score.per_s:,.0f}",
            f"{100 * score.spread:.0f} %",
            f"{score.told['setup_s']:.1f}",
            f"{score.memory_mb:,.0f}",
        )
    console.print(table)


def _compared(
    console: Console,
    name: str,
    contenders: Mapping[str, tuple[str, str, Mapping[str, Any]]],
    rounds: int,
) -> Report:
    """Ours, the first of the contenders, against the best of the others."""
    scores = contest(contenders, rounds=rounds)
    _show(console, "images", scores)
    ours, *others = scores.values()
    ratio = ours.per_s / max(score.per_s for score in others)
    console.print(f"ratio to PyTorch's best: {ratio:.2f}")
    detail = {key: score._asdict() for key, score in scores.items()}
    return {f"ratio_{name}": ratio, name: detail}


def _step(console: Console, rounds: int, batch: int) -> Report:
    settings = {"arch": "fernet", "batch": batch, "image_size": 48, "steps": 4}
    twin = {"PyTorch": ("twin", "step", settings)}
    twin["PyTorch, compiled"] = ("twin", "step", settings | {"compiled": True})
    ours = {"fer_jax": ("ours", "step", settings)}
    return _compared(console, "step", ours | twin, rounds)


def _pipeline(console: Console, rounds: int, batch: int) -> Report:
    settings = {"batch": batch, "image_size": 48, "batches": 8}
    contenders = {"fer_jax": ("ours", "augmentation", settings)}
    for workers in (0, 2):
        name = f"DataLoader, {workers} workers"
        contenders[name] = ("twin", "loader", settings | {"workers": workers})
    return _compared(console, "pipeline", contenders, rounds)


def _evaluation(console: Console, rounds: int, batch: int) -> Report:
    settings = {"arch": "fernet", "batch": 256, "image_size": 48, "images": 2048}
    names = {"fer_jax": "ours", "PyTorch": "twin"}
    contenders = {k: (v, "evaluation", settings) for k, v in names.items()}
    return _compared(console, "evaluation", contenders, rounds)


def _prediction(console: Console, rounds: int, batch: int) -> Report:
    settings = {"arch": "fernet", "image_size": 48, "repeats": 50}
    names = {"fer_jax": "ours", "PyTorch": "twin"}
    contenders = {k: (v, "prediction", settings) for k, v in names.items()}
    return _compared(console, "prediction", contenders, rounds)


def _floor(console: Console, rounds: int, batch: int) -> Report:
    """How near the step comes to the time that its products alone would take."""
    settings = {"arch": "fernet", "batch": batch, "image_size": 48, "steps": 4}
    contenders = {
        "step": ("ours", "step", settings),
        "products": ("ours", "matmul", {"size": 2048, "repeats": 4}),
    }
    scores = contest(contenders, rounds=rounds)
    flops = scores["step"].told["flops"] / batch
    reached = flops * scores["step"].per_s / scores["products"].per_s
    rate = scores["products"].per_s / 1e9
    console.print(
        f"{flops / 1e6:,.0f} MFLOP an image; products reach {rate:,.0f} GFLOP/s, "
        f"the step {100 * reached:.0f} % of that"
    )
    return {"floor": {"flop_per_image": flops, "gflops": rate, "reached": reached}}


PARTS: dict[str, Callable[[Console, int, int], Report]] = {
    "step": _step,
    "pipeline": _pipeline,
    "evaluation": _evaluation,
    "prediction": _prediction,
    "floor": _floor,
}
