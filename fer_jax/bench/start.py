"""Seconds from a command to its first finished step, with and without a warm cache.

Ours is what `python -m fer_jax.train configs/baseline.yaml` does, imports, settings
and embedded set included, the set prepared beforehand. PyTorch's does less: imports,
a network, generated images, one step.
"""

import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fer_jax.bench.contest import Contender, Process, Setup
from fer_jax.bench.report import Options, Report, show, show_failed
from fer_jax.bench.settings import BASELINE
from fer_jax.errors import UserError


class _Done(BaseException):
    """The first step is done; not an error that a run would note."""


def first_step(*, batch: int, image_size: int) -> Setup:
    """Trains until the bar would show the first step."""
    from fer_jax import train
    from fer_jax.system import console

    def advance(*_: Any) -> None:
        raise _Done

    console.TrainingBar.on_step = advance
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(_Done):
        sizes = (f"training.batch_size={batch}", f"data.image_size={image_size}")
        changes = [argument for each in sizes for argument in ("--set", each)]
        train.main([str(BASELINE), "--runs_dir", folder, *changes])
    return lambda: (1, {}), {}


def compare(options: Options) -> Report:
    """Seconds from the command to the first step."""
    seconds, failed = _measure(options.batch, options.image_size, options.few)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    rows = [(name, f"{value:.1f}") for name, value in medians.items()]
    show(options.console, ("contender", "s to the first step"), rows)
    show_failed(options.console, failed)
    theirs = min(value for name, value in medians.items() if "PyTorch" in name)
    ratio = theirs / medians["fer_jax, warm"]
    options.console.print(f"ratio of PyTorch's best to ours, warm: {ratio:.2f}")
    return {"ratio_start": ratio, "start": {"seconds": seconds, "failed": failed}}


def _measure(
    batch: int, image_size: int, rounds: int
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Seconds by contender, a round each in turn, and what failed.

    Before the rounds each warm contender starts once, which fills its cache.
    """
    seconds: dict[str, list[float]] = {}
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds + 1):
            for name, contender in _contenders(folder, batch, image_size, number):
                if name in failed or (number == 0 and name.endswith("cold")):
                    continue
                try:
                    taken = _seconds(name, contender)
                except UserError as error:
                    if not contender.optional:
                        raise
                    failed[name] = str(error)
                    continue
                if number:
                    seconds.setdefault(name, []).append(taken)
    return {k: v for k, v in seconds.items() if k not in failed}, failed


def _contenders(
    folder: str, batch: int, image_size: int, number: int
) -> list[tuple[str, Contender]]:
    def ours(cache: str) -> Contender:
        environment = {
            "FER_DATA_ROOT": "",  # the embedded set
            "FER_CACHE_DIR": str(Path(folder) / "data"),
            "JAX_COMPILATION_CACHE_DIR": str(Path(folder) / cache),
        }
        settings = {"batch": batch, "image_size": image_size}
        return Contender("start", "first_step", settings, environment=environment)

    def twin(cache: str | None) -> Contender:
        settings = {"arch": "fernet", "batch": batch, "image_size": image_size}
        settings |= {"steps": 1, "compiled": cache is not None}
        environment = {}
        if cache:
            environment = {
                "TORCHINDUCTOR_CACHE_DIR": str(Path(folder) / cache),
                "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "0",
            }
        return Contender("twin", "step", settings, bool(cache), environment)

    return [
        ("fer_jax, cold", ours(f"xla_{number}")),
        ("fer_jax, warm", ours("xla")),
        ("PyTorch", twin(None)),
        ("PyTorch, compiled, cold", twin(f"inductor_{number}")),
        ("PyTorch, compiled, warm", twin("inductor")),
    ]


def _seconds(name: str, contender: Contender) -> float:
    started = time.perf_counter()
    with Process(name, contender) as process:
        process.answer()  # the setup, which ends with the first step
        return time.perf_counter() - started


TASKS: dict[str, Callable[..., Setup]] = {"first_step": first_step}
