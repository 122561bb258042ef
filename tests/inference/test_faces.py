"""Faces in real pictures: found, cropped, followed, written, and missing."""

import csv
import io
import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

import fer_jax
from fer_jax.errors import UserError, run_command
from fer_jax.inference import cli, faces, video
from fer_jax.inference.faces import MARGIN, Box, Detection, crop, make_detector, overlap
from fer_jax.inference.results import Face, Probabilities

cv2 = pytest.importorskip("cv2", reason="needs the extra 'faces'")
# By NASA, in the public domain: Eileen Collins, smiling.
ASTRONAUT = ROOT / "docs/images/astronaut.jpg"
TRUE_BOX = Box(175, 65, 100, 100)


@pytest.fixture(scope="module")
def model():
    return fer_jax.load_pretrained()


@pytest.fixture(scope="module")
def astronaut():
    return Image.open(ASTRONAUT).convert("RGB")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, astronaut):
    """Pictures as people have them."""
    root = tmp_path_factory.mktemp("pictures")
    (root / "below").mkdir()
    astronaut.save(root / "plain.png")
    turned = Image.Exif()
    turned[0x112] = 6  # as phones store a picture that was taken upright
    sideways = astronaut.transpose(Image.Transpose.ROTATE_90)
    sideways.save(root / "below" / "phone.jpg", exif=turned)
    Image.fromarray((np.asarray(astronaut) * 0.12).astype(np.uint8)).save(
        root / "night.png"
    )
    Image.new("RGB", (400, 300), "grey").save(root / "blank.png")
    astronaut.crop((170, 60, 280, 170)).save(root / "crop.png")
    (root / "notes.txt").write_text("not listed")
    (root / "broken.jpg").write_text("no image")
    return root


def run(capsys, *argv):
    status = cli.main([str(each) for each in argv])
    return status, capsys.readouterr()


def test_a_folder_gives_a_row_for_each_face(folder, capsys):
    status, printed = run(capsys, folder, "--json")
    assert status == 1  # one file is broken, the others are done
    assert (
        printed.err.startswith("error: ") and "broken.jpg is no readable" in printed.err
    )
    rows = {row["image"].rpartition("/")[2]: row for row in json.loads(printed.out)}
    assert [*rows] == ["blank.png", "crop.png", "night.png", "plain.png", "phone.jpg"]
    assert rows["blank.png"]["face"] is None and rows["blank.png"]["label"] is None
    for name in ("night.png", "plain.png", "phone.jpg"):
        assert overlap(Box(*rows[name]["box"]), TRUE_BOX) > 0.7
        assert rows[name]["label"] == "happy"
    assert rows["crop.png"]["box"] is None and rows["crop.png"]["face"] == 1
    assert sum(rows["plain.png"]["probabilities"].values()) == pytest.approx(1)


def test_the_table_says_where_there_is_no_face(folder, capsys):
    _, printed = run(capsys, folder / "blank.png", folder / "crop.png")
    assert "no face found" in printed.out and "the whole" in printed.out
    assert "broken" not in printed.err


def test_a_crop_is_whole_if_one_says_so(folder, capsys, model):
    _, printed = run(capsys, folder / "plain.png", "--faces", "none", "--json")
    (row,) = json.loads(printed.out)
    assert row["box"] is None
    expected = model.predict(folder / "plain.png")
    assert [*row["probabilities"].values()] == pytest.approx(expected.tolist())


def test_faces_are_looked_for_in_small_pictures_if_one_says_so(folder, capsys):
    _, printed = run(capsys, folder / "crop.png", "--faces", "find", "--json")
    assert json.loads(printed.out)[0]["box"] is not None


def test_below_a_confidence_it_is_unsure(folder, capsys):
    _, printed = run(capsys, folder / "plain.png", "--min_confidence", 0.99, "--csv")
    (row,) = csv.DictReader(io.StringIO(printed.out))
    assert row["label"] == "unsure" and float(row["p_happy"]) > 0.5
    assert {"left", "top", "width", "height", "confidence"} <= row.keys()


def test_drawn_pictures_and_crops_are_written(folder, capsys, tmp_path, astronaut):
    out = tmp_path / "out"
    names = [folder / "plain.png", folder / "blank.png", folder / "plain.png"]
    run(capsys, *names, "--to", out, "--crops", out)
    assert {path.name for path in out.iterdir()} == {
        "plain_faces.jpg", "blank_faces.jpg", "plain_1.png",
    }  # fmt: skip
    drawn = np.asarray(Image.open(out / "plain_faces.jpg"), int)
    changed = np.abs(drawn - np.asarray(astronaut)).max(axis=2) > 60
    assert changed[65:67, 180:270].mean() > 0.5 and changed[300:].mean() < 0.01
    assert Image.open(out / "plain_1.png").size[0] == pytest.approx(107, abs=8)


def test_crops_keep_the_folders_of_their_pictures(folder, capsys, tmp_path):
    for name, at in (
        ("plain.png", "happy"),
        ("crop.png", "sad"),
        ("below/phone.jpg", "."),
    ):
        (tmp_path / "in" / at).mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / name, tmp_path / "in" / at)
    out = tmp_path / "out"
    _, printed = run(capsys, tmp_path / "in", "--csv", "--crops", out)
    rows = [*csv.DictReader(io.StringIO(printed.out))]
    wanted = ["phone_1.png", "happy/plain_1.png", "sad/crop_1.png"]
    assert [row["crop"] for row in rows] == [f"{out}/{name}" for name in wanted]
    assert all(Path(row["crop"]).is_file() for row in rows)


def test_of_a_folder_what_is_hidden_is_left(folder, capsys, tmp_path):
    for name in ("a.png", "._a.png", ".hidden/b.png", "__MACOSX/._a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(folder / "crop.png", tmp_path / name)
    _, printed = run(capsys, tmp_path, "--csv")
    images = [row["image"] for row in csv.DictReader(io.StringIO(printed.out))]
    assert images == [f"{tmp_path}/a.png"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_cannot_be_read_is_named(folder, capsys, tmp_path):
    shutil.copy(folder / "crop.png", tmp_path)
    (tmp_path / "closed").mkdir(mode=0)
    status, printed = run(capsys, tmp_path, "--csv")
    assert status == 1
    assert f"{tmp_path}/closed is a folder that cannot be read" in printed.err


@pytest.mark.parametrize("content", [b"\xff\xd8\xff\xe0\n", b"\0\0\n"])
def test_a_picture_on_standard_input_is_no_names(content, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content), "utf-8"))
    with pytest.raises(UserError, match="standard input is no text, expected names"):
        run(capsys, "-")


def test_names_come_from_standard_input_and_patterns(folder, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{folder}/crop.png\n\n"))
    _, printed = run(capsys, "-", folder / "b*.png", "--csv")
    images = [row["image"] for row in csv.DictReader(io.StringIO(printed.out))]
    assert images == [f"{folder}/crop.png", f"{folder}/blank.png"]


@pytest.mark.parametrize(
    "argv, words",
    [
        (["--strict", "broken.jpg", "plain.png"], "broken.jpg is no readable"),
        (["plain.png", "--json", "--csv"], "--json and --csv both print"),
        (["plain.png", "--min_confidence", "2"], "--min_confidence is 2.0, expected"),
        (["plain.png", "--smooth", "1"], "--smooth is 1.0, expected"),
        (["plain.png", "--every", "0"], "--every is 0, expected 1 or more"),
        (["plain.png", "--detector", "no.onnx"], "there is no file no.onnx"),
        (["plain.png", "--detector", "notes.txt"], "is no YuNet network"),
        (["plain.png", "--detector", "x", "--faces", "none"], "leave --detector"),
        (["below/none"], "below/none is not a file"),
    ],
)
def test_what_cannot_be_done_is_refused(argv, words, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert run_command(lambda: cli.main(argv)) == 2
    printed = capsys.readouterr()
    assert words in printed.err and not printed.out


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="there is no jpg"):
        cli.main([str(tmp_path)])


def test_a_large_picture_is_searched_at_a_smaller_size(astronaut, model):
    large = Image.new("RGB", (5000, 4000), "grey")
    large.paste(astronaut.resize((2048, 2048)), (1500, 1000))
    (face,) = model.detect(large)
    true = Box(1500 + 4 * 175, 1000 + 4 * 65, 400, 400)
    assert overlap(face.box, true) > 0.6


def test_faces_become_a_data_frame(astronaut, model):
    both = Image.new("RGB", (1100, 512))
    both.paste(astronaut, (0, 0))
    both.paste(astronaut, (550, 0))
    found = model.detect(both)
    table = found.to_dataframe()
    assert list(table["label"]) == ["happy", "happy"] == [each.label for each in found]
    assert list(table["left"]) == sorted(table["left"]) and "p_happy" not in table
    assert repr(found).startswith("Faces(happy 9") and len(found[:1]) == 1
    assert model.detect(Image.new("L", (300, 200))).to_dataframe().empty


def test_detect_takes_one_picture(model):
    with pytest.raises(UserError, match="one picture at a time"):
        model.detect(np.zeros((2, 300, 300), np.uint8))


def test_probabilities_know_their_labels(model):
    many = model.predict(np.zeros((2, 48, 48), np.uint8))
    assert many.top == [many.labels[n] for n in np.asarray(many).argmax(axis=1)]
    assert list(many.to_dataframe())[:3] == ["label", "confidence", "angry"]
    assert many[0].labels == model.labels and many[:, 0].labels == ()
    assert pickle.loads(pickle.dumps(many)).labels == model.labels


def test_a_crop_is_as_wide_as_fer2013s_and_repeats_the_edge():
    ramp = np.tile(np.arange(100, dtype=np.uint8), (80, 1))
    found = crop(Image.fromarray(ramp), Detection(Box(80, 30, 40, 40), None))
    side = round(40 * MARGIN)
    assert found.size == (side, side)
    row = np.asarray(found)[0]
    assert row[0] == round(100 - 40 * MARGIN / 2) and (row[-15:] == 99).all()


def test_a_tilted_face_is_turned_upright():
    picture = np.zeros((200, 200), np.uint8)
    picture[95:105, 40:160] = 255  # a level line
    tilted = Image.fromarray(picture).rotate(-20)  # clockwise
    level = crop(tilted, Detection(Box(40, 40, 120, 120), None, angle=20.0))
    rows = np.asarray(level).mean(axis=1)
    assert (rows > 200).sum() >= 6 and (rows > 30).sum() < 20


def test_a_face_from_the_side_is_found_where_there_is_none_from_the_front():
    """By the cascades themselves: the frontal one is made to find nothing."""
    haar = faces._Haar(cv2)

    class Found:
        def __init__(self, *boxes):
            self.boxes = boxes

        def detectMultiScale(self, grey, *_, **__):  # noqa: N802
            return [box for box in self.boxes if grey[box[1], box[0]] == 255]

    picture = np.zeros((100, 100, 3), np.uint8)
    picture[20, 10] = 255
    haar._frontal, haar._profile = Found(), Found((10, 20, 30, 30))
    assert [each.box for each in haar(picture)] == [Box(10, 20, 30, 30)]
    mirrored = np.ascontiguousarray(picture[:, ::-1])
    haar._profile = Found((10, 20, 30, 30))
    assert [each.box for each in haar(mirrored)] == [Box(60, 20, 30, 30)]
    haar._frontal = Found((10, 20, 5, 5))
    assert [each.box for each in haar(picture)] == [Box(10, 20, 5, 5)]


def test_overlap_by_hand():
    assert overlap(Box(0, 0, 2, 2), Box(1, 0, 2, 2)) == pytest.approx(2 / 6)
    assert overlap(Box(0, 0, 2, 2), Box(3, 0, 2, 2)) == 0
    assert overlap(Box(0, 0, 0, 0), Box(0, 0, 0, 0)) == 0


def test_boxes_of_one_face_are_merged(monkeypatch):
    boxes = [Box(0, 0, 50, 50), Box(3, 3, 50, 50), Box(200, 0, 40, 40)]
    raw = [Detection(box, None) for box in boxes]
    monkeypatch.setattr(faces, "_Haar", lambda cv2: lambda picture: raw)
    found = make_detector()(np.zeros((300, 300, 3), np.uint8))
    assert [each.box.left for each in found] == [0, 200]


def test_yunets_rows_become_boxes_scores_and_angles(monkeypatch, tmp_path):
    """By OpenCV's documentation: box, five landmarks, the right eye first, score."""
    sizes, row = [], np.zeros((1, 15), np.float32)
    row[0, :4], row[0, 4:8], row[0, 14] = (10, 20, 30, 40), (15, 30, 35, 50), 0.9

    class Network:
        def setInputSize(self, size):  # noqa: N802
            sizes.append(size)

        def detect(self, pixels):
            return (1, row) if pixels.any() else (1, None)

    class FaceDetectorYN:
        create = staticmethod(lambda path, config, size, threshold: Network())

    monkeypatch.setattr(cv2, "FaceDetectorYN", FaceDetectorYN)
    (tmp_path / "yunet.onnx").touch()
    detect = make_detector(tmp_path / "yunet.onnx")
    (found,) = detect(np.full((120, 200, 3), 9, np.uint8))
    assert found == Detection(Box(10, 20, 30, 40), pytest.approx(0.9), 45.0)
    assert sizes == [(200, 120)] and detect(np.zeros((9, 9, 3), np.uint8)) == []


def test_without_opencv_it_is_said(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(UserError, match=r"pip install 'fer_jax\[faces\]'"):
        make_detector()


# Videos.


@pytest.fixture(scope="module")
def clip(tmp_path_factory, astronaut):
    """Two seconds in which the picture moves to the left, then a blank."""
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (320, 240))
    pixels = np.asarray(astronaut)[:, :, ::-1]
    for n in range(20):
        writer.write(np.ascontiguousarray(pixels[20:260, 4 * n : 4 * n + 320]))
    for _ in range(5):
        writer.write(np.zeros((240, 320, 3), np.uint8))
    writer.release()
    return path


def test_a_face_keeps_its_track_through_a_video(clip, capsys, tmp_path):
    status, printed = run(capsys, clip, "--every", 4, "--csv", "--to", tmp_path)
    rows = [*csv.DictReader(io.StringIO(printed.out))]
    assert status == 0 and [row["frame"] for row in rows] == [
        "0", "4", "8", "12", "16", "20", "24",
    ]  # fmt: skip
    assert {row["track"] for row in rows[:5]} == {"1"} and rows[-1]["face"] == ""
    assert float(rows[2]["time_s"]) == pytest.approx(0.8)
    lefts = [int(row["left"]) for row in rows[:5]]
    assert lefts == sorted(lefts, reverse=True)
    with video.Video(tmp_path / "clip_faces.mp4") as written:
        assert len([*written.every(1)]) == 7
        assert written.fps == pytest.approx(2.5)


def test_only_we_say_what_is_wrong_with_a_video(tmp_path, capfd):
    path = tmp_path / "cut.mp4"
    path.write_bytes(b"\0\0\0\x18ftypmp42" + bytes(99))
    assert run_command(lambda: cli.main([str(path)])) == 2
    assert capfd.readouterr().err == f"error: {path} is no video that can be read\n"


def test_a_broken_video_is_named_and_the_rest_done(clip, capsys, tmp_path):
    (tmp_path / "bad.mp4").write_text("no")
    status, printed = run(capsys, tmp_path / "bad.mp4", clip, "--every", 20)
    assert status == 1 and "bad.mp4 is no video that can be read" in printed.err
    assert "at 2.00 s" in printed.out


def face(left, p):
    picture = Image.new("RGB", (10, 10))
    return Face(Box(left, 0, 100, 100), picture, Probabilities.of(np.float32(p), "ab"))


def test_tracks_follow_the_boxes_and_are_smoothed():
    tracker = video.Tracker(smoothing=0.75)
    first = tracker.follow(0.0, [face(0, [1, 0]), face(500, [0, 1])])
    assert [track for track, _ in first] == [1, 2]
    second = tracker.follow(0.1, [face(520, [1, 0]), face(20, [0, 1])])
    assert [track for track, _ in second] == [2, 1]
    np.testing.assert_allclose(second[0][1].probabilities, [0.25, 0.75])
    later = tracker.follow(9.0, [face(20, [0, 1])])
    assert later[0][0] == 3 and later[0][1].label == "b"
