"""The command `bench`: measures fer_jax beside PyTorch."""

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
from fer_jax.bench.parts import OURS, PARTS, Options
from fer_jax.errors import UserError, run_command
from fer_jax.system import files
from fer_jax.system.arguments import Parser, typed
from fer_jax.system.console import heading, make_console

_EXAMPLES = """
  % --only step --rounds 15
  % --json bench.json
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the parts that were asked for; returns 0."""
    args = _parse(argv)
    console = make_console()
    machine = _machine()
    options = Options(
        console=console,
        rounds=args.rounds,
        batch=args.batch,
        image_size=args.image_size,
        images=args.images,
        on_cpu=machine["platform"] == "cpu",
    )
    command = [typed("bench"), *(sys.argv[1:] if argv is None else argv)]
    report: dict[str, Any] = {"command": " ".join(command), "machine": machine}
    console.print(
        f"{machine['processor']}, {machine['cores']} cores; {machine['device']}"
    )
    for name in args.only or PARTS:
        heading(console, name)
        report |= PARTS[name](options)
        if args.json:  # after every part, as a later one may fail
            files.write_json(args.json, report)
    if args.json:
        console.print(f"written to {args.json}")
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        "bench",
        "Measure fer_jax beside PyTorch. A ratio above 1 means that fer_jax is faster, "
        "or needs less memory.",
        _EXAMPLES,
    )
    add = parser.add_argument
    add("--only", choices=PARTS, action="append", help="run this part; may be repeated")
    add("--json", type=Path, metavar="FILE", help="also write all figures to FILE")
    add("--rounds", type=int, default=7, help="rounds (7); of epochs a third as many")
    add("--batch", type=int, default=128, help="batch size (128)")
    add("--image_size", type=int, default=48, help="side of the images (48)")
    add("--images", type=int, default=28_709, help="images in an epoch (28,709)")
    args = parser.parse_args(argv)
    for name in ("rounds", "batch", "image_size", "images"):
        if (value := getattr(args, name)) < 1:
            raise UserError(f"--{name} is {value}; it must be at least 1")
    if args.images < args.batch:
        raise UserError(
            f"--images is {args.images}, less than one batch of {args.batch}; give "
            "more images or a smaller --batch"
        )
    if importlib.util.find_spec("torch") is None:
        raise UserError(
            "PyTorch is not installed; install it with pip install -e '.[bench]'"
        )
    return args


def _machine() -> dict[str, Any]:
    """The hardware and the versions, found without starting JAX in this process."""
    contenders = {"fer_jax": Contender(OURS, "device", {})}
    device = contest(contenders, rounds=1, warm_up=0).scores["fer_jax"].info
    dtype = "float32" if device["platform"] == "cpu" else "bfloat16"
    environment = runs.environment(device["kind"], dtype)
    environment["packages"]["torch"] = importlib.metadata.version("torch")
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "platform": device["platform"],
        **environment,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.is_file() else ():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    raise SystemExit(run_command(main))
