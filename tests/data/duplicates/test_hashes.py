"""Hashes: what survives a copy's way through the web, and what must not collide."""

import io

import numpy as np
import pytest
from PIL import Image

from fer_jax.data.duplicates import hashes


@pytest.fixture(scope="module")
def faces(drawn):
    return np.asarray(drawn["val"].images)


@pytest.fixture(scope="module")
def known(faces):
    """Hashes of every other face."""
    return hashes.of_images(faces[::2])


def jpeg(image):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=70)
    return Image.open(file)


def shifted(image):
    padded = np.pad(np.asarray(image), 4, mode="edge")
    return Image.fromarray(padded[2:50, 8:56])


CHANGES = {
    "none": lambda image: image,
    "jpeg": jpeg,
    "larger": lambda image: image.resize((160, 160)),
    "smaller": lambda image: image.resize((32, 32)),
    "brighter": lambda image: image.point(lambda value: min(255, value * 1.1 + 10)),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "shifted": shifted,
}


@pytest.mark.parametrize("change", CHANGES)
def test_copies_are_recognised(change, faces, known):
    pictures = [Image.fromarray(face[..., 0]) for face in faces[:200:2]]
    changed = [np.asarray(CHANGES[change](picture)) for picture in pictures]
    found = hashes.are_known(np.stack(changed)[..., None], known)
    assert found.mean() >= (1 if change in ("none", "larger", "jpeg") else 0.9)


def test_other_images_are_not(known):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (300, 48, 48, 1), dtype=np.uint8)
    assert not hashes.are_known(noise, known).any()


def test_colour_images_have_the_hash_of_their_brightness(faces):
    grey = faces[:20]
    np.testing.assert_array_equal(
        hashes.of_images(np.repeat(grey, 3, axis=3)), hashes.of_images(grey)
    )


def test_a_hash_is_the_signs_of_a_cosine_transform(faces):
    """By SciPy's transform, whose rows and columns are the frequencies."""
    import scipy

    centre = faces[0, 4:44, 4:44, 0].astype(np.float64)
    waves = scipy.fft.dctn(centre)[:16, :16]
    order = sorted(
        ((r, c) for r in range(16) for c in range(16)), key=lambda at: (sum(at), at)
    )
    expected = [waves[at] > 0 for at in order[1:129]]
    found = np.unpackbits(hashes.of_images(faces[:1]).view(np.uint8))
    assert (found == expected).mean() > 0.98  # of nearly 0, a sign is a matter of luck


def test_no_images_and_no_hashes(faces, known):
    assert hashes.of_images(faces[:0]).shape == (0, 2)
    assert hashes.are_known(faces[:0], known).shape == (0,)
    assert not hashes.are_known(faces[:3], known[:0]).any()
