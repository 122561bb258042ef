"""The child process of a contest, and what the tasks of both sides share.

PyTorch's tasks import this module, so it must not import JAX, whose memory would count.
"""

import importlib
import os
import re
import resource
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fer_jax.emotions import EMOTIONS

# A round returns how many items it processed, and further measurements by name.
Round = Callable[[], tuple[int, dict[str, float]]]


class Task(NamedTuple):
    """What a contender repeats, and what it reports of its set-up."""

    run_round: Round
    info: dict[str, Any]


def warmed_up(run_round: Round, first: Callable[[], object] | None = None) -> Task:
    """A task after one call of `first` or a round; reports its time as `compile_s`."""
    started = time.perf_counter()
    (first or run_round)()
    return Task(run_round, {"compile_s": time.perf_counter() - started})


def random_images(count: int, image_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns noise, uint8 `[N, S, S, 1]`, and labels, int32 `[N]`."""
    rng = np.random.default_rng(0)
    shape = (count, image_size, image_size, 1)
    images = rng.integers(0, 256, shape, np.uint8)
    return images, np.arange(count, dtype=np.int32) % len(EMOTIONS)


def val_count(train_count: int) -> int:
    """The number of val images of an epoch: an eighth of train, as in FER2013."""
    return -(-train_count // 8)


def serve(
    connection: Connection, module: str, task: str, settings: Mapping[str, Any]
) -> None:
    """Sets a task up at the first message, and runs a round at each other one.

    It answers with measurements, or with an error as text. The task is a function of
    the module that returns a `Task`; the settings are its keyword arguments.
    """
    sink = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # what libraries print would be mixed with the tables
        os.dup2(sink, stream)
    # Else the first JAX process takes three quarters of a GPU's memory.
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    # Neither side reuses programs compiled earlier.
    os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"
    try:
        connection.recv()
        started = time.perf_counter()
        run_round, info = getattr(importlib.import_module(module), task)(**settings)
        connection.send({"setup_s": time.perf_counter() - started} | info)
        while True:
            connection.recv()
            started = time.perf_counter()
            items, figures = run_round()
            seconds = time.perf_counter() - started
            measured = {"items": items, "seconds": seconds} | figures
            connection.send(measured | {"memory_mb": _peak_memory_mb()})
    except EOFError:  # the parent needs no more rounds
        pass
    except Exception as error:
        connection.send(f"{type(error).__name__}: {error}".splitlines()[0])


def _peak_memory_mb() -> float:
    """The process's peak resident memory."""
    status = Path("/proc/self/status")
    text = status.read_text() if status.is_file() else ""
    # `ru_maxrss` starts at the parent's peak on Linux.
    if found := re.search(r"VmHWM:\s+(\d+) kB", text):
        return int(found[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
