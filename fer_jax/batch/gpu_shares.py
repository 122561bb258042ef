"""What of this machine each of several runs at once gets: GPUs, cores and memory.

All is told by the environment and one call of `nvidia-smi`: a batch that started JAX
to ask would hold memory on every GPU.
"""

import contextlib
import dataclasses
import importlib.util
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence

from fer_jax.errors import UserError
from fer_jax.system.memory import MEMORY_SHARE, memory_share

_ASK_S = 60  # a driver that sleeps takes seconds to wake
_FRACTION = "XLA_CLIENT_MEM_FRACTION"
# JAX refuses to start where both names of the setting, the old and the new, are there.
_FRACTION_NAMES = ("XLA_PYTHON_CLIENT_MEM_FRACTION", _FRACTION)


@dataclasses.dataclass(frozen=True)
class Share:
    """What one run gets.

    Attributes:
      gpus: those that it sees, as CUDA names them; None: what there is.
      gpu_memory: its part of their memory; None: what JAX takes of itself.
      cores: those that it is bound to; None: to none.
      memory: its part of the machine's memory that is free.
    """

    gpus: tuple[str, ...] | None = None
    gpu_memory: float | None = None
    cores: frozenset[int] | None = None
    memory: float = 1.0

    def environment(self) -> dict[str, str]:
        """The settings that tell the run; the user's own of GPU memory stand."""
        told = {MEMORY_SHARE: f"{self.memory:.6g}"} if self.memory < 1 else {}
        if self.gpus is not None:
            told["CUDA_VISIBLE_DEVICES"] = ",".join(self.gpus)
            if not self.gpus:  # else a JAX for CUDA complains that it finds none
                told["JAX_PLATFORMS"] = "cpu"
        named = any(os.environ.get(name) for name in _FRACTION_NAMES)
        if self.gpu_memory is not None and not named:
            told[_FRACTION] = f"{self.gpu_memory:.3f}"
        return told

    @contextlib.contextmanager
    def bound(self) -> Iterator[None]:
        """Binds this thread meanwhile, and with it the processes that it starts."""
        if self.cores is None:
            yield
            return
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, self.cores)
        try:
            yield
        finally:
            os.sched_setaffinity(0, before)


def share_out(at_once: int, gpus_per_job: int | None = None) -> list[Share]:
    """Divides the machine among `at_once` runs, evenly.

    GPUs: each run sees `gpus_per_job` of those at hand, taken from the least loaded
    first; by default one, if there are any. Where several runs see the same GPU, each
    may take its part of the memory: else the first takes three quarters of it.

    Cores: runs that use GPUs are bound to cores of their own, so that the host's work
    for one does not delay another's. Those that compute on the cores themselves are
    not bound: on fewer cores XLA adds up in another order, and the numbers would
    depend on how many run at once. They do so beside GPUs, too, if JAX was installed
    without CUDA.

    Raises:
      UserError: if there are not so many GPUs, or their number cannot be told.
    """
    gpus = [] if gpus_per_job == 0 else gpus_at_hand()
    if gpus_per_job is None:
        gpus_per_job = 1 if gpus else None
    elif not 0 <= gpus_per_job <= len(gpus):
        there = f"the GPUs at hand: {', '.join(gpus)}" if gpus else "no GPU is at hand"
        raise UserError(
            f"--gpus-per-job is {gpus_per_job}; expected 0 to {len(gpus)}, as {there} "
            "(CUDA_VISIBLE_DEVICES and JAX_PLATFORMS may hide some); name fewer"
        )
    memory = memory_share() / at_once
    if gpus_per_job is None:  # a device of another make may still be there
        part = 0.9 / at_once if at_once > 1 else None
        return [Share(gpu_memory=part, memory=memory)] * at_once
    seen = _dealt(gpus, gpus_per_job, at_once)
    users = Counter(gpu for each in seen for gpu in each)
    on_gpus = gpus_per_job > 0 and _jax_has_plugins()
    cores = _slices(at_once) if on_gpus else [None] * at_once
    return [
        Share(
            gpus=mine,
            gpu_memory=(
                0.9 / max(users[gpu] for gpu in mine) if mine and at_once > 1 else None
            ),
            cores=bound,
            memory=memory,
        )
        for mine, bound in zip(seen, cores, strict=True)
    ]


def gpus_at_hand() -> list[str]:
    """The GPUs that runs started here would see, as CUDA names them.

    Raises:
      UserError: if the driver does not answer.
    """
    platforms = os.environ.get("JAX_PLATFORMS", "").replace(",", " ").split()
    if platforms and not {"cuda", "gpu"} & set(platforms):
        return []
    if (named := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        gpus = []
        for gpu in map(str.strip, named.split(",")):
            if gpu in ("", "-1", "NoDevFiles"):  # CUDA reads no further either
                break
            gpus.append(gpu)
        return gpus
    if not (program := shutil.which("nvidia-smi")):
        return []
    query = [program, "--query-gpu=index", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=_ASK_S)
    except subprocess.TimeoutExpired:
        raise UserError(
            f"nvidia-smi did not say within {_ASK_S} s which GPUs there are; mend the "
            "driver, name them in CUDA_VISIBLE_DEVICES, or use none with "
            "--gpus-per-job 0"
        ) from None
    # It fails, or says so in words, where its driver finds no GPU: nor does CUDA then.
    lines = done.stdout.split("\n") if done.returncode == 0 else []
    return [line.strip() for line in lines if line.strip().isdecimal()]


def _jax_has_plugins() -> bool:
    """Whether JAX can reach other devices than the CPU; it looks for the same."""
    return importlib.util.find_spec("jax_plugins") is not None


def least_used(shares: Sequence[Share], taken: Sequence[int]) -> int:
    """The place of the share that is free and whose GPUs the fewest runs use.

    Args:
      shares: one for each run that there may be.
      taken: the places of those that runs have.
    """
    users = Counter(gpu for place in taken for gpu in shares[place].gpus or ())
    free = [place for place in range(len(shares)) if place not in taken]
    return min(free, key=lambda place: sum(users[g] for g in shares[place].gpus or ()))


def _dealt(gpus: Sequence[str], each: int, at_once: int) -> list[tuple[str, ...]]:
    """For each of the runs so many GPUs, those that the fewest others see."""
    users, dealt = Counter(dict.fromkeys(gpus, 0)), []
    for _ in range(at_once):
        mine = tuple(sorted(gpus, key=lambda gpu: users[gpu])[:each])
        users.update(mine)
        dealt.append(mine)
    return dealt


def _slices(at_once: int) -> list[frozenset[int] | None]:
    """For each of the runs its part of the cores that this process may use."""
    if at_once == 1 or not hasattr(os, "sched_setaffinity"):  # all; or not Linux
        return [None] * at_once
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < at_once:  # several share one
        return [frozenset({cores[n % len(cores)]}) for n in range(at_once)]
    ends = [n * len(cores) // at_once for n in range(at_once + 1)]
    return [frozenset(cores[a:b]) for a, b in zip(ends, ends[1:], strict=False)]
