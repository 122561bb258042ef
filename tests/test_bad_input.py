"""Every bad input is answered by one sentence and status 2, and leaves nothing behind.

A row is a way to make the bad thing, and words that the sentence must hold; it goes
through the command's own entry point. Nothing that is read is ever executed.
"""

import ast
import bz2
import gzip
import io
import json
import os
import pickle
import resource
import shutil
import signal
import struct
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import ROOT
from fake_runs import make_result, write
from PIL import Image

from fer_jax import compare, data, runs, train
from fer_jax import config as config_lib
from fer_jax.batch import cli as batch
from fer_jax.errors import run_command

BASELINE = ROOT / "configs/baseline.yaml"
TOUCH = "!!python/object/apply:os.system ['touch {}']\n"
PIXELS = " ".join(["9"] * 36)
HEADER = "emotion,pixels,Usage\n"
GOOD = HEADER + "".join(
    f"{label},{' '.join(map(str, range(label, label + 36)))},{usage}\n"
    for usage in ("Training", "Training", "PublicTest")
    for label in range(7)
)
SMALL = ("data.image_size=16", "training.batch_size=7")
SETS = [word for item in SMALL for word in ("--set", item)]
BOMB = "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}' if n else '1'] * 9)}]\n" for n in range(12)
)
PATIENCE = 15  # seconds until a command counts as hanging; each takes about one


# How the bad things are made: each helper gives a function of the test's folder that
# returns a command's `main` and its arguments.


def put(path, content):
    """Writes text or bytes, or calls `content(path)`; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if callable(content):
        content(path)
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def link(target):
    return lambda path: path.symlink_to(target or path)


def file(content, *more):
    """A config beside a whole baseline.yaml; `{}` in a text is the test's folder."""

    def build(folder):
        shutil.copy(BASELINE, folder / "baseline.yaml")
        filled = isinstance(content, str) and "touch {}" in content
        own = content.format(folder / "executed") if filled else content
        return train.main, [put(folder / "own.yaml", own), *more]

    return build


def change(text):
    return file(f"extends: baseline.yaml\n{text}\n")


def override(item):
    return lambda folder: (train.main, [BASELINE, "--set", item])


def source(content, name="deep/in/a.csv"):
    return lambda folder: (
        train.main, [BASELINE, "--data_root", put(folder / name, content)]
    )  # fmt: skip


def row(line):
    return source(GOOD.replace("\n", f"\n{line}\n", 1))


def folder_with(harm, *more):
    """A folder of images, two of each class, after `harm(its path)`."""

    def build(folder):
        root = folder / "faces"
        for place in ("train/happy", "train/sad", "val/happy", "val/sad"):
            for n in range(2):
                put(root / place / f"{n}.png", png_of(np.full((6, 6), 40 * n, "u1")))
        harm(root)
        return train.main, [BASELINE, "--data_root", root, *more]

    return build


def image(content, name="x.png"):
    return folder_with(lambda root: put(root / "train/sad" / name, content))


def affectnet_with(rows, faces=("a.png", "b.png")):
    """AffectNet's lists: two good images, and these rows after them."""
    header = "subDirectory_filePath,face_x,face_y,face_width,face_height,expression\n"
    good = "".join(f"{name},0,0,6,6,{n + 1}\n" for n, name in enumerate(faces))

    def build(folder):
        root = folder / "faces"
        for name in faces:
            put(
                root / "Manually_Annotated_Images" / name, png_of(np.eye(6, dtype="u1"))
            )
        put(root / "training.csv", header + good + rows)
        return train.main, [BASELINE, "--data_root", root]

    return build


def rafdb_with(labels):
    """RAF-DB with this list of labels, and no images."""

    def build(folder):
        (folder / "faces/basic/Image/aligned").mkdir(parents=True)
        put(folder / "faces/basic/EmoLabel/list_patition_label.txt", labels)
        return train.main, [BASELINE, "--data_root", folder / "faces"]

    return build


def png_of(pixels, kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def png_that_claims(width, height):
    def chunk(kind, body):
        crc = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + crc

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    packed = zlib.compress(bytes(1000))
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def zipped(*names, text=GOOD, flag=0):
    """A zip; `flag` 1 marks its members as encrypted."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, text)
    raw = bytearray(buffer.getvalue())
    for magic, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        raw[raw.index(magic) + offset] |= flag
    return bytes(raw)


def expanding(text, times, pack=gzip.compress):
    """A small file that unpacks to the header and then `times` MiB of `text`."""
    part = pack((text * (2**20 // len(text) + 1)).encode())
    return pack(HEADER.encode()) + part * times


class Touch:
    """Unpickled, it would touch a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def pickled(path):
    path.write_bytes(pickle.dumps(Touch(path.with_name("executed"))))


def result(harm, *more):
    """bin/compare over one finished run, after `harm(its result.json)`.

    Where `harm` returns something, that becomes its content, as JSON.
    """

    def build(folder):
        path = folder / "runs/mine/seed_1/result.json"
        write(folder / "runs", make_result("mine", 1))
        if (changed := harm(path)) is not None:
            path.write_text(
                changed if isinstance(changed, str) else json.dumps(changed)
            )
        return compare.main, more

    return build


def with_value(keys, *value):
    """The result with one value replaced, or removed where none is given."""

    def harm(path):
        whole = inner = json.loads(path.read_text())
        *parents, last = keys.split(".")
        for key in parents:
            inner = inner[key]
        del inner[last]
        inner |= dict.fromkeys([last][: len(value)], *value)
        return whole

    return harm


def half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def half_the_lines(path):
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[: len(lines) // 2]))


def instead(make):
    """Puts what `make(path)` makes in the place of a file."""

    def harm(path):
        path.unlink()
        make(path)

    return harm


def began(name, harm):
    """Training over a run that has begun, after `harm(its file of this name)`."""

    def build(folder):
        csv = put(folder / "a.csv", GOOD)
        config = config_lib.load(BASELINE, SMALL)
        run = runs.run_dir(folder / "runs", config.name, config.training.seed)
        put(run / runs.CONFIG, config_lib.dump(config))
        dataset = data.load(str(csv), image_size=16)
        put(run / runs.DATA, json.dumps(train.describe(dataset)))
        harm(run / name)
        return train.main, [BASELINE, "--data_root", csv, *SETS]

    return build


def content(text):
    return lambda path: put(path, text)


def data_json(**values):
    def harm(path):
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return harm


def train_into(path, make, *more):
    """Training into `runs`, after `make(path below the test's folder)`."""

    def build(folder):
        csv = put(folder / "a.csv", GOOD)
        put(folder / path, make)
        return train.main, [BASELINE, "--data_root", csv, *SETS, *more]

    return build


def many(*arguments, configs=None):
    """bin/run_batch over a folder `configs` of these files: name, content."""

    def build(folder):
        csv = put(folder / "a.csv", GOOD)
        settings = config_lib.load(BASELINE, SMALL).model_dump()
        for name, text in (configs or {}).items():
            named = settings | {"name": name.removesuffix(".yaml")}
            put(folder / f"configs/{name}", text or yaml.safe_dump(named))
        given = ["--configs", folder / "configs", "--data_root", csv]
        return batch.main, [*given, "--yes", *arguments]

    return build


ONE = {"mine.yaml": ""}
DEEP = '{"a":' * 3000 + "1" + "}" * 3000

ROWS = {
    # The config
    "no yaml": (file("a: [1,"), "own.yaml, line"),
    "no mapping": (file("- a\n- b\n"), "own.yaml holds list"),
    "only text": (file("just text"), "own.yaml holds str"),
    "an unknown key": (change("training: {batch_sise: 64}"), "training.batch_size?"),
    "a key in the wrong section": (change("loss: {epochs: 3}"), "training.epochs?"),
    "a section that is a number": (change("training: 5"), "training is 5"),
    "a wrong type": (change("training: {epochs: '30'}"), "training.epochs is '30'"),
    "a number for text": (change("name: 5"), "name is 5"),
    "not a number": (change("training: {lr: .nan}"), "training.lr is nan"),
    "infinity": (change("loss: {focal_gamma: .inf}"), "loss.focal_gamma is inf"),
    "a negative": (change("training: {seed: -1}"), "training.seed is -1"),
    "out of range": (change("model: {dropout: 1.5}"), "model.dropout is 1.5"),
    "an endless number": (
        change(f"training: {{seed: {'9' * 5000}}}"),
        "own.yaml",
    ),
    "an unknown network": (
        train_into("x", "", "--set", "model.arch=vit"),
        "model.arch is 'vit'",
    ),
    "a name that is a path": (change("name: ../../elsewhere"), "name is '../../"),
    "a missing key": (file("name: lonely\n"), "description is missing"),
    "extends nothing": (file("extends: nowhere.yaml\n"), "'nowhere.yaml'"),
    "extends itself": (file("extends: own.yaml\n"), "own.yaml -> own.yaml"),
    "extends outside": (file("extends: ../b.yaml\n"), "leads out of the folder"),
    "extends a list": (file("extends: [baseline.yaml]\n"), "extends is ['base"),
    "extends a pipe": (
        lambda folder: (os.mkfifo(folder / "pipe"), file("extends: pipe\n")(folder))[1],
        "'pipe'",
    ),
    "extends a chain without end": (
        lambda folder: (
            [put(folder / f"{n}.yaml", f"extends: {n + 1}.yaml") for n in range(2000)],
            (train.main, [folder / "0.yaml"]),
        )[1],
        "20.yaml: extends goes on",
    ),
    "control characters": (change('"a\\x1b[2J": 1'), r"a\x1b[2J is not a"),
    "a key twice": (change("name: a\nname: b"), "line 3", "'name' appears twice"),
    "10 MB": (file(b"#" * 10_000_000), "own.yaml is larger than"),
    "a bomb of aliases": (file(BOMB), "own.yaml, line 2", "aliases"),
    "a tag that runs a command": (file(f"name: {TOUCH}"), "own.yaml, line 1"),
    "a tag in --set": (override(f"name={TOUCH.format('executed')}"), "--set name="),
    "an unknown tag": (file("name: !!python/name:os.system\n"), "own.yaml, line 1"),
    "20,000 brackets": (file("[" * 20_000), "own.yaml", "nested too deeply"),
    "20,000 braces": (file("{a: " * 15_000), "own.yaml", "nested too deeply"),
    "20,000 dots in --set": (override("a." * 20_000 + "a=1"), "--set a.a."),
    "--set of 20,000 brackets": (override("name=" + "[" * 20_000), "--set name=["),
    "binary": (file(bytes(range(256))), "own.yaml"),
    "utf-16": (file("name: a\n".encode("utf-16")), "own.yaml is not", "UTF-8"),
    "an empty config": (file(""), "own.yaml holds nothing"),
    "a config that is a folder": (file(Path.mkdir), "own.yaml", "directory"),
    "a config that is a pipe": (file(os.mkfifo), "own.yaml is not a file"),
    "a config without end": (file(link("/dev/zero")), "own.yaml is not a file"),
    "a config that is a loop": (file(link(None)), "own.yaml cannot be read"),
    "a config that hangs in the air": (file(link("nowhere")), "own.yaml", "No such"),
    "a config with a long name": (
        lambda folder: (train.main, [folder / ("a" * 300)]),
        "aaa cannot be read: File name too long",
    ),
    "no config": (lambda folder: (train.main, [folder / "no.yaml"]), "no.yaml", "No s"),
    "a config below a file": (
        lambda folder: (train.main, [put(folder / "a", "x") / "b.yaml"]),
        "b.yaml cannot be read",
    ),
    "a config that is an image": (file(png_of(np.eye(9, dtype="u1"))), "own.yaml"),
    "--set without =": (override("training.lr"), "--set 'training.lr'"),
    "--set without a key": (override("=3"), "--set '=3'"),
    "--set of what is no yaml": (override("name=["), "--set name=["),
    "--set of control characters": (override("a\x1b[2J\n\nb=1"), r"a\x1b[2J b"),
    "a seed out of range": (
        lambda folder: (train.main, [BASELINE, "--seed", "-1"]),
        "training.seed is -1",
    ),
    # The data: a csv
    "no data": (
        lambda folder: (train.main, [BASELINE, "--data_root", folder / "nowhere"]),
        "nowhere cannot be read",
    ),
    "no name": (lambda folder: (train.main, [BASELINE, "--data_root", ""]), "is empty"),
    "an empty csv": (source(""), "a.csv is empty"),
    "only a header": (source(HEADER), "a.csv has no rows"),
    "no header": (source(GOOD.removeprefix(HEADER)), "a.csv starts with", "header"),
    "wrong columns": (source("label,image\n0,1 2 3 4\n"), "a.csv starts with 'label"),
    "no Training rows": (source(GOOD.replace("Training", "PublicTest")), "no Training"),
    "a class without rows": (source(GOOD.replace("\n6,", "\n5,")), "'neutral'"),
    "more images to a batch than there are": (source(GOOD), "training.batch_size"),
    "a pixel short": (row(f"0,{PIXELS[:-2]},Training"), "a.csv:2 has 35 pixels"),
    "a pixel long": (row(f"0,{PIXELS} 9,Training"), "a.csv:2 has 37 pixels"),
    "no pixels": (row("0,,Training"), "a.csv:2 has 0 pixels"),
    "text for pixels": (row(f"0,{PIXELS} x,Training"), "a.csv:2 has the pixel 'x'"),
    "a pixel over 255": (row(f"0,{PIXELS}9999,Training"), "a.csv:2 has the pixel"),
    "an endless pixel": (row(f"0,{PIXELS}{'9' * 99},Training"), "a.csv:2", "to 255"),
    "a negative pixel": (row(f"0,{PIXELS} -1,Training"), "a.csv:2 has the pixel '-1'"),
    "a fraction": (row(f"0,{PIXELS} 1.5,Training"), "a.csv:2 has the pixel '1.5'"),
    "NaN pixels": (row(f"0,{PIXELS} nan,Training"), "a.csv:2 has the pixel 'nan'"),
    "an unknown Usage": (row(f"0,{PIXELS},Testing"), "a.csv:2 has Usage 'Testing'"),
    "an emotion over 6": (row(f"7,{PIXELS},Training"), "a.csv:2 has emotion '7'"),
    "an emotion in words": (row(f"sad,{PIXELS},Training"), "a.csv:2 has emotion 'sad'"),
    "a row that is cut": (row(f"0,{PIXELS}"), "a.csv:2 has 2 cells"),
    "a stray quote": (row(f'"0,{PIXELS},Training'), "a.csv:2 has 1 cells"),
    "NUL bytes": (row(f"0,{PIXELS}\0,Training"), "a.csv:2 "),
    "only NUL bytes": (source(bytes(9999)), "a.csv starts with"),
    "a csv in utf-16": (source(GOOD.encode("utf-16")), "a.csv starts with"),
    "a line without end": (source(HEADER + "0," + "1 " * 2**21), "a.csv:2 is over"),
    "a gz that is cut": (
        source(gzip.compress(GOOD.encode())[:-40]),
        "a.csv is damaged",
    ),
    "a gz with garbage behind": (
        source(gzip.compress(GOOD.encode()) + b"garbage"),
        "a.csv is damaged",
    ),
    "a gz bomb of one line": (
        source(expanding("0", 200), "a.csv.gz"),
        "a.csv.gz",
        "times its size",
    ),
    "a gz bomb of good rows": (
        source(expanding(f"0,{' '.join(['9'] * 2304)},Training\n", 2000), "a.csv.gz"),
        "a.csv.gz",
        "times its size",
    ),
    "a gz bomb of bad rows": (
        source(expanding(f"{'x' * 1000}\n", 2000), "a.csv.gz"),
        "a.csv.gz",
        "times its size",
    ),
    "a gz bomb of blank rows": (
        source(expanding(f"{' ' * 1000}\n", 2000), "a.csv.gz"),
        "a.csv.gz",
        "times its size",
    ),
    "a bz2 bomb": (
        source(expanding(f"{' ' * 1000}\n", 500, bz2.compress), "a.csv.bz2"),
        "a.csv.bz2",
        "times its size",
    ),
    "a zip bomb": (
        source(zipped("a.csv", text=HEADER + f"{' ' * 1000}\n" * 60_000), "a.zip"),
        "a.zip",
        "times its size",
    ),
    "a zip that is cut": (source(zipped("a.csv")[:-30]), "a.csv is damaged"),
    "a zip whose member leads out": (
        source(zipped("../../evil.csv", text=HEADER + "7,1,Training\n"), "in/it/a.zip"),
        "a.zip:2 has emotion '7'",
    ),
    "a zip of two": (source(zipped("a.csv", "b.csv")), "a.csv holds 2 csv files"),
    "a zip of none": (source(zipped("a.txt")), "a.csv holds 0 csv files"),
    "a zip that is encrypted": (
        source(zipped("a.csv", flag=1)),
        "a.csv cannot be unpacked",
        "encrypted",
    ),
    "a pickle": (source(pickled, "a.pkl"), "a.pkl starts with"),
    "an npz": (
        source(lambda path: np.savez(path, a=np.eye(9)), "a.npz"),
        "a.npz holds 0 csv files",
    ),
    "an npy of objects": (
        source(lambda path: np.save(path, np.array([Touch(path)])), "a.npy"),
        "a.npy starts with",
    ),
    "an image as data": (source(png_of(np.eye(9, dtype="u1"))), "a.csv starts with"),
    "a config as data": (
        lambda folder: (train.main, [BASELINE, "--data_root", BASELINE]),
        "baseline.yaml starts with '#",
    ),
    "a csv that is a pipe": (source(os.mkfifo), "a.csv is neither"),
    "a csv that is a device": (source(link("/dev/zero")), "a.csv is neither"),
    "a csv that is a loop": (source(link(None)), "a.csv cannot be read"),
    "a csv with a long name": (
        lambda folder: (train.main, [BASELINE, "--data_root", folder / ("a" * 300)]),
        "aaa cannot be read (File name too long)",
    ),
    # The data: a folder
    "an empty folder": (source(Path.mkdir, "faces"), "faces holds neither"),
    "two csvs in a folder": (
        folder_with(
            lambda root: (
                (shutil.rmtree(root), put(root / "a.csv", ""))
                and put(root / "b.csv", "")
            )
        ),
        "faces holds a.csv and b.csv",
    ),
    "an image whose name ends in the middle": (
        affectnet_with("c\0.png,0,0,6,6,1\n"),
        "c\\x00.png is not a file",
    ),
    "an image whose name is too long": (
        affectnet_with(f"{'c' * 5000}.png,0,0,6,6,1\n"),
        "is not a file",
    ),
    "an image whose name steers the terminal": (
        affectnet_with("\x1b[2J.png,0,0,6,6,1\n"),
        "\\x1b[2J.png is not a file",
    ),
    "a list of one endless line": (
        affectnet_with("9" * 200_000),
        "training.csv:4 ",
        "and 3 more are bad",
    ),
    "a face box beyond all bounds": (
        affectnet_with("a.png/../a.png,0,0,6,6,1\nb.png/,1e300,0,1e300,6,1\n"),
        "training.csv:4 names the image",
    ),
    "labels for RAF-DB that are binary": (
        rafdb_with(bytes(range(256)) * 99),
        "list_patition_label.txt:1 is",
    ),
    "labels for RAF-DB without end": (
        rafdb_with("train_00001.jpg 5\n" * 1_000_000),
        "list_patition_label.txt is larger than 16 MiB",
    ),
    "labels for RAF-DB without images": (
        rafdb_with("train_00001.jpg 5\ntrain_00002.jpg 6\n"),
        "train_00001_aligned.jpg is not a file",
        "1 more are bad",
    ),
    "one class": (folder_with(lambda root: shutil.rmtree(root / "train/sad")), "two"),
    "no class": (
        folder_with(
            lambda root: (shutil.rmtree(root / "train"), (root / "train").mkdir())
        ),
        "holds 0 class folders",
    ),
    "train that is a file": (
        folder_with(
            lambda root: (shutil.rmtree(root / "train"), put(root / "train", ""))
        ),
        "faces holds neither a train folder",
    ),
    "two folders for val": (
        folder_with(lambda root: (root / "valid").mkdir()),
        "faces holds both val and valid",
    ),
    "a class without images": (
        folder_with(lambda root: (root / "train/fear").mkdir()),
        "train/fear holds no",
    ),
    "a class in val that train lacks": (
        folder_with(lambda root: put(root / "val/fear/a.png", b"")),
        "val/fear is a class that train lacks",
    ),
    "a folder among the images": (
        folder_with(lambda root: (root / "train/sad/more").mkdir()),
        "train/sad/more is a folder",
    ),
    "a folder that loops": (
        folder_with(lambda root: (root / "train/sad/up").symlink_to(root)),
        "train/sad/up is a folder",
    ),
    "an image of no bytes": (image(b""), "train/sad/x.png is no readable"),
    "an image that is a loop": (image(link(None)), "train/sad/x.png is not a file"),
    "an image that is a pipe": (image(os.mkfifo), "train/sad/x.png is not a file"),
    "an image that is a device": (image(link("/dev/zero")), "x.png is not a file"),
    "text named .png": (image("not an image"), "train/sad/x.png is no readable"),
    "a jpeg that is cut": (
        image(
            png_of(np.random.default_rng(0).integers(0, 255, (64, 64), "u1"), "JPEG")[
                :900
            ],
            "x.jpg",
        ),
        "train/sad/x.jpg is no readable",
    ),
    "a png whose checksum is wrong": (
        image(png_of(np.eye(9, dtype="u1")).replace(b"IDAT", b"IDAX")),
        "train/sad/x.png is no readable",
    ),
    "a decompression bomb": (image(png_that_claims(50_000, 50_000)), "x.png is no"),
    "a bomb just below Pillow's": (image(png_that_claims(9000, 9000)), "9,000 x 9,000"),
    "a png of no width": (image(png_that_claims(0, 9)), "x.png is no readable"),
    "a gif": (image(b"GIF89a\1\0\1\0\0\0\0;", "x.png"), "x.png is no readable"),
    "an eps, which runs a program": (
        image(
            "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage"
        ),
        "train/sad/x.png is no readable",
    ),
    "a class of bad images": (
        folder_with(
            lambda root: [put(root / f"train/sad/{n}.png", b"") for n in range(2)],
            "--skip_bad",
        ),
        "'sad'",
        "0 good train images",
    ),
    "a name that is no text": (
        source("", os.fsdecode(b"caf\xe9.csv")),
        r"caf\udce9.csv is empty",
    ),
    # What a comparison reads
    "no runs": (lambda folder: (compare.main, []), "there is no folder", "runs"),
    "runs that are a file": (
        lambda folder: (put(folder / "runs", ""), (compare.main, []))[1],
        "there is no folder",
    ),
    "runs without a run": (
        lambda folder: ((folder / "runs").mkdir(), (compare.main, []))[1],
        "holds no run",
    ),
    "a run that is a file": (
        lambda folder: (put(folder / "runs/mine/seed_1", ""), (compare.main, []))[1],
        "holds no run",
    ),
    "a result that is a folder": (result(instead(Path.mkdir)), "no finished run"),
    "a result that is a pipe": (result(instead(os.mkfifo)), "no finished run"),
    "a result that is a loop": (result(instead(link(None))), "no finished run"),
    "a result cut in half": (result(half), "result.json is cut off"),
    "an empty result": (result(lambda path: ""), "result.json is cut off"),
    "a binary result": (
        result(instead(lambda path: path.write_bytes(b"\x80\4"))),
        "result.json",
    ),
    "a result of another version": (
        result(with_value("format", 2)),
        "result.json has format 2",
    ),
    "a result that is a list": (result(lambda path: [1]), "result.json has format"),
    "a result without data": (result(with_value("data")), "result.json lacks data"),
    "a result without a class": (
        result(with_value("val.per_class.fear")),
        "result.json lacks val.per_class.fear.f1",
    ),
    "a result of text for a number": (
        result(with_value("val.accuracy", "high")),
        "result.json lacks val.accuracy",
    ),
    "a result whose config is a list": (
        result(with_value("config", [])),
        "result.json lacks config",
    ),
    "a result of another run": (result(with_value("seed", 2)), "mine/seed_2"),
    "a filter that matches no run": (
        result(lambda path: None, "--filter", "x"),
        "begins with x",
    ),
    "an export that is no csv": (
        result(lambda path: None, "--export", "a.txt"),
        "a.txt does not end in that",
    ),
    "predictions that are cut off": (
        result(lambda path: half(path.with_name("predictions_val.npz"))),
        "predictions_val.npz is damaged",
    ),
    "predictions that hold objects": (
        result(
            lambda path: np.savez(
                path.with_name("predictions_val.npz"), rows=np.array([{}, None])
            )
        ),
        "predictions_val.npz is damaged",
    ),
    "an emotion that is none": (
        result(lambda path: None, "--emotion", "fea"),
        "no such emotion",
    ),
    "a baseline that is none": (
        result(lambda path: None, "--baseline", "x"),
        "--baseline x",
    ),
    "an experiment that is none": (
        result(lambda path: None, "--experiment", "mine", "x"),
        "--experiment x",
    ),
    "a report into no folder": (
        result(lambda path: None, "--report", "no/a.html"),
        "no folder no",
    ),
    "an export into no folder": (
        result(lambda path: None, "--export", "no/a.csv"),
        "no folder no",
    ),
    "a result of 100,000 brackets": (result(lambda path: "[" * 100_000), "result.json"),
    "a result with a deep config": (
        result(
            lambda path: path.read_text().replace(
                '"config": {', f'"config": {{"x": {DEEP},'
            )
        ),
        "result.json",
    ),
    "a seed of 400 digits": (result(with_value("seed", 10**400)), "result.json"),
    "an export that is a folder": (
        lambda folder: (
            (folder / "a.csv").mkdir(),
            result(lambda path: None, "--export", folder / "a.csv")(folder),
        )[1],
        "a.csv: that is a folder",
    ),
    # What training finds in its run folder
    "a runs folder that is a file": (train_into("runs", ""), "runs/baseline/seed_42"),
    "a run folder that is a file": (
        train_into("runs/baseline/seed_42", ""),
        "runs/baseline/seed_42",
    ),
    "a run folder that is a loop": (
        train_into("runs/baseline/seed_42", link(None)),
        "runs/baseline/seed_42",
    ),
    "a lock that is a folder": (
        train_into("runs/baseline/seed_42/lock", Path.mkdir),
        "seed_42 cannot be written",
    ),
    # At a line's end, as within one what is left may be no YAML, whose answer differs.
    "a run whose config is cut": (
        began("config.yaml", half_the_lines),
        "is absent there",
    ),
    "a run whose config is text": (began("config.yaml", content("x")), "config.yaml"),
    "a run whose config is empty": (began("config.yaml", content("")), "config.yaml"),
    "a run whose config is binary": (
        began("config.yaml", content(bytes(range(256)))),
        "config.yaml",
    ),
    "a run whose config runs a command": (
        began(
            "config.yaml",
            lambda path: path.write_text(
                f"a: {TOUCH.format(path.with_name('executed'))}"
            ),
        ),
        "config.yaml",
    ),
    "a run of another config": (
        began("config.yaml", content("training: {lr: 1.0}")),
        "training.lr is 1.0 there",
    ),
    "a run whose data.json is cut": (began("data.json", half), "data.json"),
    "a run without data.json": (began("data.json", os.unlink), "data.json"),
    "a run whose data.json is a list": (began("data.json", content("[]")), "data.json"),
    "a run of other data": (
        began("data.json", data_json(fingerprint="f" * 16)),
        "data set is a.csv [ffff",
    ),
    "a run without checkpoints": (
        began("metrics.jsonl", content("{}\n")),
        "no checkpoint",
    ),
    "a checkpoint that is damaged": (
        began("checkpoints/7/SHA256SUMS", content(f"{'0' * 64}  a\n")),
        "step 7: a is missing",
    ),
    "a run whose result is cut": (
        began("result.json", content('{"format": 1')),
        "result.json is cut off",
    ),
    "a run whose config is a bomb": (
        began("config.yaml", content(BOMB)),
        "config.yaml",
    ),
    "a run whose config is deep": (
        began("config.yaml", content("[" * 20_000)),
        "config.yaml",
    ),
    "a run whose data.json is deep": (
        began("data.json", content("[" * 100_000)),
        "data.json",
    ),
    "a run whose data.json is deep inside": (
        began("data.json", content(f'{{"fingerprint": "x", "description": {DEEP}}}')),
        "data.json",
    ),
    # The batch
    "no folder of configs": (many(), "configs holds no *.yaml"),
    "a folder without configs": (many(configs={"a.txt": "x"}), "configs holds no"),
    "two of one name": (
        many(configs=ONE | {"b.yaml": "extends: mine.yaml\n"}),
        "mine.yaml and",
        "b.yaml are both named mine",
    ),
    "a batch with a bad config": (
        many(configs=ONE | {"b.yaml": "a: ["}),
        "b.yaml, line",
    ),
    "a batch with a pipe": (
        many(configs=ONE | {"b.yaml": os.mkfifo}),
        "b.yaml is not a file",
    ),
    "a filter that matches nothing": (
        many("--filter", "x", configs=ONE),
        "begins with x",
    ),
    "no seeds": (many("--seeds", "0", configs=ONE), "--seeds is 0"),
    "a batch without data": (
        many("--data_root", "nowhere", configs=ONE),
        "nowhere cannot be read",
    ),
    "classes that are numbers": (
        result(with_value("data.class_names", [1, 2])),
        "data.class_names",
    ),
    "classes that are lists": (
        result(with_value("data.class_names", [["angry"]])),
        "data.class_names",
    ),
    "no classes": (result(with_value("data.class_names", [])), "data.class_names"),
    "notes that are a number": (result(with_value("data.notes", 3)), "data.notes"),
    "an accuracy beyond floats": (
        result(with_value("val.accuracy", 10**400)),
        "val.accuracy",
    ),
    "an accuracy that is NaN": (
        result(with_value("val.accuracy", float("nan"))),
        "val.accuracy",
    ),
    "a time that is infinite": (
        result(with_value("timing.train_s", float("inf"))),
        "timing.train_s",
    ),
    "an epoch beyond floats": (
        result(with_value("selection.epoch", 10**400)),
        "selection.epoch",
    ),
    "a run whose data.json is a pipe": (began("data.json", instead(os.mkfifo)), "data"),
    "a finished run that lacks its scores": (
        began("result.json", content('{"format": 1}')),
        "result.json",
    ),
    "a checkpoint of nonsense": (
        began("checkpoints/7/SHA256SUMS", content("")),
        "checkpoints",
    ),
    "checkpoints that are a file": (began("checkpoints", content("")), "checkpoints"),
    "checkpoints that are a loop": (began("checkpoints", link(None)), "checkpoints"),
    "a batch into a file": (many("--runs_dir", BASELINE, configs=ONE), "baseline.yaml"),
    "seeds without end": (many("--seeds", "9" * 15, configs=ONE), "--seeds is 999"),
}


# The tests


def tree(folder):
    """What is below a folder, files with size and time, but for what a run may keep."""
    found, kept = {}, {"lock", "failed.json", "checkpoints"}
    for place, folders, files in os.walk(folder):
        for name in {*folders, *files} - kept:
            stat = os.lstat(os.path.join(place, name))
            size_and_time = name in files and (stat.st_size, stat.st_mtime_ns)
            found[os.path.join(place, name)] = size_and_time
    return found


@pytest.fixture
def answer(tmp_path, capsys, monkeypatch):
    """Runs a command in the test's folder and checks all but its words."""
    monkeypatch.chdir(tmp_path)
    cache = Path(os.environ["FER_CACHE_DIR"])

    def hang(*_):
        pytest.fail(f"the command hangs: {PATIENCE} s without an answer")

    def run(main, arguments):
        before = tree(tmp_path)
        handler = signal.signal(signal.SIGALRM, hang)
        # Again and again: an exception within a destructor stops nothing.
        signal.setitimer(signal.ITIMER_REAL, PATIENCE, 1)
        try:
            status = run_command(lambda: main([str(each) for each in arguments]))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, handler)
        output, error = capsys.readouterr()
        assert status == 2, output + error
        assert error.startswith("error: ") and error.endswith("\n"), error
        assert error[:-1].isprintable(), error  # in one line, and steers no terminal
        assert "Traceback" not in output + error
        assert tree(tmp_path) == before
        assert not [p for p in cache.rglob("*") if p.suffix in (".tmp", ".partial")]
        return error

    return run


def peak():
    """The most memory that this process has had, in MiB."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 2 ** (20 if sys.platform == "darwin" else 10)


@pytest.mark.parametrize("kind", ROWS)
def test_bad_input_is_answered_by_one_sentence(kind, tmp_path, answer):
    build, *words = ROWS[kind]
    command, before = build(tmp_path), peak()
    error = answer(*command)
    assert all(word in error for word in words), error
    assert "bomb" not in kind or peak() - before < 200


@pytest.mark.parametrize(
    ("build", "owner", "function", "name"),
    [
        (file("name: a"), Path, "open", "own.yaml"),
        (source(GOOD), Path, "open", "a.csv"),
        (folder_with(lambda root: None), os, "scandir", "faces"),
        (folder_with(lambda root: None), os, "scandir", "sad"),
        (began("lock", content("")), Path, "read_text", "config.yaml"),
        (train_into("runs", Path.mkdir), Path, "mkdir", "seed_42"),
        (result(lambda path: None), Path, "read_text", "result.json"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_may_not_be_touched_is_named(
    build, owner, function, name, tmp_path, answer, monkeypatch
):
    command, real = build(tmp_path), getattr(owner, function)

    def refuse(path, *arguments, **options):  # modes do not stop root
        if Path(path).name == name:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(owner, function, refuse)
    assert name in answer(*command)


def test_a_png_named_jpg_is_read(tmp_path):
    pixels = np.arange(36, dtype="u1").reshape(6, 6)
    build = folder_with(lambda root: put(root / "train/sad/x.jpg", png_of(pixels)))
    dataset = data.load(str(build(tmp_path)[1][-1]), image_size=6)
    np.testing.assert_array_equal(dataset.splits["train"].images[-1, :, :, 0], pixels)


def test_a_zip_whose_member_leads_out_is_read_where_it_lies(tmp_path):
    path = put(tmp_path / "in/it/a.zip", zipped("../../evil.csv"))
    before = tree(tmp_path)
    assert len(data.load(str(path), image_size=16).splits["train"].rows) == 14
    assert tree(tmp_path) == before


@pytest.mark.parametrize("count", [0, 10**400], ids=["none", "endless"])
def test_a_batch_is_planned_past_a_result_of_nonsense(count, tmp_path):
    result(with_value("epochs_run", count))(tmp_path)
    main, arguments = many("--dry-run", configs=ONE)(tmp_path)
    arguments += ["--runs_dir", tmp_path / "runs"]
    assert run_command(lambda: main([str(each) for each in arguments])) == 0


# Nothing that is read is executed

RUNS_CODE = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen"}
PLAIN_YAML = {"safe_load", "safe_load_all", "dump", "safe_dump"}


def dangers(code, loaders=()):
    """The expressions by which what a file holds could become code that runs."""
    for node in ast.walk(code):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name.split(".")[0] for alias in node.names}
            if isinstance(node, ast.ImportFrom):
                names = {(node.module or "").split(".")[0]}
            if names & RUNS_CODE:
                yield ast.unparse(node)
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {word.arg: ast.unparse(word.value) for word in node.keywords}
        module, _, function = name.rpartition(".")
        safe = name not in CALLS and given.get("shell", "False") == "False"
        safe &= given.get("allow_pickle", "False") == "False"
        if name in ("np.load", "numpy.load"):
            safe &= "allow_pickle" in given
        if module == "yaml" and "load" in function:
            safe &= function in PLAIN_YAML or given.get("Loader") in loaders
        if not safe:
            yield ast.unparse(node)


@pytest.mark.parametrize("path", [*ROOT.glob("fer_jax/**/*.py"), *ROOT.glob("bin/*")])
def test_nothing_that_is_read_is_executed(path):
    # Its own name for a loader counts if that is one of PyYAML's safe ones.
    code = ast.parse(path.read_text())
    loaders = {
        node.name
        for node in ast.walk(code)
        if isinstance(node, ast.ClassDef)
        and [ast.unparse(base) for base in node.bases] == ["yaml.SafeLoader"]
    }
    assert list(dangers(code, loaders | {"yaml.SafeLoader"})) == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from joblib import load",
        "eval(text)",
        "os.system(text)",
        "subprocess.run(text, shell=True)",
        "yaml.load(text)",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.unsafe_load(text)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
    ],
)
def test_the_search_finds_what_it_looks_for(text):
    assert list(dangers(ast.parse(text))) == [text]
