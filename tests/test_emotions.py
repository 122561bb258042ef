"""The seven emotions, their aliases and their order."""

import pytest

from fer_jax.emotions import EMOTIONS, class_names, emotion


def test_the_order_is_that_of_fer2013():
    expected = ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]
    assert list(EMOTIONS) == expected


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("anger", "angry"),
        ("disgusted", "disgust"),
        ("fearful", "fear"),
        ("happiness", "happy"),
        ("sadness", "sad"),
        ("surprised", "surprise"),
        ("contemptuous", "contempt"),
        ("contempt", "contempt"),
        *((name, name) for name in EMOTIONS),
    ],
)
@pytest.mark.parametrize("form", [str.lower, str.upper, str.title, " {}\n".format])
def test_aliases_in_any_case(alias, name, form):
    assert emotion(form(alias)) == name


@pytest.mark.parametrize("name", ["", "contemp", "hap", "angry1", "0"])
def test_other_words_are_no_emotion(name):
    assert emotion(name) is None


def test_emotions_come_in_canonical_order_whatever_the_folders_are_called():
    folders = ["Surprise", "sadness", "NEUTRAL", "anger", "Happy", "fearful", "disgust"]
    found = class_names(reversed(folders))
    assert list(found.values()) == list(EMOTIONS)
    assert found["sadness"] == "sad" and found["NEUTRAL"] == "neutral"


def test_contempt_comes_last_and_is_none_of_the_seven():
    found = class_names(["Contempt", "surprise", "neutral", "Anger"])
    assert list(found.values()) == ["angry", "surprise", "neutral", "contempt"]
    assert "contempt" not in EMOTIONS and len(EMOTIONS) == 7


def test_a_subset_of_the_emotions_keeps_their_order():
    assert list(class_names(["sad", "happy", "Anger"]).values()) == [
        "angry",
        "happy",
        "sad",
    ]


def test_two_folders_may_hold_one_emotion():
    found = class_names(["sad", "Sadness", "happy"])
    assert found == {"happy": "happy", "Sadness": "sad", "sad": "sad"}
    assert list(dict.fromkeys(found.values())) == ["happy", "sad"]


def test_any_other_set_keeps_the_names_of_its_folders_sorted():
    # One unknown folder makes the whole set another one: no name is changed.
    found = class_names(["Happiness", "calm", "sad"])
    assert list(found.items()) == [
        ("Happiness", "Happiness"),
        ("calm", "calm"),
        ("sad", "sad"),
    ]


def test_a_folder_named_twice_counts_once():
    assert class_names(["cat", "dog", "cat"]) == {"cat": "cat", "dog": "dog"}
