import subprocess
import sys

import pytest
from conftest import ROOT, TINY, environment


@pytest.fixture
def train(tiny_csv, tmp_path):
    """Trains one epoch with a cache folder of its own; returns predictions, stderr."""
    own = environment() | {"FER_CACHE_DIR": str(tmp_path / "cache")}
    own.pop("JAX_COMPILATION_CACHE_DIR", None)

    def run(name):
        command = [sys.executable, "-m", "fer_jax.train", "configs/baseline.yaml"]
        command += ["--data_root", tiny_csv, "--runs_dir", tmp_path / name]
        for item in (*TINY, "training.epochs=1"):
            command += ["--set", item]
        done = subprocess.run(
            command, env=own, capture_output=True, text=True, cwd=ROOT
        )
        assert done.returncode == 0, done.stderr
        folder = tmp_path / name / "baseline/seed_42"
        return (folder / "predictions_val.npz").read_bytes(), done.stderr

    return run


def entries(tmp_path):
    """The programs that were kept, and when each was made; the largest first."""
    found = [p for p in (tmp_path / "cache/xla").rglob("*-cache")]
    return {
        p: p.stat().st_mtime_ns for p in sorted(found, key=lambda p: -p.stat().st_size)
    }


def test_a_second_run_takes_the_compiled_step_and_gets_the_same_numbers(
    train, tmp_path
):
    first, _ = train("first")
    made = entries(tmp_path)
    assert any("dispatch" in path.name for path in made)
    second, _ = train("second")
    assert entries(tmp_path) == made
    assert second == first


def test_a_damaged_program_is_compiled_anew(train, tmp_path):
    first, _ = train("first")
    step = next(path for path in entries(tmp_path) if "dispatch" in path.name)
    step.write_bytes(step.read_bytes()[:1000])
    second, told = train("second")
    assert second == first
