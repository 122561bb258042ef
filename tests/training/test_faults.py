"""A full disk, a read-only folder, a limit on files: one sentence, and on it goes."""

import contextlib
import errno
import os
import resource
import subprocess
import sys

import jax
import numpy as np
import pytest
from conftest import HARD, ROOT, TINY, environment, tiny_config
from same_run import assert_same_run

from fer_jax import runs
from fer_jax import train as train_lib
from fer_jax.errors import UserError
from fer_jax.system import files
from fer_jax.train import train
from fer_jax.training import checkpoints as checkpoint


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


def train_process(csv, runs_dir, **options):
    command = [sys.executable, "-m", "fer_jax.train", ROOT / "configs/baseline.yaml"]
    command += ["--data_root", csv, "--runs_dir", runs_dir]
    for item in (*TINY, *HARD):
        command += ["--set", item]
    return subprocess.run(
        command, env=environment(), capture_output=True, text=True, **options
    )


def assert_one_sentence(done, words):
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert words in done.stderr


def test_a_full_disk_stops_the_run_which_goes_on_once_there_is_room(
    finished_run, tiny_csv, tmp_path
):
    with small_disk(tmp_path / "disk", "280k") as disk:  # one checkpoint has 160 kB
        for _ in range(2):
            full = train_process(tiny_csv, disk)
            assert_one_sentence(full, "No space left on device")
            assert "resumes from the last checkpoint" in full.stderr
        folder = disk / "baseline/seed_42"
        assert not runs.is_finished(folder)
        assert runs.epochs_done(folder) == 1  # what was good is still good
        room = ["mount", "-o", "remount,size=100m", str(disk)]
        subprocess.run(room, check=True)
        done = train_process(tiny_csv, disk)
        assert done.returncode == 0, done.stderr
        assert "resuming after step 4 " in done.stdout
        assert_same_run(folder, finished_run[0], tiny_csv)


def test_a_read_only_disk_is_told_at_once(tiny_csv, tmp_path):
    with small_disk(tmp_path / "disk", "1m") as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        done = train_process(tiny_csv, disk)
        assert_one_sentence(done, "Read-only file system")
        assert "--runs_dir" in done.stderr


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
def test_what_cannot_be_written_is_told_and_the_run_goes_on_to_the_same_end(
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


def test_a_limit_on_file_sizes_is_told_and_the_run_goes_on(
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
    "told",
    [
        "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9000000000 bytes.",
        "INTERNAL: Error dispatching computation: Out of memory allocating 9000 bytes",
    ],
)
def test_a_device_without_enough_memory_is_told(tiny_csv, tmp_path, monkeypatch, told):
    def no_room(*_):
        raise jax.errors.JaxRuntimeError(told)

    monkeypatch.setattr(train_lib, "run_epochs", no_room)
    with pytest.raises(UserError, match="cpu ran out of memory"):
        train(tiny_config(), data_root=str(tiny_csv), runs_dir=tmp_path)


def test_another_error_of_the_device_is_not_taken_for_a_lack_of_memory(
    tiny_csv, tmp_path, monkeypatch
):
    def broken(*_):
        raise jax.errors.JaxRuntimeError("INTERNAL: the device is gone")

    monkeypatch.setattr(train_lib, "run_epochs", broken)
    with pytest.raises(jax.errors.JaxRuntimeError, match="is gone"):
        train(tiny_config(), data_root=str(tiny_csv), runs_dir=tmp_path)
