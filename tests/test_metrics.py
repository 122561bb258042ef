"""Scores from a confusion matrix against scikit-learn."""

import json
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from fer_jax.metrics import (
    METRICS,
    confusion_matrix,
    from_confusion,
    not_learnt,
    score,
    score_with_clean,
)


@st.composite
def labelled(draw):
    """Classes, labels and predictions; some classes occur in neither or in one."""
    classes = draw(st.integers(2, 8))
    used = draw(st.sets(st.integers(0, classes - 1), min_size=1))
    guessed = draw(st.sets(st.integers(0, classes - 1), min_size=1))
    size = draw(st.integers(1, 40))
    choice = st.lists(st.sampled_from(sorted(used)), min_size=size, max_size=size)
    guess = st.lists(st.sampled_from(sorted(guessed)), min_size=size, max_size=size)
    return classes, np.array(draw(choice)), np.array(draw(guess))


@given(labelled())
@settings(max_examples=40, deadline=None)
def test_all_scores_are_those_of_scikit_learn(case):
    classes, labels, predictions = case
    every = list(range(classes))
    matrix = confusion_matrix(labels, predictions, classes)
    expected = sklearn_metrics.confusion_matrix(labels, predictions, labels=every)
    np.testing.assert_array_equal(matrix, expected)

    names = [f"class_{c}" for c in every]
    scores = from_confusion(matrix, names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of absent classes
        macro_f1 = sklearn_metrics.f1_score(
            labels,
            predictions,
            labels=np.unique(labels),
            average="macro",
            zero_division=0,
        )
        balanced = sklearn_metrics.balanced_accuracy_score(labels, predictions)
        columns = sklearn_metrics.precision_recall_fscore_support(
            labels, predictions, labels=every, zero_division=0
        )
    accuracy = sklearn_metrics.accuracy_score(labels, predictions)
    assert scores["n"] == len(labels)
    assert scores["accuracy"] == pytest.approx(accuracy, abs=1e-12)
    assert scores["macro_f1"] == pytest.approx(macro_f1, abs=1e-12)
    assert scores["balanced_accuracy"] == pytest.approx(balanced, abs=1e-12)
    assert list(scores["per_class"]) == names
    for c, name in enumerate(names):
        found = [
            scores["per_class"][name][key]
            for key in ("precision", "recall", "f1", "support")
        ]
        assert found == pytest.approx([column[c] for column in columns], abs=1e-12)


def test_rows_are_true_classes_and_columns_predicted_ones():
    matrix = confusion_matrix(np.array([0, 0, 1]), np.array([1, 1, 1]), 3)
    assert matrix.tolist() == [[0, 2, 0], [0, 1, 0], [0, 0, 0]]


def test_a_case_by_hand():
    scores = from_confusion(np.array([[3, 1], [0, 4]]), ["a", "b"])
    assert scores["accuracy"] == 7 / 8
    assert scores["balanced_accuracy"] == pytest.approx((3 / 4 + 1) / 2)
    assert scores["per_class"]["a"] == {
        "precision": 1.0,
        "recall": 0.75,
        "f1": pytest.approx(6 / 7),
        "support": 4,
    }
    assert scores["per_class"]["b"]["precision"] == pytest.approx(4 / 5)
    assert scores["macro_f1"] == pytest.approx((6 / 7 + 8 / 9) / 2)


def test_the_class_of_an_error_does_not_change_macro_f1():
    """No image of class 3: one wrong image costs the same, whatever it is taken for."""
    labels = np.repeat([0, 1, 2], 10)
    scores = []
    for wrong in (1, 2, 3):
        predictions = labels.copy()
        predictions[0] = wrong
        matrix = confusion_matrix(labels, predictions, 4)
        scores.append(from_confusion(matrix, "abcd")["macro_f1"])
    assert scores[:2] == pytest.approx([(18 / 19 + 20 / 21 + 1) / 3] * 2)
    assert scores[2] == pytest.approx((18 / 19 + 2) / 3)  # and no fourth class of 0


def test_clean_scores_are_those_of_the_clean_images():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(60, 3)).astype(np.float32)
    labels, clean = rng.integers(-1, 3, size=60), rng.random(60) < 0.5
    found = score_with_clean(logits, labels, clean, "abc")
    alone, everything = score(logits[clean], labels[clean], "abc"), labels >= 0
    assert found["n"] == everything.sum() > found["n_clean"]
    for key in ("n", *METRICS):
        assert found[f"{key}_clean"] == alone[key] != found[key]
    none = score_with_clean(logits, labels, np.zeros(60, bool), "abc")
    assert (none["n_clean"], none["macro_f1_clean"]) == (0, None)


def test_no_images_score_zero_without_a_warning():
    empty = np.array([], dtype=np.int32)
    matrix = confusion_matrix(empty, empty, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = from_confusion(matrix, ["a", "b", "c"])
    assert (scores["n"], scores["accuracy"], scores["macro_f1"]) == (0, 0.0, 0.0)
    assert scores["balanced_accuracy"] == 0.0


def test_small_label_types_do_not_overflow():
    # 15 * 16 + 15 does not fit int8, nor 255 in a signed one.
    labels = np.full(3, 15, dtype=np.int8)
    matrix = confusion_matrix(labels, labels, 16)
    assert matrix[15, 15] == 3 and matrix.sum() == 3


def test_scores_are_plain_numbers_for_json():
    matrix = confusion_matrix(np.array([0, 1, 1]), np.array([0, 1, 0]), 2)
    scores = from_confusion(matrix, ["a", "b"])
    assert json.loads(json.dumps(scores)) == scores


def test_a_network_that_has_learnt_nothing_is_told_by_its_predictions():
    def told(matrix):
        return not_learnt(from_confusion(np.array(matrix), "abc"))

    assert told([[0, 9, 0], [0, 4, 0], [0, 2, 0]]) == "it predicts b for every image"
    why = told([[3, 5, 1], [1, 2, 1], [1, 1, 0]])
    assert why.startswith("its accuracy is 33.3 %, and predicting a")
    assert told([[8, 1, 0], [1, 3, 0], [1, 1, 0]]) == ""
    assert told([[0, 0, 0], [0, 4, 0], [0, 0, 0]]) == ""  # one class to tell apart
