"""Compiled programs are stored on disk, so that later processes need not compile.

XLA takes some seconds for a step on a CPU and up to a minute on a GPU.
"""

import hashlib
import os
import platform
from pathlib import Path

import jax

from fer_jax.system.cache import cache_root


def keep_compiled() -> None:
    """Makes JAX store compiled programs under the cache folder.

    JAX's own `JAX_COMPILATION_CACHE_DIR` takes precedence, and
    `JAX_ENABLE_COMPILATION_CACHE=false` switches it off. If a file cannot be read or
    written, JAX warns and compiles.
    """
    if jax.config.values["jax_compilation_cache_dir"] is None:
        folder = cache_root() / "xla" / _processor()
        jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        # A batch starts many processes, each with a dozen programs of 0.2 to 1 s.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _processor() -> str:
    """Returns a name for the CPU: a home folder may be shared by several machines."""
    parts = [platform.machine(), platform.processor()]
    if (info := Path("/proc/cpuinfo")).is_file():
        lines = info.read_text().splitlines()
        kinds = ("flags", "Features", "model name")  # Features: on ARM
        parts += sorted({line for line in lines if line.startswith(kinds)})
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]
