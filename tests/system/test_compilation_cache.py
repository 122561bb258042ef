import subprocess
import sys

import pytest
from conftest import ROOT, TINY, environment


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def train(tiny_csv, folder):
    """Trains one epoch with a cache folder of its own; returns predictions, stderr."""
    own = environment() | {"FER_CACHE_DIR": str(folder / "cache")}
    own.pop("JAX_COMPILATION_CACHE_DIR", None)

    def run(name):
        command = [sys.executable, "-m", "fer_jax.train", "configs/baseline.yaml"]
        command += ["--data_root", tiny_csv, "--runs_dir", folder / name]
        for item in (*TINY, "training.epochs=1"):
            command += ["--set", item]
        done = subprocess.run(
            command, env=own, capture_output=True, text=True, cwd=ROOT
        )
        assert done.returncode == 0, done.stderr
        run_dir = folder / name / "baseline/seed_42"
        return (run_dir / "predictions_val.npz").read_bytes(), done.stderr

    return run


@pytest.fixture(scope="module")
def first(train):
    """The predictions of the run that compiled everything."""
    return train("first")[0]


def entries(folder):
    """The programs that were kept, and when each was made; the largest first."""
    found = [p for p in (folder / "cache/xla").rglob("*-cache")]
    return {
        p: p.stat().st_mtime_ns for p in sorted(found, key=lambda p: -p.stat().st_size)
    }


def test_a_second_run_takes_the_compiled_step_and_gets_the_same_numbers(
    train, first, folder
):
    made = entries(folder)
    assert any("dispatch" in path.name for path in made)
    second, _ = train("second")
    assert entries(folder) == made
    assert second == first


@pytest.mark.slow
def test_a_damaged_program_is_compiled_anew(train, first, folder):
    step = next(path for path in entries(folder) if "dispatch" in path.name)
    step.write_bytes(step.read_bytes()[:1000])
    third, told = train("third")
    assert third == first
