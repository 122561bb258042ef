"""The options of a SLURM job: checked, and as submitit takes them."""

import argparse
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from fer_jax.errors import UserError
from fer_jax.system.files import IMPORT_ROOT

DEFAULTS = {"pack": 1, "time": "60", "partition": None, "slurm": (), "retries": 2}
_RANGES = {"pack": (1, 10_000), "retries": (0, 100)}
# submitit computes with these; all others go to sbatch as they are.
_NUMBERS = (
    *("nodes", "ntasks_per_node", "cpus_per_task", "cpus_per_gpu"),
    *("gpus_per_node", "gpus_per_task", "signal_delay_s"),
)
_GPUS = ("gpus_per_node", "gpus_per_task", "gpus", "gres", "tres_per_node")
_RESERVED = {
    "time": "use --time",
    "partition": "use --partition",
    "array": "there is one job for each run, or for --pack of them",
    "ntasks": "use nodes= and ntasks_per_node=",
    "signal": "use signal_delay_s=, the seconds before the time limit",
    **dict.fromkeys(
        ("output", "error", "open_mode", "requeue", "no_requeue", "chdir", "wrap")
        + ("parsable", "test_only", "hold", "quiet", "wait", "export", "export_file")
        + ("cluster", "clusters", "help", "usage", "version"),
        "the batch sets it",
    ),
}


def check(args: argparse.Namespace) -> None:
    """Checks the options of the executor that was chosen, and fills in the defaults.

    Raises:
      UserError: if one is invalid, or belongs to the other executor.
    """
    for name, value in DEFAULTS.items():
        if args.executor == "slurm" and getattr(args, name) is None:
            setattr(args, name, value)
        elif args.executor != "slurm" and getattr(args, name) is not None:
            raise UserError(
                f"--{name} is an option of --executor slurm; add that, or leave it out"
            )
    if args.executor != "slurm":
        return
    if args.budget is not None:
        raise UserError(
            "--budget applies to runs on this machine; with --executor slurm, limit "
            "each job with --time"
        )
    if args.jobs is not None and args.jobs < 1:
        raise UserError(f"--jobs is {args.jobs}; expected 1 or more, or no --jobs")
    for name, (low, high) in _RANGES.items():
        if not low <= (value := getattr(args, name)) <= high:
            raise UserError(f"--{name} is {value}; expected {low} to {high:,}")
    _check_together(args, parse_options(args.slurm))


def _check_together(args: argparse.Namespace, options: Mapping[str, Any]) -> None:
    gpus, nodes = args.gpus_per_job, options.get("nodes", 1)
    if gpus is not None and gpus < 0:
        raise UserError(f"--gpus_per_job is {gpus}; expected 0 or more")
    for name in _GPUS:
        if gpus is not None and name in options:
            raise UserError(
                f"--gpus_per_job and --slurm {name}= both request GPUs; give one"
            )
    if (gpus or 0) % nodes:
        raise UserError(
            f"--gpus_per_job is {gpus}, to be divided among {nodes} nodes; expected a "
            f"multiple of {nodes}"
        )
    if args.pack > 1 and (processes := num_processes(options)) > 1:
        raise UserError(
            f"--pack is {args.pack}, and each run has {processes} processes; such runs "
            "need a job each, so leave --pack out"
        )


def parse_options(items: Sequence[str]) -> dict[str, Any]:
    """Returns the `--slurm KEY=VALUE` items as a mapping.

    Raises:
      UserError: if one is malformed, repeated, or set by the batch itself.
    """
    options: dict[str, Any] = {}
    for item in items:
        key, _, value = item.partition("=")
        name = key.strip().lstrip("-").replace("-", "_")
        if not (re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII) and value):
            raise UserError(
                f"--slurm is {item!r}; expected KEY=VALUE, as in --slurm "
                "cpus_per_task=8 (=true for an option without a value)"
            )
        if name in _RESERVED:
            raise UserError(f"--slurm {name}= cannot be given: {_RESERVED[name]}")
        if name in options:
            raise UserError(f"--slurm {name}= is given twice; give it once")
        if name in _NUMBERS and not (value.isascii() and value.isdigit()):
            raise UserError(f"--slurm {name} is {value}; expected a whole number")
        if name in ("nodes", "ntasks_per_node") and int(value) < 1:
            raise UserError(f"--slurm {name} is {value}; expected 1 or more")
        if name != "setup" and not value.isprintable():  # it would add script lines
            raise UserError(f"--slurm {name} is {value!r}; expected one line of text")
        is_switch = value == "true" and name != "setup"
        options[name] = int(value) if name in _NUMBERS else is_switch or value
    return options


def num_processes(options: Mapping[str, Any]) -> int:
    """Returns how many processes each run has."""
    return options.get("nodes", 1) * options.get("ntasks_per_node", 1)


def job_parameters(args: argparse.Namespace, *, has_gpus: bool) -> dict[str, Any]:
    """Returns the arguments of `SlurmExecutor.update_parameters`.

    Args:
      args: the checked command line.
      has_gpus: whether the partition has GPUs. Then a process gets one by default.
    """
    options = parse_options(args.slurm)
    # Else the job would import whatever is installed on the node.
    path = f"export PYTHONPATH={shlex.quote(str(IMPORT_ROOT))}"
    setup = [options.pop("setup")] if "setup" in options else []
    setup.append(path + "${PYTHONPATH:+:$PYTHONPATH}")
    gpus = args.gpus_per_job
    if gpus is None and has_gpus and not set(_GPUS) & set(options):
        gpus = num_processes(options)
    if gpus:
        options["gpus_per_node"] = gpus // options.get("nodes", 1)
    if args.partition is not None:
        options["partition"] = args.partition
    parameters = {name: options.pop(name) for name in _NUMBERS if name in options}
    if num_processes(parameters) > 1:  # one failure must not leave the others waiting
        parameters["srun_args"] = ["--kill-on-bad-exit=1"]
    return parameters | {
        "job_name": "fer_jax",
        "setup": setup,
        "stderr_to_stdout": True,
        "array_parallelism": args.jobs or 1_000_000,  # submitit's default is 256
        # A job comes back by itself if its node dies or is taken away.
        "additional_parameters": {"requeue": True, "time": args.time, **options},
    }
