"""The command `bench`: fer_jax beside PyTorch, part by part, in ratios of one run."""

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fer_jax import runs
from fer_jax.bench.contest import Contender, contest
from fer_jax.bench.parts import PARTS
from fer_jax.bench.report import Options
from fer_jax.errors import UserError
from fer_jax.system import files
from fer_jax.system.console import make_console


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the parts that were asked for; returns 0."""
    args = _parser().parse_args(argv)
    for name in ("rounds", "batch", "image_size", "images", "runs", "limit"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} is {value}, and it must be at least 1")
    if args.images < args.batch:
        raise UserError(
            f"--images is {args.images}, less than one batch; give at least "
            f"{args.batch}, or a smaller --batch"
        )
    if importlib.util.find_spec("torch") is None:
        raise UserError(
            "PyTorch is not installed, and it is what fer_jax is measured beside; "
            "install it with pip install -e '.[bench]'"
        )
    console = make_console()
    machine = _machine()
    on_cpu = machine["platform"] == "cpu"
    options = Options(
        console=console,
        rounds=args.rounds,
        batch=args.batch,
        image_size=args.image_size,
        images=args.images,
        runs=args.runs or (2 if on_cpu else 4),
        limit_s=args.limit,
        on_cpu=on_cpu,
    )
    command = [Path(sys.argv[0]).name, *(sys.argv[1:] if argv is None else argv)]
    report: dict[str, Any] = {"command": " ".join(command), "machine": machine}
    console.print(
        f"{machine['processor']}, {machine['cores']} cores; {machine['device']}"
    )
    for name in args.only or PARTS:
        console.rule(name, align="left")
        report |= PARTS[name](options)
        if args.json:  # after each part: a later one may fail
            files.write_json(args.json, report)
    if args.json:
        console.print(f"written to {args.json}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bin/bench",
        description="Measure fer_jax beside PyTorch. A ratio above 1 means that "
        "fer_jax is the better.",
    )
    add = parser.add_argument
    add("--only", choices=PARTS, action="append", help="a part; may repeat")
    add("--json", type=Path, metavar="FILE", help="write all figures there as well")
    add(
        "--rounds",
        type=int,
        default=7,
        help="turns that each contender takes (7); a third of them where one is long",
    )
    add("--batch", type=int, default=128, help="images in a batch (128)")
    add("--image_size", type=int, default=48, help="side of the images (48)")
    add("--images", type=int, default=28_709, help="in an epoch (FER2013's 28,709)")
    add("--runs", type=int, help="at once (4; on a CPU 2)")
    add(
        "--limit",
        type=float,
        default=60.0,
        help="seconds; a point of a slope that would take longer is skipped (60)",
    )
    return parser


def _machine() -> dict[str, Any]:
    """What the figures depend on, without starting JAX in this process."""
    contender = {"JAX": Contender("ours", "device", {})}
    told = contest(contender, rounds=1, warm_up=0).scores["JAX"].told
    on_cpu = told["platform"] == "cpu"
    environment = runs.environment(told["kind"], "float32" if on_cpu else "bfloat16")
    environment["packages"]["torch"] = importlib.metadata.version("torch")
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "platform": told["platform"],
        **environment,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.is_file() else ():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
