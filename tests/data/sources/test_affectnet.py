"""AffectNet in its layouts, drawn here."""

import os

import numpy as np
import pytest
from PIL import Image
from reading import read, read_source, refused

from fer_jax.data import load
from fer_jax.data.sources import locate as sources
from fer_jax.emotions import EMOTIONS, KNOWN

# By the paper: 0 neutral, 1 happiness, 2 sadness, 3 surprise, 4 fear, 5 disgust,
# 6 anger, 7 contempt; 8 none, 9 uncertain, 10 no face.
NAMES = ("neutral", "happy", "sad", "surprise", "fear", "disgust", "angry", "contempt")
SETS = {"train": "train_set", "val": "val_set"}


def picture(path, label, side=10, image=None):
    """An image whose grey value tells its label."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((side, side, 3), 20 * label + 10, np.uint8)
    (image or Image.fromarray(pixels)).save(path)


def with_annotations(root, labels=range(8), count=2, kind=str):
    for name in SETS.values():
        (root / name / "annotations").mkdir(parents=True)
        for i, label in enumerate([*labels] * count):
            picture(root / name / f"images/{i}.jpg", label)
            np.save(root / name / f"annotations/{i}_exp.npy", kind(label))
            np.save(root / name / f"annotations/{i}_val.npy", 0.5)
    return root


def with_lists(
    root, labels=range(8), count=2, folder="Manually_Annotated_Images", boxes=True
):
    """Pictures of twice the side, the face in their lower right."""
    columns = "subDirectory_filePath,face_x,face_y,face_width,face_height"
    end = "facial_landmarks,expression,valence,arousal"
    if not boxes:
        columns = "subDirectory_filePath"
    for name in ("training", "validation"):
        lines = [f"{columns},{end}"]
        for i, label in enumerate([*labels] * count):
            path = f"{i % 3}/{name}{i}.png"
            whole = Image.new("RGB", (20, 20), "black")
            whole.paste(Image.new("RGB", (10, 10), (20 * label + 10,) * 3), (10, 10))
            picture(root / folder / path, label, image=whole)
            box = "10,10,10,10," if boxes else ""
            lines.append(f"{path},{box}1.5;2.5;3,{label},0.25,-0.5")
        (root / f"{name}.csv").write_text("\n".join(lines) + "\n")
    return root


def with_folders(root, labels=range(8), count=2, names=("train", "val")):
    for name in names:
        for label in labels:
            for i in range(count):
                picture(root / name / str(label) / f"{i}.png", label)
    return root


LAYOUTS = {
    "annotations": with_annotations,
    "lists": with_lists,
    "numbered folders": with_folders,
}


def shown(split):
    return [NAMES[round((value - 10) / 20)] for value in split.images[:, 5, 5, 0]]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_paper_s_emotions_in_our_order(tmp_path, layout):
    root = LAYOUTS[layout](tmp_path / "AffectNet8")
    source = sources.locate(str(root))
    assert source.class_names == KNOWN
    assert source.description == "AffectNet8/ (AffectNet)"
    contents = read_source(source, channels=3)
    assert list(contents.splits) == ["train", "val"]
    for split in contents.splits.values():
        assert split.images.shape == (16, 10, 10, 3)
        assert shown(split) == [KNOWN[label] for label in split.labels]
        # Whole faces, and none of what is around them.
        assert (np.ptp(split.images, axis=(1, 2, 3)) <= 2).all()
    (note,) = contents.notes
    assert "no public test split" in note and "is val here" in note


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_no_emotion_is_left_out_and_counted(tmp_path, layout):
    labels = [*range(7), 8, 8, 9, 10] if layout != "numbered folders" else range(11)
    root = LAYOUTS[layout](tmp_path / "my-affectnet", labels=labels, count=1)
    contents = read(root)
    eight = 2 if layout != "numbered folders" else 1
    counted = ", ".join(
        f"{name} 1 no face, {name} {eight} none, {name} 1 uncertain"
        for name in ("train", "val")
    )
    assert contents.notes[0].endswith(f"are left out: {counted}")
    source = sources.locate(str(root))
    assert source.class_names == (KNOWN if 7 in labels else EMOTIONS)
    assert len(contents.splits["train"].rows) == len(source.class_names)


@pytest.mark.parametrize("kind", [str, int, float, np.uint8, lambda n: np.array([n])])
def test_annotations_may_be_text_or_numbers(tmp_path, kind):
    splits = read(with_annotations(tmp_path, kind=kind)).splits
    assert shown(splits["train"]) == [KNOWN[n] for n in splits["train"].labels]


BAD_ARRAYS = {
    "two values": (lambda path: np.save(path, [1, 2]), "has 2 values"),
    "no emotion": (lambda path: np.save(path, "11"), "the expression '11', expected"),
    "negative": (lambda path: np.save(path, -1), "the expression '-1'"),
    "fraction": (lambda path: np.save(path, 1.5), "the expression '1.5'"),
    "objects": (lambda path: np.save(path, [{}], allow_pickle=True), "cannot be used"),
    "text file": (lambda path: path.write_text("3"), "cannot be used"),
    "empty": (lambda path: path.write_bytes(b""), "cannot be used"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-2]), "cannot be used"),
    "large": (lambda path: np.save(path, np.zeros(9999)), "it is large"),
    "pipe": (lambda path: (path.unlink(), os.mkfifo(path)), "no file"),
}


@pytest.mark.parametrize("kind", BAD_ARRAYS)
def test_a_bad_annotation_is_named_or_dropped(tmp_path, kind):
    root, (spoil, words) = with_annotations(tmp_path), BAD_ARRAYS[kind]
    path = root / "train_set/annotations/3_exp.npy"
    spoil(path)
    refused(root, f"{path} ", words, "--skip_bad")
    contents = read(root, skip_bad=True)
    assert contents.problems.counts == {"train": 1}
    assert len(contents.splits["train"].rows) == 15


def test_images_and_annotations_without_their_other_half_are_named(tmp_path):
    root = with_annotations(tmp_path)
    (root / "train_set/annotations/3_exp.npy").unlink()
    (root / "val_set/images/5.jpg").unlink()
    label = "train_set/annotations/3_exp.npy"
    refused(root, f"{root}/train_set/images/3.jpg has no label, expected {label}")
    counts = read(root, skip_bad=True).problems.counts
    assert counts == {"train": 1, "val": 1}
    (root / "train_set/images/3.jpg").unlink()
    refused(root, f"{root}/val_set/images/5.jpg is not a file")


@pytest.mark.parametrize(
    "folder",
    [
        "Manually_Annotated_Images",
        "Manually_Annotated/Manually_Annotated_Images",
        "",
    ],
)
def test_the_images_of_lists_are_found_where_they_are_usual(tmp_path, folder):
    root = with_lists(tmp_path, folder=folder)
    assert len(read(root).splits["val"].rows) == 16


def test_lists_need_their_images_and_boxes_are_optional(tmp_path):
    root = with_lists(tmp_path / "a", boxes=False)
    contents = read(root)
    assert contents.notes[0] == "32 images have no face box and are read whole"
    assert (contents.splits["train"].images[:, 0, 0] == 0).all()
    with_lists(tmp_path / "b", folder="elsewhere")
    refused(tmp_path / "b", "none of the images", "Manually_Annotated_Images")
    root = with_lists(tmp_path / "c")
    (root / "validation.csv").unlink()
    contents = read(root)
    assert list(contents.splits) == ["train"]
    assert not any("public test" in note for note in contents.notes)
    (root / "validation.csv").write_text("image,expression\n")
    refused(root, "validation.csv has no column subDirectory_filePath")


def change(root, line, cells):
    """Replaces cells of a line (from 1) of the training list."""
    path = root / "training.csv"
    lines = path.read_text().splitlines()
    names, row = lines[0].split(","), lines[line - 1].split(",")
    for name, text in cells.items():
        row[names.index(name)] = text
    lines[line - 1] = ",".join(row)
    path.write_text("\r\n".join(lines), newline="")


BAD_ROWS = {
    "no emotion": ({"expression": "11"}, "has the expression '11', expected 0 to 10"),
    "text": ({"expression": "happy"}, "has the expression 'happy'"),
    "no expression": ({"expression": ""}, "has the expression ''"),
    "no image": ({"subDirectory_filePath": ""}, "names the image"),
    "a way out": ({"subDirectory_filePath": "../x.png"}, "names the image '../x.png'"),
    "elsewhere": ({"subDirectory_filePath": "/etc/x.png"}, "names the image '/etc/x"),
    "twice": (
        {"subDirectory_filePath": "0/training0.png"},
        "names 0/training0.png again, after training.csv:2, expected once",
    ),
}


@pytest.mark.parametrize("kind", BAD_ROWS)
def test_a_bad_row_is_named_or_dropped(tmp_path, kind):
    root, (cells, words) = with_lists(tmp_path), BAD_ROWS[kind]
    change(root, 4, cells)
    refused(root, f"{root}/training.csv:4 ", words, "--skip_bad")
    contents = read(root, skip_bad=True)
    assert contents.problems.counts == {"train": 1}
    assert len(contents.splits["train"].rows) == 15


def test_a_missing_image_of_a_list_is_named_or_dropped(tmp_path):
    root = with_lists(tmp_path)
    path = root / "Manually_Annotated_Images/2/training2.png"
    path.unlink()
    refused(root, f"{path} is not a file, expected an image")
    assert read(root, skip_bad=True).problems.counts == {"train": 1}


def test_a_list_may_name_files_of_any_suffix(tmp_path):
    root = with_lists(tmp_path)
    folder = root / "Manually_Annotated_Images"
    for line, name in ((2, "0/x.tif"), (3, "x")):
        picture(folder / f"{name}.png", line - 2)
        (folder / f"{name}.png").rename(folder / name)
        cells = {"subDirectory_filePath": name, "face_x": "0", "face_y": "0"}
        change(root, line, cells)
    contents = read(root)
    assert contents.problems.counts == {}
    assert contents.stored["train"] == {
        "PNG 20 x 20 colour": 14,
        "PNG 10 x 10 colour named .tif": 1,
        "PNG 10 x 10 colour named .": 1,
    }


def test_boxes_are_cut_at_the_edge_and_refused_outside(tmp_path):
    root = with_lists(tmp_path)
    expected = read(root).splits["train"].images
    change(root, 2, {"face_width": "1000", "face_height": "15.0"})
    np.testing.assert_array_equal(read(root).splits["train"].images, expected)
    change(root, 2, {"face_x": "20"})
    image = root / "Manually_Annotated_Images/0/training0.png"
    words = "has 20 x 20 pixels, expected some in its face box (20, 10, 1000, 15)"
    refused(root, f"{image} {words}")
    for value in ("NULL", "nan", "-3", "0", "1e999"):
        change(root, 2, {"face_x": "10", "face_width": value})
        contents = read(root)
        assert contents.notes[0] == "1 images have no face box and are read whole"
        assert contents.splits["train"].images[0, 0, 0] == 0


def test_another_box_is_another_source(tmp_path):
    root = with_lists(tmp_path)
    before = sources.locate(str(root)).key
    change(root, 2, {"face_x": "9"})
    assert sources.locate(str(root)).key != before


@pytest.mark.parametrize("names", [("train", "val"), ("train_set", "val_set")])
def test_numbered_folders_are_affectnet_s_only_by_the_root_s_name(tmp_path, names):
    other = with_folders(tmp_path / "affectnet/faces", names=names)
    source = sources.locate(str(other))
    assert source.class_names == tuple("01234567")
    assert source.description == "faces/ (folder)"
    contents = read_source(source)
    (note,) = contents.notes
    assert "classes are numbers" in note and "affectnet into the name" in note
    own = with_folders(tmp_path / "Manual-AFFECTNET", names=names)
    assert sources.locate(str(own)).class_names == KNOWN


def test_named_folders_of_affectnet_are_plain_ones_with_contempt_last(tmp_path):
    root = tmp_path / "affectnet"
    for name in ("train", "val"):
        for label, emotion in enumerate(NAMES):
            picture(root / name / emotion / "0.png", label)
    source = sources.locate(str(root))
    assert source.class_names == KNOWN and source.notes == ()


def test_emotions_that_train_lacks_are_refused(tmp_path):
    root = with_annotations(tmp_path / "a", labels=range(7))
    np.save(root / "val_set/annotations/3_exp.npy", "7")
    refused(root, "contempt images in val but none in train")
    with_annotations(tmp_path / "b", labels=[3])
    refused(tmp_path / "b", "train images of 1 classes, expected at least two")


def test_notes_are_kept_with_what_is_prepared(tmp_path, monkeypatch):
    monkeypatch.setenv("FER_CACHE_DIR", str(tmp_path / "cache"))
    root = str(with_annotations(tmp_path / "data", labels=[*range(7), 9]))
    first, again = (load(root, image_size=16) for _ in range(2))
    assert first.notes == again.notes and len(first.notes) == 2
    assert first.class_names == EMOTIONS
