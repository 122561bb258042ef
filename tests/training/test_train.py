import dataclasses
import io
import json
import re
import shutil
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from conftest import HARD, LEAKED, ROOT, TINY, environment, tiny_config, write_tiny_csv
from rich.console import Console
from same_run import assert_same_run, rows
from sklearn.metrics import confusion_matrix, f1_score

from fer_jax import runs
from fer_jax import train as train_lib
from fer_jax.errors import UserError, run_command
from fer_jax.system.console import TrainingBar
from fer_jax.system.signals import Interrupted
from fer_jax.training import attempt as attempt_lib
from fer_jax.training import loop
from fer_jax.training import progress as progress_lib
from fer_jax.training import setup as setup_lib
from fer_jax.training.attempt import Options
from fer_jax.training.checkpoints import Checkpoints
from fer_jax.training.devices import Devices
from fer_jax.training.run import train


def test_run_folder_agrees_with_itself(finished_run):
    folder, result = finished_run
    assert json.loads((folder / "result.json").read_text()) == result
    assert yaml.safe_load((folder / "config.yaml").read_text()) == result["config"]
    assert [row["epoch"] for row in rows(folder)] == [1, 2, 3]
    for split in ("val", "test"):
        with np.load(folder / f"predictions_{split}.npz", allow_pickle=False) as file:
            labels, predicted = file["labels"], file["logits"].argmax(axis=1)
            assert len(file["rows"]) == len(labels) == result[split]["n"] == 128
            clean = file["clean"]
        scores = result[split]
        assert (~clean).sum() == (LEAKED if split == "val" else 0)
        assert scores["n_clean"] == clean.sum()
        right = labels[clean] == predicted[clean]
        assert scores["accuracy_clean"] == pytest.approx(right.mean(), abs=1e-12)
        macro = f1_score(labels[clean], predicted[clean], average="macro")
        assert scores["macro_f1_clean"] == pytest.approx(macro, abs=1e-12)
        expected = confusion_matrix(labels, predicted, labels=range(7))
        np.testing.assert_array_equal(scores["confusion_matrix"], expected)
        macro = f1_score(labels, predicted, average="macro")
        assert scores["macro_f1"] == pytest.approx(macro, abs=1e-12)
    assert runs.test_reads(folder) == 1
    best = max(rows(folder), key=lambda row: row["val_macro_f1"])
    assert result["selection"]["epoch"] == best["epoch"]
    assert result["val"]["macro_f1"] == best["val_macro_f1"]
    assert result["val"]["loss"] == best["val_loss"]


def test_the_cost_of_an_image_is_told_and_recorded(finished_run, tiny_csv, tmp_path):
    model = finished_run[1]["model"]
    assert set(model) == {"arch", "parameters", "flops"}
    shutil.copytree(finished_run[0], tmp_path / "baseline" / "seed_42")
    console = Console(file=io.StringIO(), width=200)
    config = tiny_config(*HARD)
    train(config, data_root=str(tiny_csv), runs_dir=tmp_path, console=console)
    millions = f"{model['flops'] / 1e6:.0f}"
    assert (
        f"tiny: {model['parameters']:,} parameters, {millions} MFLOP an image "
        "forward, float32 on " in console.file.getvalue()
    )


def test_test_is_not_read_again_for_the_result(finished_run, tiny_csv, tmp_path):
    folder = tmp_path / "baseline" / "seed_42"
    shutil.copytree(finished_run[0], folder)
    (folder / "result.json").unlink()  # as after a kill just before it
    config = tiny_config(*HARD)
    result = train(config, data_root=str(tiny_csv), runs_dir=tmp_path)
    assert result["test"] == finished_run[1]["test"]
    assert runs.test_reads(folder) == 1


@pytest.mark.slow
def test_the_default_network_learns_with_random_images(optimised, tiny_csv, tmp_path):
    random = ("rotation=10", "shift=0.08", "scale=0.1", "random_erasing=0.1")
    changes = [f"augmentation.{change}" for change in random]
    config = tiny_config("model.arch=fernet", "training.epochs=12", *changes)
    result = train(config, data_root=str(tiny_csv), runs_dir=tmp_path)
    assert result["test"]["accuracy"] > 0.8  # the largest class has a quarter


def test_interrupted_and_resumed_run_equals_undisturbed(
    finished_run, tiny_csv, tmp_path, monkeypatch
):
    advance = TrainingBar.on_step
    for stop in (1, 4, 9):  # at the first step, at the end of an epoch, and within one

        def stopping(bar, step, loss, stop=stop):
            advance(bar, step, loss)
            if step == stop:  # the step after it is already under way
                signal.raise_signal(signal.SIGTERM)

        monkeypatch.setattr(TrainingBar, "on_step", stopping)
        with pytest.raises(Interrupted):
            train(tiny_config(*HARD), data_root=str(tiny_csv), runs_dir=tmp_path)
        assert not runs.is_finished(tmp_path / "baseline/seed_42")
    monkeypatch.setattr(TrainingBar, "on_step", advance)
    train(tiny_config(*HARD), data_root=str(tiny_csv), runs_dir=tmp_path)
    assert_same_run(tmp_path / "baseline/seed_42", finished_run[0], tiny_csv)


def test_nothing_passes_unasked_between_host_and_device_in_an_epoch(
    finished_run, tiny_csv, tmp_path, monkeypatch
):
    train_epoch, epochs = loop._train_epoch, []

    def guarded(*args):
        with jax.transfer_guard("disallow"):  # all that is not `device_put` or `_get`
            epochs.append(train_epoch(*args))
        return epochs[-1]

    monkeypatch.setattr(loop, "_train_epoch", guarded)
    train(tiny_config(*HARD), data_root=str(tiny_csv), runs_dir=tmp_path)
    assert epochs == [4, 4, 4]
    assert_same_run(tmp_path / "baseline/seed_42", finished_run[0], tiny_csv)


def test_signal_between_epochs_keeps_the_best_checkpoint(
    finished_run, tiny_csv, tmp_path, monkeypatch
):
    is_over = loop.is_over

    def stopping(config, history):
        if len(history) == 1:
            signal.raise_signal(signal.SIGTERM)  # no step is taken after this
        return is_over(config, history)

    monkeypatch.setattr(loop, "is_over", stopping)
    # Epoch 1 is the best and older than the last two; it must outlive the stop.
    monkeypatch.setattr(loop, "best_row", lambda history: history[0])
    with pytest.raises(Interrupted):
        train(tiny_config(*HARD), data_root=str(tiny_csv), runs_dir=tmp_path)
    folder = tmp_path / "baseline/seed_42"
    with Checkpoints(folder / "checkpoints") as checkpoints:
        kept = checkpoints._checkpointer.checkpoints
        assert [each.metrics["epoch"] for each in kept] == [1]


# Kills itself after its sixth step, in the middle of the second epoch.
KILLED = """
import os, signal, sys
from fer_jax import train
from fer_jax.system import console
def killing(bar, step, loss):
    if step == 6:
        os.kill(os.getpid(), signal.SIGKILL)
console.TrainingBar.on_step = killing
train.main(sys.argv[1:])
"""


def test_killed_process_resumes_to_the_same_run(
    finished_run, tiny_csv, tmp_path, capsys
):
    arguments = [str(ROOT / "configs/baseline.yaml"), "--data_root", str(tiny_csv)]
    arguments += ["--runs_dir", str(tmp_path)]
    for item in (*TINY, *HARD):
        arguments += ["--set", item]
    options = {"env": environment(), "capture_output": True, "text": True}
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments], **options)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    folder = tmp_path / "baseline/seed_42"
    assert len(rows(folder)) == 1
    assert train_lib.main(arguments) == 0
    assert "resuming after step 4 " in capsys.readouterr().out
    result = json.loads((folder / "result.json").read_text())
    assert result["overrides"] == [*TINY, *HARD]
    assert_same_run(folder, finished_run[0], tiny_csv)


class Clock:
    """Seconds that pass only in what is told to take some."""

    def __init__(self):
        self.now = 1000.0

    def running_s(self):
        return self.now

    def taking(self, function, seconds):
        def call(*arguments, **options):
            self.now += seconds
            return function(*arguments, **options)

        return call


def test_wall_s_is_the_time_of_all_attempts(tiny_csv, tmp_path, monkeypatch):
    """Saving, evaluation and the final predictions count; a pause does not."""
    clock, config = Clock(), tiny_config("training.patience=0")
    for module in (loop, progress_lib):
        monkeypatch.setattr(module, "clock", clock)
    for owner, name, seconds in (
        (Checkpoints, "save", 100.0),
        (loop, "_train_epoch", 20.0),
        (loop, "score_val", 3.0),
        (attempt_lib, "predict_best", 0.5),
    ):
        function = clock.taking(getattr(owner, name), seconds)
        monkeypatch.setattr(owner, name, function)
    on_step = TrainingBar.on_step

    def stopping(bar, step, loss):
        on_step(bar, step, loss)
        if step == 6:  # in the second epoch
            signal.raise_signal(signal.SIGTERM)

    again = {"data_root": str(tiny_csv), "runs_dir": tmp_path}
    with monkeypatch.context() as patch:
        patch.setattr(TrainingBar, "on_step", stopping)
        with pytest.raises(Interrupted):
            train(config, **again)
    clock.now += 50_000.0
    result = train(config, **again)
    # The first attempt counts to the checkpoint that it ended with: 20 + 3, 100, 20.
    # The second: the rest of an epoch, one more, and their checkpoints.
    assert result["timing"]["wall_s"] == 143 + 123 + 123 + 0.5
    assert result["timing"]["train_s"] == 80
    walls = [row["wall_s"] for row in rows(tmp_path / "baseline/seed_42")]
    assert walls == [23, 143 + 23, 143 + 123 + 23]


def test_finished_run_is_not_repeated(finished_run, tiny_csv):
    folder, result = finished_run
    before = (folder / "result.json").stat().st_mtime_ns
    again = train(
        tiny_config(*HARD), data_root=str(tiny_csv), runs_dir=folder.parents[1]
    )
    assert again == result
    assert (folder / "result.json").stat().st_mtime_ns == before


def test_other_settings_in_the_folder_are_refused_by_name(finished_run, tiny_csv):
    config = tiny_config(*HARD, "training.lr=1e-3", "loss.type=focal")
    with pytest.raises(UserError) as error:
        train(config, data_root=str(tiny_csv), runs_dir=finished_run[0].parents[1])
    assert "training.lr is 0.003 there and 0.001 here" in str(error.value)
    assert "loss.type is ce there and focal here" in str(error.value)
    assert "seed is" not in str(error.value)


def test_other_data_in_the_folder_is_refused(finished_run, tmp_path):
    csv = write_tiny_csv(tmp_path / "other.csv", ("Training", "PublicTest"))
    with pytest.raises(UserError, match="data set is fer2013.csv"):
        train(
            tiny_config(*HARD),
            data_root=str(csv),
            runs_dir=finished_run[0].parents[1],
        )


def test_patience_stops_and_force_starts_anew(tiny_csv, tmp_path, monkeypatch):
    # Nothing learns at this rate; val gets worse by decree after the second epoch.
    score_val = loop.score_val
    falling = iter([0.2, 0.3, 0.3, 0.2, 0.1])

    def scored(*arguments):
        return score_val(*arguments) | {"macro_f1": next(falling, 0.0)}

    monkeypatch.setattr(loop, "score_val", scored)
    options = ("training.lr=1e-12", "training.patience=2", "training.epochs=9")
    quick = {"data_root": str(tiny_csv), "runs_dir": tmp_path}
    result = train(tiny_config(*options), **quick)
    assert result["stopped_early"]
    assert result["epochs_run"] == 4
    assert result["selection"] == {
        "split": "val", "metric": "macro_f1", "epoch": 2, "value": 0.3
    }  # fmt: skip
    anew = train(
        tiny_config(*options, "training.epochs=1"), options=Options(force=True), **quick
    )
    assert anew["epochs_run"] == len(rows(tmp_path / "baseline/seed_42")) == 1
    assert not anew["stopped_early"]


def test_without_a_test_split_there_is_no_test_result(tmp_path):
    csv = write_tiny_csv(tmp_path / "train_val.csv", ("Training", "PublicTest"))
    config = tiny_config("training.epochs=1")
    result = train(config, data_root=str(csv), runs_dir=tmp_path)
    assert "test" not in result
    folder = tmp_path / "baseline/seed_42"
    assert [path.name for path in folder.glob("*.npz")] == ["predictions_val.npz"]


def test_loss_that_is_not_finite_stops_the_run(tiny_csv, tmp_path, monkeypatch):
    def broken(logits, labels, **_):
        return logits.sum() * np.nan

    monkeypatch.setattr(setup_lib.losses, "softmax_loss", broken)
    with pytest.raises(UserError, match=r"at step 1 \(step 1 of 4 in epoch 1\); no"):
        train(tiny_config(), data_root=str(tiny_csv), runs_dir=tmp_path)
    folder = tmp_path / "baseline/seed_42"
    assert not runs.is_finished(folder)
    assert "not finite at step 1 " in runs.failure(folder)


def test_a_gradient_that_explodes_stops_with_the_last_good_values(
    tiny_csv, tmp_path, monkeypatch
):
    """Batch norm keeps high rates finite, so the sixth step gets a loss of its own."""
    make_train_step = setup_lib.make_train_step

    def exploding(spec, **parts):
        steps = [
            make_train_step(dataclasses.replace(spec, loss_fn=loss_fn), **parts)
            for loss_fn in (
                spec.loss_fn,
                lambda *_: spec.loss_fn(*_) * jnp.float32(3e38),
            )
        ]
        return lambda state, *rest, **how: steps[int(state.step) == 5](
            state, *rest, **how
        )

    monkeypatch.setattr(setup_lib, "make_train_step", exploding)
    with pytest.raises(UserError) as error:
        train(tiny_config(*HARD), data_root=str(tiny_csv), runs_dir=tmp_path)
    assert "not finite at step 6 (step 2 of 4 in epoch 2)" in str(error.value)
    told = r"step 5, the last good one, were loss [\d.]+, logit [\d.]+, gradient [\d.]+"
    assert re.search(told, str(error.value))
    assert "training.clip_norm" in str(error.value)
    # What is kept is from before, so the run may go on where nothing explodes.
    with Checkpoints(tmp_path / "baseline/seed_42/checkpoints") as checkpoints:
        assert checkpoints.steps == [4]


def damage(folder):
    """Flips a bit in the largest file of a checkpoint, where the arrays are."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    path = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.fixture(scope="module")
def half_done(tiny_csv, tmp_path_factory):
    """The runs folder of a run that was interrupted after step 10 of 12."""
    runs_dir = tmp_path_factory.mktemp("half_done")
    advance = TrainingBar.on_step

    def stopping(bar, step, loss):
        advance(bar, step, loss)
        if step == 9:  # the tenth is already under way
            signal.raise_signal(signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingBar, "on_step", stopping)
        with pytest.raises(Interrupted):
            train(tiny_config(*HARD), data_root=str(tiny_csv), runs_dir=runs_dir)
    return runs_dir


@pytest.mark.parametrize("damaged", [(10,), (10, 8)])
def test_damaged_checkpoints_are_said_and_the_one_before_gives_the_same_run(
    damaged, half_done, finished_run, tiny_csv, tmp_path
):
    runs_dir = shutil.copytree(half_done, tmp_path / "runs")
    folder = runs_dir / "baseline/seed_42"
    for step in damaged:
        damage(folder / f"checkpoints/{step}")
    told = io.StringIO()
    console = Console(file=told, width=200)
    train(
        tiny_config(*HARD), data_root=str(tiny_csv), runs_dir=runs_dir, console=console
    )
    for step in damaged:
        assert f"note: left out a checkpoint, step {step}: state/" in told.getvalue()
    before = {8: 4, 10: 8}[damaged[-1]]
    assert f"resuming after step {before} " in told.getvalue()
    assert_same_run(folder, finished_run[0], tiny_csv)


def test_a_resume_in_another_environment_is_told_and_recorded(
    half_done, finished_run, tiny_csv, tmp_path, monkeypatch
):
    assert finished_run[1]["earlier_environments"] == []
    runs_dir = shutil.copytree(half_done, tmp_path / "runs")
    monkeypatch.setattr(Devices, "__str__", lambda _: "an abacus")
    told = io.StringIO()
    console = Console(file=told, width=200)
    again = {"data_root": str(tiny_csv), "runs_dir": runs_dir, "console": console}
    result = train(tiny_config(*HARD), **again)
    assert re.search(r"began with another (\w+, )*device; from here", told.getvalue())
    assert result["environment"]["device"] == "an abacus"
    (earlier,) = result["earlier_environments"]
    assert earlier["device"] == finished_run[1]["environment"]["device"]


def test_without_an_undamaged_checkpoint_the_run_stops_and_says_so(
    half_done, tiny_csv, tmp_path
):
    runs_dir = shutil.copytree(half_done, tmp_path / "runs")
    checkpoints = runs_dir / "baseline/seed_42/checkpoints"
    for path in checkpoints.iterdir():
        damage(path)
    again = {"data_root": str(tiny_csv), "runs_dir": runs_dir}
    for _ in range(2):  # nothing is removed, so it is said again
        with pytest.raises(UserError, match="step 10: state/.* anew with --force"):
            train(tiny_config(*HARD), **again)
    assert "step 10: state/" in runs.failure(runs_dir / "baseline/seed_42")
    shutil.rmtree(checkpoints)
    with pytest.raises(UserError, match="no checkpoint to resume from"):
        train(tiny_config(*HARD), **again)
    anew = train(tiny_config(*HARD), **again, options=Options(force=True))
    assert anew["epochs_run"] == 3


@pytest.mark.parametrize("place", [0, -1])
def test_a_resume_that_has_lost_its_best_epoch_goes_back_or_stops(
    place, half_done, tiny_csv, tmp_path, monkeypatch
):
    monkeypatch.setattr(loop, "best_row", lambda history: history[place])
    runs_dir = shutil.copytree(half_done, tmp_path / "runs")
    again = {"data_root": str(tiny_csv), "runs_dir": runs_dir}
    lost = {0: 4, -1: 8}[place]
    shutil.rmtree(runs_dir / f"baseline/seed_42/checkpoints/{lost}")
    if place == 0:  # it was step 4, and nothing is older
        with pytest.raises(UserError, match="no checkpoint to resume from"):
            train(tiny_config(*HARD), **again)
        return
    told = io.StringIO()
    console = Console(file=told, width=200)
    result = train(tiny_config(*HARD), console=console, **again)
    assert "left out step 10, whose best epoch is lost" in told.getvalue()
    assert "resuming after step 4 " in told.getvalue()
    assert result["epochs_run"] == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["configs/none.yaml"], "configs/none.yaml"),
        (["configs/baseline.yaml", "--data_root", "/no/such/place"], "/no/such/place"),
        (["configs/baseline.yaml", "--set", "training.epoch=3"], "training.epochs"),
        (["configs/baseline.yaml", "--set", "model.arch=vit"], "fernet"),
        (["configs/baseline.yaml", "--set", "training.batch_size=60000"], "batch_size"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    arguments, words, tiny_csv, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(ROOT)
    places = ["--data_root", str(tiny_csv), "--runs_dir", str(tmp_path / "runs")]
    # The last --data_root counts.
    status = run_command(
        lambda: train_lib.main([arguments[0], *places, *arguments[1:]])
    )
    error = capsys.readouterr().err
    assert status == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert words in error
    assert not (tmp_path / "runs").exists()
