import dataclasses

import numpy as np
import pytest

from fer_jax import config as config_lib
from fer_jax import data
from fer_jax.data import soft_targets
from fer_jax.data.soft_targets import SoftTargets, mixed_in, read, write
from fer_jax.errors import UserError


@pytest.fixture
def dataset(tiny_csv):
    return data.load(str(tiny_csv), image_size=16)


@pytest.fixture
def targets(dataset):
    """Random probabilities of all of train, and of some rows of no image."""
    rows = np.arange(int(dataset.splits["train"].rows.max()) + 3, dtype=np.int32)
    p = np.random.default_rng(0).dirichlet(np.ones(7), len(rows)).astype(np.float32)
    return SoftTargets(dataset.fingerprint, dataset.class_names, rows, p, ("a/seed_1",))


def config(path, *more):
    items = [f"data.soft_targets={path}", "data.image_size=16", *more]
    return config_lib.load("baseline", items)


def test_a_file_holds_what_was_written(tmp_path, targets):
    write(tmp_path / "t.npz", targets)
    found = read(tmp_path / "t.npz")
    assert found.fingerprint == targets.fingerprint
    assert (found.class_names, found.teachers) == (targets.class_names, ("a/seed_1",))
    np.testing.assert_array_equal(found.rows, targets.rows)
    np.testing.assert_allclose(found.probabilities, targets.probabilities, atol=1e-3)
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, atol=1e-6)


def test_a_target_is_part_label_and_part_teacher(tmp_path, dataset, targets):
    write(tmp_path / "t.npz", targets)
    train = dataset.splits["train"]
    one_hot = np.eye(7)[train.labels]
    p = read(tmp_path / "t.npz").probabilities[train.rows]
    half = mixed_in(dataset, config(tmp_path / "t.npz"))
    soft = half.splits["train"].soft
    assert soft.dtype == np.float32
    np.testing.assert_allclose(soft, 0.5 * one_hot + 0.5 * p, atol=1e-6)
    np.testing.assert_array_equal(half.splits["train"].labels, train.labels)
    assert half.notes[-1] == "train targets: 0.5 of the probabilities of a/seed_1"
    more = ("loss.teacher_weight=1.0", "loss.teacher_temperature=2.0")
    all_of_it = mixed_in(dataset, config(tmp_path / "t.npz", *more))
    root = np.sqrt(p)
    root /= root.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(all_of_it.splits["train"].soft, root, atol=1e-6)
    assert len({dataset.targets, half.targets, all_of_it.targets}) == 3
    assert half.fingerprint == dataset.fingerprint  # the images are the same
    assert half.subset == dataset.subset == ""
    assert mixed_in(dataset, config_lib.load("baseline")) is dataset


def test_soft_labels_are_mixed_as_they_are(tmp_path, dataset, targets):
    write(tmp_path / "t.npz", targets)
    train = dataset.splits["train"]
    own = np.full((len(train.rows), 7), 1 / 7, np.float32)
    splits = dataset.splits | {"train": dataclasses.replace(train, soft=own)}
    given = dataclasses.replace(dataset, splits=splits)
    path = tmp_path / "t.npz"
    found = mixed_in(given, config(path, "loss.teacher_weight=0.0"))
    np.testing.assert_allclose(found.splits["train"].soft, own, atol=1e-6)


def test_files_that_do_not_fit_are_refused(tmp_path, dataset, targets):
    path = tmp_path / "t.npz"

    def refused(told):
        with pytest.raises(UserError, match=told):
            mixed_in(dataset, config(path))

    refused("there is no file .*t.npz; fer-jax targets writes one")
    path.write_bytes(b"no zip")
    refused("is damaged")
    np.savez(path, rows=np.arange(3))
    refused("is no file of soft targets")
    write(path, targets._replace(fingerprint="0123456789abcdef"))
    refused("is of data 0123456789abcdef, and .* is " + dataset.fingerprint)
    write(path, targets._replace(class_names=tuple("abcdefg")))
    refused("has the classes a, b, c, .* labels are angry")
    few = targets.rows[5:], targets.probabilities[5:]
    write(path, targets._replace(rows=few[0], probabilities=few[1]))
    lacking = (dataset.splits["train"].rows < 5).sum()
    refused(f"lacks {lacking} of the {len(dataset.splits['train'].rows)} train images")
    write(path, targets._replace(probabilities=2 * targets.probabilities))
    refused("do not sum to 1")
    assert soft_targets.WEIGHT == 0.5
