"""The model that ships: small, whole, and as good as its record says."""

import tomllib
from pathlib import Path

import numpy as np
import pytest
from conftest import FER2013, ROOT

import fer_jax
from fer_jax.emotions import EMOTIONS
from fer_jax.pretrained import model_file

SHIPPED = model_file.SHIPPED["shipped"]


@pytest.fixture(scope="module")
def model():
    return fer_jax.load_pretrained()


def test_what_it_may_be_used_for_ships_with_it():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    kept = project["tool"]["setuptools"]["package-data"]["fer_jax"]
    assert SHIPPED.relative_to(ROOT) == Path("fer_jax/pretrained")
    assert "pretrained/*" in kept
    text = (SHIPPED / "README.md").read_text()
    for words in ("FER2013", "Goodfellow", "research", "not measured", "not one that"):
        assert words in text


def test_it_is_small_and_knows_the_seven_emotions(model):
    assert (SHIPPED / model_file.WEIGHTS).stat().st_size <= 10_000_000
    tensors = model_file.read(SHIPPED).tensors.values()
    assert {tensor.dtype for tensor in tensors} == {np.dtype(np.float16)}
    assert model.labels == EMOTIONS
    assert model.info["seed_note"] != "not stated"
    assert "dirty" not in model.info["git_commit"]


def test_probabilities_sum_to_one_for_faces_of_any_size(model):
    rng = np.random.default_rng(0)
    sizes = ((48, 48), (47, 51), (13, 7), (301, 200))
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    found = model.predict(images)
    assert found.shape == (4, 7) and found.dtype == np.float32 and (found >= 0).all()
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)


def test_a_mirrored_face_has_the_same_probabilities(model):
    if model.info["preprocessing"]["views"] == "none":
        pytest.skip("it sees each face once, and not mirrored")
    side = model.image_size
    images = np.random.default_rng(1).integers(0, 256, (4, side, side), dtype=np.uint8)
    mirrored = model.predict(images[:, :, ::-1])
    np.testing.assert_allclose(mirrored, model.predict(images), atol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(not FER2013.exists(), reason="needs FER2013: name it FER2013_CSV")
def test_its_accuracy_is_what_its_record_says(model, publictest):
    _, labels, probabilities = publictest
    told = model.info["scores"]["val"]
    told = told.get("label_sets", {}).get("fer2013", told)
    assert told["n"] == len(labels) == 3589
    guesses = probabilities.argmax(axis=1)
    assert abs((guesses == labels).mean() - told["accuracy"]) <= 0.003
