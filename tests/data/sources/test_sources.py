import bz2
import gzip
import lzma
import os
import re
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from reading import read_source

from fer_jax.data import records
from fer_jax.data.duplicates import search as duplicates
from fer_jax.data.sources import (
    drawn_faces as embedded,
)
from fer_jax.data.sources import (
    fer2013_csv as csv_source,
)
from fer_jax.data.sources import (
    locate as sources,
)
from fer_jax.emotions import EMOTIONS
from fer_jax.errors import UserError

USAGES = ("Training", "PublicTest", "PrivateTest")


def make_rows(per_class=2, side=6, usages=USAGES, seed=0):
    rng = np.random.default_rng(seed)
    return [
        (str(label), rng.integers(0, 256, side * side), usage)
        for usage in usages
        for label in range(7)
        for _ in range(per_class)
    ]


def csv_text(rows, end="\n"):
    lines = ["emotion,pixels,Usage"]
    lines += [f"{e},{' '.join(map(str, p))},{u}" for e, p, u in rows]
    return end.join(lines) + end


def write_csv(path, rows):
    path.write_text(csv_text(rows))
    return path


def write_folder(root, split, classes, count=2, side=6, seed=0):
    rng = np.random.default_rng(seed)
    for name in classes:
        folder = root / split / name
        folder.mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (side, side), np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
    return root


def read(root, size=6, **kwargs):
    return read_source(sources.locate(str(root)), size, **kwargs)


def refused(root, *words, **kwargs):
    with pytest.raises(UserError) as caught:
        read(root, **kwargs)
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message
    return message


# Locating


def test_without_a_root_the_embedded_set_is_found(monkeypatch):
    monkeypatch.delenv("FER_DATA_ROOT", raising=False)
    assert sources.locate(None).kind == "embedded"
    monkeypatch.setenv("FER_DATA_ROOT", "")
    assert sources.locate(None).kind == "embedded"


def test_the_environment_names_the_default_and_the_argument_wins(tmp_path, monkeypatch):
    one = write_csv(tmp_path / "one.csv", make_rows())
    two = write_csv(tmp_path / "two.csv", make_rows())
    monkeypatch.setenv("FER_DATA_ROOT", str(one))
    assert sources.locate(None).description == "one.csv"
    assert sources.locate(str(two)).description == "two.csv"


def test_the_home_folder_is_expanded(tmp_path, monkeypatch):
    write_csv(tmp_path / "a.csv", make_rows())
    monkeypatch.setenv("HOME", str(tmp_path))
    assert sources.locate("~/a.csv").path == tmp_path / "a.csv"


def test_a_missing_path_is_an_error_and_no_fall_back(tmp_path, monkeypatch):
    refused(tmp_path / "nowhere.csv", "nowhere.csv", "--data_root")
    refused("", "empty")
    monkeypatch.setenv("FER_DATA_ROOT", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="nowhere"):
        sources.locate(None)


def test_links_that_loop_and_pipes_are_refused(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    refused(tmp_path / "loop", "loop")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "neither a file nor a folder")


def test_what_may_not_be_read_is_told(tmp_path, monkeypatch):
    path = write_csv(tmp_path / "a.csv", make_rows())

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)  # modes do not stop root
    refused(path, "a.csv", "Permission denied")
    monkeypatch.undo()
    monkeypatch.setattr(os, "scandir", refuse)
    refused(tmp_path, "Permission denied")


def test_a_folder_with_one_csv_is_that_csv(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    write_csv(tmp_path / "mine.csv", make_rows())
    assert sources.locate(str(tmp_path)).description == "mine.csv"
    (tmp_path / "other.csv").write_text("x")
    refused(tmp_path, "mine.csv and other.csv")


def test_fer2013_csv_is_preferred_to_the_votes_beside_it(tmp_path):
    (tmp_path / "fer2013new.csv").write_text("Usage,Image name,neutral\n")
    packed = lzma.compress(csv_text(make_rows()).encode())
    (tmp_path / "fer2013.csv.xz").write_bytes(packed)
    assert sources.locate(str(tmp_path)).description == "fer2013.csv.xz"
    write_csv(tmp_path / "fer2013.csv", make_rows())
    refused(tmp_path, "fer2013.csv and fer2013.csv.xz")


def test_a_folder_with_nothing_of_use_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    refused(tmp_path, "neither a train folder, nor folders of classes, nor a")


def test_folders_around_the_data_are_looked_through(tmp_path):
    inner = tmp_path / "archive" / "fer"
    write_folder(inner, "train", ["happy", "sad"])
    write_folder(inner, "val", ["happy"])
    assert read(tmp_path).notes == ("the data are in archive/fer",)
    inner.rename(tmp_path / "archive" / "a")
    (tmp_path / "archive" / "b").mkdir()  # which of the two?
    refused(tmp_path, f"{tmp_path} has neither a train folder")


def test_an_empty_class_among_others_is_named(tmp_path):
    write_folder(tmp_path, "", ["angry", "happy"])
    (tmp_path / "Fear").mkdir()
    refused(tmp_path, f"{tmp_path}/Fear has no ")


def test_folders_of_classes_without_splits_are_undivided(tmp_path):
    write_folder(tmp_path, "", ["Anger", "happy"])
    source = sources.locate(str(tmp_path))
    assert source.undivided and source.class_names == ("angry", "happy")
    assert list(source.listing) == ["train"]
    write_folder(tmp_path, "test", ["angry"])  # a split, so train is missing
    refused(tmp_path, "neither a train folder")


def test_a_zip_of_images_is_to_be_unzipped(tmp_path):
    path = tmp_path / "faces.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("train/happy/0.png", b"x")
    refused(path, "is a zip of images; unzip it")


# The csv


def test_a_csv_gives_pixels_labels_and_rows_by_split(tmp_path):
    rows = make_rows()
    contents = read(write_csv(tmp_path / "a.csv", rows))
    assert list(contents.splits) == ["train", "val", "test"]
    for name, usage in zip(("train", "val", "test"), USAGES, strict=True):
        split = contents.splits[name]
        places = [i for i, row in enumerate(rows) if row[2] == usage]
        assert split.rows.tolist() == places
        assert split.labels.tolist() == [int(rows[i][0]) for i in places]
        pixels = [rows[i][1].reshape(6, 6, 1) for i in places]
        np.testing.assert_array_equal(split.images, np.stack(pixels))
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == split.rows.dtype == np.int32
    assert contents.notes == ()


def zipped(text, *names):
    def write(path):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in names:
                archive.writestr(name, text)

    return write


PACKERS = {
    "plain": lambda text: lambda path: path.write_text(text),
    "gz": lambda text: lambda path: path.write_bytes(gzip.compress(text.encode())),
    "xz": lambda text: lambda path: path.write_bytes(lzma.compress(text.encode())),
    "bz2": lambda text: lambda path: path.write_bytes(bz2.compress(text.encode())),
    "zip": lambda text: zipped(text, "../../fer2013.csv", "__MACOSX/fer2013.csv"),
}


@pytest.mark.parametrize("packer", PACKERS)
def test_every_packing_is_known_by_its_content(tmp_path, packer):
    rows = make_rows()
    path = tmp_path / "in/deep/data.bin"
    path.parent.mkdir(parents=True)
    PACKERS[packer](csv_text(rows))(path)
    splits = read(path).splits
    assert sum(len(split.rows) for split in splits.values()) == len(rows)
    assert [p.name for p in tmp_path.rglob("*.csv")] == []  # nothing was unpacked


@pytest.mark.parametrize("packer", ["gz", "xz", "bz2", "zip"])
@pytest.mark.parametrize("harm", ["cut", "flip"])
def test_a_damaged_packing_is_refused(tmp_path, packer, harm):
    path = tmp_path / "a.csv"
    PACKERS[packer](csv_text(make_rows()))(path)
    data = bytearray(path.read_bytes())
    if harm == "cut":
        data = data[: len(data) // 2]
    else:
        data[len(data) // 3] ^= 0xFF
    path.write_bytes(data)
    refused(path, "a.csv")


def test_a_zip_must_hold_one_csv(tmp_path):
    zipped("x", "a.csv", "b.csv")(tmp_path / "two.zip")
    refused(tmp_path / "two.zip", "holds 2 csv files")
    zipped("x", "a.txt")(tmp_path / "none.zip")
    refused(tmp_path / "none.zip", "holds 0 csv files")


def test_column_order_spaces_extra_columns_bom_crlf_quotes_and_blank_lines(tmp_path):
    rows = make_rows()
    lines = ["\ufeffid, Usage, pixels,emotion"]
    lines += [
        f'{i},{u},"{" ".join(map(str, p))} ",{e}' for i, (e, p, u) in enumerate(rows)
    ]
    (tmp_path / "a.csv").write_text("\r\n".join([*lines, "", ""]), newline="")
    plain = read(write_csv(tmp_path / "b.csv", rows)).splits
    for name, split in read(tmp_path / "a.csv").splits.items():
        np.testing.assert_array_equal(split.images, plain[name].images)
        np.testing.assert_array_equal(split.labels, plain[name].labels)
        np.testing.assert_array_equal(split.rows, plain[name].rows)


def test_val_and_test_may_be_missing(tmp_path):
    rows = make_rows(usages=USAGES[:2])
    assert list(read(write_csv(tmp_path / "a.csv", rows)).splits) == ["train", "val"]
    rows = make_rows(usages=("Training", "PrivateTest"))
    assert list(read(write_csv(tmp_path / "b.csv", rows)).splits) == ["train", "test"]


def test_images_of_a_csv_are_resized(tmp_path):
    rows = [(e, np.full(36, 7 + int(e)), u) for e, _, u in make_rows()]
    split = read(write_csv(tmp_path / "a.csv", rows), size=9).splits["train"]
    assert split.images.shape == (14, 9, 9, 1)
    assert (split.images[:, :, :, 0] == 7 + split.labels[:, None, None]).all()


def test_absent_emotions_leave_the_classes_with_a_note(tmp_path):
    rows = [row for row in make_rows() if row[0] not in ("1", "4")]
    contents = read(write_csv(tmp_path / "a.csv", rows))
    assert contents.class_names == ("angry", "fear", "happy", "surprise", "neutral")
    assert contents.notes == (
        "train has no image of disgust, sad; the classes are angry, fear, happy, "
        "surprise, neutral",
    )
    places = {"0": 0, "2": 1, "3": 2, "5": 3, "6": 4}
    expected = [places[row[0]] for row in rows if row[2] == "Training"]
    assert contents.splits["train"].labels.tolist() == expected


LAYOUTS = {
    "semicolons": lambda text: text.replace(",", ";"),
    "tabs": lambda text: text.replace(",", "\t"),
    "names": lambda text: re.sub(
        r"^(\d),", lambda m: f"{EMOTIONS[int(m[1])].title()},", text, flags=re.M
    ),
    "other names of columns": lambda text: text.replace(
        "emotion,pixels,Usage", "Label, Pixels, split"
    ),
    "no header": lambda text: text.partition("\n")[2],
    "names and no header": lambda text: LAYOUTS["no header"](LAYOUTS["names"](text)),
    "an index column": lambda text: "\n".join(
        f"{n or ''},{line}" for n, line in enumerate(text.splitlines())
    ),
    "splits as others'": lambda text: text.replace("PublicTest", "Validation").replace(
        "Training", "Train"
    ),
    "numbers as floats": lambda text: re.sub(r"^(\d),", r"\1.0,", text, flags=re.M),
    "splits as ours": lambda text: text.replace("PublicTest", "val").replace(
        "PrivateTest", "test"
    ),
}


@pytest.mark.parametrize("kind", LAYOUTS)
def test_a_csv_in_another_layout_is_read_as_the_public_one(tmp_path, kind):
    expected = read(write_csv(tmp_path / "a.csv", make_rows()))
    text = (tmp_path / "a.csv").read_text()
    changed = LAYOUTS[kind](text)
    assert changed != text
    (tmp_path / "b.csv").write_text(changed)
    found = read(tmp_path / "b.csv")
    for name, split in expected.splits.items():
        for key in ("images", "labels", "rows"):
            there, here = getattr(split, key), getattr(found.splits[name], key)
            np.testing.assert_array_equal(there, here)


def test_a_picture_is_no_csv(tmp_path):
    path = tmp_path / "face.jpg"
    Image.new("L", (9, 9)).save(path)
    refused(path, "is no text, expected a csv; of images, give --data_root the folder")


def test_a_csv_without_usage_is_undivided(tmp_path):
    text = csv_text(make_rows())
    path = tmp_path / "a.csv"
    path.write_text(re.sub(",[A-Za-z]*$", "", text, flags=re.M))
    assert sources.locate(str(path)).undivided
    splits = read(path).splits
    assert {name: len(split.rows) for name, split in splits.items()} == {
        "train": len(make_rows())
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["is empty"]),
        ("emotion,pixels,Usage\n", ["no rows"]),
        ("0,1 2 3 4,Training\n", ["header line", "0,1 2 3 4,Training"]),
        ("emotion,Usage\n0,Training\n", ["emotion, pixels and Usage"]),
        ("emotion,label,pixels\n", ["the columns emotion and label; keep one"]),
        ("\n\n", ["header line"]),
        ("emotion,pixels,Usage\n0,1 2 3 4,PublicTest\n", ["no Training rows"]),
        (
            "emotion,pixels,Usage\n0,1 2 3 4,Training\n",
            ["of angry only, expected at least two classes"],
        ),
        ("\0\1\2binary\xff", ["is no text, expected a csv"]),
    ],
)
def test_files_that_are_no_fer2013_are_refused_whole(tmp_path, text, words):
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode("latin-1"))
    refused(path, "a.csv", *words)
    refused(path, "a.csv", *words, skip_bad=True)


def test_a_line_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_source, "_LONGEST_LINE", 1000)
    path = tmp_path / "a.csv"
    path.write_text("emotion,pixels,Usage\n0," + "1 " * 1000)
    refused(path, "a.csv:2", "1,000 characters")


def test_a_class_without_training_rows_is_refused(tmp_path):
    rows = [row for row in make_rows() if (row[0], row[2]) != ("4", "Training")]
    words = "2 sad images in val but no good ones in train"
    refused(write_csv(tmp_path / "a.csv", rows), words)


PIXELS = " ".join(["9"] * 36)
BAD_ROWS = {
    "one pixel short": (f"0,{PIXELS[:-2]},Training", "35 pixels, expected 36"),
    "text": (
        f"0,{PIXELS[:-1]}x,Training",
        "'x', expected a whole number from 0 to 255",
    ),
    "too bright": (
        f"0,{PIXELS[:-1]}256,Training",
        "'256', expected a whole number from 0 to 255",
    ),
    "immense": (f"0,{PIXELS[:-1]}{'9' * 30},Training", "from 0 to 255"),
    "text inside": (f"0,{PIXELS[:-1]}9x9,Training", "'9x9', expected"),
    "negative": (
        f"0,{PIXELS[:-1]}-1,Training",
        "'-1', expected a whole number from 0 to 255",
    ),
    "fraction": (
        f"0,{PIXELS[:-1]}1.5,Training",
        "'1.5', expected a whole number from 0 to 255",
    ),
    "no pixels": ("0,,Training", "0 pixels"),
    "label too big": (f"7,{PIXELS},Training", "emotion '7', expected 0 to 6"),
    "label is text": (f"bored,{PIXELS},Training", "emotion 'bored', expected 0 to 6"),
    "label is negative": (f"-1,{PIXELS},Training", "emotion '-1'"),
    "label is empty": (f",{PIXELS},Training", "emotion ''"),
    "usage": (f"0,{PIXELS},Testing", "Usage 'Testing', expected Training, PublicTest"),
    "cut": (f"0,{PIXELS}", "2 cells, expected 3"),
    "stray quote": (f'0,"{PIXELS},Training', "2 cells"),
    "bad bytes": (f"0,{PIXELS[:-1]}\ufffd,Training", "from 0 to 255"),
}


@pytest.mark.parametrize("kind", BAD_ROWS)
def test_a_bad_row_is_named_by_its_line_or_dropped(tmp_path, kind):
    bad, words = BAD_ROWS[kind]
    lines = csv_text(make_rows()).splitlines()
    lines[4:4] = [bad]
    path = tmp_path / "a.csv"
    path.write_text("\n".join(lines))
    assert "more" not in refused(path, f"{path}:5 ", words, "--skip_bad")
    contents = read(path, skip_bad=True)
    split = "unknown" if kind in ("usage", "cut", "stray quote") else "train"
    assert contents.problems.counts == {split: 1}
    assert "dropped" in contents.notes[0] and f"{split} 1" in contents.notes[0]
    # The other rows keep their numbers in the file.
    assert contents.splits["train"].rows.tolist() == [0, 1, 2, *range(4, 15)]


def test_many_bad_rows_are_counted_by_split_and_the_first_is_named(tmp_path):
    rows = make_rows()
    for i in (3, 16, 17, 30):
        rows[i] = ("9", *rows[i][1:])
    path = write_csv(tmp_path / "a.csv", rows)
    refused(path, f"{path}:5 has emotion '9'", "and 3 more are bad")
    counts = read(path, skip_bad=True).problems.counts
    assert counts == {"train": 1, "val": 2, "test": 1}


def test_skipping_may_not_empty_a_class_or_a_split(tmp_path):
    rows = make_rows()
    for i in (2, 3):
        rows[i] = (rows[i][0], rows[i][1][:-1], "Training")
    path = write_csv(tmp_path / "a.csv", rows)
    refused(path, f"{path}:4 has 35 pixels", "1 more")
    refused(path, "disgust images in val but no good ones", skip_bad=True)
    rows = [(e if u == "Training" else "9", p, u) for e, p, u in make_rows()]
    refused(write_csv(path, rows), "no good image in", skip_bad=True)


def test_the_key_of_a_csv_follows_its_content_only(tmp_path):
    one = write_csv(tmp_path / "one.csv", make_rows())
    two = write_csv(tmp_path / "two.csv", make_rows())
    assert sources.locate(str(one)).key == sources.locate(str(two)).key
    write_csv(two, make_rows(seed=1))
    assert sources.locate(str(one)).key != sources.locate(str(two)).key


# Folders


@pytest.mark.parametrize("train", ["train", "training", "Train"])
@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_a_folder_is_read_in_the_order_of_its_listing(tmp_path, train, val):
    write_folder(tmp_path, train, EMOTIONS)
    write_folder(tmp_path, val, EMOTIONS[:3], seed=1)
    source = sources.locate(str(tmp_path))
    assert source.class_names == EMOTIONS
    assert source.description == f"{tmp_path.name}/ (folder)"
    splits = read_source(source, 6).splits
    assert list(splits) == ["train", "val"]
    assert splits["train"].rows.tolist() == list(range(14))
    files = sorted((tmp_path / train).rglob("*.png"))
    for i, path in enumerate(files):
        assert EMOTIONS[splits["train"].labels[i]] == path.parent.name
        with Image.open(path) as image:
            np.testing.assert_array_equal(splits["train"].images[i, :, :, 0], image)


def test_two_names_for_one_emotion_are_merged_and_other_classes_are_sorted(tmp_path):
    write_folder(tmp_path / "a", "train", ["Sadness", "sad", "Happy"])
    source = sources.locate(str(tmp_path / "a"))
    assert source.class_names == ("happy", "sad")
    assert [label for _, label in source.listing["train"]] == [0, 0, 1, 1, 1, 1]
    write_folder(tmp_path / "b", "train", ["zeal", "calm"])
    assert sources.locate(str(tmp_path / "b")).class_names == ("calm", "zeal")


def test_a_class_that_train_lacks_is_refused_by_name(tmp_path):
    write_folder(tmp_path, "train", ["happy", "sad"])
    write_folder(tmp_path, "test", ["happy", "contempt"])
    refused(tmp_path, "contempt images in test but none in train", "happy or sad")


def test_a_folder_without_val_is_read_as_it_is(tmp_path):
    write_folder(tmp_path, "train", ["happy", "sad"], count=20)
    write_folder(tmp_path, "test", ["happy"])
    splits = read(tmp_path).splits
    sizes = {name: len(split.rows) for name, split in splits.items()}
    assert sizes == {"train": 40, "test": 2}


def test_two_folders_for_one_split_are_refused(tmp_path):
    write_folder(tmp_path, "train", ["happy", "sad"])
    write_folder(tmp_path, "val", ["happy"])
    write_folder(tmp_path, "valid", ["happy"])
    refused(tmp_path, "val and valid")


def test_one_class_or_none_is_refused(tmp_path):
    write_folder(tmp_path, "train", ["happy"])
    refused(tmp_path, "at least two")
    (tmp_path / "b/train").mkdir(parents=True)
    refused(tmp_path / "b", "train images of 0 classes")


def test_files_that_are_no_images_are_named_and_an_empty_class_is_refused(tmp_path):
    write_folder(tmp_path, "train", ["happy", "sad"])
    write_folder(tmp_path, "val", ["happy", "sad"])
    for name in ("Thumbs.db", ".DS_Store", "notes.txt", ".hidden.png"):
        (tmp_path / "train/happy" / name).write_bytes(b"x")
    (tmp_path / "train/.cache").mkdir()
    (tmp_path / "train/README.txt").write_bytes(b"x")
    contents = read(tmp_path)
    assert len(contents.splits["train"].rows) == 4
    assert contents.notes == (
        "3 files are no image of a class folder and not read: train/README.txt, "
        "train/happy/Thumbs.db, train/happy/notes.txt",
    )
    for path in (tmp_path / "train/happy").glob("[01].png"):
        path.unlink()
    refused(tmp_path, "train/happy has no jpg, png")


def test_what_a_mac_adds_to_a_zip_is_left(tmp_path):
    write_folder(tmp_path / "faces", "train", ["happy", "sad"])
    write_folder(tmp_path / "__MACOSX/faces", "train", ["happy", "sad"])
    contents = read(tmp_path)
    assert contents.notes == ("the data are in faces",)
    assert len(contents.splits["train"].rows) == 4


def test_photographs_are_told_from_crops_by_their_sides(tmp_path):
    write_folder(tmp_path, "train", ["happy", "sad"])
    for name, size in (("a", (8, 6)), ("b", (6, 7)), ("c", (5, 7))):
        Image.new("L", size).save(tmp_path / f"train/happy/{name}.png")
    (note,) = read(tmp_path).notes
    assert note.startswith("2 of 7 images are not square, as crops of faces are")


@pytest.mark.parametrize("skip_bad", [False, True])
def test_an_image_that_may_not_be_read_is_a_bad_image(tmp_path, monkeypatch, skip_bad):
    write_folder(tmp_path, "train", ["happy", "sad"])
    closed, opened = tmp_path / "train/sad/1.png", open

    def refuse(file, *args, **kwargs):
        if Path(file) == closed:
            raise PermissionError(13, "Permission denied", str(file))
        return opened(file, *args, **kwargs)

    monkeypatch.setattr("builtins.open", refuse)
    monkeypatch.setattr("io.open", refuse)  # pathlib's
    if skip_bad:
        assert len(read(tmp_path, skip_bad=True).splits["train"].rows) == 3
    else:
        refused(tmp_path, "train/sad/1.png cannot be read (Permission denied)")


def test_a_folder_among_the_images_is_refused_even_if_it_loops(tmp_path):
    write_folder(tmp_path, "train", ["happy", "sad"])
    (tmp_path / "train/sad/loop").symlink_to(tmp_path / "train")
    refused(tmp_path, "train/sad/loop is a folder")


def decoded(tmp_path, name, image, size=6, channels=1, **options):
    """Saves `image` as the only image that counts and returns what is read of it."""
    write_folder(tmp_path, "train", ["happy", "sad"])
    write_folder(tmp_path, "val", ["happy"])
    path = tmp_path / "train/sad/0.png"
    path.unlink()
    image.save(path.with_name(name), **options)
    found = read(tmp_path, size, channels=channels).splits["train"].images[2]
    return found[:, :, 0] if channels == 1 else found


GREY = np.arange(36, dtype=np.uint8).reshape(6, 6) * 7


@pytest.mark.parametrize("name", ["0.png", "0.PNG", "0.bmp", "0.WebP"])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_grey_images_keep_their_values_in_every_lossless_format(tmp_path, name, mode):
    image = Image.fromarray(GREY).convert(mode)
    options = {"lossless": True} if name == "0.WebP" else {}
    np.testing.assert_array_equal(decoded(tmp_path, name, image, **options), GREY)


RED = np.stack([GREY, GREY // 2, 255 - GREY], axis=2)


@pytest.mark.parametrize("name", ["0.png", "0.bmp", "0.WebP"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colours_are_kept_in_every_lossless_format(tmp_path, name, mode):
    image = Image.fromarray(RED).convert(mode)
    options = {"lossless": True} if name == "0.WebP" else {}
    found = decoded(tmp_path, name, image, channels=3, **options)
    np.testing.assert_array_equal(found, RED)


@pytest.mark.parametrize("kind", ["8 bits", "16 bits", "1 bit", "with alpha"])
def test_grey_images_have_equal_channels_in_colour(tmp_path, kind):
    alpha = np.full((6, 6), 255, np.uint8)
    image, expected = {
        "8 bits": (Image.fromarray(GREY), GREY),
        "16 bits": (Image.fromarray(GREY.astype(np.uint16) * 257), GREY),
        "1 bit": (Image.fromarray(GREY > 99), np.uint8(255) * (GREY > 99)),
        "with alpha": (
            Image.merge("LA", (Image.fromarray(GREY), Image.fromarray(alpha))),
            GREY,
        ),
    }[kind]
    found = decoded(tmp_path, "0.png", image, channels=3)
    np.testing.assert_array_equal(found, np.stack([expected] * 3, axis=2))


def test_colour_images_are_upright_white_behind_and_cropped_in_the_middle(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    found = decoded(
        tmp_path / "a", "0.png", Image.fromarray(RED), channels=3, exif=exif
    )
    np.testing.assert_array_equal(found, np.rot90(RED, -1))
    alpha = np.uint8(255) * (np.indices((6, 6))[0] > 0)
    image = Image.fromarray(np.dstack([RED, alpha]), "RGBA")
    found = decoded(tmp_path / "b", "0.png", image, channels=3)
    assert (found[0] == 255).all()
    np.testing.assert_array_equal(found[1:], RED[1:])
    wide = np.zeros((6, 12, 3), np.uint8)
    wide[:, 3:9] = RED
    found = decoded(tmp_path / "c", "0.png", Image.fromarray(wide), channels=3)
    np.testing.assert_array_equal(found, RED)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpegs_come_close(tmp_path, mode):
    image = Image.fromarray(GREY).resize((48, 48)).convert(mode)
    found = decoded(tmp_path, "0.JPEG", image, 48, quality=95)
    assert np.abs(found.astype(int) - np.asarray(image.convert("L"))).max() < 20


def test_palettes_sixteen_bits_and_one_bit_are_read(tmp_path):
    palette = Image.fromarray(GREY).convert("P")
    np.testing.assert_array_equal(decoded(tmp_path / "p", "0.png", palette), GREY)
    deep = Image.fromarray(GREY.astype(np.uint16) * 257)
    np.testing.assert_array_equal(decoded(tmp_path / "i", "0.png", deep), GREY)
    bits = Image.fromarray(GREY).point(lambda v: 255 * (v > 99), "1")
    expected = 255 * (GREY > 99)
    np.testing.assert_array_equal(decoded(tmp_path / "b", "0.png", bits), expected)


def test_transparent_pixels_become_white(tmp_path):
    alpha = np.full((6, 6), 255, np.uint8)
    alpha[0] = 0
    image = Image.merge("LA", (Image.fromarray(GREY), Image.fromarray(alpha)))
    found = decoded(tmp_path / "a", "0.png", image)
    assert (found[0] == 255).all()
    np.testing.assert_array_equal(found[1:], GREY[1:])
    palette = Image.fromarray(GREY).convert("P")
    found = decoded(tmp_path / "p", "0.png", palette, transparency=14)
    assert (found[GREY == 14] == 255).all() and (
        found[GREY != 14] == GREY[GREY != 14]
    ).all()


def test_the_orientation_of_a_photograph_is_honoured(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    found = decoded(tmp_path, "0.png", Image.fromarray(GREY), exif=exif)
    np.testing.assert_array_equal(found, np.rot90(GREY, -1))


def test_images_are_cropped_in_the_middle_and_resized_with_antialiasing(tmp_path):
    wide = np.zeros((6, 12), np.uint8)
    wide[:, 3:9] = GREY
    found = decoded(tmp_path / "a", "0.png", Image.fromarray(wide))
    np.testing.assert_array_equal(found, GREY)
    stripes = np.zeros((60, 60), np.uint8)
    stripes[:, ::2] = 200
    found = decoded(tmp_path / "b", "0.png", Image.fromarray(stripes))
    assert np.abs(found.astype(int) - 100).max() <= 10


@pytest.mark.parametrize("name", ["0.tif", "0.tiff", "0.gif", "0.avif"])
def test_formats_that_pillow_opens_are_read(tmp_path, name):
    options = {"quality": 100, "subsampling": "4:4:4"} if "avif" in name else {}
    found = decoded(tmp_path, name, Image.fromarray(GREY), **options)
    assert np.abs(found.astype(int) - GREY).max() <= (2 if "avif" in name else 0)


def test_the_first_frame_of_a_gif_is_read(tmp_path):
    frames = [Image.new("L", (6, 6), grey) for grey in (10, 200)]
    found = decoded(
        tmp_path, "0.gif", frames[0], save_all=True, append_images=frames[1:]
    )
    assert found.max() <= 11


def test_the_content_of_an_image_decides_not_its_suffix(tmp_path):
    image = Image.fromarray(GREY)
    found = decoded(tmp_path, "0.jpg", image, format="PNG")
    np.testing.assert_array_equal(found, GREY)


def huge_png(width, height):
    """A few bytes that claim to be an image of this size."""

    def chunk(kind, data):
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    packed = zlib.compress(b"\0" * 1000)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def bad_images(good):
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 0xFF
    return {
        "empty": (b"", "is empty, expected an image"),
        "text": (b"emotion,pixels,Usage\n", "is no readable jpg, png, bmp, webp, tiff"),
        "gif": (b"GIF89a\1\0\1\0\0\0\0;", "is a GIF named .png that cannot be read"),
        "page": (b"<!DOCTYPE html><html>", "is a web page, expected an image"),
        "pointer": (b"version https://git-lfs.github.com/spec/v1", "of Git LFS"),
        "avif": (b"\0\0\0 ftypavif" + bytes(30), "is an AVIF named .png that cannot"),
        "heic": (b"\0\0\0 ftypheic" + bytes(30), "is a HEIF named .png that cannot"),
        "cut": (good[: len(good) // 2], "is a PNG that cannot be read"),
        "flipped": (bytes(flipped), "is a PNG that cannot be read"),
        "large": (huge_png(8001, 8001), "8,001 x 8,001 pixels, expected at most"),
        "bomb": (huge_png(60000, 60000), "is a PNG that cannot be read"),
        "huge": (huge_png(10000, 10000), "10,000 x 10,000 pixels, expected at most"),
    }


@pytest.mark.parametrize("kind", bad_images(b"12"))
@pytest.mark.filterwarnings("error")
def test_a_bad_image_is_named_or_dropped(tmp_path, kind):
    write_folder(tmp_path, "train", ["happy", "sad"], count=3, side=30)
    write_folder(tmp_path, "val", ["happy"])
    path = tmp_path / "train/sad/1.png"
    data, words = bad_images(path.read_bytes())[kind]
    path.write_bytes(data)
    refused(tmp_path, f"{path} ", words, "--skip_bad")
    contents = read(tmp_path, skip_bad=True)
    assert contents.problems.counts == {"train": 1}
    assert contents.splits["train"].rows.tolist() == [0, 1, 2, 3, 5]


def test_links_and_pipes_named_like_images_are_bad_images(tmp_path):
    write_folder(tmp_path, "train", ["happy", "sad"], count=3)
    write_folder(tmp_path, "val", ["happy"])
    folder = tmp_path / "train/happy"
    (folder / "a.png").symlink_to(folder / "a.png")
    (folder / "b.png").symlink_to(folder / "nowhere.png")
    os.mkfifo(folder / "c.png")
    refused(tmp_path, "happy/a.png is not a file", "2 more")
    assert read(tmp_path, skip_bad=True).problems.counts == {"train": 3}


def test_skipping_images_may_not_leave_one_class(tmp_path):
    write_folder(tmp_path, "train", ["happy", "sad"], count=1)
    write_folder(tmp_path, "val", ["happy"])
    (tmp_path / "train/sad/0.png").write_bytes(b"")
    refused(tmp_path, "good train images of happy only, expected", skip_bad=True)


def test_the_key_of_a_folder_follows_names_sizes_and_times(tmp_path):
    write_folder(tmp_path, "train", ["happy", "sad"])
    key = sources.locate(str(tmp_path)).key
    assert sources.locate(str(tmp_path)).key == key
    os.utime(tmp_path / "train/sad/0.png", ns=(1, 1))
    touched = sources.locate(str(tmp_path)).key
    (tmp_path / "train/sad/0.png").rename(tmp_path / "train/sad/9.png")
    assert len({key, touched, sources.locate(str(tmp_path)).key}) == 3


# As stored


def test_how_images_are_stored_is_told_by_content_before_anything_is_done(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    wide = Image.fromarray(np.zeros((4, 7), np.uint8))
    deep = Image.fromarray(GREY.astype(np.uint16))
    several = {"format": "MPO", "save_all": True, "append_images": [wide]}
    for name, image, options, kind in [
        ("turned.png", wide, {"exif": exif}, "PNG 7 x 4 grey"),
        ("a.PNG", deep, {}, "PNG 6 x 6 grey"),
        ("b.png", wide.convert("1"), {}, "PNG 7 x 4 grey"),
        ("c.png", wide.convert("P"), {}, "PNG 7 x 4 colour"),
        ("d.bmp", wide.convert("RGB"), {}, "BMP 7 x 4 colour"),
        ("e.webp", wide.convert("RGB"), {}, "WEBP 7 x 4 colour"),
        ("f.jpeg", wide.convert("CMYK"), {}, "JPEG 7 x 4 colour"),
        ("g.jpg", wide, several, "JPEG 7 x 4 grey"),
        ("h.bmp", wide, {"format": "PNG"}, "PNG 7 x 4 grey named .bmp"),
    ]:
        root = tmp_path / name
        decoded(root, name, image, **options)
        stored = read(root, 6).stored
        assert stored["val"] == {"PNG 6 x 6 grey": 2}
        expected = {"PNG 6 x 6 grey": 3} | {kind: 1}
        if kind == "PNG 6 x 6 grey":
            expected = {kind: 4}
        assert stored["train"] == expected, name


def test_the_kinds_of_stored_images_are_counted_by_split(tmp_path):
    write_folder(tmp_path, "train", ["happy", "sad"], count=20)
    (tmp_path / "train/sad/0.png").write_bytes(b"")
    contents = read(tmp_path, skip_bad=True)
    assert contents.stored == {"train": {"PNG 6 x 6 grey": 39}}
    path = write_csv(tmp_path / "a.csv", make_rows())
    expected = {name: {"6 x 6 grey": 14} for name in ("train", "val", "test")}
    assert read(path).stored == expected


def test_only_the_most_frequent_kinds_are_kept():
    counts = {f"JPEG {n} x 1 grey": n for n in range(1, 31)}
    counts |= {f"PNG {n} x 2 grey named .jpg": 1 for n in range(3)}
    kept = records.few_kinds(counts)
    assert list(kept.items())[:2] == [
        ("JPEG 30 x 1 grey", 30),
        ("JPEG 29 x 1 grey", 29),
    ]
    assert len(kept) == 22 and sum(kept.values()) == sum(counts.values())
    assert kept["others"] == sum(range(1, 11)) and kept["others, misnamed"] == 3


# The embedded set


def test_embedded_faces_are_resized_and_keep_their_order(monkeypatch):
    def generate(split):
        value = len(split)
        return np.full((9, 48, 48), value, np.uint8), np.arange(9, dtype=np.int32) % 7

    monkeypatch.setattr(embedded, "generate", generate)
    monkeypatch.delenv("FER_DATA_ROOT", raising=False)
    rows = sources.locate(None)
    monkeypatch.setattr(embedded, "SIZES", {"train": 9, "val": 9, "test": 9})
    splits = read_source(rows, 24).splits
    assert {name: split.images.shape for name, split in splits.items()} == {
        name: (9, 24, 24, 1) for name in ("train", "val", "test")
    }
    assert (splits["val"].images == 3).all()
    assert splits["train"].labels.tolist() == [0, 1, 2, 3, 4, 5, 6, 0, 1]
    assert sources.locate(None).key != rows.key


def test_identical_images_have_one_id():
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 1), np.uint8)
    images[[3, 5]] = images[1]
    images[4] = images[0]
    images[4, 3, 3] ^= 1  # all pixels count, the last too
    ids = duplicates.exact(images)
    assert ids.dtype == np.int32
    assert ids.tolist() == [0, 1, 2, 1, 4, 1]
