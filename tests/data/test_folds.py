"""Folds of train as val, and smaller train sets: what they hold, and what runs see."""

import numpy as np
import pytest
from conftest import COUNTS, LEAKED, tiny_config, write_tiny_csv

from fer_jax import data
from fer_jax import train as train_lib
from fer_jax.data import folds as fold
from fer_jax.data.duplicates.audit import audit


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return data.load(
        str(write_tiny_csv(tmp_path_factory.mktemp("fold") / "a.csv")), image_size=16
    )


def chosen(dataset, *items):
    settings = tiny_config(*items).data
    return data.choose(dataset, settings, lambda: audit(dataset))


def test_each_train_image_is_in_one_fold_and_each_fold_has_its_share(dataset):
    own, held = dataset.splits["train"], []
    for number in range(1, fold.FOLDS + 1):
        splits = chosen(dataset, f"data.fold={number}").splits
        held.append(splits["val"].rows)
        both = np.concatenate([splits["train"].rows, splits["val"].rows])
        np.testing.assert_array_equal(np.sort(both), own.rows)
        counts = np.bincount(splits["val"].labels, minlength=7)
        assert (np.abs(counts - np.array(COUNTS) / 5) < 1.5).all()
        for split, source in (("train", own), ("val", own)):
            at = np.searchsorted(source.rows, splits[split].rows)
            np.testing.assert_array_equal(splits[split].images, source.images[at])
            np.testing.assert_array_equal(splits[split].labels, source.labels[at])
    np.testing.assert_array_equal(np.sort(np.concatenate(held)), own.rows)


def test_val_becomes_test_and_the_datas_own_test_is_left_out(dataset):
    found = chosen(dataset, "data.fold=1")
    np.testing.assert_array_equal(
        found.splits["test"].images, dataset.splits["val"].images
    )
    assert set(found.splits) == {"train", "val", "test"}
    assert found.fingerprint != dataset.fingerprint == found.source_fingerprint
    assert "fold 1 of 5: val is" in found.notes[-1]
    assert "test is PublicTest, and the data's own test is left out" in found.notes[-1]
    assert chosen(dataset, "data.fold=2").fingerprint != found.fingerprint
    assert chosen(dataset).fingerprint == dataset.fingerprint


def test_copies_are_in_the_same_fold(tmp_path):
    lines = write_tiny_csv(tmp_path / "a.csv").read_text().splitlines()
    first = [line for line in lines if line.startswith("3,")][1:9]
    copies = [line for line in first if line.endswith("Training")] * 3
    (tmp_path / "b.csv").write_text("\n".join([*lines, *copies]) + "\n")
    dataset = data.load(str(tmp_path / "b.csv"), image_size=16)
    looked = audit(dataset)
    folds, groups = fold.folds(looked), looked.copies.groups()
    sizes = np.bincount(groups)
    assert (sizes == 4).sum() >= 7
    for group in np.flatnonzero(sizes > 1):
        assert len(set(folds[(groups == group) & looked.of("train")])) == 1
    assert not folds[~looked.of("train")].any()
    held = fold.assign(looked, 2)
    of_val = held.of("val")
    assert of_val.any() and not held.has_copy_in("train", near=True)[of_val].any()


def test_a_smaller_train_keeps_the_classes_shares(dataset):
    found = chosen(dataset, "data.train_subset=64")
    counts = np.bincount(found.splits["train"].labels, minlength=7)
    assert counts.sum() == 64 and (np.abs(counts - np.array(COUNTS) / 2) <= 1).all()
    assert found.fingerprint == dataset.fingerprint and found.chosen
    assert found.left_out["train"] == {"beyond data.train_subset": 64}
    again = chosen(dataset, "data.train_subset=64").splits["train"].rows
    np.testing.assert_array_equal(found.splits["train"].rows, again)
    assert (np.diff(again) > 0).all()
    assert chosen(dataset, "data.train_subset=1000").chosen == ""


def test_a_run_on_a_fold_is_scored_on_it_and_on_val(dataset, tmp_path):
    config = tiny_config("training.epochs=1", "data.fold=3", "name=fold")
    result = train_lib.train(config, data_root=str(dataset.path), runs_dir=tmp_path)
    own = chosen(dataset, "data.fold=3").splits
    for split in ("val", "test"):
        with np.load(tmp_path / "fold/seed_42" / f"predictions_{split}.npz") as file:
            np.testing.assert_array_equal(file["rows"], own[split].rows)
            np.testing.assert_array_equal(file["labels"], own[split].labels)
            clean = file["clean"]
        assert result[split]["n"] == len(own[split].labels)
    # Of the images of val that train has a copy of, those of the fold have none there.
    held = np.isin(np.cumsum([0, *COUNTS[:-1]]), own["val"].rows).sum()
    assert (~clean).sum() == LEAKED - held
