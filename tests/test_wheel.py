"""The wheel, installed in an environment of its own and used without a checkout."""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A function that calls the wheel's `fer-jax` in an empty folder."""
    root = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip"]
    build = [*pip, "wheel", "-q", "--no-deps", "-w", str(root / "dist"), str(ROOT)]
    subprocess.run(build, check=True)
    venv.create(root / "venv", with_pip=False)
    python = root / "venv/bin/python"
    (wheel,) = (root / "dist").glob("fer_jax-*.whl")
    install = ["--python", str(python), "install", "-q", "--no-deps", str(wheel)]
    subprocess.run([*pip, *install], check=True)
    # Its dependencies are those of this environment, without the checkout in it.
    places = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    here = sysconfig.get_path("purelib")
    Path(places, "dependencies.pth").write_text(f"{here}\n")
    empty = root / "empty"
    empty.mkdir()
    ours = ("PYTHONPATH", "FER_DATA_ROOT")
    kept = {key: value for key, value in os.environ.items() if key not in ours}
    kept["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # it compiles more than it computes

    def call(*arguments, program="fer-jax"):
        done = subprocess.run(
            [root / "venv/bin" / program, *arguments],
            cwd=empty, env=kept, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    call.folder = empty
    return call


def test_an_hour_without_a_checkout(installed):
    where = installed("-c", "import fer_jax; print(fer_jax.__file__)", program="python")
    assert "venv" in where and not where.startswith(str(ROOT))
    small = (
        *("--set", "training.epochs=1", "--set", "data.train_subset=256"),
        *("--set", "model.width=0.25"),
    )
    assert "result: runs/baseline/seed_42" in installed("train", "baseline", *small)
    batch = installed(
        "batch", "--filter", "loss_f", "--filter", "base", "--dry_run", *small
    )
    assert "1 of 2 runs to do" in batch and "finished" in batch
    assert "baseline" in installed("compare", "--split", "test")
    faces = installed.folder / "face.png"
    pixels = np.random.default_rng(0).integers(256, size=(48, 48), dtype=np.uint8)
    Image.fromarray(pixels).save(faces)
    assert "face.png" in installed("predict", "face.png")
    installed("configs", "--to", "mine")
    assert installed.folder.joinpath("mine/baseline.yaml").is_file()
