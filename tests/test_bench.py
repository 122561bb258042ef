import json
import subprocess
import sys

import pytest
from conftest import ROOT, environment

from fer_jax.bench.contest import contest
from fer_jax.errors import UserError

SMALL = {"arch": "fernet", "batch": 16, "image_size": 16, "steps": 2}


def test_contenders_take_turns_and_tell_what_they_reached():
    scores = contest(
        {
            "step": ("ours", "step", SMALL),
            "indices": ("ours", "indices", {"batch": 8, "images": 64, "batches": 50}),
        },
        rounds=2,
    )
    assert list(scores) == ["step", "indices"]
    # Indices take microseconds, and a step of a network milliseconds.
    assert scores["indices"].per_s > scores["step"].per_s > 0
    assert scores["step"].told["flops"] > 1e6
    assert scores["step"].memory_mb > 50


def test_a_contender_that_fails_is_told_with_its_reason():
    with pytest.raises(UserError, match="the contender ours failed: .*vit"):
        contest({"ours": ("ours", "step", SMALL | {"arch": "vit"})}, rounds=1)


def test_the_command_writes_ratios(tmp_path):
    pytest.importorskip("torch", reason="PyTorch is the other side of the benchmark")
    path = tmp_path / "bench.json"
    command = [sys.executable, ROOT / "bin/bench", "--only", "prediction"]
    done = subprocess.run(
        [*command, "--rounds", "2", "--json", path],
        env=environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(path.read_text())
    ours, theirs = (report["prediction"][k] for k in ("fer_jax", "PyTorch"))
    assert report["ratio_prediction"] == ours["per_s"] / theirs["per_s"]
    assert f"{report['ratio_prediction']:.2f}" in done.stdout
