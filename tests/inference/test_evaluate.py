"""bin/evaluate: the scores of compare, on images that a model has or has not seen."""

import io
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import accuracy_score, f1_score

import fer_jax
from fer_jax import data
from fer_jax.data.sources import drawn_faces
from fer_jax.emotions import EMOTIONS
from fer_jax.errors import UserError
from fer_jax.inference import evaluate, from_run, scoring
from fer_jax.inference.export import export as export_run
from fer_jax.pretrained import model_file


@pytest.fixture(scope="module", autouse=True)
def few_drawn_faces():
    """Export compares models on drawn faces; eight are enough here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(from_run, "_NUM_FACES", 8)
        yield


@pytest.fixture(scope="module")
def model(finished_run, tiny_csv, tmp_path_factory):
    """A model that knows its train images."""
    folder = tmp_path_factory.mktemp("model") / "mine"
    export_run(finished_run[0], folder, data_root=str(tiny_csv))
    return folder


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """A flat folder of class folders; one class is unknown to every model."""
    root = tmp_path_factory.mktemp("faces") / "mine"
    images, labels = drawn_faces.generate("val")[:2]
    names = ("Anger", "disgust", "bored", "happy", "sad", "surprise", "neutral")
    for n, (image, label) in enumerate(zip(images[:140], labels[:140], strict=True)):
        folder = root / names[int(label)]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{n}.png")
    return root


def run(*argv):
    return evaluate.main([str(each) for each in argv])


def test_scores_are_scikit_learns_on_the_models_predictions(model, faces, capsys):
    assert run("--data_root", faces, "--model", model, "--csv") == 0
    table = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert set(table["label"]) == set(EMOTIONS) - {"fear"}  # Anger is angry
    assert run("--data_root", faces, "--model", model, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    (scores,) = found["splits"]["all"]["scores"].values()
    truth, guess = table["label"], table["prediction"]
    assert scores["accuracy"]["value"] == pytest.approx(accuracy_score(truth, guess))
    macro = f1_score(truth, guess, labels=sorted(set(truth)), average="macro")
    assert scores["macro_f1"]["value"] == pytest.approx(macro, abs=1e-6)
    assert scores["macro_f1"]["low"] < scores["macro_f1"]["value"]
    pictures = [Image.open(faces / file) for file in table["file"][:5]]
    predicted = fer_jax.load_pretrained(model).predict(pictures)
    columns = [name for name in table if name.startswith("p_")]
    np.testing.assert_allclose(table[columns].to_numpy()[:5], predicted, atol=1e-5)


def test_a_class_that_the_model_lacks_is_left_out_and_said(model, faces, capsys):
    assert run("--data_root", faces, "--model", model) == 0
    printed = capsys.readouterr().out
    count = len(list((faces / "bored").iterdir()))
    assert f"note: {count} images of bored left out: no class of the model" in printed
    for caption in ("all: overall", "by emotion", "taken for", "all: calibration"):
        assert caption in printed


def test_images_that_the_model_was_trained_on_are_left_out(model, tiny_csv, capsys):
    found = scoring.evaluate(str(tiny_csv), [str(model)], split="all")
    (judged,) = found.judged
    train = np.array([split == "train" for split, _, _ in found.images.places])
    assert judged.copies[train].all() and judged.trained_here
    assert run("--data_root", tiny_csv, "--model", model, "--split", "all") == 0
    printed = capsys.readouterr().out
    assert "was trained on images of these data: its scores are optimistic" in printed
    assert "images are copies of images that" in printed


def test_on_its_own_val_it_scores_as_its_run(model, finished_run, tiny_csv):
    found = scoring.evaluate(str(tiny_csv), [str(model)], split="val")
    (scores,) = (each.run.scores["val"] for each in found.judged)
    told = finished_run[1]["val"]
    for key in ("n", "n_clean", "accuracy", "accuracy_clean", "confusion_matrix"):
        assert scores[key] == told[key], key


def test_what_it_was_trained_on_may_not_be_known(finished_run, faces, tmp_path, capsys):
    export_run(finished_run[0], tmp_path / "bare")
    assert run("--data_root", faces, "--model", tmp_path / "bare") == 0
    printed = capsys.readouterr().out
    assert "bare was trained on is not known" in printed and "clean" not in printed


def test_models_are_compared_with_the_first(model, faces, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(model, other)
    info = json.loads((other / model_file.MODEL).read_text())
    tensors = dict(model_file.read(model).tensors)
    bias = "params/head/linear/bias"
    tensors[bias] = tensors[bias][::-1] + 1
    facts = {k: v for k, v in info.items() if k not in model_file.HEAD}
    model_file.write(other, model_file.pack(tensors), facts, force=True)
    assert run("--data_root", faces, "--model", model, "--model", other) == 0
    assert f"macro F1 against {model}" in capsys.readouterr().out
    facts["labels"][0] = "cross"
    model_file.write(other, model_file.pack(tensors), facts, force=True)
    with pytest.raises(UserError, match="scores do not compare; evaluate them one at"):
        run("--data_root", faces, "--model", model, "--model", other)


@pytest.mark.parametrize(
    "options, words",
    [
        (["--split", "test"], "--split test: .* has no splits; choose all"),
        (["--json", "--csv"], "--json and --csv both print"),
        (["--json", "x.txt"], "--json writes .json files; x.txt"),
        (["--model", "nowhere"], "there is no model nowhere"),
    ],
)
def test_what_cannot_be_followed_is_refused(options, words, faces, model):
    if "--model" not in options:
        options = [*options, "--model", str(model)]
    with pytest.raises(UserError, match=words):
        run("--data_root", faces, *options)


def test_data_of_other_classes_are_refused(model, tmp_path):
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for n in range(3):
            pixels = rng.integers(0, 256, (16, 16), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{n}.png")
    with pytest.raises(UserError, match="are of cat, dog, and the model knows angry"):
        run("--data_root", tmp_path, "--model", model)


def test_export_refuses_other_data(finished_run, faces, tmp_path):
    with pytest.raises(UserError, match="is not the data of this run"):
        export_run(finished_run[0], tmp_path / "m", data_root=str(faces))
    assert not (tmp_path / "m").exists()


def test_the_shipped_model_knows_its_28709_train_images():
    shipped = model_file.read()
    assert shipped.train_hashes.shape == (28_709, 2)
    assert shipped.info["data"]["counts"]["train"] == [
        3995, 436, 4097, 7215, 4830, 3171, 4965,
    ]  # fmt: skip
    assert data.load(None).fingerprint != shipped.info["data"]["fingerprint"]
