import errno
import io
import json
import shutil
import signal
import struct

import numpy as np
import pytest
from conftest import HARD, ROOT, tiny_config
from rich.console import Console
from same_run import assert_same_run, rows
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

from fer_jax import runs
from fer_jax import train as train_lib
from fer_jax.batch import cli as batch
from fer_jax.batch import plan
from fer_jax.batch.arguments import parse
from fer_jax.batch.plan import PlannedRun
from fer_jax.errors import UserError
from fer_jax.runs import tensorboard
from fer_jax.system import compilation_cache, files, memory
from fer_jax.system.console import TrainingBar
from fer_jax.system.signals import Interrupted
from fer_jax.training import run as run_lib
from fer_jax.training.attempt import Options
from fer_jax.training.run import train

TAGS = {
    "lr": "lr",
    "train_loss": "train/loss",
    "train_accuracy": "train/accuracy",
    "val_loss": "val/loss",
    "val_accuracy": "val/accuracy",
    "val_macro_f1": "val/macro_f1",
    "val_balanced_accuracy": "val/balanced_accuracy",
    "images_per_s": "images_per_s",
    "wall_s": "wall_s",
}


def crc32c(content):
    """Castagnoli's, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(content):
    crc = crc32c(content)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def events(folder):
    """All events of a run, read without the writer's code; every sum must be right."""
    assert crc32c(b"123456789") == 0xE3069283  # the published check value
    paths = list((folder / "tensorboard").iterdir())
    assert len(paths) == 1
    assert ".tfevents." in paths[0].name
    content, found = io.BytesIO(paths[0].read_bytes()), []
    while header := content.read(8):
        (length,) = struct.unpack("<Q", header)
        (header_crc,) = struct.unpack("<I", content.read(4))
        body = content.read(length)
        (body_crc,) = struct.unpack("<I", content.read(4))
        assert (header_crc, body_crc) == (masked(header), masked(body))
        found.append(Event.FromString(body))
    assert found[0].file_version == "brain.Event:2"
    return found[1:]


def scalars(folder):
    """Each tag's (step, value) pairs, in the order of the file."""
    found = {}
    for event in events(folder):
        for value in event.summary.value:
            if value.HasField("simple_value"):
                points = found.setdefault(value.tag, [])
                points.append((event.step, value.simple_value))
    return found


def of_epochs(found):
    return {tag: points for tag, points in found.items() if tag[:6] != "final/"}


def expected(history):
    return {
        tag: [(row["step"], np.float32(row[key])) for row in history]
        for key, tag in TAGS.items()
    }


def assert_whole(folder):
    """The files hold every epoch once and the final scores, as the record has them."""
    result, history = json.loads((folder / "result.json").read_text()), rows(folder)
    assert set(history[0]) == {"epoch", "step", *TAGS}
    found = scalars(folder)
    assert of_epochs(found) == expected(history)
    step = history[result["selection"]["epoch"] - 1]["step"]
    final = {tag: points for tag, points in found.items() if tag[:6] == "final/"}
    names = result["data"]["class_names"]
    wanted = {}
    for split in ("val", "test"):
        for key in ("loss", "accuracy", "macro_f1", "balanced_accuracy"):
            wanted[f"final/{split}/{key}"] = result[split][key]
        for name in names:
            f1 = result[split]["per_class"][name]["f1"]
            wanted[f"final/{split}/f1/{name}"] = f1
    assert final == {tag: [(step, np.float32(v))] for tag, v in wanted.items()}


def of_hparams(folder):
    """The settings, and the scores to go with them, as TensorBoard's table has them."""
    settings, scores = {}, []
    for event in events(folder):
        for value in event.summary.value:
            if value.metadata.plugin_data.plugin_name == "hparams":
                data = HParamsPluginData.FromString(value.metadata.plugin_data.content)
                for name, each in data.session_start_info.hparams.items():
                    settings[name] = getattr(each, each.WhichOneof("kind"))
                scores += [info.name.tag for info in data.experiment.metric_infos]
    return settings, scores


def test_a_run_of_several_attempts_holds_every_epoch_once(
    finished_run, tiny_csv, tmp_path, monkeypatch
):
    """Interrupted, then with the flag until the disk is full, then to its end."""
    folder = tmp_path / "baseline/seed_42"
    advance, write_event = TrainingBar.on_step, EventsWriter.write_event
    written, seen = [], []

    def attempt(**options):
        config, data_root = tiny_config(*HARD), str(tiny_csv)
        train(config, data_root=data_root, runs_dir=tmp_path, **options)

    def advancing(bar, step, loss):
        advance(bar, step, loss)
        if step == 6:  # in the second epoch; the step after it is under way
            signal.raise_signal(signal.SIGTERM)
        if step == 10:  # in the third
            seen.append(scalars(folder))  # the file is still open

    def filling(writer, event):
        written.append(event)
        if len(written) == 3:  # version, first epoch, second epoch
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_event(writer, event)

    monkeypatch.setattr(TrainingBar, "on_step", advancing)
    monkeypatch.setattr(EventsWriter, "write_event", filling)
    with pytest.raises(Interrupted):
        attempt()
    assert not tensorboard.has_board(folder)
    with pytest.raises(UserError, match="No space left on device.*resumes from"):
        attempt(options=Options(tensorboard=True))
    assert scalars(folder) == expected(rows(folder)[:1])
    attempt()  # goes on with them unasked, or they would fall behind
    assert seen == [expected(rows(folder)[:2])]
    assert_whole(folder)
    assert_same_run(folder, finished_run[0], tiny_csv)


def test_a_resumption_drops_epochs_that_the_record_lacks(finished_run, tmp_path):
    """As after a damaged checkpoint: they come again, and might be others."""
    history = rows(finished_run[0])
    with tensorboard.Board(tmp_path) as board:
        board.on_epoch([])
        board.on_epoch([row | {"val_loss": 9.0} for row in history])
    for path in (tmp_path / "tensorboard").iterdir():
        path.rename(f"{path}.before")  # of another second, as it would be
    with tensorboard.Board(tmp_path) as board:
        board.on_epoch(history[:1])
        board.on_epoch(history[:2])
    assert scalars(tmp_path) == expected(history[:2])


def test_a_finished_run_gets_them_without_training(
    finished_run, tiny_csv, tmp_path, monkeypatch
):
    folder = tmp_path / "baseline/seed_42"
    shutil.copytree(finished_run[0], folder)
    kept = (folder / "result.json").stat().st_mtime_ns
    monkeypatch.setattr(run_lib, "attempt", None)  # would not do for training
    for _ in range(2):  # and not twice as many the second time
        told = io.StringIO()
        result = train(
            tiny_config(*HARD),
            data_root=str(tiny_csv),
            runs_dir=tmp_path,
            options=Options(tensorboard=True),
            console=Console(file=told, width=200),
        )
        assert "TensorBoard's files were written from its record" in told.getvalue()
        assert_whole(folder)
    assert (folder / "result.json").stat().st_mtime_ns == kept
    settings, scores = of_hparams(folder)
    assert settings["training.lr"] == result["config"]["training"]["lr"]
    assert settings["data.weighted_sampler"] is True
    assert settings["name"] == "baseline"
    assert "description" not in settings
    assert scores == [
        f"final/{split}/{key}"
        for split in ("val", "test")
        for key in ("loss", "accuracy", "macro_f1", "balanced_accuracy")
    ]


@pytest.mark.parametrize("damage", ["gone", "cut", "long", "no_scores", "no_step"])
def test_a_damaged_record_is_refused_and_older_files_stay(
    damage, finished_run, tmp_path
):
    folder = tmp_path / "seed_42"
    shutil.copytree(finished_run[0], folder)
    result = runs.read_result(folder)
    tensorboard.write_finished(folder, result)
    path, lines = folder / runs.METRICS, rows(folder)
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_text(path.read_text()[:-9])
    elif damage == "long":
        files.write_jsonl(path, [*lines, lines[2]])
    elif damage == "no_scores":
        del result["val"]["per_class"]["angry"]["f1"]
    elif damage == "no_step":
        files.write_jsonl(path, [*lines[:2], lines[2] | {"step": "x"}])
    before = scalars(folder)
    with pytest.raises(UserError, match="repeat that run with --force"):
        tensorboard.write_finished(folder, result)
    assert scalars(folder) == before


def test_class_names_that_are_not_text_have_tags(finished_run, tmp_path):
    _, result = finished_run
    result = json.loads(json.dumps(result).replace('"angry"', '"a\\udcff b"'))
    shutil.copy(finished_run[0] / runs.METRICS, tmp_path)
    tensorboard.write_finished(tmp_path, result)
    assert "final/val/f1/a? b" in scalars(tmp_path)


def test_force_removes_them(finished_run, tiny_csv, tmp_path, monkeypatch):
    folder = tmp_path / "baseline/seed_42"
    shutil.copytree(finished_run[0], folder)
    tensorboard.write_finished(folder, finished_run[1])

    class BegunAnewError(Exception):
        pass

    def attempt(*arguments):
        assert not tensorboard.has_board(folder)
        raise BegunAnewError

    monkeypatch.setattr(run_lib, "attempt", attempt)
    options = {"data_root": str(tiny_csv), "runs_dir": tmp_path}
    with pytest.raises(BegunAnewError):
        train(tiny_config(*HARD), options=Options(force=True), **options)


@pytest.mark.parametrize("flags", [[], ["--tensorboard"]], ids=len)
def test_a_batch_passes_the_flag_on(flags, tmp_path, monkeypatch):
    """From its command line, through that of each of its processes, to `train`."""
    args = parse(["--jobs", "2", "--runs_dir", str(tmp_path), *flags])
    path = ROOT / "configs/baseline.yaml"
    run = PlannedRun(path, tiny_config(), tmp_path)
    command = plan.train_command(run, args, tmp_path)
    assert command[1:3] == ["-m", "fer_jax.train"]
    taken = {}
    monkeypatch.setattr(run_lib, "train", lambda config, **more: taken.update(more))
    monkeypatch.setattr(memory, "keep_memory", lambda: None)
    monkeypatch.setattr(compilation_cache, "keep_compiled", lambda: None)
    assert train_lib.main(command[3:]) == 0
    assert taken["options"].tensorboard == bool(flags)
    assert not taken["options"].force


def test_a_batch_gives_them_to_finished_runs_that_have_none(
    finished_run, tiny_csv, tmp_path, capsys
):
    folder = tmp_path / "runs/baseline/seed_42"
    shutil.copytree(finished_run[0], folder)
    shutil.copytree(finished_run[0], folder.with_name("seed_43"))
    base = (folder / "config.yaml").read_text()
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/baseline.yaml").write_text(base)
    second = folder.with_name("seed_43")
    for name in ("config.yaml", "result.json"):
        path = second / name
        path.write_text(path.read_text().replace("seed: 42", "seed: 43"))
    (second / "metrics.jsonl").unlink()
    command = ["--data_root", str(tiny_csv), "--runs_dir", str(tmp_path / "runs")]
    command += ["--configs", str(tmp_path / "configs"), "--seeds", "2", "--yes"]
    assert batch.main([*command, "--tensorboard", "--dry-run"]) == 0
    assert batch.main(command) == 0
    assert not tensorboard.has_board(folder)
    assert batch.main([*command, "--tensorboard"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "0 of 2 runs to do" in told
    assert "baseline/seed_42: TensorBoard files written from its record" in told
    assert "baseline/seed_43: no TensorBoard files: " in told
    assert_whole(folder)
    before = events(folder)
    assert batch.main([*command, "--tensorboard"]) == 0
    assert events(folder) == before  # with the times of the points
