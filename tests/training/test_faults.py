"""Full disks, read-only folders and limits end in a sentence; the run can resume."""

import contextlib
import errno
import io
import os
import resource
import subprocess

import jax
import numpy as np
import pytest
from conftest import HARD, tiny_config
from rich.console import Console
from same_run import assert_same_run

from fer_jax import runs
from fer_jax.errors import Lost, UserError
from fer_jax.system import files
from fer_jax.training import checkpoints as checkpoint
from fer_jax.training import processes
from fer_jax.training.attempt import device_errors
from fer_jax.training.run import train


@contextlib.contextmanager
def small_disk(folder, size):
    """A file system of its own, where this user may mount one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only root may mount a small disk, and here it may not")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_stops_the_run_which_resumes_once_there_is_room(
    finished_run, tiny_csv, tmp_path
):
    with small_disk(tmp_path / "disk", "280k") as disk:  # one checkpoint has 160 kB
        again = {"data_root": str(tiny_csv), "runs_dir": disk}
        with pytest.raises(UserError, match="No space left on device.* last check"):
            train(tiny_config(*HARD), **again)
        folder = disk / "baseline/seed_42"
        assert not runs.is_finished(folder)
        assert runs.epochs_done(folder) == 1  # what was good is still good
        room = ["mount", "-o", "remount,size=100m", str(disk)]
        subprocess.run(room, check=True)
        told = io.StringIO()
        train(tiny_config(*HARD), **again, console=Console(file=told, width=200))
        assert "resuming after step 4 " in told.getvalue()
        assert_same_run(folder, finished_run[0], tiny_csv)


def test_a_read_only_disk_is_reported_at_once(tiny_csv, tmp_path):
    with small_disk(tmp_path / "disk", "1m") as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(UserError, match="Read-only file system.*--runs_dir"):
            train(tiny_config(), data_root=str(tiny_csv), runs_dir=disk)


class Fails:
    """A function that raises an OSError at its n-th call."""

    def __init__(self, function, call, number):
        self.function, self.left, self.number = function, call, number

    def __call__(self, path, *rest, **named):
        self.left -= 1
        if self.left == 0:
            raise OSError(self.number, os.strerror(self.number), str(path))
        return self.function(path, *rest, **named)


FAULTS = {
    # Which function, in which module, fails at which call, with what.
    "sums of the second checkpoint": (checkpoint, "write_text", 2, errno.ENOSPC),
    "config": (files, "write_text", 2, errno.ENOSPC),
    "metrics of the second epoch": (files, "write_jsonl", 3, errno.EROFS),
    "predictions": (np, "savez", 2, errno.EIO),
    "result": (files, "write_json", 2, errno.EDQUOT),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_written_is_reported_and_the_run_resumes_to_the_same_end(
    fault, finished_run, tiny_csv, tmp_path, monkeypatch
):
    module, name, call, number = FAULTS[fault]
    again = {"data_root": str(tiny_csv), "runs_dir": tmp_path}
    with monkeypatch.context() as patch:
        patch.setattr(module, name, Fails(getattr(module, name), call, number))
        with pytest.raises(UserError, match=os.strerror(number)) as error:
            train(tiny_config(*HARD), **again)
    assert "the same command, without --force, resumes" in str(error.value)
    folder = tmp_path / "baseline/seed_42"
    assert not runs.is_finished(folder)
    assert not list(folder.rglob("*.partial"))
    train(tiny_config(*HARD), **again)
    assert_same_run(folder, finished_run[0], tiny_csv)


def test_a_limit_on_file_sizes_is_reported_and_the_run_resumes(
    finished_run, tiny_csv, tmp_path, monkeypatch
):
    save = checkpoint.Checkpoints.save
    old = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limited(checkpoints, step, *rest):
        if step == 8:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, old[1]))
        try:
            save(checkpoints, step, *rest)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, old)

    again = {"data_root": str(tiny_csv), "runs_dir": tmp_path}
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.Checkpoints, "save", limited)
        with pytest.raises(UserError, match="checkpoints/8 .*File too large"):
            train(tiny_config(*HARD), **again)
    train(tiny_config(*HARD), **again)
    assert_same_run(tmp_path / "baseline/seed_42", finished_run[0], tiny_csv)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 900 bytes.",
            (UserError, "cpu ran out of memory"),
        ),
        (
            "INTERNAL: Error dispatching computation: Out of memory allocating 9 bytes",
            (UserError, "cpu ran out of memory"),
        ),
        ("INTERNAL: the device is gone", (jax.errors.JaxRuntimeError, "is gone")),
    ],
)
def test_a_lack_of_device_memory_is_reported_and_no_other_error(message, expected):
    kind, words = expected
    with pytest.raises(kind, match=words), device_errors():
        raise jax.errors.JaxRuntimeError(message)


def test_a_lost_process_is_reported_where_there_are_others(monkeypatch):
    error = jax.errors.JaxRuntimeError("UNAVAILABLE: Gloo: connection reset by peer")
    with pytest.raises(jax.errors.JaxRuntimeError), device_errors():
        raise error
    monkeypatch.setattr(processes, "are_one", lambda: False)
    with pytest.raises(Lost, match="another process of the run"), device_errors():
        raise error
