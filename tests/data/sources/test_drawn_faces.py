"""The embedded data set: its form, that it repeats, and that it is neither too easy."""

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from fer_jax.data.sources import drawn_faces as embedded
from fer_jax.emotions import EMOTIONS

FER2013 = np.array([3995, 436, 4097, 7215, 4830, 3171, 4965]) / 28709
# Rows of the 48 x 48 image that hold the brows and eyes, and the mouth and chin.
UPPER, LOWER = slice(8, 24), slice(26, 46)
MOVED = {
    "angry": (UPPER, LOWER),
    "disgust": (UPPER, LOWER),
    "fear": (UPPER, LOWER),
    "happy": (LOWER,),
    "sad": (UPPER, LOWER),
    "surprise": (UPPER, LOWER),
}


@pytest.fixture(scope="module")
def splits(drawn):
    """Images and labels."""
    return {
        name: (np.asarray(each.images)[..., 0], each.labels)
        for name, each in drawn.items()
    }


@pytest.fixture(scope="module")
def upright():
    """People who face the camera, so that rows of the image are parts of the face."""
    rng = np.random.Generator(np.random.PCG64(1))
    faces = [embedded.person(rng) for _ in range(20)]
    straight = {"roll": 0.0, "yaw": 0.0, "pitch": 0.0, "shift_x": 0.0, "shift_y": 0.0}
    clear = {"scale": 1.1, "glasses": 0.0, "beard": 0.0, "ambient": 0.8}
    for face in faces:
        vars(face).update(straight | clear)
    return faces


def test_shapes_types_and_ranges(splits):
    assert splits.keys() == embedded.SIZES.keys()
    for split, (images, labels) in splits.items():
        size = embedded.SIZES[split]
        assert images.shape == (size, 48, 48) and images.dtype == np.uint8
        assert labels.shape == (size,) and labels.dtype == np.int32
        assert images.min() < 30 and images.max() > 225
        assert images.std(axis=(1, 2)).min() > 2  # no image is blank


def test_proportions_are_those_of_fer2013_in_a_shuffled_order(splits):
    for images, labels in splits.values():
        counts = np.bincount(labels, minlength=len(EMOTIONS))
        assert np.abs(counts - FER2013 * len(images)).max() < 1
        assert (np.diff(labels) != 0).mean() > 0.5


def test_a_second_call_gives_the_same_bits(splits):
    found = embedded.generate("val")
    for one, other in zip(found, splits["val"], strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def test_an_image_does_not_depend_on_how_many_are_drawn(splits, monkeypatch):
    images, labels = splits["test"]
    monkeypatch.setattr(embedded, "_labels", lambda split: labels[:20])
    np.testing.assert_array_equal(embedded.generate("test")[0], images[:20])


def test_no_image_is_drawn_twice(splits):
    drawn = [image.tobytes() for images, _ in splits.values() for image in images]
    assert len(set(drawn)) == len(drawn)


def test_an_unknown_split_is_refused():
    with pytest.raises(KeyError):
        embedded.generate("validation")


@pytest.mark.parametrize("emotion", MOVED)
def test_an_expression_moves_its_part_of_the_face(upright, emotion):
    for units in embedded._PROTOTYPES[emotion]:
        change = np.mean(
            [abs(embedded.draw(f, units) - embedded.draw(f, {})) for f in upright],
            axis=0,
        )
        for rows in MOVED[emotion]:
            assert change[rows, 10:38].mean() > 0.005, units
        assert change[:4].mean() < 0.002  # the hair stays


@pytest.mark.parametrize(
    ("first", "second"), [("fear", "surprise"), ("angry", "disgust"), ("sad", "angry")]
)
def test_expressions_that_share_units_still_differ(upright, first, second):
    for face in upright:
        one, two = (
            embedded.draw(face, embedded._PROTOTYPES[name][0])
            for name in (first, second)
        )
        assert abs(one - two)[UPPER.start : LOWER.stop].mean() > 0.005


def test_a_linear_model_learns_something_but_not_all(splits):
    def flat(split):
        images = splits[split][0].reshape(-1, 48 * 48).astype(np.float32)
        return (images - images.mean(1, keepdims=True)) / images.std(1, keepdims=True)

    model = make_pipeline(
        PCA(100, random_state=0), LogisticRegression(C=0.003, max_iter=300)
    )
    model.fit(flat("train"), splits["train"][1])
    accuracy = model.score(flat("test"), splits["test"][1])
    assert FER2013.max() + 0.08 < accuracy < 0.85
