"""What a user may hand to a model: each form alike, and no guess in silence."""

import numpy as np
import pytest
from PIL import Image

from fer_jax.errors import UserError
from fer_jax.inference.inputs import to_pictures

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
RGB = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)


class Tensor:
    """Has what torch's tensors have."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.values, dtype)


def pixels(images):
    pictures, is_single = to_pictures(images)
    return [np.asarray(each) for each in pictures], is_single


@pytest.mark.parametrize("one", [GREY, RGB])
def test_one_picture_in_every_form(one, tmp_path):
    path = tmp_path / "one.png"
    Image.fromarray(one).save(path)
    for form in (
        one,
        one.astype(np.int64),
        one.astype(np.float32),
        one / 255,
        (one / 255).astype(np.float32),
        Tensor(one),
        Image.fromarray(one),
        str(path),
        path,
    ):
        (found,), is_single = pixels(form)
        assert is_single
        grey = found if found.ndim == one.ndim else found[..., 0]  # files give RGB
        np.testing.assert_array_equal(grey, one)


@pytest.mark.parametrize("one", [GREY, RGB])
def test_many_pictures_in_every_form(one):
    many = np.stack([one] * 4)
    for form in (many, many / 255, Tensor(many), [*many], (x for x in many)):
        found, is_single = pixels(form)
        assert not is_single and len(found) == 4
        np.testing.assert_array_equal(np.stack(found), many)
    assert pixels(many[..., None] if one is GREY else many)[0][3].shape == one.shape
    assert pixels([]) == ([], False)


@pytest.mark.parametrize(
    "images, words",
    [
        (np.zeros((3, 48, 48), np.uint8), "three grey images, or one in the order"),
        (np.zeros((2, 3, 48, 48), np.uint8), "in the order [B, C, H, W]; give"),
        (
            np.zeros((48, 48, 4), np.uint8),
            "one with transparency? Give images[..., :3]",
        ),
        (np.zeros((2, 48, 48, 4), np.uint8), "images[0] is uint8 [48, 48, 4]"),
        (np.zeros((2, 0, 48), np.uint8), "images[0] is uint8 [0, 48]"),
        (np.zeros((1, 2, 8, 8, 3), np.uint8), "images[0] is uint8 [2, 8, 8, 3]"),
        (np.zeros((4, 4), bool), "images is bool [4, 4]"),
        (np.full((4, 4), 256), "images has values of 256 to 256, expected 0..255"),
        (np.full((4, 4), -0.5), "undo the normalisation"),
        (np.full((4, 4), np.nan), "has values of nan to nan"),
        ([GREY, np.zeros(4, np.uint8)], "images[1] is uint8 [4]"),
        ([[[1], [2, 3]]], "images[0] is of type list"),
        ("face.jpg", "face.jpg is not a file, expected an image"),
        (b"face", "images is of type bytes"),
        (None, "images is of type NoneType"),
    ],
)
def test_what_is_no_picture_is_refused(images, words):
    with pytest.raises(UserError) as caught:
        to_pictures(images)
    assert words in str(caught.value) and len(str(caught.value)) < 400
