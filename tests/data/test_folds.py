"""Val carved from train, folds, and smaller train sets."""

import numpy as np
import pytest
from conftest import COUNTS, LEAKED, tiny_config, write_tiny_csv
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fer_jax import data
from fer_jax.data import folds as fold
from fer_jax.data.duplicates.audit import audit
from fer_jax.data.folds import carve
from fer_jax.errors import UserError
from fer_jax.training import run


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return data.load(
        str(write_tiny_csv(tmp_path_factory.mktemp("fold") / "a.csv")), image_size=16
    )


def select(dataset, *items):
    return data.select_images(dataset, tiny_config(*items).data, lambda: audit(dataset))


# --- val carved from train


def smooth(rng):
    """A 48 x 48 image with structure, unlike every other one."""
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6), np.uint8))
    return np.asarray(coarse.resize((48, 48), Image.Resampling.BICUBIC))


def write_folder(root, rng, count=24):
    """A train folder of two classes; a third of the images has copies, some near."""
    for name in ("happy", "sad"):
        (root / "train" / name).mkdir(parents=True)
        for number in range(count):
            image = smooth(rng)
            copies = [image, image, image[:, ::-1]] if number % 3 == 0 else [image]
            for n, copy in enumerate(copies):
                path = root / "train" / name / f"{number:02}_{n}.png"
                Image.fromarray(copy).save(path)
    return data.load(str(root))


def test_carved_val_shares_no_photograph_with_train(tmp_path):
    dataset = write_folder(tmp_path, np.random.default_rng(0))
    assert list(dataset.splits) == ["train"]
    found = select(dataset)
    train, val = (
        {dataset.file_of("train", row)[:-6] for row in found.splits[name].rows}
        for name in ("train", "val")
    )
    assert val and not train & val
    # Of 24 photographs each, of which 8 have three images, the 10th and the 20th.
    assert np.bincount(found.splits["val"].labels).tolist() == [2, 2]
    assert len(found.splits["train"].rows) == 80 - 4
    assert found.file_of("val", found.splits["val"].rows[0]).startswith("train/happy/")
    assert found.notes[0].startswith("val was carved from train: about 10 %")
    assert found.fingerprint != dataset.fingerprint == found.source_fingerprint
    assert found.subset == ""
    assigned = fold.assign(audit(dataset), 0)
    assert assigned.splits == ("train", "val")
    for name, split in found.splits.items():
        np.testing.assert_array_equal(assigned.rows[assigned.of(name)], split.rows)
    assert not assigned.has_copy_in("train", near=True)[assigned.of("val")].any()


def test_carving_gives_the_same_val_each_time_and_leaves_a_test_alone(tmp_path):
    path = write_tiny_csv(tmp_path / "a.csv", ("Training", "PrivateTest"))
    dataset = data.load(str(path), image_size=16)
    one, again = select(dataset), select(dataset)
    assert list(one.splits) == ["train", "val", "test"]
    for name, split in one.splits.items():
        np.testing.assert_array_equal(split.rows, again.splits[name].rows)
        np.testing.assert_array_equal(split.images, again.splits[name].images)
        assert (np.diff(split.rows) > 0).all()
    expected = [max(1, count // 10) for count in COUNTS]
    assert np.bincount(one.splits["val"].labels).tolist() == expected
    assert one.fingerprint == again.fingerprint
    np.testing.assert_array_equal(
        one.splits["test"].images, dataset.splits["test"].images
    )


@given(st.integers(0, 10**6), st.integers(2, 200), st.integers(1, 5), st.booleans())
@settings(max_examples=100, deadline=None)
def test_carving_keeps_groups_and_classes(seed, count, classes, mixed):
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, rng.integers(1, count + 1), count)
    labels = (rng.integers(0, classes, count) if mixed else groups % classes).astype(
        np.int32
    )
    to_val = carve(groups, labels)
    np.testing.assert_array_equal(to_val, carve(groups, labels))
    assert not np.intersect1d(groups[to_val], groups[~to_val]).size
    # Every class keeps an image in train.
    np.testing.assert_array_equal(np.unique(labels), np.unique(labels[~to_val]))


@given(st.integers(0, 10**6), st.lists(st.integers(1, 300), min_size=2, max_size=8))
@settings(max_examples=50, deadline=None)
def test_without_copies_val_is_a_tenth_of_each_class_and_at_least_one(seed, counts):
    labels = np.random.default_rng(seed).permutation(
        np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    )
    to_val = carve(np.arange(len(labels)), labels)
    found = np.bincount(labels[to_val], minlength=len(counts))
    expected = [min(max(1, n // 10), n - 1) for n in counts]
    assert found.tolist() == expected


def test_a_large_group_stays_in_train():
    # 20 images of one video and 20 photographs, of each of two classes.
    groups = np.concatenate([[0] * 20, range(2, 22), [1] * 20, range(22, 42)])
    labels = np.repeat(np.arange(2, dtype=np.int32), 40)
    to_val = carve(groups, labels)
    assert not to_val[groups < 2].any()
    assert np.bincount(labels[to_val]).tolist() == [2, 2]
    # Of a few large groups, the smallest becomes val.
    groups = np.array([0] * 9 + [1] * 3 + [2] * 8)
    assert (carve(groups, np.zeros(20, np.int32)) == (groups == 1)).all()


def test_too_few_images_to_carve_are_refused(tmp_path):
    rows = [f"{label},{' '.join(['7'] * 256)},Training" for label in range(7)]
    (tmp_path / "a.csv").write_text("\n".join(["emotion,pixels,Usage", *rows]))
    dataset = data.load(str(tmp_path / "a.csv"), image_size=16)
    with pytest.raises(UserError, match="a.csv has no val split, and too few train"):
        select(dataset)


def test_a_fold_of_data_without_val_is_tested_on_the_carved_val(tmp_path):
    path = write_tiny_csv(tmp_path / "a.csv", ("Training",))
    dataset = data.load(str(path), image_size=16)
    carved, found = select(dataset).splits, select(dataset, "data.fold=2")
    np.testing.assert_array_equal(found.splits["test"].rows, carved["val"].rows)
    both = np.concatenate([found.splits[name].rows for name in ("train", "val")])
    np.testing.assert_array_equal(np.sort(both), carved["train"].rows)
    assert found.notes[1].endswith("test is the carved val")


# --- folds


def test_each_train_image_is_in_one_fold_and_each_fold_has_its_share(dataset):
    own, held = dataset.splits["train"], []
    for number in range(1, fold.FOLDS + 1):
        splits = select(dataset, f"data.fold={number}").splits
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
    found = select(dataset, "data.fold=1")
    np.testing.assert_array_equal(
        found.splits["test"].images, dataset.splits["val"].images
    )
    assert set(found.splits) == {"train", "val", "test"}
    assert found.fingerprint != dataset.fingerprint == found.source_fingerprint
    assert "fold 1 of 5: val is" in found.notes[0]
    assert "test is PublicTest, and the data's own test is left out" in found.notes[0]
    assert select(dataset, "data.fold=2").fingerprint != found.fingerprint
    assert select(dataset).fingerprint == dataset.fingerprint


def test_copies_are_in_the_same_fold(tmp_path):
    lines = write_tiny_csv(tmp_path / "a.csv").read_text().splitlines()
    first = [line for line in lines if line.startswith("3,")][1:9]
    copies = [line for line in first if line.endswith("Training")] * 3
    (tmp_path / "b.csv").write_text("\n".join([*lines, *copies]) + "\n")
    dataset = data.load(str(tmp_path / "b.csv"), image_size=16)
    found = audit(dataset)
    train, groups = found.of("train"), found.copies.groups()
    assert (np.bincount(groups[train]) == 4).sum() >= 7
    numbers = fold.fold_numbers(groups[train], found.labels[train])
    for group in np.unique(groups[train]):
        assert len(set(numbers[groups[train] == group])) == 1
    held = fold.assign(found, 2)
    of_val = held.of("val")
    assert of_val.any() and not held.has_copy_in("train", near=True)[of_val].any()


def test_a_smaller_train_keeps_the_classes_shares(dataset):
    found = select(dataset, "data.train_subset=64")
    counts = np.bincount(found.splits["train"].labels, minlength=7)
    assert counts.sum() == 64 and (np.abs(counts - np.array(COUNTS) / 2) <= 1).all()
    assert found.fingerprint == dataset.fingerprint and found.subset
    assert found.left_out["train"] == {"beyond data.train_subset": 64}
    again = select(dataset, "data.train_subset=64").splits["train"].rows
    np.testing.assert_array_equal(found.splits["train"].rows, again)
    assert (np.diff(again) > 0).all()
    assert select(dataset, "data.train_subset=1000").subset == ""


def test_a_run_on_a_fold_is_scored_on_it_and_on_val(dataset, tmp_path):
    config = tiny_config("training.epochs=1", "data.fold=3", "name=fold")
    result = run.train(config, data_root=str(dataset.path), runs_dir=tmp_path)
    own = select(dataset, "data.fold=3").splits
    for split in ("val", "test"):
        with np.load(tmp_path / "fold/seed_42" / f"predictions_{split}.npz") as file:
            np.testing.assert_array_equal(file["rows"], own[split].rows)
            np.testing.assert_array_equal(file["labels"], own[split].labels)
            clean = file["clean"]
        assert result[split]["n"] == len(own[split].labels)
    # Of the images of val that train has a copy of, those of the fold have none there.
    held = np.isin(np.cumsum([0, *COUNTS[:-1]]), own["val"].rows).sum()
    assert (~clean).sum() == LEAKED - held


def test_an_undivided_folder_is_split_in_three_with_copies_together(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("happy", "sad"):
        (tmp_path / name).mkdir()
        for number in range(40):
            pixels = rng.integers(0, 256, (24, 24), np.uint8)
            for copy in range(2):  # each photograph twice
                Image.fromarray(pixels).save(tmp_path / name / f"{number}_{copy}.png")
    dataset = data.load(str(tmp_path), image_size=24)
    selected = select(dataset)
    counts = {
        name: np.bincount(split.labels).tolist()
        for name, split in selected.splits.items()
    }
    assert counts == {"train": [66, 66], "val": [6, 6], "test": [8, 8]}
    photographs = {
        name: {tuple(image.ravel()) for image in np.asarray(split.images)}
        for name, split in selected.splits.items()
    }
    assert not photographs["train"] & (photographs["val"] | photographs["test"])
    assert not photographs["val"] & photographs["test"]
    assert any(note.startswith("the data have no splits") for note in selected.notes)
    again = select(dataset)
    assert again.fingerprint == selected.fingerprint != dataset.fingerprint
