"""Checkpoints of a run, on Orbax: the last two, and the best by val macro-F1."""

import logging
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

KEEP_LAST = 2


class Checkpoints:
    """The checkpoints in one folder, each with a JSON record beside its arrays.

    A save is finished and in its place when `save` returns; a process that dies
    during one leaves a temporary folder that the next opening clears away.
    """

    def __init__(self, folder: Path):
        """Opens the folder, creating it if need be."""
        logging.getLogger("absl").setLevel(logging.ERROR)
        policies = ocp.training.preservation_policies
        self._checkpointer = ocp.training.Checkpointer(
            folder.resolve(),
            # The default policy skips a save, silently, while another is under way.
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(
                1
            ),
            preservation_policy=policies.AnyPreservationPolicy(
                [
                    policies.LatestN(KEEP_LAST),
                    policies.BestN(
                        # Among equals the earliest epoch is the best.
                        get_metric_fn=lambda m: (m["macro_f1"], -m["epoch"]),
                        n=1,
                        keep_checkpoints_without_metrics=False,
                    ),
                ]
            ),
            cleanup_tmp_directories=True,
        )

    def __enter__(self) -> "Checkpoints":
        """Returns itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Finishes what is under way and closes."""
        self._checkpointer.close()

    @property
    def latest(self) -> int | None:
        """The step of the newest checkpoint, or None."""
        newest = self._checkpointer.latest
        return None if newest is None else newest.step

    def save(
        self,
        step: int,
        tree: Any,
        record: dict[str, Any],
        metrics: dict[str, float] | None = None,
    ) -> None:
        """Saves arrays and a JSON record under a step, replacing an earlier save.

        Args:
          step: the number of steps taken.
          tree: a pytree of arrays.
          record: plain JSON, read back by `load`.
          metrics: `macro_f1` and `epoch` at the end of an epoch; a checkpoint
            without them is never the best.
        """
        self._checkpointer.save(
            step, tree, custom_metadata=record, metrics=metrics, overwrite=True
        )

    def load(self, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
        """The arrays and the record of a step.

        Args:
          step: one of the steps saved.
          like: a tree of the same structure, shapes and dtypes.
        """
        abstract = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=leaf.sharding
            ),
            like,
        )
        tree = self._checkpointer.load(step, abstract)
        return tree, self._checkpointer.metadata(step).custom_metadata
