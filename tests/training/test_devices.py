import json
import re
import subprocess
import sys

import jax
import pytest
from conftest import ROOT, TINY, environment
from run_soak import soak

from fer_jax.errors import UserError
from fer_jax.training import devices


def test_devices_share_the_work_and_change_no_number_but_by_rounding(tiny_csv):
    done = soak("devices.py", "--json", "--steps", 3, "--image_size", 16, "--counts",
                8, "--data_root", tiny_csv)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(done.stdout.splitlines()[-1])
    assert set(rows) == {"control", "8", "scanned"}
    assert rows["8"]["work"] < 0.2


def test_one_device_is_all_there_is_here():
    assert devices.find("all", 10).count == len(jax.devices()) == 1
    assert str(devices.find(1, 7)) == jax.devices()[0].device_kind
    with pytest.raises(UserError, match=r"device is 2, but this run sees 1 \(cpu\)"):
        devices.find(2, 128)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            ["training.batch_size=36"],
            "training.batch_size is 36, which 8 devices cannot share equally; set it "
            "to 32 or 40, or device to 6",
        ),
        (
            ["training.batch_size=5", "device=8"],
            "is 5, which 8 devices cannot share equally; set it to 8, or device to 5",
        ),
        (
            ["device=9"],
            "device is 9, but this run sees 8 (cpu); set it to at most that",
        ),
        (["device=0"], "device is 0; expected 'all' or a whole number, at least 1"),
        (["device=some"], "device is 'some'; expected 'all' or a whole number, at"),
    ],
)
def test_what_devices_cannot_share_is_refused_with_what_they_could(
    settings, told, tiny_csv, tmp_path
):
    command = [sys.executable, "-m", "fer_jax.train", ROOT / "configs/baseline.yaml"]
    command += ["--data_root", tiny_csv, "--runs_dir", tmp_path / "runs"]
    for item in (*TINY, *settings):
        command += ["--set", item]
    flags = "--xla_force_host_platform_device_count=8"
    done = subprocess.run(
        command, env=environment() | {"XLA_FLAGS": flags}, capture_output=True,
        text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 2
    assert re.fullmatch(r"error: [^\n]*\n", done.stderr), done.stderr
    assert told in done.stderr
    assert not (tmp_path / "runs").exists()
