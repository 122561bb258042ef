"""The processes of one run: they find each other, agree, and the first alone writes.

A run of several processes, on one host or many, is one program (`devices.py`): all take
the same steps, so what one decides, all must. They find each other by SLURM's variables
(`srun` with several tasks), or by `JAX_COORDINATOR_ADDRESS` (host:port of the first),
`JAX_NUM_PROCESSES` and `JAX_PROCESS_ID`.
"""

import json
import os
import sys
import time
import traceback
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from fer_jax.errors import UserError

_VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
# In seconds: to start, until a silent process counts as lost, to wait at the end,
_START, _SILENCE, _END = 300, 60, 30
_GRACE = 2.0  # for the other processes to print why they end
_LATE = 10.0  # for a file server to show what another process has written

T = TypeVar("T")


def join() -> None:
    """Joins the other processes of this run, if there are any; before JAX is used.

    Raises:
      UserError: if the variables are invalid, or the others do not come.
    """
    options = _options(os.environ)
    if options is None:
        return
    if not options:  # SLURM's; JAX derives its port from the job, which may have steps
        os.environ.setdefault("JAX_COORDINATOR_PORT", str(_port(os.environ)))
    # The training loop handles signals: all processes stop after the same step.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            **options,
            initialization_timeout=_START,
            heartbeat_timeout_seconds=_SILENCE,
            shutdown_timeout_seconds=_END,
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"the processes of this run did not find each other ({error}); set "
            f"{', '.join(_VARIABLES)} for each, or start them with srun"
        ) from None
    if "cluster_detection_method" not in options and _owns_visible_gpus(os.environ):
        # JAX would take one GPU, by its number on the node.
        jax.config.update("jax_cuda_visible_devices", "all")


def _options(environment: Mapping[str, str]) -> dict[str, Any] | None:
    """Arguments of `jax.distributed.initialize`; None: this process is the only one."""
    if int(environment.get("SLURM_STEP_NUM_TASKS") or 1) > 1:
        return {}  # JAX reads the rest of SLURM's variables
    given = [name for name in _VARIABLES if environment.get(name)]
    if len(given) < 2:  # an address alone overrides that of SLURM's first host
        return None
    address, count, number = (environment.get(name, "") for name in _VARIABLES)
    fits = count.isdecimal() and number.isdecimal() and int(number) < int(count)
    if not fits or not address.rpartition(":")[2].isdecimal():
        raise UserError(
            f"{', '.join(_VARIABLES)} are {address!r}, {count!r} and {number!r}; "
            "expected host:port, the number of processes, and this one's, from 0"
        )
    return {
        "coordinator_address": address,
        "num_processes": int(count),
        "process_id": int(number),
        "cluster_detection_method": "deactivate",
    }


def _port(environment: Mapping[str, str]) -> int:
    """A port for a step of a job, above those that most systems assign."""
    names = ("SLURM_JOB_ID", "SLURM_STEP_ID")
    step = ".".join(environment.get(name, "") for name in names)
    return 2**16 - 2**12 + zlib.crc32(step.encode()) % 2**12


def _owns_visible_gpus(environment: Mapping[str, str]) -> bool:
    """Whether all GPUs that a SLURM task sees are its own."""
    tasks, nodes = (
        environment.get(f"SLURM_STEP_NUM_{what}") for what in ("TASKS", "NODES")
    )
    bound = environment.get("CUDA_VISIBLE_DEVICES", "")
    single = bool(bound) and "," not in bound
    return tasks == nodes or single or "SLURM_GPUS_PER_TASK" in environment


def ending(command: Callable[[], int]) -> int:
    """Runs a command to its exit status; ends the process if a run of several failed.

    Python's exit would wait for the other processes, which may wait for this one.
    """
    try:
        status = command()
    except Exception:
        if not jax.distributed.is_initialized():
            raise
        traceback.print_exc()
        status = 1
    if status and jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        # srun may end the others when one has ended, and JAX when the first has.
        time.sleep(2 * _GRACE if is_first() else _GRACE)
        os._exit(status)
    return status


def are_one() -> bool:
    """Whether this is the run's only process."""
    return jax.process_count() == 1


def is_first() -> bool:
    """Whether this is the process that writes and prints."""
    return jax.process_index() == 0


def gather(value: T) -> list[T]:
    """The value, plain JSON, of every process, in their order."""
    if are_one():
        return [value]
    own = np.frombuffer(json.dumps(value).encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(len(own)))
    # Padded, as XLA compiles a program for each size.
    padded = np.zeros(1 << max(12, int(lengths.max() - 1).bit_length()), np.uint8)
    padded[: len(own)] = own
    every = multihost_utils.process_allgather(padded)
    return [
        json.loads(text[:length].tobytes())
        for text, length in zip(every, lengths, strict=True)
    ]


def of_first(action: Callable[[], T]) -> T:
    """The result, plain JSON, of an action that the first process alone does.

    Raises:
      UserError: in every process, if the action raises one in the first; for another
        exception, in the others.
    """
    if are_one():
        return action()
    outcome: dict[str, Any] = {}
    failure: Exception | None = None
    if is_first():
        try:
            outcome["value"] = action()
        except UserError as error:
            outcome["error"] = str(error)
        except Exception as error:
            outcome["error"], failure = f"{type(error).__name__}: {error}", error
    outcome = gather(outcome)[0]
    if failure:
        raise failure
    if "error" in outcome:
        raise UserError(outcome["error"])
    return outcome["value"]


def in_turn(action: Callable[[], T]) -> T:
    """An action's result, first in the first process; the others may find it cached."""
    found: list[T] = []
    of_first(lambda: found.append(action()))
    return found[0] if found else action()


def share(tree: T) -> T:
    """The first process's arrays, on each host; for small ones."""
    return tree if are_one() else multihost_utils.broadcast_one_to_all(tree)


def check_same(what: str, value: str) -> None:
    """Checks that all processes have the same value.

    Raises:
      UserError: in every process, if one does not.
    """
    first, *others = gather(value)
    for number, other in enumerate(others, 1):
        if other != first:
            raise UserError(
                f"process {number} of this run has another {what} than process 0; "
                "start all of them with the same command, on the same files"
            )


def check_same_file(what: str, path: Path) -> None:
    """Checks that all processes see the same text file, which the first has written."""
    first = of_first(lambda: path.read_text("utf-8"))
    deadline = time.monotonic() + _LATE
    # A file server may show it late.
    while (seen := path.read_text("utf-8") if path.is_file() else "") != first:
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)
    check_same(what, seen)
