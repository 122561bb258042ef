"""How cost grows with batch, image, network and data set: points, and their slopes."""

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fer_jax.bench.contest import Contender, contest
from fer_jax.bench.report import Options, Report, show


class Point(NamedTuple):
    """One value of what is varied."""

    label: str
    quantity: float
    batch: int
    contenders: dict[str, Contender]
    needs_mb: float = 0.0  # of memory on the host
    growth: float = 1.0  # the power of `quantity` that time is expected to follow


class Line(NamedTuple):
    """What was measured at the points, in their order, but for those skipped."""

    points: list[dict[str, Any]]  # label, quantity, ms and memory_mb by contender
    skipped: dict[str, str]  # by label, why
    exponents: dict[str, float]  # by contender: time grows as quantity ** exponent


def compare(options: Options) -> Report:
    """How time grows with batch, image, network and data set.

    The ratio is the geometric mean over the points that PyTorch has too.
    """
    lines = _lines(
        batch=options.batch,
        image_size=options.image_size,
        on_cpu=options.on_cpu,
        flops=nominal_flops(options),
    )
    report, rows, ratios = {}, [], []
    for name, points in lines.items():
        options.console.print(name)
        line = _measure(
            points,
            rounds=options.few,
            limit_s=options.limit_s,
            tell=options.console.print,
        )
        report[name] = line._asdict()
        ratios += _ratios(line)
        for who, exponent in line.exponents.items():
            ms = [f"{each['ms'][who]:,.2f}" for each in line.points]
            memory = [f"{each['memory_mb'][who]:,.0f}" for each in line.points]
            figures = (f"{exponent:.2f}", " ".join(ms), " ".join(memory))
            rows.append((f"{name}, {who}", *figures))
    header = ("time grows with", "power", "ms a step", "host MB")
    show(options.console, header, rows)
    ratio = math.exp(sum(map(math.log, ratios)) / len(ratios))
    options.console.print(f"ratio to PyTorch, geometric mean: {ratio:.2f}")
    return {"ratio_slopes": ratio, "slopes": report}


def nominal_flops(options: Options) -> dict[str, float]:
    """Of a step for one image, by network."""
    archs = ["fernet", "resnet18", "resnet34"]
    settings = {"archs": archs, "image_size": options.image_size}
    counter = {"counter": Contender("twin", "flops", settings)}
    told = contest(counter, rounds=1, warm_up=0).scores["counter"].told
    return {arch: told[arch] for arch in archs}


def _lines(
    *, batch: int, image_size: int, on_cpu: bool, flops: Mapping[str, float]
) -> dict[str, list[Point]]:
    """The points, by what they vary.

    Args:
      batch: images in a batch where the batch is not what varies.
      image_size: likewise the side of an image.
      on_cpu: fewer and smaller points.
      flops: by network, of a step for one image.
    """
    small = min(batch, 32) if on_cpu else batch

    def step(label: str, quantity: float, growth: float = 1.0, **changes: Any) -> Point:
        settings = {"arch": "fernet", "batch": small, "image_size": image_size}
        settings |= {"steps": 1 if on_cpu else 32} | changes
        contenders = {
            name: Contender(module, "step", settings)
            for name, module in {"fer_jax": "ours", "PyTorch": "twin"}.items()
        }
        return Point(label, quantity, settings["batch"], contenders, growth=growth)

    def data(task: str, count: int, batches: int, needs: int = 0) -> Point:
        settings = {"batch": batch, "images": count, "batches": batches}
        if task == "augmentation":
            settings["image_size"] = image_size
        ours = {"fer_jax": Contender("ours", task, settings)}
        # Generated in the host's memory, then copied to the device's, which on a CPU
        # is the host's.
        needs_mb = needs * count * image_size**2 / 2**20
        return Point(f"{count:,}", count, batch, ours, needs_mb, growth=0.0)

    counts = (10_000, 100_000, 1_000_000)
    batches = (32, 128, 1024) if on_cpu else (32, 64, 128, 256, 512, 1024)
    return {
        "batch": [step(str(size), size, batch=size) for size in batches],
        "image size": [
            step(str(side), side, 2.0, image_size=side) for side in (48, 96, 224)
        ],
        "network": [step(arch, each, arch=arch) for arch, each in flops.items()],
        "images, order": [data("indices", count, 0) for count in counts],
        "images, input": [data("augmentation", count, 8, 3) for count in counts],
    }


def _measure(
    points: Sequence[Point],
    *,
    rounds: int,
    limit_s: float,
    tell: Callable[[str], None],
) -> Line:
    """Measures the points from the smallest, but those that would take too long."""
    found: list[dict[str, Any]] = []
    skipped = {}
    for point in points:
        if reason := _too_much(point, found, rounds, limit_s):
            skipped[point.label] = reason
            tell(f"{point.label}: skipped, {reason}")
            continue
        scores = contest(point.contenders, rounds=rounds).scores
        ms = {name: 1e3 * point.batch / each.per_s for name, each in scores.items()}
        memory = {name: each.memory_mb for name, each in scores.items()}
        taken = sum(each.rounds[-1]["seconds"] for each in scores.values())
        found.append(
            {"label": point.label, "quantity": point.quantity, "ms": ms}
            | {"memory_mb": memory, "round_s": taken}
        )
        tell(f"{point.label}: " + ", ".join(f"{k} {v:,.2f} ms" for k, v in ms.items()))
    names = found[0]["ms"] if found else ()
    exponents = {}
    if len(found) > 1:
        quantities = [each["quantity"] for each in found]
        for name in names:
            exponents[name] = slope(quantities, [each["ms"][name] for each in found])
    return Line(found, skipped, exponents)


def slope(quantities: Sequence[float], values: Sequence[float]) -> float:
    """The exponent p of the best fit of values to `c * quantity ** p`."""
    return float(np.polyfit(np.log(quantities), np.log(values), 1)[0])


def _too_much(
    point: Point, found: Sequence[dict[str, Any]], rounds: int, limit_s: float
) -> str:
    """Why a point must be left out, or nothing."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**20
    if point.needs_mb > free:
        return f"needs some {point.needs_mb:,.0f} MB of memory, {free:,.0f} are free"
    if found:
        before = found[-1]
        times = (point.quantity / before["quantity"]) ** point.growth
        # The first step, a warm-up and the rounds.
        seconds = before["round_s"] * times * (rounds + 2)
        if seconds > limit_s:
            return f"would take some {seconds:,.0f} s, the limit is {limit_s:,.0f}"
    return ""


def _ratios(line: Line) -> Iterator[float]:
    """How many times as fast ours is as PyTorch, where both were measured."""
    for each in line.points:
        if "PyTorch" in each["ms"]:
            yield each["ms"]["PyTorch"] / each["ms"]["fer_jax"]
