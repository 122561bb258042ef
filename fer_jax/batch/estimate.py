"""How long runs will take, judged by the finished runs of the same runs folder."""

import contextlib
import dataclasses
import json
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

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

        Judged by runs of the same network, or else of any. None if no finished run had
        as many beside it: each is slower then, and how much slower depends on the
        machine.
        """
        known = paces(self.runs_dir, self.at_once)
        if not known:
            return None
        times = []
        for run in planned:
            if self.force or run.state != "blocked":
                epochs = run.config.training.epochs - (0 if self.force else run.epochs)
                network = run.config.model.model_dump(mode="json")
                alike = [pace for pace in known if pace.network == network] or known
                start = statistics.median(pace.start_s for pace in alike)
                per_image = statistics.median(pace.per_image_s for pace in alike)
                images = epochs * self.train_images[run.config.data]
                times.append(start + per_image * images)
        return max(sum(times) / self.at_once, max(times, default=0.0))

    def phrase(self, planned: Sequence[PlannedRun]) -> str:
        """Returns the estimate as the end of a sentence."""
        seconds = self.seconds(planned)
        if seconds is None:
            return "; no estimate before the first of several epochs has finished"
        return f", about {format_duration(seconds)}"


class Pace(NamedTuple):
    """How fast a finished run was."""

    network: Mapping[str, Any]  # the model section of its config
    start_s: float  # what the first epoch took more than others, as it compiles
    per_image_s: float  # for each train image and epoch


def paces(runs_dir: Path, at_once: int = 1) -> list[Pace]:
    """Returns the paces of the finished runs of several epochs.

    Only runs count that had as many beside them, according to the batch's log.
    """
    found, beside = [], _at_once(runs_dir)
    for path in runs_dir.glob(f"*/seed_*/{runs.RESULT}"):
        if beside.get(f"{path.parts[-3]}/{path.parts[-2]}", 1) != at_once:
            continue
        with contextlib.suppress(OSError, UserError, *_DAMAGED):
            result = runs.read_result(path.parent)
            images = sum(result["data"]["counts"]["train"])
            first, *_, last = (row["wall_s"] for row in runs.read_metrics(path.parent))
            an_epoch = (last - first) / (result["epochs_run"] - 1)
            if 0 < an_epoch < math.inf:
                start = max(0.0, first - an_epoch)
                found.append(Pace(result["config"]["model"], start, an_epoch / images))
    return found


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
