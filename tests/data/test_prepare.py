"""Prepared copies: what is loaded is what the source holds, whatever happens."""

import dataclasses
import io
import json
import lzma
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Timer

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from fer_jax.data import Dataset, array_records, load, prepare
from fer_jax.data.sources import locate as sources
from fer_jax.emotions import EMOTIONS
from fer_jax.errors import UserError

ROOT = Path(__file__).parents[2]
FER2013 = ROOT.parent / "shared/fer2013"
USAGES = {"train": "Training", "val": "PublicTest", "test": "PrivateTest"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("FER_CACHE_DIR", str(folder))
    monkeypatch.delenv("FER_DATA_ROOT", raising=False)
    return folder


def make_rows(per_class=3, side=8, splits=("train", "val", "test"), seed=0):
    """(split, label, pixels), sorted as the listing of a folder would be."""
    rng = np.random.default_rng(seed)
    labels = sorted(range(7), key=EMOTIONS.__getitem__)
    return [
        (split, label, rng.integers(0, 256, (side, side), np.uint8))
        for split in splits
        for label in labels
        for _ in range(per_class)
    ]


def csv_text(rows):
    lines = [
        f"{label},{' '.join(map(str, pixels.ravel()))},{USAGES[split]}"
        for split, label, pixels in rows
    ]
    return "\n".join(["emotion,pixels,Usage", *lines, ""])


def write_csv(path, rows):
    path.write_text(csv_text(rows))
    return str(path)


def write_folder(root, rows):
    for i, (split, label, pixels) in enumerate(rows):
        path = root / split / EMOTIONS[label] / f"{i:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return str(root)


def get(root, **kwargs):
    """Loads 8 x 8 images; returns them and what was said."""
    console = Console(file=io.StringIO(), width=1000)
    dataset = load(root, image_size=8, console=console, **kwargs)
    return dataset, console.file.getvalue()


def prepared(cache):
    return [path for path in cache.iterdir() if path.suffix not in (".lock", ".tmp")]


def assert_equal(one: Dataset, other: Dataset):
    for field in dataclasses.fields(Dataset):
        if field.name != "splits":
            assert getattr(one, field.name) == getattr(other, field.name)
    assert list(one.splits) == list(other.splits)
    for name, split in one.splits.items():
        for field in ("images", "labels", "rows"):
            a, b = getattr(split, field), getattr(other.splits[name], field)
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype


def test_what_is_loaded_is_what_the_file_holds_and_again_the_same(tmp_path, capfd):
    # The 1,050 images of a split are two records, one of them not full.
    assert array_records.block_size((8, 8, 1)) == 1024
    rows = make_rows(per_class=150)
    path = write_csv(tmp_path / "a.csv", rows)
    dataset, said = get(path)
    assert said.startswith("prepared 3,150 images from a.csv in ")
    assert said.count("\n") == 1
    again, said = get(path)
    assert said == ""
    assert_equal(dataset, again)
    assert list(dataset.splits) == ["train", "val", "test"]
    for name, split in dataset.splits.items():
        places = [i for i, row in enumerate(rows) if row[0] == name]
        assert split.rows.tolist() == places
        assert split.labels.tolist() == [rows[i][1] for i in places]
        pixels = np.stack([rows[i][2] for i in places])
        np.testing.assert_array_equal(split.images[:, :, :, 0], pixels)
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == split.rows.dtype == np.int32
    assert dataset.source == "csv" and dataset.description == "a.csv"
    assert dataset.class_names == EMOTIONS
    assert dataset.skipped == {} and dataset.notes == ()
    assert capfd.readouterr() == ("", "")


def test_a_console_is_optional_and_a_terminal_gets_a_bar(tmp_path, capfd):
    path = write_csv(tmp_path / "a.csv", make_rows())
    load(path, image_size=8)
    assert capfd.readouterr() == ("", "")
    console = Console(
        file=io.StringIO(), force_terminal=True, width=200, highlight=False
    )
    load(write_csv(tmp_path / "a.csv", make_rows(seed=1)), console=console)
    said = console.file.getvalue()
    assert "reading a.csv" in said and "prepared 63 images" in said


def test_the_fingerprint_is_that_of_the_images_not_of_the_format(tmp_path):
    rows = make_rows()
    plain = get(write_csv(tmp_path / "a.csv", rows))[0]
    assert len(plain.fingerprint) == 16 and int(plain.fingerprint, 16) >= 0
    packed = tmp_path / "b.xz"
    packed.write_bytes(lzma.compress(csv_text(rows).encode()))
    folder = get(write_folder(tmp_path / "c", rows))[0]
    assert folder.source == "folder" and folder.description == "c/ (folder)"
    assert plain.fingerprint == get(str(packed))[0].fingerprint == folder.fingerprint


@pytest.mark.parametrize("change", ["pixel", "label", "order", "split", "names"])
def test_the_fingerprint_changes_with(change):
    rng = np.random.default_rng(0)

    def split(n):
        images = rng.integers(0, 256, (n, 8, 8, 1), np.uint8)
        return sources.Split(images, np.int32(range(n)) % 2, np.int32(range(n)))

    names, splits = ("a", "b"), {"train": split(6), "val": split(6)}
    before = prepare.fingerprint(names, splits)
    assert before == prepare.fingerprint(names, dict(reversed(splits.items())))
    if change == "pixel":
        splits["val"].images[3, 4, 4, 0] ^= 1
    elif change == "label":
        splits["val"].labels[3] ^= 1
    elif change == "order":
        splits["val"].images[:] = splits["val"].images[::-1].copy()
    elif change == "split":
        splits = {"train": splits["val"], "val": splits["train"]}
    else:
        names = ("b", "a")
    assert prepare.fingerprint(names, splits) != before


def test_another_size_is_prepared_beside_the_first(tmp_path, cache):
    path = write_csv(tmp_path / "a.csv", make_rows())
    small, large = get(path)[0], load(path, image_size=16)
    assert large.splits["train"].images.shape == (21, 16, 16, 1)
    assert small.fingerprint != large.fingerprint
    assert len(prepared(cache)) == 2


def test_copies_of_another_format_are_not_used(tmp_path, cache, monkeypatch):
    path = write_csv(tmp_path / "a.csv", make_rows())
    get(path)
    (folder,) = prepared(cache)
    assert folder.name == f"2-8x1-{sources.locate(path).key[:24]}"
    monkeypatch.setattr(prepare, "FORMAT", prepare.FORMAT + 1)
    assert "prepared 63 images" in get(path)[1] and len(prepared(cache)) == 2


def test_colour_is_prepared_beside_grey(tmp_path, cache):
    root = tmp_path / "a"
    write_folder(root, make_rows())
    paint = np.random.default_rng(1).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(paint).save(root / "train/angry/0000.png")
    grey, _ = get(str(root))
    colour, said = get(str(root), channels=3)
    assert "prepared 63 images" in said and len(prepared(cache)) == 2
    assert_equal(colour, get(str(root), channels=3)[0])
    images = colour.splits["train"].images
    assert images.shape == (21, 8, 8, 3)
    np.testing.assert_array_equal(images[0], paint)
    for c in range(3):
        expected = grey.splits["train"].images[1:]
        np.testing.assert_array_equal(images[1:, ..., c : c + 1], expected)
    assert grey.fingerprint != colour.fingerprint


def test_grey_sources_in_colour_repeat_their_values(tmp_path):
    path = write_csv(tmp_path / "a.csv", make_rows())
    grey, colour = get(path)[0], get(path, channels=3)[0]
    for name, split in colour.splits.items():
        expected = grey.splits[name].images.repeat(3, axis=3)
        np.testing.assert_array_equal(split.images, expected)


def test_a_changed_source_is_prepared_anew(tmp_path):
    path = write_csv(tmp_path / "a.csv", make_rows())
    first = get(path)[0]
    second, said = get(write_csv(tmp_path / "a.csv", make_rows(seed=1)))
    assert "prepared" in said and first.fingerprint != second.fingerprint
    folder = write_folder(tmp_path / "b", make_rows())
    assert get(folder)[0].fingerprint == first.fingerprint
    os.utime(tmp_path / "b/train/sad" / os.listdir(tmp_path / "b/train/sad")[0])
    assert "prepared" in get(folder)[1]


def test_a_copy_of_the_same_content_is_not_prepared_again(tmp_path):
    get(write_csv(tmp_path / "a.csv", make_rows()))
    dataset, said = get(write_csv(tmp_path / "b.csv", make_rows()))
    assert said == "" and dataset.description == "b.csv"


def with_bad_rows(path):
    rows = make_rows(splits=("train", "val"))
    lines = csv_text(rows).splitlines()
    lines[2], lines[30] = lines[2][:-10] + "Foo", "9" + lines[30][1:]
    lines[4] = lines[4].replace(" ", " x", 1)
    path.write_text("\n".join(lines))
    return str(path)


def test_bad_rows_are_refused_or_dropped_before_and_after_preparing(tmp_path, cache):
    path = with_bad_rows(tmp_path / "a.csv")
    with pytest.raises(UserError) as fresh:
        get(path)
    assert f"{path}:3 " in str(fresh.value) and "2 more" in str(fresh.value)
    assert prepared(cache) == [] and list(cache.glob("*.tmp")) == []
    dataset, _ = get(path, skip_bad=True)
    assert dataset.skipped == {"unknown": 1, "train": 1, "val": 1}
    assert "train 1" in dataset.notes[0]
    assert 3 not in dataset.splits["train"].rows
    assert_equal(dataset, get(path, skip_bad=True)[0])
    with pytest.raises(UserError) as cached:
        get(path)
    assert str(cached.value) == str(fresh.value)
    (tmp_path / "b.csv").write_bytes((tmp_path / "a.csv").read_bytes())
    with pytest.raises(UserError, match="b.csv:3 "):
        get(str(tmp_path / "b.csv"))


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError, OSError])
def test_a_preparation_that_fails_leaves_nothing(tmp_path, cache, monkeypatch, error):
    path = write_csv(tmp_path / "a.csv", make_rows())
    write = prepare._write

    def fail(folder, *args):
        write(folder, *args)
        raise error

    monkeypatch.setattr(prepare, "_write", fail)
    with pytest.raises(UserError if error is OSError else error):
        get(path)
    assert [p for p in cache.iterdir() if p.suffix != ".lock"] == []
    monkeypatch.undo()
    monkeypatch.setenv("FER_CACHE_DIR", str(cache))
    assert "prepared" in get(path)[1]


def run_python(code, *args):
    return subprocess.Popen(
        [sys.executable, "-c", code, *args],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_what_a_killed_process_leaves_never_counts_and_is_removed(tmp_path, cache):
    path = write_csv(tmp_path / "a.csv", make_rows())
    killed = run_python(
        "import os, signal, sys; from fer_jax.data import load, prepare\n"
        "write = prepare._write\n"
        "def fail(*args): write(*args); os.kill(os.getpid(), signal.SIGKILL)\n"
        "prepare._write = fail; load(sys.argv[1], image_size=8)\n",
        path,
    )
    killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    (left,) = cache.glob("*.tmp")
    assert list(left.rglob("*train.array_record*"))
    other = write_csv(tmp_path / "b.csv", make_rows(seed=1))
    assert "prepared" in get(other)[1]
    assert list(cache.glob("*.tmp")) == []
    assert "prepared" in get(path)[1]


def test_two_processes_at_once_share_one_preparation(tmp_path, cache):
    path, finish = write_csv(tmp_path / "a.csv", make_rows()), tmp_path / "finish"
    code = (
        "import os, sys, time; from fer_jax.data import load, prepare\n"
        "write = prepare._write\n"
        "def slow(*args):\n"
        "  meta = write(*args)\n"
        "  while not os.path.exists(sys.argv[2]): time.sleep(0.02)\n"
        "  return meta\n"
        "prepare._write = slow\n"
        "print(load(sys.argv[1], image_size=8).fingerprint)\n"
    )
    process = run_python(code, path, str(finish))
    deadline = time.monotonic() + 60
    while not list(cache.glob("*.tmp")) and time.monotonic() < deadline:
        time.sleep(0.02)
    # Preparing something else meanwhile leaves the half-written folder alone.
    get(write_csv(tmp_path / "b.csv", make_rows(seed=1)))
    Timer(0.5, finish.touch).start()
    dataset, said = get(path)
    assert said == "waiting for another process to prepare a.csv\n"
    output = process.communicate(timeout=60)[0]
    assert (process.returncode, output.strip()) == (0, dataset.fingerprint), output
    assert len(prepared(cache)) == 2


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] ^= 0x10
    path.write_bytes(data)


def spoil(folder, harm):
    record = next(folder.rglob("*train.array_record*"))
    meta = folder / "meta.json"
    if harm.startswith("flip"):
        flip(record, float(harm.split()[1]))
    elif harm == "cut":
        record.write_bytes(record.read_bytes()[: record.stat().st_size // 2])
    elif harm == "empty":
        record.write_bytes(b"")
    elif harm == "no record":
        record.unlink()
    elif harm == "no meta":
        meta.unlink()
    elif harm == "bad meta":
        meta.write_text('{"splits": ')
    else:
        other = json.loads(meta.read_text()) | {"fingerprint": "0" * 16}
        meta.write_text(json.dumps(other))


HARMS = ["cut", "empty", "no record", "no meta", "bad meta", "other print"]


@pytest.mark.parametrize("harm", HARMS + [f"flip {i / 4}" for i in range(5)])
def test_a_damaged_copy_is_said_and_prepared_anew(tmp_path, cache, harm):
    path = write_csv(tmp_path / "a.csv", make_rows(per_class=50))
    before, _ = get(path)
    (folder,) = prepared(cache)
    spoil(folder, harm)
    after, said = get(path)
    if not (harm.startswith("flip") and said == ""):  # padding may take a flip
        assert "is damaged; preparing it anew" in said and "prepared" in said
    assert_equal(before, after)
    assert get(path)[1] == ""
    assert len(prepared(cache)) == 1


def test_a_cache_that_cannot_be_written_is_told(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("FER_CACHE_DIR", str(tmp_path / "file/cache"))
    path = write_csv(tmp_path / "a.csv", make_rows())
    with pytest.raises(UserError, match="cannot be written.*FER_CACHE_DIR"):
        get(path)


def test_where_the_cache_is(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FER_CACHE_DIR", "~/own")
    assert prepare.cache_root() == tmp_path / "own"
    monkeypatch.delenv("FER_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert prepare.cache_root() == tmp_path / "xdg/fer_jax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert prepare.cache_root() == tmp_path / ".cache/fer_jax"


def test_the_embedded_set_is_the_default(monkeypatch):
    def generate(split):
        images = np.full((14, 48, 48), len(split), np.uint8)
        return images, np.arange(14, dtype=np.int32) % 7

    monkeypatch.setattr(sources.drawn_faces, "generate", generate)
    dataset = load(None)
    assert dataset.source == "embedded"
    assert dataset.description == "embedded set (drawn faces)"
    assert dataset.class_names == EMOTIONS
    assert list(dataset.splits) == ["train", "val", "test"]
    assert (dataset.splits["val"].images == 3).all()
    assert_equal(dataset, load(None))


@pytest.mark.slow  # unpacks and checks 32,298 rows
@pytest.mark.skipif(
    not (FER2013 / "fer2013.csv.xz").exists(), reason="needs ../shared/fer2013"
)
def test_fer2013_has_the_published_counts(caches, monkeypatch):
    monkeypatch.setenv("FER_CACHE_DIR", str(caches))  # others read this set, too
    dataset = load(str(FER2013))
    assert dataset.description == "fer2013.csv.xz" and dataset.notes == ()
    train, val = dataset.splits["train"], dataset.splits["val"]
    assert train.images.shape == (28709, 48, 48, 1)
    assert val.images.shape == (3589, 48, 48, 1)
    expected = [3995, 436, 4097, 7215, 4830, 3171, 4965]
    assert np.bincount(train.labels).tolist() == expected
    assert np.bincount(val.labels).tolist() == [467, 56, 496, 895, 653, 415, 607]
    assert train.rows.tolist() == list(range(28709))
    assert val.rows.tolist() == list(range(28709, 28709 + 3589))
    assert_equal(dataset, load(str(FER2013)))
