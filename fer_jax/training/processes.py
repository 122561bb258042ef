"""The processes of one run: they find each other, agree, and the first alone writes.

A run of several processes, on one host or many, is one program (`devices.py`): all of
them take the same steps, so whatever one decides, all must. They are found by SLURM's
variables (`srun` with several tasks), or by `JAX_COORDINATOR_ADDRESS`, which is the
first one's host:port, `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID`.
"""

import json
import os
import platform
import sys
import time
import traceback
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from fer_jax.errors import UserError

_BY_HAND = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
# Seconds: until all must have come, a silent one counts as lost, and who is done has
# waited for the others.
_START, _SILENCE, _END = 300, 60, 30
_GRACE = 2.0  # seconds that the processes give one another to say why they end


def join() -> None:
    """Joins the other processes of this run, if it has others; before JAX is used.

    Raises:
      UserError: if the variables make no sense, or the others do not come.
    """
    asked = _asked(os.environ)
    if asked is None:
        return
    if not asked:  # SLURM's; JAX takes a port by the job alone, which may have steps
        os.environ.setdefault("JAX_COORDINATOR_PORT", str(_port(os.environ)))
    # Signals are ours: `fit` has all processes stop after the same step.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            **asked,
            initialization_timeout=_START,
            heartbeat_timeout_seconds=_SILENCE,
            shutdown_timeout_seconds=_END,
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"the processes of this run did not find each other ({error}); each needs "
            f"{', '.join(_BY_HAND)}, or is started by srun"
        ) from None
    if "cluster_detection_method" not in asked and _sees_only_its_own(os.environ):
        # JAX would take one GPU by its number among the node's.
        jax.config.update("jax_cuda_visible_devices", "all")


def _asked(environment: Mapping[str, str]) -> dict[str, Any] | None:
    """What `jax.distributed.initialize` is to be told; None: there are no others."""
    if int(environment.get("SLURM_STEP_NUM_TASKS") or 1) > 1:
        return {}  # JAX reads the rest of SLURM's variables
    told = [name for name in _BY_HAND if environment.get(name)]
    if len(told) < 2:  # an address alone is SLURM's first host by another name
        return None
    address, count, number = (environment.get(name, "") for name in _BY_HAND)
    fits = count.isdecimal() and number.isdecimal() and int(number) < int(count)
    if not fits or not address.rpartition(":")[2].isdecimal():
        raise UserError(
            f"{', '.join(_BY_HAND)} are {address!r}, {count!r} and {number!r}; "
            "expected host:port, the number of processes, and this one's, from 0"
        )
    return {
        "coordinator_address": address,
        "num_processes": int(count),
        "process_id": int(number),
        "cluster_detection_method": "deactivate",
    }


def _port(environment: Mapping[str, str]) -> int:
    """A port for a step of a job, among those that systems give out last."""
    names = ("SLURM_JOB_ID", "SLURM_STEP_ID")
    told = ".".join(environment.get(name, "") for name in names)
    return 2**16 - 2**12 + zlib.crc32(told.encode()) % 2**12


def _sees_only_its_own(environment: Mapping[str, str]) -> bool:
    """Whether all GPUs that a task of SLURM sees are for it alone."""
    alone = environment.get("SLURM_STEP_NUM_TASKS") == environment.get(
        "SLURM_STEP_NUM_NODES"
    )
    bound = environment.get("CUDA_VISIBLE_DEVICES", "")
    one = bool(bound) and "," not in bound
    return alone or one or "SLURM_GPUS_PER_TASK" in environment


def ending(command: Callable[[], int]) -> int:
    """Runs a command to its exit status, and ends the process if it has others.

    One of several whose run failed does not wait for them, as it would at Python's
    exit: they may have failed alike, be lost, or wait in a step for this one, and then
    JAX sees that it has gone.
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
    """Whether this process is the run's only one."""
    return jax.process_count() == 1


def is_first() -> bool:
    """Whether this is the process that writes and speaks."""
    return jax.process_index() == 0


def of_first(action: Callable[[], Any]) -> Any:
    """Has the first process do something, and gives all what came of it.

    Args:
      action: what it does; returns plain JSON.

    Raises:
      UserError: in every process, what the action raised in the first; another
        exception is raised there, and told as one in the others.
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
    text = _sent(json.dumps(outcome))
    if failure:
        raise failure
    outcome = json.loads(text)
    if "error" in outcome:
        raise UserError(outcome["error"])
    return outcome["value"]


def in_turn(action: Callable[[], Any]) -> Any:
    """Has the first process do something, and then the others, who may find it done."""
    found: list[Any] = []
    of_first(lambda: found.append(action()))
    return found[0] if found else action()


def least(number: int) -> int:
    """The least of the numbers that the processes have."""
    if are_one():
        return number
    # In two halves, as JAX makes 32 bits of 64.
    halves = np.array(divmod(number, 2**31), np.int32)
    every = multihost_utils.process_allgather(halves)
    return min(int(high) * 2**31 + int(low) for high, low in every)


def beside() -> int:
    """How many processes of the run are on this host, with this one."""
    if are_one():
        return 1
    own = np.uint32(zlib.crc32(platform.node().encode()))
    return int((multihost_utils.process_allgather(own) == own).sum())


def check_same(what: str, value: str) -> None:
    """Refuses to go on where a process has another value than the first.

    Raises:
      UserError: in every process.
    """
    if are_one():
        return
    same = _sent(value) == value
    wrong = np.flatnonzero(~multihost_utils.process_allgather(np.array(same)))
    if len(wrong):
        raise UserError(
            f"process {wrong[0]} of this run has another {what} than process 0; start "
            "all of them with the same command, on the same files"
        )


def share(tree: Any) -> Any:
    """The first process's arrays, on each host; small ones, as they go through all."""
    return tree if are_one() else multihost_utils.broadcast_one_to_all(tree)


def _sent(text: str) -> str:
    """The first process's text."""
    own = np.frombuffer(text.encode(), np.uint8)
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(own))))
    # XLA compiles a program for each size.
    padded = np.zeros(1 << max(12, (length - 1).bit_length()), np.uint8)
    padded[: len(own)] = own[: len(padded)]
    return multihost_utils.broadcast_one_to_all(padded)[:length].tobytes().decode()
