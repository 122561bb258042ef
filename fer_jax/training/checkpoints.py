"""Checkpoints of a run, on Orbax: the last two and the best two, each verified.

Orbax does not detect corruption. So each checkpoint has a SHA256SUMS, as `sha256sum -c`
reads it, which is written last: a checkpoint without it is unfinished, and one that
differs from it is damaged.

All processes of a run call the same methods at the same times, on one folder. Orbax has
each write what it alone holds, and the first does the rest.
"""

import contextlib
import hashlib
import itertools
import logging
import os
import re
import shutil
import threading
from pathlib import Path
from typing import Any, Self

import jax
from orbax.checkpoint import v1 as ocp

from fer_jax.errors import UserError
from fer_jax.system.files import write_text
from fer_jax.training import processes

# Two of each: if the newest is damaged, the one before it needs its own best.
KEEP_LAST, KEEP_BEST = 2, 2
SUMS = "SHA256SUMS"
# Orbax's threads signal each other by names that all saves of a process share, so that
# runs in two threads must not save at once.
_SAVING = threading.Lock()


class Checkpoints:
    """The checkpoints in one folder, each with a JSON record beside its arrays.

    A context manager. Entering it creates the folder if need be, verifies what is there
    and removes what a process that died during a save left. A save is complete when
    `save` returns.

    Attributes:
      left_out: the damaged or unfinished checkpoints newer than the newest good one,
        which entering removed, as "step 440: state/_METADATA is missing".
    """

    def __init__(self, folder: Path):
        """For the checkpoints in a folder, which is not touched yet."""
        self._folder = folder.absolute()
        self.left_out: list[str] = []

    def __enter__(self) -> Self:
        """Opens the folder; a UserError says that all checkpoints in it are damaged."""
        # Orbax logs an error and then raises it.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        processes.of_first(lambda: self._folder.mkdir(parents=True, exist_ok=True))
        self.left_out = processes.of_first(lambda: _clean(self._folder))
        saving = ocp.training.save_decision_policies
        keeping = ocp.training.preservation_policies
        best = keeping.BestN(
            # Of equals, the earliest epoch is the best.
            get_metric_fn=lambda m: (m["macro_f1"], -m["epoch"]),
            n=KEEP_BEST,
            keep_checkpoints_without_metrics=False,
        )
        self._checkpointer = ocp.training.Checkpointer(
            self._folder,
            # The default policy silently skips a save while another is under way.
            save_decision_policy=saving.FixedIntervalPolicy(1),
            preservation_policy=keeping.AnyPreservationPolicy(
                [keeping.LatestN(KEEP_LAST), best]
            ),
            cleanup_tmp_directories=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        # `save` waits for its save, so this can only repeat an error of one.
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
        scores: dict[str, float] | None = None,
    ) -> None:
        """Saves arrays and a JSON record at a step, in place of an earlier save.

        `scores` are `macro_f1` and `epoch` at the end of an epoch; a checkpoint without
        them is never the best.

        Raises:
          OSError: if it cannot be written; earlier checkpoints are intact.
        """
        try:
            with _SAVING:
                self._checkpointer.save(
                    step, tree, custom_metadata=record, metrics=scores, overwrite=True
                )
        except ValueError as error:  # how TensorStore reports a full disk
            if number := re.search(r"os_error_code='(\d+)'", str(error)):
                code = int(number[1])
                path = str(self._folder / str(step))
                raise OSError(code, os.strerror(code), path) from None
            raise
        processes.of_first(lambda: _write_sums(self._folder / str(step)))

    def record(self, step: int) -> dict[str, Any]:
        """The record that was saved at a step."""
        return self._checkpointer.metadata(step).custom_metadata

    def delete(self, step: int) -> None:
        """Deletes a checkpoint."""
        self._checkpointer.delete(step)

    def load(self, step: int, like: Any) -> Any:
        """The arrays that were saved at a step, verified again.

        `like` has their structure, shapes, dtypes and shardings.

        Raises:
          UserError: if the checkpoint has been damaged since it was verified.
        """
        if problem := processes.of_first(lambda: _problem(self._folder / str(step))):
            raise _unusable(self._folder, f"step {step}: {problem}")
        shapes = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=leaf.sharding
            ),
            like,
        )
        return self._checkpointer.load(step, shapes)

    def load_as_saved(self, step: int) -> Any:
        """The arrays that were saved at a step, on this process's first device.

        Dicts with text keys, and lists, stand for all other containers. Raises as
        `load` does.
        """
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        like = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here),
            self._checkpointer.metadata(step).metadata,
        )
        return self.load(step, like)


def _clean(folder: Path) -> list[str]:
    """Removes bad checkpoints; returns the problems of those newer than all good ones.

    Older ones are no problem: a process may have died while it removed them.

    Raises:
      UserError: if all are damaged; nothing is removed then.
    """
    steps = [path for path in folder.glob("*") if path.name.isdecimal()]
    steps.sort(key=lambda path: int(path.name), reverse=True)
    problems = {path: problem for path in steps if (problem := _problem(path))}
    newer = list(itertools.takewhile(problems.__contains__, steps))
    messages = [f"step {path.name}: {problems[path]}" for path in newer]
    finished = [path for path in problems if os.path.lexists(path / SUMS)]
    if finished and newer == steps:
        raise _unusable(folder, "; ".join(messages))
    for path in problems:
        # The sums first: half removed, it would look damaged.
        (path / SUMS).unlink(missing_ok=True)
        shutil.rmtree(path)
    return messages


def _unusable(folder: Path, problems: str) -> UserError:
    return UserError(
        f"{folder} holds no undamaged checkpoint to resume from ({problems}); start "
        "the run anew with --force"
    )


def _problem(folder: Path) -> str:
    """What is wrong with a checkpoint's files; empty if nothing is."""
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


def _write_sums(folder: Path) -> None:
    lines = [f"{digest}  {name}\n" for name, digest in _sums(folder).items()]
    write_text(folder / SUMS, "".join(lines))


def _sums(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file below a folder, SHA256SUMS excepted."""
    sums = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path != folder / SUMS:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            sums[str(path.relative_to(folder))] = digest
    return sums
