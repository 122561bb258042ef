import functools

import numpy as np
import pandas as pd
import pytest
from conftest import FER2013, optimising

import fer_jax
from fer_jax import data
from fer_jax.data.sources import drawn_faces
from fer_jax.inference import from_run

DRAWN = functools.cache(drawn_faces.generate)


@pytest.fixture(scope="module", autouse=True)
def draw_once():
    """The faces that a model and its exported copy are compared on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawn_faces, "generate", DRAWN)
        yield


@pytest.fixture(scope="module")
def few_drawn_faces():
    """Export compares models on drawn faces; eight are enough for most tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(from_run, "_NUM_FACES", 8)
        yield


@pytest.fixture(scope="session")
def publictest(tmp_path_factory):
    """FER2013's PublicTest: images, labels, the shipped model's probabilities."""
    model = fer_jax.load_pretrained()
    rows = pd.read_csv(FER2013)
    chosen = rows[(rows["Usage"] == "PublicTest") | (rows.index < 999)]  # some of train
    path = tmp_path_factory.mktemp("publictest") / "part.csv"
    chosen.to_csv(path, index=False)
    size, channels = model.image_size, model.channels
    dataset = data.load(str(path), image_size=size, channels=channels)
    val = dataset.splits["val"]  # by FER2013's own labels
    images = np.asarray(val.images)[..., 0]
    with optimising():
        return images, val.labels, np.asarray(model.predict(images))
