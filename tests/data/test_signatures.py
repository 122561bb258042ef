import numpy as np
import pytest
from conftest import COUNTS

from fer_jax import data
from fer_jax.data import signatures
from fer_jax.data.signatures import FER2013


def counts(**splits):
    return {
        name: np.sum([FER2013[part] for part in parts.split("+")], axis=0)
        for name, parts in splits.items()
    }


def test_the_counts_are_the_published_ones():
    assert {name: sum(own) for name, own in FER2013.items()} == {
        "Training": 28_709,
        "PublicTest": 3_589,
        "PrivateTest": 3_589,
    }


def test_nothing_is_said_of_the_usual_splits_and_of_other_data():
    usual = counts(train="Training", val="PublicTest", test="PrivateTest")
    assert signatures.notes(usual) == []
    assert signatures.notes({"train": np.arange(7), "val": np.ones(5)}) == []


@pytest.mark.parametrize(
    ("splits", "told"),
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
def test_swapped_and_merged_splits_are_called_by_their_names(splits, told):
    found = signatures.notes(counts(**splits))
    assert len(found) == len(told)
    for sentence, start in zip(found, told, strict=True):
        assert sentence.startswith(start)
        assert "what is usually called" in sentence


def test_one_image_less_is_another_split():
    changed = counts(val="PrivateTest")
    changed["val"][3] -= 1
    assert signatures.notes(changed) == []


def test_loading_tells(tiny_csv, monkeypatch):
    # All splits of the tiny set have the same counts.
    tiny = dict.fromkeys(FER2013, np.zeros(7, int)) | {"PrivateTest": COUNTS}
    monkeypatch.setattr(signatures, "FER2013", tiny)
    notes = data.load(str(tiny_csv), image_size=16).notes
    assert sum(note.startswith("this val is FER2013's PrivateTest") for note in notes)
