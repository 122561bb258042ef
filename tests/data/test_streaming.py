"""Sets whose images stay on disk: the same numbers, without loading them."""

import io
import json
import math
import pickle
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import HARD, SIDE, tiny_config
from rich.console import Console
from same_run import assert_same_run, compared, rows

from fer_jax import data, runs
from fer_jax.audit.cli import main as audit_main
from fer_jax.data import array_records, prepare
from fer_jax.data import batches as pipeline
from fer_jax.data.duplicates import search as duplicates
from fer_jax.data.duplicates.audit import audit
from fer_jax.data.lazy_images import (
    StoredImages,
    chunks,
    concatenate,
    read_ahead,
    read_pixels,
)
from fer_jax.errors import UserError
from fer_jax.system.console import TrainingBar
from fer_jax.system.memory import available_memory
from fer_jax.system.signals import Interrupted
from fer_jax.training.run import train
from fer_jax.training.setup import memory_for_images


def load(root, memory_limit=0, **options):
    return data.load(str(root), image_size=SIDE, memory_limit=memory_limit, **options)


@pytest.fixture(scope="module")
def both(tiny_csv):
    """The tiny set, streamed and in memory."""
    return load(tiny_csv), load(tiny_csv, math.inf)


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FER_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


# --- stored images


def test_stored_images_are_the_array_that_they_stand_for(both):
    for name, split in both[0].splits.items():
        stored, expected = split.images, both[1].splits[name].images
        assert isinstance(stored, StoredImages) and isinstance(expected, np.ndarray)
        assert stored.shape == expected.shape and stored.dtype == expected.dtype
        assert len(stored) == len(expected) and stored.nbytes == expected.nbytes
        np.testing.assert_array_equal(read_pixels(stored, np.arange(128)), expected)
        np.testing.assert_array_equal(split.labels, both[1].splits[name].labels)
        np.testing.assert_array_equal(split.rows, both[1].splits[name].rows)


def test_any_order_repeats_and_selections_read_the_right_images(both):
    stored, expected = (each.splits["train"].images for each in both)
    indices = np.random.default_rng(0).integers(0, 128, 300)
    np.testing.assert_array_equal(stored.read(indices), expected[indices])
    assert stored.read(np.zeros(0, int)).shape == (0, SIDE, SIDE, 1)
    mask = expected[:, 0, 0, 0] > 60
    for kept in (mask, np.flatnonzero(mask)[::-1], slice(5, 90, 7)):
        part = stored[kept]
        assert isinstance(part, StoredImages) and len(part) == len(expected[kept])
        np.testing.assert_array_equal(part.read(np.arange(len(part))), expected[kept])
    subsets = [each.splits["val"].take(mask) for each in both]
    assert 0 < len(subsets[0].images) < 128
    np.testing.assert_array_equal(
        concatenate([split.images for split in subsets]),
        np.concatenate([subsets[1].images] * 2),
    )


def test_chunks_come_in_order_from_either_kind(both):
    for size in (1, 50, 128, 1000):
        parts = [list(chunks(each.splits["test"].images, size)) for each in both]
        assert [len(part) for part in parts[0]] == [len(part) for part in parts[1]]
        for one, other in zip(*parts, strict=True):
            np.testing.assert_array_equal(one, other)
    selections = [np.arange(9)[::-1], np.arange(3), np.zeros(0, int)]
    expected = both[1].splits["test"].images
    for one, indices in zip(
        read_ahead(both[0].splits["test"].images, selections), selections, strict=True
    ):
        np.testing.assert_array_equal(one, expected[indices])
    assert list(read_ahead(both[0].splits["test"].images, [])) == []


def test_stored_images_are_read_by_threads_and_in_other_processes(both):
    stored, expected = (each.splits["train"].images for each in both)
    orders = [np.random.default_rng(seed).permutation(128) for seed in range(40)]
    with ThreadPoolExecutor(8) as pool:
        for found, order in zip(pool.map(stored.read, orders), orders, strict=True):
            np.testing.assert_array_equal(found, expected[order])
    again = pickle.loads(pickle.dumps(stored))
    np.testing.assert_array_equal(again.read(orders[0]), expected[orders[0]])


def test_stored_images_never_fill_memory_unasked(both):
    stored = both[0].splits["train"].images
    for wrong in (lambda: np.asarray(stored), lambda: stored[3]):
        with pytest.raises(TypeError, match=r"read\(\)"):
            wrong()


# --- prepared copies


@pytest.mark.parametrize(
    ("shape", "count"),
    [((48, 48, 1), 28), ((48, 48, 3), 9), ((224, 224, 3), 1), ((8, 8, 1), 1024)],
)
def test_a_record_holds_at_most_64_kib_or_one_image(shape, count):
    assert array_records.block_size(shape) == count


def test_records_that_are_not_full_and_splits_in_any_order(tmp_path, monkeypatch):
    monkeypatch.setattr(array_records, "_BLOCK_BYTES", 3 * 16)
    monkeypatch.setattr(array_records, "_WRITE_BYTES", 2 * 3 * 16)
    monkeypatch.setattr(array_records, "_FILE_BYTES", 4 * 3 * 16)
    images = np.random.default_rng(0).integers(0, 256, (70, 4, 4, 1), np.uint8)
    writer = array_records.RecordWriter(tmp_path, (4, 4, 1))
    is_test = np.arange(70) % 5 == 0
    for image, test in zip(images, is_test, strict=True):
        writer.add("test" if test else "train", image)
    found = writer.images()
    assert list(found) == ["train", "test"]
    assert len(found["train"].source) == 19 + 5
    for split, expected in (("test", images[is_test]), ("train", images[~is_test])):
        for size in (1, 20):
            parts = list(chunks(found[split], size))
            np.testing.assert_array_equal(np.concatenate(parts), expected)


def test_a_full_disk_is_an_os_error(tmp_path):
    writer = array_records.RecordWriter(tmp_path, (256, 256, 1))
    (directory,) = tmp_path.glob("*/*")
    (directory / "faces-train.array_record-00000").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        for _ in range(200):
            writer.add("train", np.zeros((256, 256, 1), np.uint8))
        writer.images()


@pytest.mark.parametrize("harm", ["cut", "swapped", "flipped", "gone", "records"])
def test_an_index_or_files_that_are_not_what_was_written(
    tiny_csv, own_cache, both, harm
):
    load(tiny_csv)
    (folder,) = (path for path in own_cache.iterdir() if path.is_dir())
    train, val = folder / "train.npy", folder / "val.npy"
    content = train.read_bytes()
    if harm == "cut":
        train.write_bytes(content[:-8])
    elif harm == "swapped":
        train.write_bytes(val.read_bytes())
    elif harm == "flipped":
        train.write_bytes(content[:-8] + bytes([content[-8] ^ 1]) + content[-7:])
    elif harm == "gone":
        train.unlink()
    else:
        path = next(folder.rglob("*train.array_record*"))
        path.write_bytes(path.read_bytes() + b"x")
    console = Console(record=True, width=1000, file=io.StringIO())
    again = load(tiny_csv, console=console)
    assert "is damaged" in console.export_text()
    for name, split in again.splits.items():
        np.testing.assert_array_equal(split.rows, both[1].splits[name].rows)
        pixels = split.images.read(np.arange(128))
        np.testing.assert_array_equal(pixels, both[1].splits[name].images)


def test_a_damaged_record_is_told_where_it_is_met(tiny_csv, own_cache):
    dataset = load(tiny_csv)
    (folder,) = (path for path in own_cache.iterdir() if path.is_dir())
    path = next(folder.rglob("*train.array_record*"))
    content = bytearray(path.read_bytes())
    content[10_000] ^= 0x10  # of the same size, which opening checks
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"{folder} is damaged .*; remove that folder"):
        dataset.splits["train"].images.read(np.arange(128))
    with pytest.raises(UserError, match="is damaged"):
        list(chunks(dataset.splits["train"].images, 8))
    dataset = load(tiny_csv)
    order = pipeline.batch_order(128, batch_size=32, epochs=1, seed=0)
    with pytest.raises(UserError, match="is damaged"):
        next(iter(pipeline.image_batches(order, dataset.splits["train"].images)))


# --- what is streamed


def test_what_exceeds_the_memory_limit_is_streamed(tiny_csv, both):
    size = 3 * 128 * SIDE * SIDE
    assert both[0].nbytes == both[1].nbytes == size
    assert both[0].streamed and not both[1].streamed
    assert not load(tiny_csv, size).streamed
    assert load(tiny_csv, size - 1).streamed
    assert not load(tiny_csv, None).streamed
    assert 2**20 < memory_for_images("auto") <= available_memory()
    assert memory_for_images("always") == 0 and memory_for_images("never") == math.inf


def test_a_streamed_set_says_the_same_of_itself(both):
    one, other = both
    for field in ("fingerprint", "description", "class_names", "notes", "stored"):
        assert getattr(one, field) == getattr(other, field)
    assert prepare.fingerprint(one.class_names, one.splits) == one.fingerprint


# --- copies


def test_copies_are_found_and_left_out_of_stored_images(both, own_cache):
    found = [
        duplicates.find(concatenate([split.images for split in each.splits.values()]))
        for each in both
    ]
    assert len(np.unique(found[0].exact)) == 3 * 128 - 7
    for field in ("exact", "pairs", "correlation", "mirrored", "scale", "shift"):
        one, other = (getattr(each, field) for each in found)
        np.testing.assert_array_equal(one, other)
    config = tiny_config("data.deduplicate=exact").data
    one, other = (
        data.select_images(each, config, lambda each=each: audit(each)) for each in both
    )
    assert one.streamed and one.subset == other.subset
    np.testing.assert_array_equal(
        one.splits["train"].images.read(np.arange(121)), other.splits["train"].images
    )


def test_the_audit_is_the_same_sheet_for_sheet(tiny_csv, tmp_path, monkeypatch):
    whole = data.load
    for limit in (0, math.inf):
        monkeypatch.setattr(
            data, "load", lambda *a, n=limit, **kw: whole(*a, memory_limit=n, **kw)
        )
        report = str(tmp_path / f"{limit}.html")
        size = ["--image_size", str(SIDE)]
        assert (
            audit_main(["--data_root", str(tiny_csv), *size, "--report", report]) == 0
        )
    pages = [(tmp_path / f"{limit}.html").read_text() for limit in (0, math.inf)]
    assert pages[0] == pages[1] and pages[0].count("<img") >= 14


# --- training


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("position", [0, 3, 4, 9])
def test_streamed_batches_are_those_of_the_order_from_anywhere(
    both, weighted, position
):
    stored, expected = (each.splits["train"].images for each in both)
    labels = both[0].splits["train"].labels
    weights = pipeline.sampler_weights(labels) if weighted else None
    options = {"batch_size": 32, "epochs": 3, "seed": 5, "weights": weights}
    order = pipeline.batch_order(128, **options)
    batches = list(pipeline.index_batches(order))[position:]
    own = slice(8, 24)  # what one of several processes reads
    iterator = iter(pipeline.image_batches(order, stored, own))
    next(iterator)
    iterator.set_state({"next_index": position})
    for batch, (indices, images) in zip(batches, iterator, strict=True):
        np.testing.assert_array_equal(indices, batch)
        np.testing.assert_array_equal(images, expected[batch[own]])


@pytest.fixture(scope="module")
def streamed_run(tmp_path_factory, tiny_csv):
    runs_dir = tmp_path_factory.mktemp("streamed")
    config = tiny_config(*HARD, "data.stream=always")
    result = train(config, data_root=str(tiny_csv), runs_dir=runs_dir)
    return runs_dir / "baseline" / "seed_42", result


def test_a_streamed_run_has_the_numbers_of_a_resident_one(streamed_run, finished_run):
    (folder, result), (other, expected) = streamed_run, finished_run
    assert result["data"].pop("streamed") is True
    assert expected["data"]["streamed"] is False
    # On a CPU bit for bit: a gathered batch and a given one are the same program after.
    assert compared(rows(folder)) == compared(rows(other))
    for name in ("margins", "rivals"):
        mine, theirs = (
            np.load(each / "dynamics" / f"{name}.npy") for each in (folder, other)
        )
        np.testing.assert_array_equal(mine, theirs)
    for split in ("val", "test"):
        with (
            np.load(folder / f"predictions_{split}.npz") as one,
            np.load(other / f"predictions_{split}.npz") as two,
        ):
            for key in two.files:
                np.testing.assert_array_equal(one[key], two[key])


def test_a_streamed_run_stopped_and_resumed_equals_the_undisturbed(
    streamed_run, tiny_csv, tmp_path, monkeypatch
):
    config = tiny_config(*HARD, "data.stream=always")
    advance = TrainingBar.on_step
    for stop in (4, 9):  # at the end of an epoch, and within one

        def stopping(bar, step, loss, stop=stop):
            advance(bar, step, loss)
            if step == stop:
                signal.raise_signal(signal.SIGTERM)

        monkeypatch.setattr(TrainingBar, "on_step", stopping)
        with pytest.raises(Interrupted):
            train(config, data_root=str(tiny_csv), runs_dir=tmp_path)
    monkeypatch.setattr(TrainingBar, "on_step", advance)
    train(config, data_root=str(tiny_csv), runs_dir=tmp_path)
    assert_same_run(tmp_path / "baseline/seed_42", streamed_run[0], tiny_csv)


def test_where_the_images_lie_makes_no_other_run(streamed_run, tiny_csv, tmp_path):
    folder = tmp_path / "baseline/seed_42"
    shutil.copytree(streamed_run[0], folder)
    console = Console(record=True, width=200, file=io.StringIO())
    result = train(
        tiny_config(*HARD),
        data_root=str(tiny_csv),
        runs_dir=tmp_path,
        console=console,
    )
    assert result == json.loads((folder / runs.RESULT).read_text())
    said = console.export_text()
    assert "images: kept on the device (0.00 GB, data.stream is auto)" in said
