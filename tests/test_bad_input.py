"""Bad input: one sentence that names it, exit status 2, and nothing left behind.

A row makes a bad thing in the test's folder and returns the function that reads it:
mostly the layer that answers, and for a few of each kind the command itself. The
messages about wrong values are in test_config.py, data/sources and compare. Nothing
that is read is ever executed.
"""

import bz2
import gzip
import io
import json
import os
import pickle
import resource
import shutil
import signal
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import ROOT
from fake_runs import make_result, write
from PIL import Image
from reading import read

from fer_jax import compare, data, runs, train
from fer_jax import config as config_lib
from fer_jax.audit import cli as audit
from fer_jax.batch import cli as batch
from fer_jax.batch.plan import find_configs
from fer_jax.compare.folders import load_runs
from fer_jax.compare.predictions import load_predictions
from fer_jax.errors import run_command
from fer_jax.inference import cli as predict
from fer_jax.inference import export
from fer_jax.runs.lock import locked
from fer_jax.training.result import describe

BASELINE = ROOT / "configs/baseline.yaml"
SMALL = ("model.arch=tiny", "data.image_size=16", "training.batch_size=7")
SETS = [word for item in SMALL for word in ("--set", item)]
TOUCH = "!!python/object/apply:os.system ['touch {}']\n"
PIXELS = " ".join(["9"] * 36)
HEADER = "emotion,pixels,Usage\n"
GOOD = HEADER + "".join(
    f"{label},{' '.join(map(str, range(label, label + 36)))},{usage}\n"
    for usage in ("Training", "Training", "PublicTest")
    for label in range(7)
)
BOMB = "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}' if n else '1'] * 9)}]\n" for n in range(12)
)
DEEP = '{"a":' * 3000 + "1" + "}" * 3000
PATIENCE = 15  # seconds until a reader counts as hanging


# How bad things are made: each helper returns a function of the test's folder, which
# returns the function that reads the thing.


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


def instead(make):
    """Puts what `make(path)` makes in the place of a file."""
    return lambda path: (path.unlink(), make(path))


def half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def command(main, *arguments):
    """A whole command, or another reader of one name, in the test's folder."""
    given = arguments[0] if main in (config_lib.load, read) else arguments
    return lambda folder: lambda: main(given)


def trained(*more):
    """The whole of `python -m fer_jax.train` on a good csv."""

    def build(folder):
        given = [BASELINE, "--data_root", put(folder / "a.csv", GOOD), *SETS, *more]
        return lambda: train.main([str(each) for each in given])

    return build


def file(content, name="own.yaml"):
    """A config beside a whole baseline.yaml; `{}` in a tag is the test's folder."""

    def build(folder):
        shutil.copy(BASELINE, folder / "baseline.yaml")
        filled = isinstance(content, str) and "touch {}" in content
        path = put(
            folder / name, content.format(folder / "executed") if filled else content
        )
        return lambda: config_lib.load(path)

    return build


def chain(folder):
    for n in range(2000):
        put(folder / f"{n}.yaml", f"extends: {n + 1}.yaml")
    return lambda: config_lib.load(folder / "0.yaml")


def override(item):
    return lambda folder: lambda: config_lib.load(BASELINE, [item])


def source(content, name="deep/in/a.csv"):
    def build(folder):
        path = put(folder / name, content)
        return lambda: read(path)

    return build


def row(line):
    return source(GOOD.replace("\n", f"\n{line}\n", 1))


def images(harm, **options):
    """A folder of images, two of each class, after `harm(its path)`."""

    def build(folder):
        root = folder / "faces"
        for place in ("train/happy", "train/sad", "val/happy", "val/sad"):
            for n in range(2):
                put(root / place / f"{n}.png", png_of(np.full((6, 6), 40 * n, "u1")))
        harm(root)
        return lambda: read(root, **options)

    return build


def image(content):
    return images(lambda root: put(root / "train/sad/x.png", content))


def affectnet_with(rows):
    """AffectNet's lists: two good images, and these rows after them."""
    lines = "subDirectory_filePath,face_x,face_y,face_width,face_height,expression\n"
    lines += "a.png,0,0,6,6,1\nb.png,0,0,6,6,2\n"

    def build(folder):
        for name in ("a.png", "b.png"):
            face = folder / "faces/Manually_Annotated_Images" / name
            put(face, png_of(np.eye(6, dtype="u1")))
        put(folder / "faces/training.csv", lines + rows)
        return lambda: read(folder / "faces")

    return build


def rafdb_with(labels):
    """RAF-DB with this list of labels, and no images."""

    def build(folder):
        (folder / "faces/basic/Image/aligned").mkdir(parents=True)
        put(folder / "faces/basic/EmoLabel/list_patition_label.txt", labels)
        return lambda: read(folder / "faces")

    return build


def png_of(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def zipped(name, text=GOOD, flag=0):
    """A zip of one file; `flag` 1 marks it as encrypted."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
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


def result(harm, *arguments):
    """A finished run, after `harm(its result.json)`; arguments ask for bin/compare."""

    def build(folder):
        path = folder / "runs/mine/seed_1/result.json"
        write(folder / "runs", make_result("mine", 1))
        if harm:
            harm(path)
        return lambda: compare.main(arguments) if arguments else load_runs("runs")

    return build


def objects(folder):
    """Predictions that only pickle could read."""
    result(None)(folder)
    path = folder / "runs/mine/seed_1/predictions_val.npz"
    np.savez(path, rows=np.array([{}, None]))
    return lambda: load_predictions(load_runs("runs")[0], "val")


def value(keys, new):
    """The result with one value replaced."""

    def harm(path):
        whole = inner = json.loads(path.read_text())
        *parents, last = keys.split(".")
        for key in parents:
            inner = inner[key]
        inner[last] = new
        path.write_text(json.dumps(whole))

    return harm


def began(name, harm, whole=False):
    """A run that has begun, after `harm(its file of this name)`.

    It is compared with what it was, or with `whole` trained by the command.
    """

    def build(folder):
        training = trained()(folder)
        config = config_lib.load(BASELINE, SMALL)
        run = runs.run_dir(folder / "runs", config.name, config.training.seed)
        put(run / runs.CONFIG, config_lib.dump(config))
        told = {"description": "a.csv", "fingerprint": "f" * 16}
        if whole:
            told = describe(data.load(str(folder / "a.csv"), image_size=16))
        put(run / runs.DATA, json.dumps(told))
        harm(run / name)
        compared = (run, config.model_dump(), told)
        return training if whole else lambda: runs.differences(*compared)

    return build


def content(text):
    return lambda path: put(path, text)


def run_folder(path, make):
    """Taking the run folder runs/a/seed_1, after `make(path)`."""

    def build(folder):
        put(folder / path, make)

        def take():
            with locked(folder / "runs/a/seed_1"):
                pass

        return take

    return build


def configs(*arguments, **files):
    """A folder of these configs, read to plan a batch; or bin/run_batch itself."""

    def build(folder):
        settings = config_lib.load(BASELINE, SMALL).model_dump()
        for name, text in files.items():
            named = yaml.safe_dump(settings | {"name": name})
            put(folder / f"configs/{name}.yaml", text or named)
        if not arguments:
            return lambda: find_configs(folder / "configs", ["m"])
        csv = put(folder / "a.csv", GOOD)
        given = ["--configs", "configs", "--data_root", str(csv), "--yes", *arguments]
        return lambda: batch.main(given)

    return build


# fmt: off
COMMANDS = {
    "train, no config": (command(train.main, "no.yaml"), "no.yaml", "No such"),
    "train, a tag that runs a command": (
        trained("--set", f"name={TOUCH.format('executed')}"), "--set name="),
    "train, control characters": (trained("--set", "a\x1b[2J\n\nb=1"), r"a\x1b[2J b"),
    "train, a seed out of range": (trained("--seed", "-1"), "training.seed is -1"),
    "train, no data": (trained("--data_root", "nowhere"), "nowhere cannot be read"),
    "train, no csv": (trained("--data_root", BASELINE), "baseline.yaml starts with '#"),
    "train, no network": (trained("--set", "model.arch=vit"), "model.arch is 'vit'"),
    "train, another config": (
        began("config.yaml", content("training: {lr: 1.0}"), whole=True),
        "training.lr is 1.0 there"),
    "train, a config cut off": (
        began("config.yaml", content("name: baseline\n"), whole=True),
        "is absent there"),
    "train, no checkpoint": (
        began("metrics.jsonl", content("{}\n"), whole=True), "no checkpoint"),
    "train, a damaged checkpoint": (
        began("checkpoints/7/SHA256SUMS", content(f"{'0' * 64}  a\n"), whole=True),
        "step 7: a is missing"),
    "train, checkpoints that are a file": (
        began("checkpoints", content(""), whole=True), "checkpoints"),
    "train, checkpoints that are a loop": (
        began("checkpoints", link(None), whole=True), "checkpoints"),
    "train, a result cut off": (
        began("result.json", content('{"format": 1'), whole=True), "not valid JSON"),
    "train, a result without scores": (
        began("result.json", content('{"format": 1}'), whole=True), "result.json"),
    "batch, no seeds": (configs("--seeds", "0", mine=""), "--seeds is 0"),
    "batch, endless seeds": (configs("--seeds", "9" * 15, mine=""), "--seeds is 999"),
    "batch, no data": (configs("--data_root", "no", mine=""), "no cannot be read"),
    "batch, into a file": (configs("--runs_dir", "a.csv", mine=""), "a.csv"),
    "batch, a bad config": (configs("--seeds", "1", b="a: ["), "b.yaml, line"),
    "compare, no runs": (command(compare.main), "there is no folder", "runs"),
    "compare, a result cut off": (result(half, "--split", "val"), "not valid JSON"),
    "compare, no emotion": (result(None, "--emotion", "fea"), "--emotion fea"),
    "predict, no image": (command(predict.main, "no.png"), "no.png"),
    "export, no run": (command(export.main, "no", "--to", "x"), "no finished run"),
    "audit, no data": (command(audit.main, "--data_root", "no"), "no cannot be read"),
}
CONFIGS = {
    "a bomb of aliases": (file(BOMB), "own.yaml, line 2", "aliases"),
    "a tag that runs a command": (file(f"name: {TOUCH}"), "own.yaml, line 1"),
    "20,000 brackets": (file("[" * 20_000), "own.yaml", "nested too deeply"),
    "15,000 braces": (file("{a: " * 15_000), "own.yaml", "nested too deeply"),
    "20,000 dots": (override("a." * 20_000 + "a=1"), "--set a.a."),
    "20,000 brackets in --set": (override("name=" + "[" * 20_000), "--set name=["),
    "an endless number": (file(f"training: {{seed: {'9' * 5000}}}"), "own.yaml"),
    "control characters": (
        file('extends: baseline.yaml\n"a\\x1b[2J": 1\n'), r"a\x1b[2J is not a"),
    "an endless chain": (chain, "20.yaml: extends leads"),
    "a folder": (file(Path.mkdir), "own.yaml", "directory"),
    "a pipe": (file(os.mkfifo), "own.yaml is not a file"),
    "a device": (file(link("/dev/zero")), "own.yaml is not a file"),
    "a loop": (file(link(None)), "own.yaml cannot be read"),
    "a dangling link": (file(link("nowhere")), "own.yaml", "No such"),
    "below a file": (
        command(config_lib.load, BASELINE / "b.yaml"), "b.yaml cannot be read"),
    "a long name": (command(config_lib.load, "a" * 300), "aaa cannot be read: File na"),
    "an image": (file(png_of(np.eye(9, dtype="u1"))), "own.yaml"),
}
DATA = {
    "a pixel beyond all": (row(f"0,{PIXELS}{'9' * 99},Training"), "a.csv:2", "to 255"),
    "NUL bytes in a row": (row(f"0,{PIXELS}\0,Training"), "a.csv:2 "),
    "only NUL bytes": (source(bytes(9999)), "a.csv is no text"),
    "utf-16": (source(GOOD.encode("utf-16")), "a.csv is no text"),
    "a line without end": (source(HEADER + "0," + "1 " * 2**21), "a.csv:2 is over"),
    "garbage after a gz": (
        source(gzip.compress(GOOD.encode()) + b"garbage"), "a.csv is damaged"),
    "a bomb of one line": (source(expanding("0", 200), "a.csv.gz"), "times its size"),
    "a bomb of good rows": (
        source(expanding(f"0,{' '.join(['9'] * 2304)},Training\n", 1000), "a.csv.gz"),
        "times its size"),
    "a bomb of bad rows": (
        source(expanding(f"{'x' * 1000}\n", 1000), "a.csv.gz"), "times its size"),
    "a bomb of blank rows": (
        source(expanding(f"{' ' * 1000}\n", 500, bz2.compress), "a.csv.bz2"),
        "times its size"),
    "a zip bomb": (
        source(zipped("a.csv", HEADER + f"{' ' * 1000}\n" * 60_000), "a.zip"),
        "times its size"),
    "an encrypted zip": (source(zipped("a.csv", flag=1)), "unpacked", "encrypted"),
    "a zip whose member leads out": (
        source(zipped("../../evil.csv", HEADER + "7,1,Training\n"), "in/it/a.zip"),
        "a.zip:2 has emotion '7'"),
    "a pickle": (source(pickled, "a.pkl"), "a.pkl is no text"),
    "an npz": (source(lambda path: np.savez(path, a=1), "a.npz"), "holds 0 csv files"),
    "an npy of objects": (
        source(lambda path: np.save(path, np.array([Touch(path)])), "a.npy"),
        "a.npy is no text"),
    "an image for a csv": (source(png_of(np.eye(9, dtype="u1"))), "a.csv is no text"),
    "a device": (source(link("/dev/zero")), "a.csv is neither"),
    "a name that is no text": (
        source("", os.fsdecode(b"caf\xe9.csv")), r"caf\udce9.csv is empty"),
    "a long name": (command(read, "a" * 300), "aaa cannot be read (File na"),
    "AffectNet, a name with a NUL": (
        affectnet_with("c\0.png,0,0,6,6,1\n"), "c\\x00.png is not a file"),
    "AffectNet, a long name": (
        affectnet_with(f"{'c' * 5000}.png,0,0,6,6,1\n"), "is not a file"),
    "AffectNet, a name that steers the terminal": (
        affectnet_with("\x1b[2J.png,0,0,6,6,1\n"), "\\x1b[2J.png is not a file"),
    "AffectNet, an endless line": (
        affectnet_with("9" * 200_000), "training.csv:4 ", "and 3 more are bad"),
    "AffectNet, a box beyond all": (
        affectnet_with("a.png/../a.png,0,0,6,6,1\nb.png/,1e300,0,1e300,6,1\n"),
        "training.csv:4 names the image"),
    "RAF-DB, binary labels": (rafdb_with(bytes(range(256)) * 99), "label.txt:1 is"),
    "RAF-DB, endless labels": (
        rafdb_with("train_00001.jpg 5\n" * 1_000_000), "is larger than 16 MiB"),
    "train is a file": (
        images(lambda root: (shutil.rmtree(root / "train"), put(root / "train", ""))),
        "faces has neither a train folder"),
    "an image that is a device": (image(link("/dev/zero")), "x.png is not a file"),
    "an image with a wrong checksum": (
        image(png_of(np.eye(9, dtype="u1")).replace(b"IDAT", b"IDAX")), "a PNG that"),
    "an image of no width": (
        image(png_of(np.eye(9, dtype="u1")).replace(b"\0\0\0\x09", bytes(4), 1)),
        "cannot be read"),
    "an eps, which would run a program": (
        image("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage"),
        "is no readable"),
}
RESULTS = {
    "a folder": (result(instead(Path.mkdir)), "no finished run"),
    "a pipe": (result(instead(os.mkfifo)), "no finished run"),
    "a loop": (result(instead(link(None))), "no finished run"),
    "100,000 brackets": (result(content("[" * 100_000)), "result.json"),
    "a deep config": (
        result(lambda path: put(path, f'{{"x": {DEEP},' + path.read_text()[1:])),
        "result.json"),
    "a config that is a list": (result(value("config", [])), "lacks config"),
    "a seed of 400 digits": (result(value("seed", 10**400)), "result.json"),
    "text for a number": (result(value("val.loss", "high")), "lacks val.loss"),
    "a score beyond floats": (result(value("val.loss", 10**400)), "val.loss"),
    "a score that is NaN": (result(value("val.loss", np.nan)), "val.loss"),
    "an infinite time": (result(value("timing.train_s", np.inf)), "timing.train_s"),
    "an endless epoch": (result(value("selection.epoch", 10**400)), "selection.epoch"),
    "endless epochs": (result(value("epochs_run", 10**400)), "epochs_run"),
    "classes that are numbers": (result(value("data.class_names", [1])), "class_names"),
    "classes that are lists": (result(value("data.class_names", [[]])), "class_names"),
    "no classes": (result(value("data.class_names", [])), "data.class_names"),
    "notes that are a number": (result(value("data.notes", 3)), "data.notes"),
    "predictions that hold objects": (objects, "predictions_val.npz is damaged"),
}
FOLDERS = {
    "runs that are a file": (run_folder("runs", ""), "runs/a/seed_1"),
    "a run that is a file": (run_folder("runs/a/seed_1", ""), "runs/a/seed_1"),
    "a run that is a loop": (run_folder("runs/a/seed_1", link(None)), "runs/a/seed_1"),
    "a lock that is a folder": (
        run_folder("runs/a/seed_1/lock", Path.mkdir), "seed_1 cannot be written"),
    "binary": (began("config.yaml", content(bytes(range(256)))), "config.yaml"),
    "a config that runs a command": (
        began("config.yaml", content(f"a: {TOUCH.format('executed')}")), "config.yaml"),
    "a config that is a bomb": (began("config.yaml", content(BOMB)), "config.yaml"),
    "a deep config": (began("config.yaml", content("[" * 20_000)), "config.yaml"),
    "data.json cut": (began("data.json", half), "data.json"),
    "no data.json": (began("data.json", os.unlink), "data.json"),
    "data.json a list": (began("data.json", content("[]")), "data.json"),
    "data.json a pipe": (began("data.json", instead(os.mkfifo)), "data.json"),
    "data.json deep": (began("data.json", content("[" * 100_000)), "data.json"),
    "data.json deep inside": (
        began("data.json", content(f'{{"fingerprint": "x", "description": {DEEP}}}')),
        "data.json"),
    "no configs": (configs(), "configs"),
    "two of one name": (
        configs(mine="", b="extends: mine.yaml\n"), "b.yaml", "are both named mine"),
    "a bad config": (configs(mine="", b="a: ["), "b.yaml, line"),
    "a config that is a pipe": (configs(mine="", b=os.mkfifo), "b.yaml is not a file"),
    "no config of the name": (configs(other=""), "other"),
}
# fmt: on
GROUPS = {
    "command": COMMANDS,
    "config": CONFIGS,
    "data": DATA,
    "result": RESULTS,
    "folder": FOLDERS,
}
ROWS = {
    f"{group}: {kind}": row for group in GROUPS for kind, row in GROUPS[group].items()
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


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """A folder for prepared data in which no other process writes."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FER_CACHE_DIR", str(folder))
        yield folder


@pytest.fixture
def answer(cache, tmp_path, capsys, monkeypatch):
    """Runs a function as a command in the test's folder; checks all but its words."""
    monkeypatch.chdir(tmp_path)

    def hang(*_):
        pytest.fail(f"it hangs: {PATIENCE} s without an answer")

    def run(reader):
        before = tree(tmp_path)
        handler = signal.signal(signal.SIGALRM, hang)
        # Again and again: an exception within a destructor stops nothing.
        signal.setitimer(signal.ITIMER_REAL, PATIENCE, 1)
        try:
            status = run_command(reader)
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
    reader, before = build(tmp_path), peak()
    error = answer(reader)
    assert all(word in error for word in words), error
    assert "bomb" not in kind or peak() - before < 200


@pytest.mark.parametrize(
    ("build", "owner", "function", "name"),
    [
        (file("name: a"), Path, "open", "own.yaml"),
        (source(GOOD), Path, "open", "a.csv"),
        (images(lambda root: None), os, "scandir", "faces"),
        (images(lambda root: None), os, "scandir", "sad"),
        (began("lock", content("")), Path, "read_text", "config.yaml"),
        (run_folder("runs", Path.mkdir), Path, "mkdir", "seed_1"),
        (result(None), Path, "read_text", "result.json"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_may_not_be_touched_is_named(
    build, owner, function, name, tmp_path, answer, monkeypatch
):
    reader, real = build(tmp_path), getattr(owner, function)

    def refuse(path, *arguments, **options):  # modes do not stop root
        if Path(path).name == name:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(owner, function, refuse)
    assert name in answer(reader)


def test_a_zip_whose_member_leads_out_is_read_where_it_lies(tmp_path):
    path = put(tmp_path / "in/it/a.zip", zipped("../../evil.csv"))
    before = tree(tmp_path)
    assert len(read(path).splits["train"].rows) == 14
    assert tree(tmp_path) == before


@pytest.mark.parametrize("count", [0, 10**400], ids=["none", "endless"])
def test_a_batch_is_planned_past_a_result_of_nonsense(count, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result(value("epochs_run", count))(tmp_path)
    assert run_command(configs("--dry-run", mine="")(tmp_path)) == 0
