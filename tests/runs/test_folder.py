import errno
import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import environment

from fer_jax import runs
from fer_jax.errors import UserError
from fer_jax.system import files
from fer_jax.system.signals import Interrupted

CONFIG = {"name": "a", "description": "?", "training": {"lr": 0.1, "seed": 1}}
DATA = {"description": "faces.csv", "fingerprint": "f" * 16}


def started(folder, config=CONFIG, data=DATA):
    folder.mkdir(parents=True, exist_ok=True)
    files.write_json(folder / runs.DATA, data)
    files.write_text(folder / runs.CONFIG, json.dumps(config))  # JSON is YAML
    return folder


def test_the_same_run_has_no_differences(tmp_path):
    # An old run without `asks`, on other devices and with its images elsewhere.
    renamed = CONFIG | {"description": "another wording", "asks": {"emotions": []}}
    renamed |= {"device": 2, "data": {"stream": "always"}}
    moved = DATA | {"description": "faces.csv.xz"}  # the same images, compressed
    assert runs.differences(started(tmp_path), renamed, moved) == []


def test_differences_are_named_with_both_values(tmp_path):
    other = {**CONFIG, "training": {"lr": 0.2, "seed": 1, "clip": 1.0}}
    images = {"description": "more.csv", "fingerprint": "0" * 16}
    assert runs.differences(started(tmp_path), other, images) == [
        "training.lr is 0.1 there and 0.2 here",
        "training.clip is absent there and 1.0 here",
        f"data set is faces.csv [{'f' * 16}] there and more.csv [{'0' * 16}] here",
    ]


def test_a_run_with_old_names_of_keys_is_the_same_run(tmp_path):
    old = {
        "loss": {"type": "cross_entropy", "self_targets": 0.1},
        "data": {"train_images": 0},
        "evaluation": {"views": "one"},
    }
    new = {
        "loss": {"type": "ce", "bootstrap": 0.1},
        "data": {"train_subset": 0},
        "evaluation": {"tta": "none"},
    }
    assert runs.differences(started(tmp_path, CONFIG | old), CONFIG | new, DATA) == []
    files.write_json(tmp_path / runs.RESULT, {"format": 1, "config": CONFIG | old})
    assert runs.read_result(tmp_path)["config"] == CONFIG | new


def test_an_empty_folder_differs_in_nothing(tmp_path):
    assert runs.differences(tmp_path, CONFIG, DATA) == []


@pytest.mark.parametrize("text", ["", "[1", "null", "- 1"])
def test_a_damaged_run_is_refused(tmp_path, text):
    (started(tmp_path) / runs.CONFIG).write_text(text)
    with pytest.raises(UserError, match="--force"):
        runs.differences(tmp_path, CONFIG, DATA)


def test_writing_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "result.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="Out of range"):
        files.write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]


def test_clear_removes_a_run_and_nothing_else(tmp_path):
    started(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / runs.CHECKPOINTS / "10").mkdir(parents=True)
    files.write_json(tmp_path / runs.RESULT, {})
    runs.note_failure(tmp_path, "lr")
    zeros = np.zeros((2, 3), np.float32)
    runs.write_predictions(
        tmp_path, "val", runs.StoredPredictions(*[zeros[:, 0]] * 4, logits=zeros)
    )
    runs.clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_predictions_come_back_without_pickle(tmp_path):
    arrays = {
        "rows": np.arange(4, dtype=np.int32),
        "image_ids": np.int32([0, 1, 0, 3]),
        "clean": np.array([True, False, True, True]),
        "labels": np.int32([0, 1, 1, 0]),
        "logits": np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32),
    }
    runs.write_predictions(tmp_path, "test", runs.StoredPredictions(**arrays))
    with np.load(tmp_path / "predictions_test.npz", allow_pickle=False) as file:
        for name, array in arrays.items():
            np.testing.assert_array_equal(file[name], array)


def test_importing_runs_does_not_import_jax():
    code = "import sys, fer_jax.runs; sys.exit('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=environment())
    assert done.returncode == 0


def test_a_failure_is_noted_until_the_next_attempt_or_the_end(tmp_path):
    folder = tmp_path / "seed_1"
    assert runs.failure(folder) is None
    with pytest.raises(UserError), runs.noting_failure(folder):
        raise UserError("too\nlarge")
    assert runs.failure(folder) == "too large"
    with pytest.raises(ZeroDivisionError), runs.noting_failure(folder):
        assert runs.failure(folder) is None  # a new attempt has not failed yet
        raise ZeroDivisionError("by 0")
    assert runs.failure(folder) == "ZeroDivisionError: by 0"
    with pytest.raises(Interrupted), runs.noting_failure(folder):
        raise Interrupted(2)
    assert runs.failure(folder) is None
    runs.note_failure(folder, "killed")
    (folder / runs.RESULT).write_text("{}")
    assert runs.failure(folder) is None  # it is finished


@pytest.mark.parametrize("text", ["", "{", "[]", '{"error"', "[" * 100_000])
def test_a_damaged_failure_is_still_a_failure(tmp_path, text):
    (tmp_path / runs.FAILED).write_text(text)
    assert "failed.json cannot be read" in runs.failure(tmp_path)


def test_a_failure_that_cannot_be_noted_is_not_replaced_by_that(tmp_path, monkeypatch):
    def full(path, text):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "write_text", full)
    with (
        pytest.raises(UserError, match="the checkpoint"),
        runs.noting_failure(tmp_path),
    ):
        raise UserError("the checkpoint cannot be written")


def test_the_ledger_of_test_reads_outlives_a_repetition(tmp_path):
    assert runs.test_reads(tmp_path) == 0
    assert runs.stored_test_logits(tmp_path, 30) is None
    runs.note_test_read(tmp_path, 30)
    logits = np.eye(3, dtype=np.float32)
    rows = np.arange(3)
    arrays = {"rows": rows, "image_ids": rows, "clean": rows > 0, "labels": rows}
    runs.write_predictions(
        tmp_path, "test", runs.StoredPredictions(**arrays, logits=logits)
    )
    np.testing.assert_array_equal(runs.stored_test_logits(tmp_path, 30), logits)
    assert runs.stored_test_logits(tmp_path, 45) is None
    runs.clear(tmp_path)
    assert runs.stored_test_logits(tmp_path, 30) is None
    runs.note_test_read(tmp_path, 45)
    assert runs.test_reads(tmp_path) == 2
