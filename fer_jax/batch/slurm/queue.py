"""SLURM's queue, read with its own commands; no accounting database is needed.

`squeue` lists the jobs that wait, run, or ended in the last minutes (`MinJobAge`).
"""

import contextlib
import dataclasses
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence

from fer_jax.errors import UserError

# All of `man squeue`, JOB STATE CODES, in which a job runs or will run again.
_ACTIVE = {
    *("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "STOPPED"),
    *("SIGNALING", "STAGE_OUT", "RESIZING", "REQUEUED", "REQUEUE_FED"),
    *("REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"),
}
_COLUMNS = {
    "JobArrayID": 64, "State": 32, "RestartCnt": 16,
    "NodeList": 128, "exit_code": 16, "Reason": 128,
}  # fmt: skip
_COMMANDS = ("sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo")
_ANSWER_S = 120.0
# Variables of SLURM are hidden options of its commands: SQUEUE_PARTITION hides jobs,
# SBATCH_TIMELIMIT overrides --time, and those of an allocation describe another job.
_SLURM = ("SLURM_", "SLURMD_", "SRUN_", "SBATCH_", "SQUEUE_", "SINFO_", "SCANCEL_")
_OTHERS = ("SCONTROL_", "SUBMITIT_")
_KEPT = {"SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT"}  # which cluster, and who asks


class QueueError(Exception):
    """SLURM did not answer; it may the next time."""


@dataclasses.dataclass(frozen=True)
class QueuedJob:
    """A job as `squeue` shows it."""

    state: str  # such as "RUNNING"
    restarts: int = 0
    nodes: str = ""  # where it runs or ran
    reason: str = ""  # why it waits
    exit_code: int = 0  # negative after a signal

    @property
    def is_active(self) -> bool:
        """Whether it waits or runs."""
        return self.state in _ACTIVE

    def __str__(self) -> str:
        """The state with exit code and nodes, as far as known."""
        how = f" with exit status {self.exit_code}" if self.exit_code > 0 else ""
        if self.exit_code < 0:
            how = f" by signal {-self.exit_code}"
        return f"{self.state}{how}" + (f" on {self.nodes}" if self.nodes else "")


def query_queue(
    *, everyones: bool = False, timeout: float = _ANSWER_S
) -> dict[str, QueuedJob]:
    """Returns this user's jobs, or everyone's, by their ids, as "123" or "123_0".

    Jobs in hidden partitions are included. Raises a QueueError if there is no SLURM, or
    no answer within `timeout` seconds.
    """
    whose = [] if everyones else ["-u", str(os.geteuid())]
    columns = ",".join(f"{name}:{width}" for name, width in _COLUMNS.items())
    command = ("squeue", "-a", "-h", "-r", "-t", "all", *whose, "-O", columns)
    return _parse_queue(_ask(*command, timeout=timeout))


def _parse_queue(text: str) -> dict[str, QueuedJob]:
    found = {}
    for line in text.splitlines():
        cells, start = [], 0
        for width in _COLUMNS.values():
            cells.append(line[start : start + width].strip())
            start += width
        number, state, restarts, nodes, code, reason = cells
        if number and state:
            found[number] = QueuedJob(
                state.split()[0],  # of "CANCELLED by 1000"
                int(restarts) if restarts.isdigit() else 0,
                nodes,
                reason,
                os.waitstatus_to_exitcode(int(code)) if code.isdigit() else 0,
            )
    return found


def cancel(numbers: Sequence[str]) -> None:
    """Cancels jobs; raises a QueueError if the controller does not answer."""
    _ask("scancel", *numbers)


def has_gpus(partition: str | None) -> bool:
    """Returns whether nodes of a partition have GPUs; None is the default partition."""
    for command in _COMMANDS:
        if not shutil.which(command):
            raise UserError(
                f"--executor slurm needs {command}, which is not installed here; run "
                "this on a login node of the cluster, or leave --executor out to run "
                "on this machine"
            )
    try:
        lines = _ask("sinfo", "-a", "-h", "-o", "%P|%G").splitlines()
    except QueueError as error:
        raise UserError(
            f"SLURM does not answer ({error}); try again when sinfo does, or leave "
            "--executor out to run on this machine"
        ) from None
    for line in lines:
        name, _, resources = line.partition("|")
        is_default, name = name.endswith("*"), name.removesuffix("*")
        chosen = name in partition.split(",") if partition else is_default
        if chosen and "gpu" in resources:
            return True
    return False


def without_slurm(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns an environment without the variables that change SLURM's commands."""
    return {
        name: value
        for name, value in environment.items()
        if name in _KEPT or not name.startswith((*_SLURM, *_OTHERS))
    }


def _ask(*command: str, timeout: float = _ANSWER_S) -> str:
    # Files, not pipes: what a killed wrapper has started may hold a pipe open.
    with contextlib.ExitStack() as files:
        out, err = (
            files.enter_context(tempfile.TemporaryFile("w+", errors="replace"))
            for _ in range(2)
        )
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                timeout=timeout,
                env=without_slurm(os.environ),
                process_group=0,  # Ctrl-C is meant for us
            )
        except subprocess.TimeoutExpired:
            raise QueueError(f"{command[0]}: no answer for {timeout:g} s") from None
        except OSError as error:
            raise QueueError(f"{command[0]}: {error.strerror}") from None
        out.seek(0), err.seek(0)
        if done.returncode:
            lines = err.read().strip().splitlines() or [f"status {done.returncode}"]
            raise QueueError(f"{command[0]}: {lines[-1]}")
        return out.read()
