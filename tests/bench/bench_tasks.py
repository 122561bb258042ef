"""Tasks for the tests: without JAX where the contest is tested, else all of a side."""

import importlib
import os

import numpy as np

from fer_jax.bench import parts
from fer_jax.bench.contender import Task, warmed_up

BATCH, SIDE, IMAGES = 16, 16, 100
SMALL = {"batch": BATCH, "image_size": SIDE}


def count(*, items: int) -> Task:
    """Items without any work; the figures count the rounds."""
    rounds = iter(range(1, 100))
    used = np.ones(2**22)  # 32 MB

    def run_round():
        return items, {"round": float(next(rounds) * used[0])}

    return warmed_up(run_round, lambda: None)


def fail(*, how: str) -> Task:
    """Fails in its set-up, in its first round, or with its process."""
    if how == "set-up":
        raise ValueError("no such network\nwith advice")

    def run_round():
        if how == "round":
            raise MemoryError("of the device")
        os._exit(3)

    return Task(run_round, {})


def every(*, module: str, tasks: dict) -> Task:
    """A round of each task of a module; the info has their results."""
    if module == parts.OURS:  # the default network takes long to compile
        models = importlib.import_module("fer_jax.models")
        models.MODELS["fernet"] = models.MODELS["tiny"]
    found = {}
    for name, settings in tasks.items():
        run_round, info = getattr(importlib.import_module(module), name)(**settings)
        items, figures = run_round()
        found[name] = {"items": items, **figures, **info}
    return Task(lambda: (1, {}), {"found": found})
