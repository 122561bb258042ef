"""How far a run is: what a checkpoint holds."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Self

from fer_jax.config import Config
from fer_jax.system import clock
from fer_jax.training.checkpoints import Checkpoints
from fer_jax.training.setup import Setup
from fer_jax.training.step import EpochMetrics, TrainState


@dataclasses.dataclass
class Progress:
    """What a checkpoint holds: arrays, and a record.

    Attributes:
      state: after the steps taken.
      metrics: of the current epoch.
      started: `clock.running_s()` when the run would have begun without pauses.
      train_s: seconds in steps, over all attempts.
      history: a row for each epoch, as in metrics.jsonl.
      environments: what the run was computed with, an entry for each change.
    """

    state: TrainState
    metrics: EpochMetrics
    started: float
    train_s: float = 0.0
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    environments: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    @property
    def wall_s(self) -> float:
        """Seconds of all attempts, an earlier one's up to its last checkpoint."""
        return clock.running_s() - self.started

    def save(
        self, checkpoints: Checkpoints, scores: dict[str, float] | None = None
    ) -> None:
        """Saves a checkpoint; with `scores` it may be the best."""
        tree = {"state": self.state, "metrics": self.metrics}
        record = {
            "wall_s": self.wall_s,
            "train_s": self.train_s,
            "history": self.history,
            "environments": self.environments,
        }
        checkpoints.save(int(self.state.step), tree, record, scores)

    @classmethod
    def restore(
        cls, setup: Setup, checkpoints: Checkpoints, step: int, started: float
    ) -> Self:
        """What was saved at a step, in an attempt that started at `started`."""
        like = {"state": setup.state, "metrics": setup.init_metrics()}
        record = checkpoints.record(step)
        started -= record.pop("wall_s")
        return cls(**checkpoints.load(step, like), started=started, **record)


def best_row(history: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The row of the best epoch by val macro-F1; of equals, the earliest."""
    return max(history, key=lambda row: (row["val_macro_f1"], -row["epoch"]))


def is_over(config: Config, history: Sequence[dict[str, Any]]) -> bool:
    """Whether all epochs are done, or patience has run out."""
    if not history:
        return False
    waited = len(history) - best_row(history)["epoch"]
    patience, epochs = config.training.patience, config.training.epochs
    return len(history) >= epochs or 0 < patience <= waited
