import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import environment

from fer_jax import runs
from fer_jax.errors import UserError

CONFIG = {"name": "a", "description": "?", "training": {"lr": 0.1, "seed": 1}}
DATA = {"description": "faces.csv", "fingerprint": "f" * 16}


def started(folder, config=CONFIG, data=DATA):
    folder.mkdir(parents=True, exist_ok=True)
    runs.write_json(folder / runs.DATA, data)
    runs.write_text(folder / runs.CONFIG, json.dumps(config))  # JSON is YAML
    return folder


def test_the_same_run_has_no_differences(tmp_path):
    renamed = CONFIG | {"description": "another wording"}
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


def test_an_empty_folder_differs_in_nothing(tmp_path):
    assert runs.differences(tmp_path, CONFIG, DATA) == []


@pytest.mark.parametrize("text", ["", "[1", "null", "- 1"])
def test_a_damaged_run_is_refused(tmp_path, text):
    (started(tmp_path) / runs.CONFIG).write_text(text)
    with pytest.raises(UserError, match="--force"):
        runs.differences(tmp_path, CONFIG, DATA)


def test_writing_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "result.json"
    runs.write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="Out of range"):
        runs.write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]


def test_a_second_process_is_told_who_holds_the_folder(tmp_path):
    hold = (
        "import sys; from fer_jax import runs; from pathlib import Path\n"
        "with runs.locked(Path(sys.argv[1])): print('held', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, tmp_path],
        env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as holder:  # fmt: skip
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(UserError, match=f"in use by process {holder.pid} on "),
            runs.locked(tmp_path),
        ):
            pass
        holder.kill()
    with runs.locked(tmp_path):  # the dead hold nothing
        pass


def test_a_run_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "seed_1").write_text("")
    with (
        pytest.raises(UserError, match="cannot be written"),
        runs.locked(tmp_path / "seed_1"),
    ):
        pass


def test_clear_removes_a_run_and_nothing_else(tmp_path):
    started(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / runs.CHECKPOINTS / "10").mkdir(parents=True)
    runs.write_json(tmp_path / runs.RESULT, {})
    zeros = np.zeros((2, 3), np.float32)
    runs.write_predictions(tmp_path, "val", zeros[:, 0], zeros[:, 0], zeros)
    runs.clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_predictions_come_back_without_pickle(tmp_path):
    rows, labels = np.arange(4, dtype=np.int32), np.int32([0, 1, 1, 0])
    logits = np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32)
    runs.write_predictions(tmp_path, "test", rows, labels, logits)
    with np.load(tmp_path / "predictions_test.npz", allow_pickle=False) as file:
        np.testing.assert_array_equal(file["rows"], rows)
        np.testing.assert_array_equal(file["labels"], labels)
        np.testing.assert_array_equal(file["logits"], logits)


def test_importing_runs_does_not_import_jax():
    code = "import sys, fer_jax.runs; sys.exit('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=environment())
    assert done.returncode == 0
