"""`fer-jax targets`: what runs say of train, and a run that is trained on it."""

import numpy as np
import pytest
import scipy
from conftest import tiny_config

from fer_jax import data
from fer_jax.data import soft_targets
from fer_jax.data.duplicates import hashes
from fer_jax.data.soft_targets import SoftTargets
from fer_jax.errors import UserError
from fer_jax.inference import from_run
from fer_jax.inference.export import export
from fer_jax.inference.predictor import Predictor
from fer_jax.inference.targets import from_runs, main
from fer_jax.pretrained import model_file
from fer_jax.training.run import train

pytestmark = pytest.mark.usefixtures("few_drawn_faces")


@pytest.fixture(scope="module")
def folds(tmp_path_factory, tiny_csv):
    """The folders of five runs of an epoch, each with another fold as val."""
    runs_dir = tmp_path_factory.mktemp("folds")
    for fold in range(1, 6):
        items = (f"data.fold={fold}", f"name=fold_{fold}", "training.epochs=1")
        config = tiny_config(*items, "data.deduplicate=none")
        train(config, data_root=str(tiny_csv), runs_dir=runs_dir)
    return [runs_dir / f"fold_{fold}" / "seed_42" for fold in range(1, 6)]


def test_a_run_says_what_its_exported_model_says(finished_run, tiny_csv, tmp_path):
    folder, result = finished_run
    path = tmp_path / "t.npz"
    assert main([str(folder), "--data_root", str(tiny_csv), "--to", str(path)]) == 0
    found = soft_targets.read(path)
    images = data.load(str(tiny_csv), image_size=16).splits["train"]
    np.testing.assert_array_equal(found.rows, images.rows)
    model = Predictor(from_run.read_model(folder))
    expected = model.predict(np.asarray(images.images))
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-3)
    assert found.teachers == ("baseline/seed_42",)
    assert found.fingerprint == result["data"]["source_fingerprint"]


@pytest.mark.slow
def test_folds_speak_of_what_they_left_out(folds, tiny_csv, tmp_path):
    path = tmp_path / "t.npz"
    assert main([*map(str, folds), "--to", str(path)]) == 0  # without the data
    found = soft_targets.read(path)
    images = data.load(str(tiny_csv), image_size=16).splits["train"]
    np.testing.assert_array_equal(found.rows, images.rows)
    own = np.load(folds[2] / "predictions_val.npz")
    order = scipy.special.softmax(own["logits"].astype(np.float64), axis=1).argsort(1)
    there = found.probabilities[np.searchsorted(found.rows, own["rows"])]
    # A temperature keeps the order of the classes.
    np.testing.assert_array_equal(there.argmax(axis=1), order[:, -1])
    with pytest.raises(UserError, match="there is no run with data.fold=2, 5, so its"):
        from_runs([folds[0], folds[2], folds[3]], None)


@pytest.mark.slow
def test_a_student_is_trained_on_them_and_knows_its_file(folds, tiny_csv, tmp_path):
    path, runs_dir = tmp_path / "t.npz", tmp_path / "runs"
    soft_targets.write(path, from_runs(folds, None))
    config = tiny_config("training.epochs=1", f"data.soft_targets={path}")
    options = {"data_root": str(tiny_csv), "runs_dir": runs_dir}
    result = train(config, **options)
    plain = train(tiny_config("training.epochs=1", "name=plain"), **options)
    assert "train targets: 0.5 of the probabilities of fold_1" in str(result["data"])
    assert result["val"]["loss"] != plain["val"]["loss"]
    assert result["data"]["fingerprint"] == plain["data"]["fingerprint"]
    targets = soft_targets.read(path)
    turned = targets._replace(probabilities=np.roll(targets.probabilities, 1, axis=1))
    soft_targets.write(path, turned)
    match = "data set is .* with the targets .* there and .* here"
    with pytest.raises(UserError, match=match):
        train(config, **options)


def test_a_student_is_exported_when_its_file_is_gone(tiny_csv, tmp_path):
    dataset = data.load(str(tiny_csv), image_size=16)
    path, splits = tmp_path / "t.npz", dataset.splits
    uniform = np.full((len(splits["train"].rows), 7), 1 / 7)
    soft_targets.write(
        path,
        SoftTargets(
            dataset.fingerprint,
            dataset.class_names,
            splits["train"].rows,
            uniform,
            ("a/seed_1",),
        ),
    )
    config = tiny_config("training.epochs=1", f"data.soft_targets={path}")
    train(config, data_root=str(tiny_csv), runs_dir=tmp_path)
    path.unlink()
    run_dir = tmp_path / "baseline" / "seed_42"
    export(run_dir, tmp_path / "model", data_root=str(tiny_csv))
    model = model_file.read(tmp_path / "model")
    seen = hashes.of_images(splits["train"].images)
    np.testing.assert_array_equal(model.train_hashes, seen)
    # Its images are all of train, so its copies are those that the audit finds.
    assert model.info["data"]["chosen"] == ""


def test_runs_that_do_not_go_together_are_refused(finished_run, tiny_csv, tmp_path):
    folder, _ = finished_run
    with pytest.raises(UserError, match="holds no finished run"):
        from_runs([tmp_path], None)
    with pytest.raises(UserError, match="was trained on .*; name it with --data_root"):
        from_runs([folder], None)
    with pytest.raises(UserError, match="--to writes .npz files"):
        main([str(folder), "--to", str(tmp_path / "x.csv")])
