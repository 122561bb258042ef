"""Keeps compiled programs from one process to the next.

XLA takes some seconds for a step on a CPU and up to a minute for one on a GPU; what
it made is the same program, so a later run computes the same numbers with it.
"""

import hashlib
import os
import platform
from pathlib import Path

import jax

from fer_jax.system.cache import cache_root


def keep_compiled() -> None:
    """Makes JAX keep compiled programs under the cache folder, unless told where.

    JAX's own `JAX_COMPILATION_CACHE_DIR` takes precedence, and
    `JAX_ENABLE_COMPILATION_CACHE=false` switches it off. A folder that cannot be
    written or an entry that cannot be read costs a warning and the compilation.
    """
    if jax.config.jax_compilation_cache_dir is None:
        folder = cache_root() / "xla" / _processor()
        jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        # A batch starts many processes, each with a dozen programs of 0.2 to 1 s.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def _processor() -> str:
    """A name for what CPU code runs on: a home folder may serve several machines."""
    told = [platform.machine(), platform.processor()]
    if (info := Path("/proc/cpuinfo")).is_file():
        lines = info.read_text().splitlines()
        kinds = ("flags", "Features", "model name")  # Features: on ARM
        told += sorted({line for line in lines if line.startswith(kinds)})
    return hashlib.sha256(repr(told).encode()).hexdigest()[:12]
