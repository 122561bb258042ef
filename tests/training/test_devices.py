"""Several devices compute what one does; what they cannot share is refused."""

import json
import types

import jax
import pytest
from run_soak import soak

from fer_jax.errors import UserError
from fer_jax.training import devices


@pytest.mark.slow
def test_devices_share_the_work_and_change_no_number_but_by_rounding(tiny_csv):
    done = soak("devices.py", "--json", "--steps", 3, "--image_size", 16, "--counts",
                8, "--data_root", tiny_csv, "--set", "model.arch=tiny")  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(done.stdout.splitlines()[-1])
    assert set(rows) == {"control", "8", "scanned"}
    assert rows["8"]["work"] < 0.2


def test_one_device_is_all_there_is_here():
    assert devices.find("all", 10).count == len(jax.devices()) == 1
    assert str(devices.find(1, 7)) == jax.devices()[0].device_kind


@pytest.mark.parametrize(
    ("wanted", "batch_size", "processes", "message"),
    [
        ("all", 36, 1, "batch_size is 36, which 8 devices cannot share equally; set it "
         "to 32 or 40, or device to 6"),
        (8, 5, 1, "is 5, which 8 devices cannot share equally; set it to 8, or device "
         "to 5"),
        (9, 128, 1, "device is 9, but this run sees 8 (cpu); set it to at most that"),
        (3, 128, 2, "device is 3, which 2 processes cannot share equally; set it to 2 "
         "or 4"),
        (1, 128, 2, "device is 1, which 2 processes cannot share equally; set it to 2"),
        ("all", 9, 2, "batch_size is 9, which 8 devices cannot share equally; set it "
         "to 8 or 16"),
    ],
)  # fmt: skip
def test_what_devices_cannot_share_is_refused_with_what_they_could(
    wanted, batch_size, processes, message, monkeypatch
):
    eight = [
        types.SimpleNamespace(process_index=number % processes, device_kind="cpu")
        for number in range(8)
    ]
    monkeypatch.setattr(jax, "devices", lambda: eight)
    monkeypatch.setattr(jax, "process_count", lambda: processes)
    with pytest.raises(UserError) as error:
        devices.find(wanted, batch_size)
    assert message in str(error.value)
