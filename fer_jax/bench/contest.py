"""Lets contenders take turns, so that a noisy machine is noisy for all of them.

Each contender is a process of its own, `python -m fer_jax.bench.contest MODULE TASK
SETTINGS`. It sets up, says so in a line of JSON, and then does one round for each line
that it is sent, and answers with how long the round took.
"""

import contextlib
import importlib
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fer_jax.errors import UserError

Round = Callable[[], int]  # does some work and returns how many items it was


class Score(NamedTuple):
    """What a contender reached."""

    per_s: float  # items a second, the median over the rounds
    spread: float  # of the rounds: (75th - 25th percentile) / median
    told: dict[str, Any]  # what its setup said: compile_s, and what the task adds
    memory_mb: float  # the process's largest resident memory


def contest(
    contenders: Mapping[str, tuple[str, str, Mapping[str, Any]]], *, rounds: int
) -> dict[str, Score]:
    """Scores contenders that take turns, round by round.

    Args:
      contenders: by name a module of this package, one of its `TASKS`, its settings.
      rounds: how many each does; one more before them does not count.

    Raises:
      UserError: if a contender fails.
    """
    with contextlib.ExitStack() as stack:
        running = {
            name: stack.enter_context(_Contender(name, *what))
            for name, what in contenders.items()
        }
        told = {name: contender.answer() for name, contender in running.items()}
        rates: dict[str, list[float]] = {name: [] for name in running}
        memory = dict.fromkeys(running, 0.0)
        for _ in range(rounds + 1):
            for name, contender in running.items():
                contender.go()
                answer = contender.answer()
                rates[name].append(answer["items"] / answer["seconds"])
                memory[name] = answer["memory_mb"]
    scores = {}
    for name, values in rates.items():
        values = values[1:]
        low, middle, high = statistics.quantiles(values, n=4) if rounds > 1 else (
            values * 3
        )  # fmt: skip
        middle = statistics.median(values)
        spread = (high - low) / middle
        scores[name] = Score(middle, spread, told[name], memory[name])
    return scores


class _Contender:
    """A process that does rounds on demand."""

    def __init__(self, name: str, module: str, task: str, settings: Mapping[str, Any]):
        self._name = name
        command = [sys.executable, "-m", "fer_jax.bench.contest", module, task]
        root = str(Path(__file__).resolve().parents[2])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [*command, json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        )

    def __enter__(self) -> "_Contender":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def go(self) -> None:
        with contextlib.suppress(BrokenPipeError):  # `answer` tells why
            print("go", file=self._process.stdin, flush=True)

    def answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            error = self._process.stderr.read().strip().splitlines()
            raise UserError(f"the contender {self._name} failed: {(error or '?')[-1]}")
        return json.loads(line)


def main(module: str, task: str, settings: str) -> None:
    """A contender's process: its setup, then rounds until stdin ends."""
    # What libraries print must not get between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    started = time.perf_counter()
    tasks = importlib.import_module(f"fer_jax.bench.{module}").TASKS
    do_round, told = tasks[task](**json.loads(settings))
    told = {"setup_s": time.perf_counter() - started} | told
    print(json.dumps(told), file=answers, flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        items = do_round()
        seconds = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        answer = {"items": items, "seconds": seconds, "memory_mb": peak}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
