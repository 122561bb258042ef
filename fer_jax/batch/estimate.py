"""How long runs will take, judged by the finished runs of the same runs folder."""

import contextlib
import dataclasses
import json
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from fer_jax import runs
from fer_jax.batch.log import LOG
from fer_jax.batch.plan import PlannedRun
from fer_jax.config import Data
from fer_jax.errors import UserError
from fer_jax.system.console import format_duration

_DAMAGED = (ArithmeticError, ValueError, KeyError, TypeError, RecursionError)


@dataclasses.dataclass(frozen=True)
class Estimator:
    """Estimates the duration of runs."""

    runs_dir: Path  # of the finished runs
    train_images: Mapping[Data, int]  # the number of them, by data settings
    at_once: int = 1  # runs side by side
    force: bool = False  # all epochs will be repeated

    def seconds(self, planned: Sequence[PlannedRun]) -> float | None:
        """Returns the seconds until these runs are done.

        None if no finished run had as many beside it: each is slower then, and how
        much slower depends on the machine.
        """
        per_image = seconds_per_image(self.runs_dir, self.at_once)
        if per_image is None:
            return None
        times = [
            per_image
            * (run.config.training.epochs - (0 if self.force else run.epochs))
            * self.train_images[run.config.data]
            for run in planned
            if self.force or run.state != "blocked"
        ]
        return max(sum(times) / self.at_once, max(times, default=0.0))

    def phrase(self, planned: Sequence[PlannedRun]) -> str:
        """Returns the estimate as the end of a sentence."""
        seconds = self.seconds(planned)
        if seconds is None:
            return "; no estimate before the first has finished"
        return f", about {format_duration(seconds)}"


def seconds_per_image(runs_dir: Path, at_once: int = 1) -> float | None:
    """Returns the median time per train image of finished runs, None without any.

    Only runs count that had as many beside them, according to the batch's log.
    """
    times, beside = [], _at_once(runs_dir)
    for path in runs_dir.glob(f"*/seed_*/{runs.RESULT}"):
        if beside.get(f"{path.parts[-3]}/{path.parts[-2]}", 1) != at_once:
            continue
        with contextlib.suppress(OSError, UserError, *_DAMAGED):
            result = runs.read_result(path.parent)
            images = sum(result["data"]["counts"]["train"]) * result["epochs_run"]
            seconds = float(result["timing"]["wall_s"] / images)
            if 0 < seconds < math.inf:
                times.append(seconds)
    return statistics.median(times) if times else None


def _at_once(runs_dir: Path) -> dict[str, int]:
    """Returns how many runs the batch had at once when it last started each run."""
    found = {}
    if os.path.isfile(runs_dir / LOG):  # reading a pipe would block
        with contextlib.suppress(OSError):
            for line in (runs_dir / LOG).read_bytes().splitlines():
                with contextlib.suppress(*_DAMAGED):
                    entry = json.loads(line)
                    found[str(entry["run"])] = int(entry["jobs"])
    return found
