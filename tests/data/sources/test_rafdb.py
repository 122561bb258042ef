"""RAF-DB in its authors' layout, drawn here."""

import numpy as np
import pytest
from PIL import Image
from reading import read, read_source, refused

from fer_jax.data import load
from fer_jax.data.sources import locate as sources
from fer_jax.emotions import EMOTIONS

# By the paper's supplement: 1 surprise, 2 fear, 3 disgust, 4 happiness, 5 sadness,
# 6 anger, 7 neutral.
NAMES = ("surprise", "fear", "disgust", "happy", "sad", "angry", "neutral")


def write(root, train=3, test=1, side=10):
    """Images whose grey value tells the label that their line has."""
    aligned = root / "basic/Image/aligned"
    aligned.mkdir(parents=True)
    (root / "basic/EmoLabel").mkdir()
    lines = []
    for split, count in {"train": train, "test": test}.items():
        digits = 5 if split == "train" else 4
        for i in range(7 * count):
            label, name = i % 7 + 1, f"{split}_{i + 1:0{digits}}"
            lines.append(f"{name}.jpg {label}")
            pixels = np.full((side, side, 3), 30 * label, np.uint8)
            Image.fromarray(pixels).save(aligned / f"{name}_aligned.jpg")
    labels_of(root).write_text("\n".join(lines) + "\n")
    return root


def labels_of(root):
    return root / "basic/EmoLabel/list_patition_label.txt"


def change(root, line, text):
    lines = labels_of(root).read_text().splitlines()
    lines[line - 1] = text
    labels_of(root).write_text("\r\n".join(lines))


@pytest.mark.parametrize("inside", ["", "basic"])
def test_labels_are_those_of_the_list(tmp_path, inside):
    write(tmp_path / "raf")
    root = tmp_path / "raf" / inside
    source = sources.locate(str(root))
    assert source.class_names == EMOTIONS
    assert source.description == f"{root.name}/ (RAF-DB)"
    contents = read_source(source, channels=3)
    assert {name: len(split.rows) for name, split in contents.splits.items()} == {
        "train": 21,
        "test": 7,
    }
    for split in contents.splits.values():
        shown = [NAMES[round(value / 30) - 1] for value in split.images[:, 5, 5, 0]]
        assert shown == [EMOTIONS[label] for label in split.labels]
        assert split.images.shape == (len(split.rows), 10, 10, 3)


def test_rows_are_places_in_the_order_of_the_names(tmp_path):
    write(tmp_path)
    lines = labels_of(tmp_path).read_text().splitlines()
    expected = read(tmp_path).splits["test"]
    labels_of(tmp_path).write_text("\n".join(reversed(lines)))
    found = read(tmp_path).splits["test"]
    np.testing.assert_array_equal(found.images, expected.images)
    assert found.rows.tolist() == list(range(7))


BAD = {
    "no label": ("train_00003.jpg", "'train_00003.jpg', expected a line such as"),
    "unknown label": ("train_00003.jpg 8", "has the label '8', expected 1 to 7"),
    "label 0": ("train_00003.jpg 0", "has the label '0'"),
    "text": ("train_00003.jpg sad", "has the label 'sad'"),
    "two labels": ("train_00003.jpg 3 4", "has the label '3 4'"),
    "another name": ("valid_00003.jpg 3", "'valid_00003.jpg 3', expected a line"),
    "a way out": ("train_../../x.jpg 3", "expected a line"),
    "binary": ("\0\1", "expected a line"),
    "twice": ("train_00002.jpg 2", "names train_00002.jpg a second time"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_line_is_named_or_dropped(tmp_path, kind):
    write(tmp_path)
    line, words = BAD[kind]
    change(tmp_path, 3, line)
    refused(tmp_path, f"{labels_of(tmp_path)}:3 ", words, "--skip_bad")
    contents = read(tmp_path, skip_bad=True)
    unknown = kind in ("another name", "a way out", "binary")
    assert contents.problems.counts == {"unknown" if unknown else "train": 1}
    assert len(contents.splits["train"].rows) == 20


def test_a_missing_image_is_named_or_dropped(tmp_path):
    write(tmp_path)
    image = tmp_path / "basic/Image/aligned/test_0002_aligned.jpg"
    image.unlink()
    refused(tmp_path, f"{image} is not a file, expected an image", "--skip_bad")
    contents = read(tmp_path, skip_bad=True)
    assert contents.problems.counts == {"test": 1}
    assert contents.splits["test"].rows.tolist() == [0, 2, 3, 4, 5, 6]


def test_what_is_missing_as_a_whole_is_told(tmp_path):
    write(tmp_path / "a")
    labels_of(tmp_path / "a").write_text("\n")
    refused(tmp_path / "a", "list_patition_label.txt is empty", skip_bad=True)
    (tmp_path / "a/basic/Image/aligned").rename(tmp_path / "a/basic/Image/original")
    refused(tmp_path / "a", "has no folder Image/aligned", "aligned.zip")
    write(tmp_path / "b", train=0)
    refused(tmp_path / "b", "train images of 0 classes")
    labels_of(tmp_path / "b").unlink()
    refused(tmp_path / "b", "RAF-DB or AffectNet as shipped")


def test_a_changed_label_or_image_is_prepared_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("FER_CACHE_DIR", str(tmp_path / "cache"))
    root = write(tmp_path / "raf")
    first = load(str(root), image_size=16)
    assert first.source == "folder" and first.description == "raf/ (RAF-DB)"
    keys = {sources.locate(str(root)).key}
    change(root, 1, "train_00001.jpg 4")
    keys.add(sources.locate(str(root)).key)
    image = root / "basic/Image/aligned/train_00002_aligned.jpg"
    Image.new("RGB", (10, 10), "red").save(image)
    keys.add(sources.locate(str(root)).key)
    assert len(keys) == 3
    assert load(str(root), image_size=16).fingerprint != first.fingerprint
