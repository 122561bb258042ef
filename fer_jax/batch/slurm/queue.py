"""SLURM's queue as its own commands show it; no accounting database is asked.

`squeue` lists the jobs that wait, run, or ended some minutes ago at most (`MinJobAge`);
`scontrol show job` tells more of one of them.
"""

import dataclasses
import os
import re
import shutil
import subprocess
from collections.abc import Sequence

from fer_jax.batch.slurm.env import without_slurm
from fer_jax.errors import UserError

# Of `man squeue`, JOB STATE CODES: all that is not over.
ACTIVE = {
    "PENDING",
    "RUNNING",
    "COMPLETING",
    "CONFIGURING",
    "SUSPENDED",
    "STOPPED",
    "SIGNALING",
    "STAGE_OUT",
    "RESIZING",
    "REQUEUED",
    "REQUEUE_FED",
    "REQUEUE_HOLD",
    "SPECIAL_EXIT",
    "RESV_DEL_HOLD",
}
_FORMAT = "JobArrayID:64,State:32,RestartCnt:16,NodeList:128,Reason:128"
_WIDTHS = [int(each.split(":")[1]) for each in _FORMAT.split(",")]
TIMEOUT_S = 120


class QueueError(Exception):
    """SLURM's controller did not answer; it may the next time."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A job as `squeue` shows it.

    Attributes:
      state: as in RUNNING.
      restarts: how often it was requeued.
      nodes: where it runs or ran.
      reason: why it waits.
    """

    state: str
    restarts: int = 0
    nodes: str = ""
    reason: str = ""

    @property
    def is_active(self) -> bool:
        """Whether it waits or runs, or does so again."""
        return self.state in ACTIVE


def parse_queue(text: str) -> dict[str, Entry]:
    """Jobs by their ids, from what `squeue -O` printed in columns of fixed width."""
    found = {}
    for line in text.splitlines():
        cells, start = [], 0
        for width in _WIDTHS:
            cells.append(line[start : start + width].strip())
            start += width
        number, state, restarts, nodes, reason = cells
        if number and state:
            state = state.split()[0]  # "CANCELLED by 1000"
            count = int(restarts) if restarts.isdigit() else 0
            found[number] = Entry(state, count, nodes, reason)
    return found


def queue(*, everyones: bool = False) -> dict[str, Entry]:
    """This user's jobs, or everyone's, by their ids, as "123" or "123_0".

    Raises:
      QueueError: if the controller does not answer.
    """
    whose = [] if everyones else ["-u", str(os.geteuid())]
    text = _ask("squeue", "-a", "-h", "-r", "-t", "all", *whose, "-O", _FORMAT)
    return parse_queue(text)


def parse_job(text: str) -> dict[str, str]:
    """The `Key=value` pairs that `scontrol show job` prints."""
    return dict(re.findall(r"(?:^|\s)(\w+)=(\S*)", text))


def end_of(number: str, state: str) -> str:
    """How a job ended, in words; what is known where the controller forgot it."""
    try:
        job = parse_job(_ask("scontrol", "show", "job", number))
    except QueueError:
        return state or "gone from the queue"
    told = job.get("JobState", state)
    code, _, signal = job.get("ExitCode", "0:0").partition(":")
    if signal not in ("", "0"):
        told += f" by signal {signal}"
    elif code not in ("", "0"):
        told += f" with exit status {code}"
    nodes = job.get("NodeList", "")
    return f"{told} on {nodes}" if nodes not in ("", "(null)") else told


def cancel(numbers: Sequence[str]) -> None:
    """Ends jobs, waiting or running.

    Raises:
      QueueError: if the controller does not answer.
    """
    _ask("scancel", *numbers)


def has_gpus(partition: str | None) -> bool:
    """Whether a partition's nodes have GPUs; None is the default partition.

    Raises:
      UserError: if there is no SLURM here, it does not answer, or has no such
        partition.
    """
    for command in ("sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo"):
        if not shutil.which(command):
            raise UserError(
                f"--executor slurm needs {command}, and there is none here; run this "
                "where jobs are submitted, on a login node of the cluster, or leave "
                "--executor out to run on this machine"
            )
    try:
        lines = _ask("sinfo", "-a", "-h", "-o", "%P|%G").splitlines()
    except QueueError as error:
        raise UserError(
            f"SLURM does not answer ({error}); try again when sinfo does, or leave "
            "--executor out to run on this machine"
        ) from None
    kinds: dict[str, list[str]] = {}
    for line in lines:
        name, _, resources = line.partition("|")
        if partition is None and name.endswith("*"):
            partition = name.removesuffix("*")
        kinds.setdefault(name.removesuffix("*"), []).append(resources)
    if partition is None:
        return False  # sbatch itself says that one must be named
    chosen = partition.split(",")
    if unknown := [name for name in chosen if name not in kinds]:
        raise UserError(
            f"--partition is {partition}, and the cluster has no {unknown[0]}; "
            f"expected {' or '.join(kinds) or 'one that sinfo lists'}"
        )
    return any("gpu" in each for name in chosen for each in kinds[name])


def _ask(*command: str) -> str:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            stdin=subprocess.DEVNULL,
            env=without_slurm(os.environ),
            process_group=0,  # Ctrl-C is for us
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise QueueError(f"{command[0]}: {error}") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise QueueError(f"{command[0]}: {lines[-1]}")
    return done.stdout
