"""What the tests share: cache folders, a tiny data set, a tiny network, a finished run.

The tiny set has 16 x 16 images whose classes differ by a bright bar, so that the tiny
network learns them within three epochs.
"""

import contextlib
import os
import resource
from pathlib import Path

# XLA's optimisations take most of a test's time and no test is about them. Child
# processes inherit this; JAX_DISABLE_MOST_OPTIMIZATIONS=0 tests what users run.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# Threads of NumPy's products wait for each other where the suite's processes have all
# cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.pop("COLUMNS", None)  # xdist sets it, and output in a pipe is as wide

import jax
import numpy as np
import pytest
import yaml
from child import tiny_network

from fer_jax import config as config_lib
from fer_jax import data
from fer_jax.training import run

ROOT = Path(__file__).resolve().parents[1]
FER2013 = Path(
    os.environ.get("FER2013_CSV", ROOT.parent / "shared/fer2013/fer2013.csv.xz")
)
OPTIMISED = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}  # in child processes that compute
SIDE, COUNTS = 16, (20, 8, 16, 30, 20, 16, 18)
LEAKED = 7  # images of val that are in train too
CHILD = Path(tiny_network.__file__).parent  # on the path of child processes
TINY = (
    "model.arch=tiny",
    f"data.image_size={SIDE}",
    "training.epochs=3",
    "training.batch_size=32",
    "training.eval_batch_size=25",  # divides neither val nor test
    "training.lr=0.003",
    # Each draws random numbers that take a second or more to compile.
    "augmentation.rotation=0",
    "augmentation.shift=0",
    "augmentation.scale=0",
    "augmentation.random_erasing=0",
    "augmentation.mixup_alpha=0",
)


@pytest.fixture(scope="session", autouse=True)
def caches(tmp_path_factory, pytestconfig):
    """Prepared data go to a folder that ends with the tests, and all processes share.

    Compiled programs stay in pytest's own cache (.pytest_cache), so that the next
    `pytest` need not compile them again; `pytest --cache-clear` forgets them.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    compiled = pytestconfig.cache.mkdir("xla")
    own = {
        "FER_CACHE_DIR": str(folder / "prepared"),
        "JAX_COMPILATION_CACHE_DIR": str(compiled),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    # The settings are also told to this process's JAX.
    jax.config.update("jax_compilation_cache_dir", own["JAX_COMPILATION_CACHE_DIR"])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("FER_DATA_ROOT", raising=False)
        for name, value in own.items():
            patch.setenv(name, value)
        patch.setenv("PYTHONPATH", str(CHILD), prepend=os.pathsep)
        yield Path(own["FER_CACHE_DIR"])


@contextlib.contextmanager
def optimising():
    """For what computes more than it compiles."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", False)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture
def optimised():
    """For tests that compute more than they compile."""
    with optimising():
        yield


@pytest.fixture(scope="module", autouse=True)
def forget_compiled():
    """Frees the compiled programs after each module, once they take a gigabyte."""
    yield
    if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 1_000_000:  # KiB
        jax.clear_caches()


def write_tiny_csv(path: Path, usages=("Training", "PublicTest", "PrivateTest")):
    """Random images with a bright bar; the first of each class is in train and val."""
    rng, first = np.random.default_rng(0), {}
    lines = ["emotion,pixels,Usage"]
    for usage in usages:
        for label, count in enumerate(COUNTS):
            for n in range(count):
                image = rng.integers(0, 120, (SIDE, SIDE))
                image[2 * label : 2 * label + 3] += 90
                if n == 0 and usage != "PrivateTest":
                    image = first.setdefault(label, image)
                lines.append(f"{label},{' '.join(map(str, image.ravel()))},{usage}")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="session")
def tiny_csv(tmp_path_factory):
    return write_tiny_csv(tmp_path_factory.mktemp("tiny") / "fer2013.csv")


def tiny_config(*overrides: str):
    return config_lib.load(ROOT / "configs/baseline.yaml", [*TINY, *overrides])


def write_tiny_configs(folder: Path, experiments: dict, **training) -> Path:
    """A folder of experiments: the baseline, tiny, and what changes from it by name."""
    base = yaml.safe_load((ROOT / "configs/baseline.yaml").read_text())
    for item in TINY:
        key, value = item.split("=")
        section, name = key.split(".")
        base[section][name] = yaml.safe_load(value)
    base["training"] |= training
    (folder / "baseline.yaml").write_text(yaml.safe_dump(base))
    for name, change in experiments.items():
        described = {"extends": "baseline.yaml", "name": name, "description": "?"}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(described | change))
    return folder


@pytest.fixture(scope="session")
def drawn():
    """The embedded set by split. Drawing it takes long; the prepared copy is shared."""
    return data.load(None).splits


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory, tiny_csv):
    """The folder and the result of one whole run; tests only read it."""
    runs_dir = tmp_path_factory.mktemp("finished")
    config = tiny_config(*HARD)
    result = run.train(config, data_root=str(tiny_csv), runs_dir=runs_dir)
    return runs_dir / "baseline" / "seed_42", result


# What makes an exact resume hard: randomness of many sources, and averaged weights.
HARD = (
    "data.weighted_sampler=true",
    "augmentation.horizontal_flip=alternating",
    "augmentation.brightness=0.5",
    "training.ema_decay=0.8",
    "evaluation.tta=flip",
)


def environment() -> dict[str, str]:
    """For child processes: this checkout first on the path."""
    path = os.pathsep.join([str(ROOT), str(CHILD)])
    return os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
