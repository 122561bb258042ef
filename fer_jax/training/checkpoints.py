"""Checkpoints of a run, on Orbax: the last two and the best two, each verified.

Orbax reads a flipped bit as another number, without a word. So beside its files lies
SHA256SUMS, as `sha256sum -c` reads it, written when all else is in place: what lacks
it was never finished, and what contradicts it is damaged.

All processes of a run call the same methods at the same times, on one folder; Orbax has
each write what only it holds, and the first does the rest.
"""

import contextlib
import hashlib
import itertools
import logging
import os
import re
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from fer_jax.errors import UserError
from fer_jax.system.files import write_text
from fer_jax.training import processes

# Two of each: if the newest is damaged, the one before it needs a best of its own.
KEEP_LAST, KEEP_BEST = 2, 2
SUMS = "SHA256SUMS"


class Checkpoints:
    """The checkpoints in one folder, each with a JSON record beside its arrays.

    A save is finished and in its place when `save` returns; a process that dies
    during one leaves what the next opening clears away.

    Attributes:
      left_out: what the opening found damaged or unfinished above the newest good
        one, and removed, as "step 440: state/_METADATA is missing".
    """

    def __init__(self, folder: Path):
        """Opens the folder, creating it if need be, and verifies what is there.

        Raises:
          UserError: if there were checkpoints and none is undamaged.
          OSError: if the folder cannot be read or written.
        """
        # What goes wrong comes as an exception, and is told once.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        processes.of_first(lambda: folder.mkdir(parents=True, exist_ok=True))
        self._folder = folder.resolve()
        self.left_out = processes.of_first(lambda: _sort_out(self._folder))
        policies = ocp.training.preservation_policies
        self._checkpointer = ocp.training.Checkpointer(
            self._folder,
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
                        n=KEEP_BEST,
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
        """Closes."""
        # Each save was waited for, so this can only repeat what one has raised.
        with contextlib.suppress(Exception):
            self._checkpointer.close()

    @property
    def steps(self) -> list[int]:
        """The steps that are kept, the newest first."""
        return sorted(each.step for each in self._checkpointer.checkpoints)[::-1]

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
          record: plain JSON, read back by `record`.
          metrics: `macro_f1` and `epoch` at the end of an epoch; a checkpoint
            without them is never the best.

        Raises:
          OSError: if it cannot be written; earlier checkpoints are as they were.
        """
        try:
            self._checkpointer.save(
                step, tree, custom_metadata=record, metrics=metrics, overwrite=True
            )
        except ValueError as error:  # so TensorStore tells of a full disk
            if number := re.search(r"os_error_code='(\d+)'", str(error)):
                code = int(number[1])
                path = str(self._folder / str(step))
                raise OSError(code, os.strerror(code), path) from None
            raise
        processes.of_first(lambda: _write_sums(self._folder / str(step)))

    def record(self, step: int) -> dict[str, Any]:
        """The record that was saved under a step."""
        return self._checkpointer.metadata(step).custom_metadata

    def drop(self, step: int) -> None:
        """Removes a checkpoint."""
        self._checkpointer.delete(step)

    def load(self, step: int, like: Any) -> Any:
        """The arrays that were saved under a step, verified again.

        Args:
          step: one of `steps`.
          like: a tree of the same structure, shapes and dtypes.

        Raises:
          UserError: if the checkpoint has been damaged since the opening.
        """
        if problem := processes.of_first(lambda: _problem(self._folder / str(step))):
            raise _unusable(self._folder, f"step {step}: {problem}")
        abstract = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=leaf.sharding
            ),
            like,
        )
        return self._checkpointer.load(step, abstract)

    def load_as_saved(self, step: int) -> Any:
        """The arrays that were saved under a step, without a tree to compare with.

        Returns:
          nested dicts with text keys and lists, which stand for all other containers,
          on this process's first device, whatever device they were saved from.

        Raises:
          UserError: if the checkpoint has been damaged since the opening.
        """
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        like = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here),
            self._checkpointer.metadata(step).metadata,
        )
        return self.load(step, like)


def _sort_out(folder: Path) -> list[str]:
    """Removes what is unfinished or damaged.

    Returns:
      what is wrong with each that is newer than all good ones. An older one tells
      nothing: a process may have died while it removed what was no longer needed.

    Raises:
      UserError: if some are damaged and none is left; nothing is removed then.
    """
    steps = [path for path in folder.glob("*") if path.name.isdecimal()]
    steps.sort(key=lambda path: int(path.name), reverse=True)
    problems = {path: problem for path in steps if (problem := _problem(path))}
    newer = list(itertools.takewhile(problems.__contains__, steps))
    told = [f"step {path.name}: {problems[path]}" for path in newer]
    finished = [path for path in problems if os.path.lexists(path / SUMS)]
    if finished and newer == steps:
        raise _unusable(folder, "; ".join(told))
    for path in problems:
        # Without its sums first: half removed, it would look damaged.
        (path / SUMS).unlink(missing_ok=True)
        shutil.rmtree(path)
    return told


def _write_sums(folder: Path) -> None:
    lines = [f"{digest}  {name}\n" for name, digest in _sums(folder).items()]
    write_text(folder / SUMS, "".join(lines))


def _unusable(folder: Path, problems: str) -> UserError:
    return UserError(
        f"{folder} holds no undamaged checkpoint to go on from ({problems}); "
        "start the run anew with --force"
    )


def _problem(folder: Path) -> str:
    """What is wrong with a checkpoint's files, or nothing.

    Raises:
      OSError: if a file is there and cannot be read.
    """
    try:
        lines = (folder / SUMS).read_text("utf-8").splitlines()
        expected = {name: digest for digest, name in (i.split("  ", 1) for i in lines)}
    except FileNotFoundError:
        return f"{SUMS} is missing"
    except ValueError:
        return f"{SUMS} is damaged"
    if not expected:
        return f"{SUMS} is empty"
    found = _sums(folder)
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            return f"{name} is missing"
        if found[name] != expected.get(name):
            return f"{name} is not what was written"
    return ""


def _sums(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file below a folder, but for SHA256SUMS itself."""
    sums = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path != folder / SUMS:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            sums[str(path.relative_to(folder))] = digest
    return sums
