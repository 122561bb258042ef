"""Notes on splits: other names, missing classes, a val too small to select by."""

import numpy as np
import pytest
from conftest import COUNTS, tiny_config

from fer_jax import data
from fer_jax.data import split_notes
from fer_jax.data.records import Split
from fer_jax.data.split_notes import FER2013, missing_classes, other_names, small_val
from fer_jax.emotions import EMOTIONS


def split(counts):
    labels = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    rows = np.arange(len(labels), dtype=np.int32)
    return Split(np.zeros((len(labels), 1, 1, 1), np.uint8), labels, rows)


def fer2013(**splits):
    return {
        name: split(np.sum([FER2013[part] for part in parts.split("+")], axis=0))
        for name, parts in splits.items()
    }


def test_the_counts_are_the_published_ones():
    assert {name: sum(own) for name, own in FER2013.items()} == {
        "Training": 28_709,
        "PublicTest": 3_589,
        "PrivateTest": 3_589,
    }


def test_nothing_is_said_of_the_usual_splits_and_of_other_data():
    usual = fer2013(train="Training", val="PublicTest", test="PrivateTest")
    assert other_names(usual) == []
    assert other_names({"train": split(np.arange(7)), "val": split([1] * 5)}) == []
    assert missing_classes(usual, EMOTIONS) == small_val(usual["val"], EMOTIONS) == []


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        (
            {"train": "Training", "val": "PrivateTest"},
            ["this val is FER2013's PrivateTest; "],
        ),
        (
            {"val": "PrivateTest", "test": "PublicTest"},
            [
                "this val is FER2013's PrivateTest; ",
                "this test is FER2013's PublicTest; ",
            ],
        ),
        (
            {"train": "Training", "test": "PublicTest+PrivateTest"},
            ["this test is FER2013's PublicTest and PrivateTest together; "],
        ),
        (
            {"train": "Training+PublicTest"},
            ["this train is FER2013's Training and PublicTest together; "],
        ),
    ],
)
def test_swapped_and_merged_splits_are_called_by_their_names(splits, expected):
    found = other_names(fer2013(**splits))
    assert len(found) == len(expected)
    for sentence, start in zip(found, expected, strict=True):
        assert sentence.startswith(start)
        assert "what is usually called" in sentence


def test_one_image_less_is_another_split():
    changed = np.array(FER2013["PrivateTest"]) - np.eye(7, dtype=int)[3]
    assert other_names({"val": split(changed)}) == []


def test_missing_classes_are_named_by_split():
    splits = {"train": split([3, 3, 3]), "val": split([2]), "test": split([2, 0, 1])}
    assert missing_classes(splits, ("calm", "glad", "sad")) == [
        "val has no image of glad, sad; its macro-F1 is the mean over the other "
        "classes",
        "test has no image of glad; its macro-F1 is the mean over the other classes",
    ]
    unlabelled = split([1, 1, 1])
    unlabelled.labels[1] = -1  # left out by the selected labels
    (note,) = missing_classes({"val": unlabelled}, ("calm", "glad", "sad"))
    assert "no image of glad;" in note


def test_a_val_is_small_if_the_standard_error_of_its_mean_recall_is_over_5_points():
    # Simulated: a network that is right on half of the images of each class.
    rng = np.random.default_rng(0)
    for counts in ([15] * 7, [14] * 7, [400] * 6 + [2], [400] * 6 + [3], [4] * 7):
        recalls = rng.binomial(counts, 0.5, (20_000, len(counts))) / counts
        error = recalls.mean(axis=1).std()
        notes = small_val(split(counts), EMOTIONS)
        if error < 0.049:
            assert notes == []
        elif error > 0.051:
            assert f"about {100 * error:.0f} points" in notes[0]
    assert small_val(split([400] * 6 + [1]), EMOTIONS)[0].startswith(
        "val has 2,401 images, of neutral only 1: "
    )
    assert small_val(split([100] * 6), EMOTIONS) == []  # missing, not small


def test_a_run_is_told(tiny_csv, monkeypatch):
    dataset, settings = data.load(str(tiny_csv), image_size=16), tiny_config().data
    assert data.select_images(dataset, settings, lambda: None).notes == ()
    # All splits of the tiny set have the same counts.
    tiny = dict.fromkeys(FER2013, np.zeros(7, int)) | {"PrivateTest": COUNTS}
    monkeypatch.setattr(split_notes, "FER2013", tiny)
    val, test = dataset.splits["val"], dataset.splits["test"]
    dataset.splits["val"] = val.take(val.labels != 1)
    dataset.splits["test"] = test.take(test.labels != 2)
    notes = data.select_images(dataset, settings, lambda: None).notes
    assert notes[0].startswith("this train is FER2013's PrivateTest")
    assert "val has no image of disgust" in notes[1]
    assert "test has no image of fear" in notes[2]
    few = np.arange(len(dataset.splits["val"].labels)) % 3 == 0
    dataset.splits["val"] = dataset.splits["val"].take(few)
    notes = data.select_images(dataset, settings, lambda: None).notes
    assert "selection of an epoch is largely chance" in notes[-1]
