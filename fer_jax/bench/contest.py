"""Runs contenders in processes of their own, which take turns round by round.

A machine that is busy for a while is then busy for all of them, and their ratios hold.
"""

import contextlib
import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from fer_jax.bench.contender import serve
from fer_jax.errors import UserError


class Contender(NamedTuple):
    """A process that runs a task: a function of a module, by their names."""

    module: str
    task: str
    settings: Mapping[str, Any]
    optional: bool = False  # a failure is reported, and the others go on


class Score(NamedTuple):
    """A contender's measurements; medians over the rounds."""

    per_s: float  # items a second
    spread: float  # of per_s: (75th - 25th percentile) / median
    info: dict[str, Any]  # about the set-up
    figures: dict[str, float]  # the other measurements of a round
    rounds: list[dict[str, float]]  # as measured; `begun`: seconds since the start


class Outcome(NamedTuple):
    """Scores by contender, and error messages by contender that failed."""

    scores: dict[str, Score]
    failed: dict[str, str]


def contest(
    contenders: Mapping[str, Contender], *, rounds: int, warm_up: int = 3
) -> Outcome:
    """Scores contenders that take turns.

    Args:
      contenders: by name. They are set up one after the other.
      rounds: measured rounds of each, at least 1.
      warm_up: rounds before them that do not count.

    Raises:
      UserError: if a contender fails that is not optional.
    """
    info: dict[str, dict[str, Any]] = {}
    measured: dict[str, list[dict[str, float]]] = {}
    failed: dict[str, str] = {}
    begun = time.perf_counter()
    with contextlib.ExitStack() as stack:
        requests = {}
        for name, contender in contenders.items():
            with _collect_failure(name, contender, failed):
                requests[name] = stack.enter_context(_process(contender))
                info[name] = requests[name]()
                measured[name] = []
        for _ in range(warm_up + rounds):
            for name in [each for each in measured if each not in failed]:
                with _collect_failure(name, contenders[name], failed):
                    at = time.perf_counter() - begun
                    measured[name].append({"begun": at} | requests[name]())
    scores = {
        name: _score(info[name], each[warm_up:])
        for name, each in measured.items()
        if name not in failed
    }
    return Outcome(scores, failed)


@contextlib.contextmanager
def _process(contender: Contender) -> Iterator[Callable[[], dict[str, Any]]]:
    """Starts a contender; yields a function that returns its next measurements.

    The first call sets the task up, and each other one runs a round.
    """
    module, task, settings, _ = contender
    context = multiprocessing.get_context("spawn")
    ours, its = context.Pipe()
    process = context.Process(target=serve, args=(its, module, task, settings))
    process.start()
    its.close()

    def request() -> dict[str, Any]:
        try:
            ours.send("next")
            answer = ours.recv()
        except (EOFError, OSError):
            process.join()
            answer = f"its process ended with exit code {process.exitcode}"
        if isinstance(answer, str):
            raise RuntimeError(answer)
        return answer

    try:
        yield request
    finally:
        ours.close()  # lets it stop its own child processes
        process.join(10)
        process.kill()
        process.join()


@contextlib.contextmanager
def _collect_failure(
    name: str, contender: Contender, failed: dict[str, str]
) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        failed[name] = f"the contender {name} failed: {error}"
        if not contender.optional:
            raise UserError(failed[name]) from None


def _score(info: dict[str, Any], rounds: list[dict[str, float]]) -> Score:
    rates = [each["items"] / each["seconds"] for each in rounds]
    low, median, high = np.percentile(rates, (25, 50, 75)).tolist()
    others = rounds[0].keys() - {"begun", "items", "seconds"}
    figures = {key: float(np.median([each[key] for each in rounds])) for key in others}
    return Score(median, (high - low) / median, info, figures, rounds)
