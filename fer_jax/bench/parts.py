"""The parts of the benchmark: what each compares and reports."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Column, Table

from fer_jax.bench.contest import Contender, Outcome, Score, contest

OURS = "fer_jax.bench.ours"
TORCH_TASKS, TORCH_EPOCH = "fer_jax.bench.torch_tasks", "fer_jax.bench.torch_epoch"
# A part's figures, and `ratio_<part>`: fer_jax's figure over that of PyTorch's best.
Report = dict[str, Any]


class Options(NamedTuple):
    """The options of the command line."""

    console: Console
    rounds: int
    batch: int
    image_size: int
    images: int  # of an epoch
    on_cpu: bool

    @property
    def step(self) -> dict[str, Any]:
        """The settings of the task `step`."""
        steps = 4 if self.on_cpu else 64
        return {"batch": self.batch, "image_size": self.image_size, "steps": steps}


def _both(task: str, settings: Mapping[str, Any]) -> dict[str, Contender]:
    return {
        "fer_jax": Contender(OURS, task, settings),
        "PyTorch": Contender(TORCH_TASKS, task, settings),
    }


def _steps(options: Options) -> dict[str, Contender]:
    compiled = options.step | {"compiled": True}
    return _both("step", options.step) | {
        "PyTorch, compiled": Contender(TORCH_TASKS, "step", compiled, optional=True)
    }


def step(options: Options) -> Report:
    """Steps of the default network, without augmentation."""
    outcome = contest(_steps(options), rounds=options.rounds)
    return _report(options, "step", outcome)


def _worker_counts() -> list[int]:
    return sorted({0, 2, len(os.sched_getaffinity(0))})


def pipeline(options: Options) -> Report:
    """Augmented batches on the device, without a network."""
    settings = {"batch": options.batch, "image_size": options.image_size, "batches": 8}
    ours = settings | {"images": 4096}
    contenders = {"fer_jax": Contender(OURS, "augmentation", ours)}
    for workers in _worker_counts():
        contenders[f"DataLoader, {workers} workers"] = Contender(
            TORCH_EPOCH, "loader", settings | {"workers": workers}
        )
    outcome = contest(contenders, rounds=options.rounds)
    return _report(options, "pipeline", outcome)


def evaluation(options: Options) -> Report:
    """Logits of a split."""
    settings = {"image_size": options.image_size, "batch": 256, "images": 2048}
    outcome = contest(_both("evaluation", settings), rounds=options.rounds)
    return _report(options, "evaluation", outcome)


def prediction(options: Options) -> Report:
    """Logits of one image at a time."""
    settings = {"image_size": options.image_size, "repeats": 50}
    outcome = contest(_both("prediction", settings), rounds=options.rounds)
    return _report(options, "prediction", outcome)


def epoch(options: Options) -> Report:
    """Whole epochs, and how their time is spent."""
    settings = {"image_size": options.image_size, "images": options.images}
    settings["batch"] = options.batch
    workers = _best_workers(settings)
    theirs = settings | {"workers": workers}
    contenders = {
        "fer_jax": Contender(OURS, "epoch", settings),
        "PyTorch": Contender(TORCH_EPOCH, "epoch", theirs),
        "PyTorch, compiled": Contender(
            TORCH_EPOCH, "epoch", {**theirs, "compiled": True}, optional=True
        ),
    }
    alone = {f"{name}, steps alone": each for name, each in _steps(options).items()}
    # An epoch is long: fewer rounds serve, and its first steps are the warm-up.
    rounds = max(1, options.rounds // 3)
    scores, failed = contest(contenders | alone, rounds=rounds, warm_up=0)
    whole = {name: score for name, score in scores.items() if name in contenders}
    report = _report(options, "epoch", Outcome(whole, failed))
    shares = {
        name: _shares(score, scores[f"{name}, steps alone"])
        for name, score in whole.items()
        if f"{name}, steps alone" in scores
    }
    options.console.print(f"DataLoader: {workers} workers, the fastest on short epochs")
    rows = [
        (k, *(f"{100 * x:.1f}" for x in each.values())) for k, each in shares.items()
    ]
    _show(options.console, ("% of an epoch", *shares["fer_jax"]), rows)
    report["epoch"] = _figures(Outcome(scores, failed))
    report["epoch"] |= {"shares": shares, "workers": workers}
    return report


def _best_workers(settings: Mapping[str, Any]) -> int:
    """The number of DataLoader workers that is fastest on short epochs."""
    short = {**settings, "images": min(settings["images"], 8 * settings["batch"])}
    contenders = {
        str(workers): Contender(TORCH_EPOCH, "epoch", {**short, "workers": workers})
        for workers in _worker_counts()
    }
    scores = contest(contenders, rounds=2).scores
    return int(max(scores, key=lambda name: scores[name].per_s))


def _shares(whole: Score, steps: Score) -> dict[str, float]:
    """How the time of an epoch is spent; the shares sum to 1.

    The input is what remains of the training time after the steps. It is negative if
    the noise of the two measurements is larger.
    """
    items = whole.rounds[0]["items"]
    seconds, step_s = items / whole.per_s, items / steps.per_s
    training_s = whole.figures["training_s"]
    return {
        "steps": step_s / seconds,
        "input": (training_s - step_s) / seconds,
        "evaluation, checkpoint": 1.0 - training_s / seconds,
    }


def memory(options: Options) -> Report:
    """The peak memory of training steps: the device's, or on a CPU the process's."""
    outcome = contest(_steps(options), rounds=1)
    _show_outcome(options.console, outcome)
    ours, *others = (
        score.figures.get("device_mb", score.figures["memory_mb"])
        for score in outcome.scores.values()
    )
    ratio = min(others) / ours
    options.console.print(f"ratio of PyTorch's least memory to ours: {ratio:.2f}")
    return {"ratio_memory": ratio, "memory": _figures(outcome)}


def floor(options: Options) -> Report:
    """The rate of operations in steps, beside that of matrix products."""
    size, repeats = (2048, 4) if options.on_cpu else (8192, 16)
    products = _both("products", {"size": size, "repeats": repeats})
    contenders = _both("step", options.step)
    contenders |= {f"{name}, products": each for name, each in products.items()}
    scores = contest(contenders, rounds=options.rounds).scores
    flops = scores["fer_jax"].info["flops_per_image"]
    rates = {k: score.per_s for k, score in scores.items() if k.endswith("products")}
    best = max(rates.values())
    reached = {k: flops * scores[k].per_s / best for k in ("fer_jax", "PyTorch")}
    options.console.print(
        f"{flops / 1e6:,.0f} MFLOP for one image's step, by the definition of a "
        f"convolution; matrix products reach {best / 1e9:,.0f} GFLOP/s"
    )
    rows = [(name, f"{100 * share:.0f}") for name, share in reached.items()]
    _show(options.console, ("step of", "% of the products' rate"), rows)
    gflops = {name: rate / 1e9 for name, rate in rates.items()}
    figures = {"flops_per_image": flops, "products_gflops": gflops, "reached": reached}
    return {"floor": figures}


def _report(options: Options, part: str, outcome: Outcome) -> Report:
    """Prints an outcome and the ratio of its first score to the best of the others."""
    _show_outcome(options.console, outcome)
    ours, *others = outcome.scores.values()
    best = max(others, key=lambda score: score.per_s)
    ratio, interval = ours.per_s / best.per_s, _interval(ours, best)
    line = f"ratio to the best PyTorch contender: {ratio:.2f}"
    if interval:
        low, high = interval
        line += f", 95 % interval {low:.2f} to {high:.2f}, {len(ours.rounds)} rounds"
    options.console.print(line)
    ratios = {f"ratio_{part}": ratio, f"interval_{part}": interval}
    return ratios | {part: _figures(outcome)}


def _interval(ours: Score, best: Score) -> list[float] | None:
    """The 95 % interval of the ratio of medians: a percentile bootstrap over rounds.

    Contenders take turns, so a round is drawn for both. None for fewer than 3 rounds.
    """
    if len(ours.rounds) < 3:
        return None
    rates = np.array(
        [[x["items"] / x["seconds"] for x in each.rounds] for each in (ours, best)]
    )
    draws = np.random.default_rng(0).integers(0, rates.shape[1], (9999, rates.shape[1]))
    medians = np.median(rates[:, draws], axis=2)
    return np.percentile(medians[0] / medians[1], (2.5, 97.5)).tolist()


def _figures(outcome: Outcome) -> Report:
    """An outcome for JSON."""
    scores = {name: score._asdict() for name, score in outcome.scores.items()}
    return scores | {name: {"failed": why} for name, why in outcome.failed.items()}


def _show_outcome(console: Console, outcome: Outcome) -> None:
    rows: list[Sequence[str]] = []
    for name, score in outcome.scores.items():
        rate, spread = f"{score.per_s:,.0f}", f"{100 * score.spread:.0f} %"
        seconds = [score.info.get(key, 0.0) for key in ("compile_s", "setup_s")]
        megabytes = [score.figures.get(key) for key in ("memory_mb", "device_mb")]
        cells = [f"{value:.1f}" for value in seconds]
        cells += ["" if value is None else f"{value:,.0f}" for value in megabytes]
        rows.append((name, rate, spread, *cells))
    rows += [(name, "failed", *[""] * 5) for name in outcome.failed]
    header = ("images/s", "spread", "compile s", "set up s", "host MB", "device MB")
    _show(console, ("contender", *header), rows)
    for reason in outcome.failed.values():
        console.print(f"note: {reason}")


def _show(
    console: Console, header: Sequence[str], rows: Sequence[Sequence[str]]
) -> None:
    """Prints a table; all columns but the first hold numbers."""
    columns = (Column(name, justify="right") for name in header[1:])
    table = Table(header[0], *columns, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    console.print(table)


_PARTS = (step, pipeline, evaluation, prediction, epoch, memory, floor)
PARTS: dict[str, Callable[[Options], Report]] = {p.__name__: p for p in _PARTS}
