"""The parts of `bench`: each sets contenders against one another and reports."""

import math
import os
from collections.abc import Callable, Mapping
from typing import Any

from fer_jax.bench import slopes, start
from fer_jax.bench.contest import Contender, Outcome, Score, contest
from fer_jax.bench.report import (
    Options,
    Report,
    figures,
    report,
    show,
    show_failed,
    show_outcome,
)


def _steps(options: Options) -> dict[str, Contender]:
    settings = options.step
    compiled = Contender("twin", "step", settings | {"compiled": True}, optional=True)
    return {
        "fer_jax": Contender("ours", "step", settings),
        "PyTorch": Contender("twin", "step", settings),
        "PyTorch, compiled": compiled,
    }


def step(options: Options) -> Report:
    """Steps of the default network without augmentation."""
    outcome = contest(_steps(options), rounds=options.rounds)
    return report(options, "step", outcome)


def _worker_counts() -> list[int]:
    return sorted({0, 2, len(os.sched_getaffinity(0))})


def pipeline(options: Options) -> Report:
    """Augmented batches on the device, without a network."""
    settings = {"batch": options.batch, "image_size": options.image_size, "batches": 8}
    contenders = {
        "fer_jax": Contender("ours", "augmentation", settings | {"images": 4096})
    }
    for workers in _worker_counts():
        contenders[f"DataLoader, {workers} workers"] = Contender(
            "twin_epoch", "loader", settings | {"workers": workers}
        )
    outcome = contest(contenders, rounds=options.rounds)
    return report(options, "pipeline", outcome)


def _both(task: str, settings: Mapping[str, Any]) -> dict[str, Contender]:
    return {
        name: Contender(module, task, settings)
        for name, module in {"fer_jax": "ours", "PyTorch": "twin"}.items()
    }


def evaluation(options: Options) -> Report:
    """Logits of a split."""
    settings = options.network | {"batch": 256, "images": 2048}
    outcome = contest(_both("evaluation", settings), rounds=options.rounds)
    return report(options, "evaluation", outcome)


def prediction(options: Options) -> Report:
    """Logits of one image at a time."""
    settings = options.network | {"repeats": 50}
    outcome = contest(_both("prediction", settings), rounds=options.rounds)
    return report(options, "prediction", outcome)


def epoch(options: Options) -> Report:
    """Whole epochs, and the share of each that is not its steps."""
    common = options.network | {"batch": options.batch}
    settings = common | {"images": options.images, "val": -(-options.images // 8)}
    workers = _best_workers(options, settings)
    theirs = settings | {"workers": workers}
    alone = {"steps": 8 if options.on_cpu else 64}
    contenders = {
        "fer_jax": Contender("ours", "epoch", settings),
        "PyTorch": Contender("twin_epoch", "epoch", theirs),
        "PyTorch, compiled": Contender(
            "twin_epoch", "epoch", theirs | {"compiled": True}, optional=True
        ),
        "fer_jax, steps alone": Contender("ours", "step", common | alone),
        "PyTorch, steps alone": Contender("twin", "step", common | alone),
        "PyTorch, compiled, steps alone": Contender(
            "twin", "step", common | alone | {"compiled": True}, optional=True
        ),
    }
    # Each epoch is many steps, after a few to warm up.
    outcome = contest(contenders, rounds=options.few, warm_up=0)
    scores = outcome.scores
    wholes = {k: v for k, v in scores.items() if not k.endswith("alone")}
    told = report(options, "epoch", Outcome(wholes, outcome.failed))
    shares = {
        name: _shares(score, scores[f"{name}, steps alone"])
        for name, score in wholes.items()
        if f"{name}, steps alone" in scores
    }
    options.console.print(
        f"DataLoader with {workers} workers, the best on short epochs"
    )
    show(
        options.console,
        ("share of an epoch, in %", *next(iter(shares.values()))),
        [
            (name, *(f"{100 * share:.1f}" for share in each.values()))
            for name, each in shares.items()
        ],
    )
    told["epoch"] = figures(outcome) | {"shares": shares, "workers": workers}
    return told


def _best_workers(options: Options, settings: Mapping[str, Any]) -> int:
    """The number of a DataLoader's workers with which short epochs end first."""
    short = settings | {"images": min(settings["images"], 8 * settings["batch"])}
    contenders = {
        str(workers): Contender("twin_epoch", "epoch", short | {"workers": workers})
        for workers in _worker_counts()
    }
    scores = contest(contenders, rounds=2, warm_up=1).scores
    return int(max(scores, key=lambda name: scores[name].per_s))


def _shares(whole: Score, steps: Score) -> dict[str, float]:
    """Where the time of an epoch goes; the shares sum to 1.

    What is left of training without the steps is the input: order, reading,
    augmentation. It can be negative by the noise of the two measurements.
    """
    items, seconds = whole.rounds[-1]["items"], whole.rounds[-1]["items"] / whole.per_s
    spent = whole.figures
    step_s = items / steps.per_s
    known = {
        "steps": step_s,
        "input": spent["training_s"] - step_s,
        "evaluation": spent["evaluation_s"],
        "checkpoint": spent["checkpoint_s"],
    }
    shares = {name: value / seconds for name, value in known.items()}
    shares["rest"] = 1.0 - sum(shares.values())
    return shares | {"not steps": 1.0 - shares["steps"]}


def memory(options: Options) -> Report:
    """What training steps need: of the device, or on a CPU of the process."""
    outcome = contest(_steps(options), rounds=1)
    scores = outcome.scores
    device = "device_mb" in scores["fer_jax"].figures
    rows, used = [], {}
    for name, score in scores.items():
        of_device = score.figures.get("device_mb", math.nan)
        used[name] = of_device if device else score.memory_mb
        told = score.told
        row = (score.memory_mb, told["import_memory_mb"], of_device)
        row += (told.get("temporary_mb", math.nan), told.get("arguments_mb", math.nan))
        cells = ("" if math.isnan(value) else f"{value:,.0f}" for value in row)
        rows.append((name, *cells))
    header = ("host MB", "of it imports", "device MB", "XLA temporary", "arguments")
    show(options.console, ("contender", *header), rows)
    show_failed(options.console, outcome.failed)
    ours, *others = used.values()
    ratio = min(others) / ours
    where = "the device" if device else "the host"
    options.console.print(f"ratio of PyTorch's least to ours, on {where}: {ratio:.2f}")
    return {"ratio_memory": ratio, "memory": figures(outcome)}


def floor(options: Options) -> Report:
    """How near steps come to the time that their products alone would take."""
    products = {"size": 2048, "repeats": 4} if options.on_cpu else {
        "size": 8192, "repeats": 16
    }  # fmt: skip
    contenders = _both("step", options.step)
    contenders["XLA's products"] = Contender("ours", "products", products)
    contenders["PyTorch's products"] = Contender("twin", "products", products)
    scores = contest(contenders, rounds=options.rounds).scores
    flops = slopes.nominal_flops(options)["fernet"]
    best = max(score.per_s for name, score in scores.items() if "products" in name)
    reached = {k: flops * scores[k].per_s / best for k in ("fer_jax", "PyTorch")}
    options.console.print(
        f"{flops / 1e6:,.0f} MFLOP an image, convolutions counted as they are defined; "
        f"products reach {best / 1e9:,.0f} GFLOP/s"
    )
    rows = [(name, f"{100 * share:.0f}") for name, share in reached.items()]
    show(options.console, ("step of", "% of the products' rate"), rows)
    told = {"flop_per_image": flops, "products_gflops": best / 1e9}
    told["of_products"] = {
        name: score.per_s / 1e9 for name, score in scores.items() if "products" in name
    }
    return {"floor": told | {"reached": reached}}


def together(options: Options) -> Report:
    """Several runs at once against one after the other."""
    # One after the other, runs take the time of one, times their number.
    settings = options.step | {"steps": 1 if options.on_cpu else 64}
    several = settings | {"runs": options.runs}
    contenders = {"one by one": Contender("ours", "step", settings)}
    for how in ("vmap", "map"):
        contenders[how] = Contender(
            "together", "one_program", several | {"how": how}, optional=True
        )
    contenders["processes"] = Contender("together", "processes", several, True)
    outcome = contest(contenders, rounds=options.few)
    options.console.print(f"{options.runs} runs")
    show_outcome(options.console, outcome)
    alone = outcome.scores["one by one"].per_s
    speedups = {
        f"speedup_{name}": score.per_s / alone
        for name, score in outcome.scores.items()
        if name != "one by one"
    }
    for name, value in speedups.items():
        options.console.print(f"{name}: {value:.2f}")
    return speedups | {"together": figures(outcome) | {"runs": options.runs}}


PARTS: dict[str, Callable[[Options], Report]] = {
    "step": step,
    "pipeline": pipeline,
    "evaluation": evaluation,
    "prediction": prediction,
    "epoch": epoch,
    "start": start.compare,
    "memory": memory,
    "floor": floor,
    "slopes": slopes.compare,
    "together": together,
}
