"""Unusual environments: no home, no device, threads."""

import os
import subprocess
import sys
import threading

import pytest
from conftest import environment, tiny_config

from fer_jax.errors import UserError
from fer_jax.system import cache
from fer_jax.training import run


@pytest.fixture
def elsewhere(monkeypatch, tmp_path):
    """No settings of the cache, and an own folder of temporary files."""
    for name in ("FER_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cache.tempfile, "gettempdir", lambda: str(tmp_path))
    return tmp_path


def test_the_cache_is_in_the_home_folder(elsewhere, monkeypatch):
    monkeypatch.setenv("HOME", str(elsewhere / "home"))
    assert cache.cache_root() == elsewhere / "home/.cache/fer_jax"
    assert not (elsewhere / "home").exists()
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert str(cache.cache_root()) == "/x/fer_jax"
    monkeypatch.setenv("FER_CACHE_DIR", "/y")
    assert str(cache.cache_root()) == "/y"


def test_without_a_home_the_cache_is_a_private_temporary_folder(elsewhere, monkeypatch):
    monkeypatch.setattr(cache.os.path, "expanduser", lambda path: path)  # "~" stays
    found = cache.cache_root()
    assert found == cache.cache_root() == elsewhere / f"fer_jax-{os.getuid()}"
    assert found.stat().st_mode & 0o777 == 0o700
    found.chmod(0o777)  # programs are loaded from it
    with pytest.raises(UserError, match="others can write .*FER_CACHE_DIR"):
        cache.cache_root()


def test_a_home_that_cannot_be_written_has_no_cache(elsewhere, monkeypatch):
    monkeypatch.setenv("HOME", "/nowhere")
    monkeypatch.setattr(cache.os, "access", lambda *_: False)
    assert cache.cache_root().parent == elsewhere


def test_a_device_that_is_not_there_is_one_sentence(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "fer_jax", "train", "baseline"],
        env=environment() | {"JAX_PLATFORMS": "cuda"},
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("error: JAX_PLATFORMS is 'cuda', and JAX finds no")
    assert done.stderr.count("\n") == 1


def test_runs_train_in_threads_side_by_side(tiny_csv, tmp_path, capsys):
    found = {}

    def train(name):
        config = tiny_config("training.epochs=1", f"name={name}")
        found[name] = run.train(config, data_root=str(tiny_csv), runs_dir=tmp_path)

    threads = [threading.Thread(target=train, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found["a"]["val"] == found["b"]["val"]
    print("stdout is still there")
    assert capsys.readouterr().out == "stdout is still there\n"
