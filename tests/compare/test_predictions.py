import json

import numpy as np
import pytest
from fake_runs import make_result, write

from fer_jax import runs
from fer_jax.compare import load_runs, summarise
from fer_jax.compare.content import notes
from fer_jax.compare.predictions import load_predictions
from fer_jax.errors import UserError
from fer_jax.system import files


def load(folder):
    return load_predictions(load_runs(folder)[0], "val")


def test_classes_and_confidence_are_those_of_the_logits(tmp_path):
    result = make_result("a", 1)
    write(tmp_path, result)
    found = load(tmp_path)
    logits = result["arrays"]["val"]["logits"].astype(np.float64)
    odds = np.exp(logits)
    np.testing.assert_array_equal(found.classes[0], logits.argmax(1))
    np.testing.assert_allclose(
        found.confidence[0], odds.max(1) / odds.sum(1), atol=1e-12
    )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "is missing; repeat that run"),
        (lambda path: path.write_bytes(path.read_bytes()[:-300]), "is damaged"),
        (lambda path: path.write_bytes(b"PK"), "is damaged"),
        (
            lambda path: np.savez(path, rows=np.zeros(3)),
            "lacks complete arrays of rows",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path, damage, message):
    path = write(tmp_path, make_result("a", 1)) / "predictions_val.npz"
    damage(path)
    with pytest.raises(UserError, match=rf"a/seed_1/predictions_val\.npz {message}"):
        load(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"logits": lambda x: np.where(np.arange(x.size).reshape(x.shape), x, np.nan)},
        {"logits": lambda x: x[:, :5]},
        {"labels": lambda x: x + 5},
        {"labels": lambda x: x.astype(float)},
        {"image_ids": lambda x: x[1:]},
    ],
    ids=["nan", "classes", "range", "dtype", "length"],
)
def test_arrays_that_are_not_whole_are_refused(tmp_path, change):
    result = make_result("a", 1)
    folder = write(tmp_path, result)
    ((key, fn),) = change.items()
    arrays = result["arrays"]["val"]
    runs.write_predictions(
        folder, "val", runs.StoredPredictions(**arrays | {key: fn(arrays[key])})
    )
    with pytest.raises(
        UserError,
        match="lacks complete arrays of rows, image_ids, clean, labels and logits",
    ):
        load(tmp_path)


def test_predictions_that_contradict_the_result_are_refused(tmp_path):
    folder = write(tmp_path, make_result("a", 1))
    result = json.loads((folder / "result.json").read_text())
    result["val"]["confusion_matrix"][0][0] += 1
    files.write_json(folder / "result.json", result)
    with pytest.raises(UserError, match="beside it disagree: their confusion matrices"):
        load(tmp_path)


def test_scores_are_those_of_the_stored_counts_by_the_present_definitions(tmp_path):
    # Older versions averaged macro-F1 over the classes that were predicted, too.
    result = make_result("a", 1, without=("disgust",))
    expected, n = result["val"]["macro_f1"], result["val"]["n"]
    result["val"]["macro_f1"] *= 6 / 7
    write(tmp_path, result)
    (run,), _ = load_runs(tmp_path)
    assert (run.scores["val"]["macro_f1"], run.scores["val"]["n"]) == (expected, n)
    assert load(tmp_path).classes.shape == (1, n)


def test_runs_of_other_images_are_refused(tmp_path):
    write(tmp_path, make_result("a", 1))
    other = make_result("b", 1)
    other["arrays"]["val"]["rows"] = other["arrays"]["val"]["rows"] + 1
    write(tmp_path, other)
    with pytest.raises(UserError, match=r"b/seed_1 and a/seed_1 have different rows"):
        load(tmp_path)


def test_images_that_may_be_identical_are_told_of(tmp_path):
    result = make_result("a", 1)
    folder = write(tmp_path, result)
    arrays = result["arrays"]["val"]
    ids = arrays["image_ids"].copy()
    ids[5:8] = 2
    runs.write_predictions(
        folder, "val", runs.StoredPredictions(**arrays | {"image_ids": ids})
    )
    assert load(tmp_path).repeated() == 3
    told = " ".join(notes(summarise(load_runs(tmp_path)[0], "val")))
    assert "3 of the 300 images are identical to an earlier one" in told
