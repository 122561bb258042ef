"""Lets contenders take turns, so that a noisy machine is noisy for all of them.

Each contender is a process of its own, `python -m fer_jax.bench.contest MODULE TASK
SETTINGS`. It sets up, says so in a line of JSON, and then does one round for each line
that it is sent, and answers with how long the round took.
"""

import contextlib
import importlib
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fer_jax.errors import UserError

# A round does some work and returns how many items it was, and figures by name that
# it wants told beside its time.
Round = Callable[[], tuple[int, dict[str, float]]]
Setup = tuple[Round, dict[str, Any]]  # the round, and what to tell of the setup


class Contender(NamedTuple):
    """What one process does."""

    module: str  # of this package
    task: str  # a key of the module's TASKS, which maps names to functions
    settings: Mapping[str, Any]  # the function's arguments
    optional: bool = False  # its failure is told and ends nothing
    environment: Mapping[str, str] = {}


class Score(NamedTuple):
    """What a contender reached; medians over the rounds."""

    per_s: float  # items a second
    spread: float  # of per_s: (75th - 25th percentile) / median
    told: dict[str, Any]  # what its setup said
    memory_mb: float  # the process's largest resident memory
    figures: dict[str, float]  # what the rounds told beside their time
    rounds: list[dict[str, float]]  # each as it was; `begun` counts from the start


class Outcome(NamedTuple):
    """Scores by contender, and what was wrong with those that have none."""

    scores: dict[str, Score]
    failed: dict[str, str]


def contest(
    contenders: Mapping[str, Contender], *, rounds: int, warm_up: int = 1
) -> Outcome:
    """Scores contenders that take turns, round by round.

    Args:
      contenders: by name; they set up one after the other, undisturbed.
      rounds: how many each does, at least 1.
      warm_up: how many more before them, which do not count.

    Raises:
      UserError: if a contender fails that is not optional.
    """
    told: dict[str, dict[str, Any]] = {}
    answers: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    failed: dict[str, str] = {}
    begun = time.perf_counter()
    with contextlib.ExitStack() as stack:
        running = {}
        for name, contender in contenders.items():
            with _noting(name, contender, failed):
                process = stack.enter_context(Process(name, contender))
                told[name] = process.answer()
                running[name] = process
        for _ in range(warm_up + rounds):
            for name, process in running.items():
                if name in failed:
                    continue
                with _noting(name, contenders[name], failed):
                    at = time.perf_counter() - begun
                    process.go()
                    answers[name].append({"begun": at} | process.answer())
    scores = {
        name: _score(told[name], answers[name][warm_up:])
        for name in contenders
        if name not in failed
    }
    return Outcome(scores, failed)


@contextlib.contextmanager
def _noting(name: str, contender: Contender, failed: dict[str, str]) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        if not contender.optional:
            raise
        failed[name] = str(error)


def _score(told: dict[str, Any], rounds: list[dict[str, float]]) -> Score:
    rates = [each["items"] / each["seconds"] for each in rounds]
    median = statistics.median(rates)
    low, high = median, median
    if len(rates) > 1:
        low, _, high = statistics.quantiles(rates, n=4)
    return Score(
        per_s=median,
        spread=(high - low) / median,
        told=told,
        memory_mb=rounds[-1]["memory_mb"],
        figures={
            key: statistics.median(each[key] for each in rounds)
            for key in rounds[-1].keys() - {"begun", "items", "seconds", "memory_mb"}
        },
        rounds=rounds,
    )


class Process:
    """A contender's process, which does rounds on demand until it is left."""

    def __init__(self, name: str, contender: Contender):
        self._name = name
        what = (contender.module, contender.task, json.dumps(contender.settings))
        root = str(Path(__file__).resolve().parents[2])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        own = {
            "PYTHONPATH": os.pathsep.join(paths),
            # Else the first JAX process takes three quarters of a GPU's memory.
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            # Ours keeps nothing compiled unless it is told to; neither shall PyTorch.
            "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
        }
        # Not a pipe, which may fill and block; closed by __exit__.
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fer_jax.bench.contest", *what],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=os.environ | own | contender.environment,
        )

    def __enter__(self) -> "Process":
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends it."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()  # lets it stop what it has started itself
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()
        self._errors.close()

    def go(self) -> None:
        """Has it begin a round."""
        with contextlib.suppress(BrokenPipeError):  # `answer` tells why
            print("go", file=self._process.stdin, flush=True)

    def answer(self) -> dict[str, Any]:
        """Waits for what it says: of its setup first, then of each round.

        Raises:
          UserError: if it ends instead.
        """
        if line := self._process.stdout.readline():
            return json.loads(line)
        status = self._process.wait()
        self._errors.seek(0)
        lines = [text for text in self._errors.read().splitlines() if text.strip()]
        # PyTorch adds advice below the line that says what was wrong.
        named = [text for text in lines if re.match(r"[\w.]+(Error|Exception)\b", text)]
        reason = (named or lines or [f"it ended with status {status}"])[-1]
        raise UserError(f"the contender {self._name} failed: {reason}")


def main(module: str, task: str, settings: str) -> None:
    """A contender's process: its setup, then rounds until stdin ends."""
    # What libraries print must not get between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    started = time.perf_counter()
    tasks = importlib.import_module(f"fer_jax.bench.{module}").TASKS
    imported = {
        "import_s": time.perf_counter() - started,
        "import_memory_mb": _peak_memory(),
    }
    do_round, told = tasks[task](**json.loads(settings))
    told = imported | {"setup_s": time.perf_counter() - started} | told
    print(json.dumps(told), file=answers, flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        items, figures = do_round()
        seconds = time.perf_counter() - started
        answer = {"items": items, "seconds": seconds, "memory_mb": _peak_memory()}
        print(json.dumps(answer | figures), file=answers, flush=True)


def _peak_memory() -> float:
    """In MB; on Linux not `ru_maxrss`, which begins with what the parent had."""
    status = Path("/proc/self/status")
    told = status.read_text() if status.is_file() else ""
    if found := re.search(r"VmHWM:\s+(\d+) kB", told):
        return int(found[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main(*sys.argv[1:])
