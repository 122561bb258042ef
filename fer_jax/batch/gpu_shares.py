"""Divides this machine's GPUs and memory among runs that train at once.

Everything is said by environment variables and one call of `nvidia-smi`: if the batch
itself started JAX, it would hold memory on every GPU.
"""

import os
import shutil
import subprocess

from fer_jax.errors import UserError
from fer_jax.system.memory import MEMORY_SHARE, memory_share

_ANSWER_S = 60  # a sleeping driver takes seconds to wake
_FRACTION = "XLA_CLIENT_MEM_FRACTION"
# JAX refuses to start if both the old and the new name of the setting are set.
_FRACTION_NAMES = ("XLA_PYTHON_CLIENT_MEM_FRACTION", _FRACTION)


def share_out(at_once: int, gpus_per_run: int | None = None) -> list[dict[str, str]]:
    """Returns the environment variables of each of `at_once` runs.

    The GPUs are dealt out in turn. Each run sees `gpus_per_run` of them; by default
    one, if there are any. Runs that share a GPU divide its memory, since JAX would
    otherwise reserve three quarters of it for the first. All divide the memory that is
    free for images. Raises a UserError if there are fewer GPUs.
    """
    gpus = [] if gpus_per_run == 0 else visible_gpus()
    if gpus_per_run is not None and not 0 <= gpus_per_run <= len(gpus):
        there = (
            f"the visible GPUs are {', '.join(gpus)}" if gpus else "no GPU is visible"
        )
        raise UserError(
            f"--gpus_per_job is {gpus_per_run}; expected 0 to {len(gpus)}, as {there} "
            "(CUDA_VISIBLE_DEVICES and JAX_PLATFORMS may hide some); request fewer"
        )
    common, sharing = {}, at_once
    if at_once > 1 or MEMORY_SHARE in os.environ:
        common[MEMORY_SHARE] = f"{memory_share() / at_once:.6g}"
    if gpus_per_run == 0:  # else a JAX for CUDA complains that it finds none
        common["JAX_PLATFORMS"] = "cpu"
    count = min(1, len(gpus)) if gpus_per_run is None else gpus_per_run
    if count:
        sharing = -(-at_once * count // len(gpus))
    if sharing > 1 and not any(os.environ.get(name) for name in _FRACTION_NAMES):
        common[_FRACTION] = f"{0.9 / sharing:.3f}"
    if gpus_per_run is None and not gpus:  # GPUs of another maker stay visible
        return [common] * at_once
    dealt = [
        [gpus[(count * run + n) % len(gpus)] for n in range(count)]
        for run in range(at_once)
    ]
    return [common | {"CUDA_VISIBLE_DEVICES": ",".join(each)} for each in dealt]


def visible_gpus() -> list[str]:
    """Returns the GPUs that a run started here would see, by their CUDA names."""
    platforms = os.environ.get("JAX_PLATFORMS", "").replace(",", " ").split()
    if platforms and not {"cuda", "gpu"} & set(platforms):
        return []
    if (named := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        gpus = []
        for gpu in map(str.strip, named.split(",")):
            if gpu in ("", "-1", "NoDevFiles"):  # CUDA stops reading here, too
                break
            gpus.append(gpu)
        return gpus
    if not (program := shutil.which("nvidia-smi")):
        return []
    query = [program, "--query-gpu=index", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=_ANSWER_S)
    except subprocess.TimeoutExpired:
        raise UserError(
            f"nvidia-smi did not answer within {_ANSWER_S} s; repair the driver, name "
            "the GPUs in CUDA_VISIBLE_DEVICES, or use none with --gpus_per_job 0"
        ) from None
    # Without GPUs it fails or prints a sentence; CUDA finds none then, either.
    lines = done.stdout.split("\n") if done.returncode == 0 else []
    return [line.strip() for line in lines if line.strip().isdecimal()]
