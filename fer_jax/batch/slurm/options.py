"""The command line's words for a SLURM job, checked, as submitit takes them."""

import argparse
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from submitit import SlurmExecutor

from fer_jax.errors import UserError

MAX_RETRIES = 100
MAX_PACK = 10_000
DEFAULTS = {"pack": 1, "time": "60", "partition": None, "slurm": (), "retries": 2}
SIGNAL_DELAY_S = 90  # submitit's own
_TIME = "minutes, H:MM:SS or D-HH:MM:SS, more than 0"
# SLURM's own forms, from the longest; a number alone is minutes.
_TIMES = (
    r"(?P<d>\d+)-(?P<h>\d+)(:(?P<m>\d+)(:(?P<s>\d+))?)?",
    r"(?P<h>\d+):(?P<m>\d+):(?P<s>\d+)",
    r"(?P<m>\d+)(:(?P<s>\d+))?",
)
# What submitit counts with; all else it hands to sbatch as it is written.
_NUMBERS = (
    "nodes",
    "ntasks_per_node",
    "cpus_per_task",
    "cpus_per_gpu",
    "gpus_per_node",
    "gpus_per_task",
    "signal_delay_s",
)
_GPUS = ("gpus_per_node", "gpus_per_task", "gpus", "gres", "tres_per_node", "num_gpus")
_OWN = {  # what the batch itself decides, and what decides it
    "time": "--time gives the limit",
    "partition": "--partition names it",
    "array_parallelism": "--jobs says how many run at once",
    "array": "there is one job for each run, or --pack of them",
    "ntasks": "give nodes= and ntasks_per_node= instead",
    "signal": "give signal_delay_s= to change how long before the end it comes",
    **dict.fromkeys(
        ("output", "error", "open_mode", "requeue", "no_requeue", "chdir", "wrap")
        + ("srun_args", "use_srun", "stderr_to_stdout", "additional_parameters")
        + ("map_count", "command", "folder", "parsable", "test_only", "hold", "quiet")
        + ("wait", "export", "export_file", "teardown", "cluster", "clusters")
        + ("help", "usage", "version"),
        "the batch relies on its own value",
    ),
}


def minutes(text: str) -> int:
    """A time limit in whole minutes, rounded up as SLURM does.

    Raises:
      UserError: if it is of none of SLURM's forms, or 0.
    """
    for form in _TIMES:
        if found := re.fullmatch(form, text, re.ASCII):
            parts = {k: int(v or 0) for k, v in found.groupdict().items()}
            hours = 24 * parts.get("d", 0) + parts.get("h", 0)
            seconds = 3600 * hours + 60 * parts.get("m", 0) + parts.get("s", 0)
            if 0 < seconds < 1e9:
                return -(-seconds // 60)
    raise UserError(f"--time is {text}; expected {_TIME}")


def options(items: Sequence[str]) -> dict[str, Any]:
    """The `--slurm KEY=VALUE` items, by submitit's names.

    Raises:
      UserError: if one has no value, comes twice, is the batch's own, or is no number
        where submitit counts with it.
    """
    found: dict[str, Any] = {}
    for item in items:
        name, value = _split(item)
        if name in found:
            raise UserError(f"--slurm {name}= is given twice; give it once")
        if name in _NUMBERS and not (value.isascii() and value.isdigit()):
            raise UserError(f"--slurm {name} is {value}; expected a whole number")
        found[name] = int(value) if name in _NUMBERS else value
        if value == "true" and name != "setup":
            found[name] = True
    for name in ("nodes", "ntasks_per_node"):
        if found.get(name, 1) < 1:
            raise UserError(f"--slurm {name} is 0; expected 1 or more")
    return found


def _split(item: str) -> tuple[str, str]:
    """The name and the value of a `--slurm` item that may be given."""
    key, _, value = item.partition("=")
    name = key.strip().lstrip("-").replace("-", "_")
    if not (re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII) and value):
        raise UserError(
            f"--slurm is {item!r}; expected KEY=VALUE, as in --slurm cpus_per_task=8 "
            "(=true for an option without a value)"
        )
    if name in _OWN:
        raise UserError(f"--slurm {name}= cannot be given: {_OWN[name]}")
    # sbatch would take it for the longer one, and we would not know.
    longer = [each for each in (*_OWN, *_NUMBERS, *_GPUS) if each.startswith(name)]
    if longer and name not in longer:
        raise UserError(
            f"--slurm {name}= cannot be given: it could be short for {longer[0]}; "
            "write the option's whole name"
        )
    if name != "setup" and not value.isprintable():  # a line of its own in the script
        raise UserError(f"--slurm {name} is {value!r}; expected one line of text")
    return name, value


def refuse(args: argparse.Namespace) -> None:
    """Refuses what is for `--executor slurm` only.

    Raises:
      UserError: if one of its flags is given.
    """
    for name in DEFAULTS:
        if getattr(args, name) is not None:
            raise UserError(
                f"--{name} is for jobs of a cluster; give --executor slurm with it, or "
                "leave it out"
            )


def complete(args: argparse.Namespace) -> None:
    """Fills in the defaults of `--executor slurm`, and checks its flags.

    Raises:
      UserError: if one is wrong, or is not for this executor.
    """
    for name, value in DEFAULTS.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if args.budget is not None:
        raise UserError(
            "--budget is for runs on this machine; with --executor slurm give each job "
            "a limit with --time, at which it is requeued and goes on"
        )
    if args.jobs is not None and args.jobs < 1:
        raise UserError(f"--jobs is {args.jobs}; expected 1 or more, or no --jobs")
    for name, low, high in (("pack", 1, MAX_PACK), ("retries", 0, MAX_RETRIES)):
        if not low <= (value := getattr(args, name)) <= high:
            raise UserError(f"--{name} is {value}; expected {low} to {high:,}")
    gpus, given = args.gpus_per_job, options(args.slurm)
    if gpus is not None and gpus < 0:
        raise UserError(f"--gpus-per-job is {gpus}; expected 0 or more")
    for name in _GPUS:
        if gpus is not None and name in given:
            raise UserError(
                f"--gpus-per-job and --slurm {name}= both ask for GPUs; give one"
            )
    nodes = given.get("nodes", 1)
    if (gpus or 0) % nodes:
        raise UserError(
            f"--gpus-per-job is {gpus}, and each run has {nodes} nodes with equally "
            f"many GPUs; expected a multiple of {nodes}"
        )
    if args.pack > 1 and tasks(given) > 1:
        raise UserError(
            f"--pack is {args.pack}, and each run has {tasks(given)} processes; such "
            "runs have a job each, so leave --pack out"
        )
    # SLURM may send its signal a minute early, and a run takes some time to begin: one
    # that is told to save before its first step would be requeued for ever.
    delay = given.get("signal_delay_s", SIGNAL_DELAY_S)
    least = -(-delay // 60) + 3
    if minutes(args.time) < least:
        raise UserError(
            f"--time is {args.time}; expected {least} minutes or more, for {delay} s "
            "before its end (--slurm signal_delay_s) a job saves and is requeued"
        )


def tasks(given: dict[str, Any]) -> int:
    """How many processes each run has, by the `--slurm` options."""
    return given.get("nodes", 1) * given.get("ntasks_per_node", 1)


def parameters(args: argparse.Namespace, *, has_gpus: bool) -> dict[str, Any]:
    """What `SlurmExecutor.update_parameters` is to be given.

    Args:
      args: the command line, checked.
      has_gpus: whether the partition has GPUs, of which a process gets one unless the
        command line says another number.
    """
    given = options(args.slurm)
    known = SlurmExecutor._valid_parameters()
    further = {name: given.pop(name) for name in list(given) if name not in known}
    # Else the job would look for its modules in what is installed on the node.
    path = f"export PYTHONPATH={shlex.quote(str(Path(__file__).resolve().parents[3]))}"
    setup = [given.pop("setup"), path] if "setup" in given else [path]
    setup[-1] += "${PYTHONPATH:+:$PYTHONPATH}"
    gpus = args.gpus_per_job
    if gpus is None and has_gpus and not set(_GPUS) & {*given, *further}:
        gpus = tasks(given)
    if gpus:
        given["gpus_per_node"] = gpus // given.get("nodes", 1)
    if args.partition is not None:
        given["partition"] = args.partition
    if args.jobs is not None:
        given["array_parallelism"] = args.jobs
    else:
        given["array_parallelism"] = 1_000_000  # submitit's own default is 256
    if tasks(given) > 1:  # one that failed must not leave the others waiting for it
        given["srun_args"] = ["--kill-on-bad-exit=1"]
    return {
        "job_name": "fer_jax",
        **given,
        "time": minutes(args.time),
        "setup": setup,
        "stderr_to_stdout": True,
        # A job whose node died or was taken away comes back by itself.
        "additional_parameters": {"requeue": True, **further},
    }
