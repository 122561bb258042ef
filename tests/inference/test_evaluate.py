"""bin/evaluate: the scores of compare, on images that a model has or has not seen."""

import io
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from conftest import tiny_config
from PIL import Image
from sklearn.metrics import accuracy_score, f1_score

import fer_jax
from fer_jax import data
from fer_jax.emotions import EMOTIONS
from fer_jax.errors import UserError
from fer_jax.inference import evaluate, scoring
from fer_jax.inference.export import export as export_run
from fer_jax.pretrained import model_file
from fer_jax.training.run import train

pytestmark = pytest.mark.usefixtures("few_drawn_faces")


@pytest.fixture(scope="module")
def model(finished_run, tiny_csv, tmp_path_factory):
    """A model that knows its train images."""
    folder = tmp_path_factory.mktemp("model") / "mine"
    export_run(finished_run[0], folder, data_root=str(tiny_csv))
    return folder


@pytest.fixture(scope="module")
def faces(drawn, tmp_path_factory):
    """A flat folder of class folders; one class is unknown to every model."""
    root = tmp_path_factory.mktemp("faces") / "mine"
    images, labels = np.asarray(drawn["val"].images)[..., 0], drawn["val"].labels
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
    assert "are taken for copies of what" in printed


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
    assert run("--data_root", faces, "--model", model, "--model", other) == 0
    printed = capsys.readouterr().out
    shared = ", ".join(name for name in EMOTIONS if name != "angry")
    assert f"scored among the classes that all know: {shared}" in printed
    facts["labels"] = [*"abcdefg"]
    model_file.write(other, model_file.pack(tensors), facts, force=True)
    with pytest.raises(UserError, match="have no label in common, expected at least"):
        run("--data_root", faces, "--model", model, "--model", other)


def alone_and_together(faces, *models):
    """The accuracy of each model by itself, and of all in both orders."""
    found = {}
    for chosen in ([m] for m in models):
        (each,) = scoring.evaluate(str(faces), chosen).judged
        found[chosen[0]] = each.run.scores["all"]["accuracy"]
    together = []
    for order in (models, models[::-1]):
        summary = scoring.evaluate(str(faces), order).summary
        assert len(summary.images) == 1 and summary.has_tests
        together.append({e.name: e.mean("accuracy") for e in summary.experiments})
    return found, together


def test_models_for_grey_and_colour_have_their_own_scores(model, faces, tmp_path):
    """Their data sets have other fingerprints, and the same images."""
    grey = model_file.read(model)
    rng = np.random.default_rng(0)
    stem = "params/stem/kernel"
    tensors = dict(grey.tensors)
    tensors[stem] = rng.normal(size=(4, 4, 3, 8)).astype(np.float16)
    facts = {k: v for k, v in grey.info.items() if k not in model_file.HEAD}
    facts = json.loads(json.dumps(facts))
    facts["preprocessing"]["channels"] = 3
    model_file.write(tmp_path / "colour", model_file.pack(tensors), facts)
    alone, together = alone_and_together(faces, str(model), str(tmp_path / "colour"))
    assert together == [alone, alone] and len(set(alone.values())) == 2


def test_the_held_out_part_of_undivided_data_is_the_runs(tiny_folder_run, capsys):
    """A run divides a flat folder; its model is judged on the same test images."""
    folder, result, data_root = tiny_folder_run
    found = scoring.evaluate(str(data_root), [str(folder)])
    assert found.images.split == "test" and found.judged[0].trained_here
    told = found.judged[0].run.scores["test"]
    assert told["confusion_matrix"] == result["test"]["confusion_matrix"]
    everything = scoring.evaluate(str(data_root), [str(folder)], split="all")
    train = sum(result["data"]["counts"]["train"])
    assert everything.judged[0].copies.sum() >= train


@pytest.fixture(scope="module")
def tiny_folder_run(drawn, tmp_path_factory):
    root = tmp_path_factory.mktemp("flat")
    images, labels = np.asarray(drawn["val"].images)[..., 0], drawn["val"].labels
    for n in np.flatnonzero(np.isin(labels, (0, 3)))[:120]:
        folder = root / "faces" / EMOTIONS[labels[n]]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[n]).save(folder / f"{n}.png")
    config = tiny_config("training.epochs=1")
    result = train(config, data_root=str(root / "faces"), runs_dir=root / "runs")
    export_run(
        root / "runs" / "baseline" / "seed_42",
        root / "model",
        data_root=str(root / "faces"),
    )
    return root / "model", result, root / "faces"


def test_a_model_that_was_trained_further_knows_what_its_start_has_seen(
    model, tiny_folder_run, tmp_path
):
    _, _, data_root = tiny_folder_run
    config = tiny_config("training.epochs=1", "name=more", f"model.pretrained={model}")
    train(config, data_root=str(data_root), runs_dir=tmp_path)
    run_dir = tmp_path / "more" / "seed_42"
    export_run(run_dir, tmp_path / "more_model", data_root=str(data_root))
    own = model_file.read(tiny_folder_run[0]).train_hashes
    before = model_file.read(model).train_hashes
    found = model_file.read(tmp_path / "more_model").train_hashes
    expected = np.unique(np.concatenate([own, before]), axis=0)
    np.testing.assert_array_equal(found, expected)
    (run_dir / "seen_hashes.npy").unlink()
    with pytest.raises(UserError, match="from which this run started, was trained on"):
        export_run(run_dir, tmp_path / "again", data_root=str(data_root))


@pytest.mark.parametrize(
    "options, words",
    [
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
