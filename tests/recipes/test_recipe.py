"""The configs and tables of recipes, and a batch within a budget."""

import io
import itertools
import re
import shutil

import jax
import numpy as np
import pytest
from conftest import ROOT
from fake_runs import make_result, write
from rich.console import Console
from scipy.special import softmax

from fer_jax import compare, config, runs
from fer_jax.batch import cli as batch
from fer_jax.config import flatten
from fer_jax.errors import UserError
from fer_jax.models import Options, create
from fer_jax.recipes import cli as recipe
from fer_jax.recipes.ablation import (
    COLUMNS,
    ablation_configs,
    result_rows,
    with_settings,
)
from fer_jax.recipes.changes import CHANGES, NETWORKS, RATES
from fer_jax.system import files

LAPTOP_FILE = ROOT / "configs/laptop.yaml"
BEST, LAPTOP = config.load(ROOT / "configs/best.yaml"), config.load(LAPTOP_FILE)
NAMES = {"name", "description"}


def flat(each):
    return flatten(each.model_dump())


def changes(configs):
    """By name, what each config changes of the first."""
    base = flat(configs[0])
    return {
        each.name: {
            key: value
            for key, value in flat(each).items()
            if value != base[key] and key not in NAMES
        }
        for each in configs[1:]
    }


@pytest.mark.parametrize(("own", "small"), [(BEST, False), (LAPTOP, True)])
def test_each_config_of_an_ablation_makes_its_own_change_and_no_other(own, small):
    configs = ablation_configs(own, small=small)
    assert configs[0].name == "baseline"
    found = changes(configs)
    assert all(found.values())
    assert len({str(change) for change in found.values()}) == len(found)
    for name, change in found.items():
        own = name.removeprefix("without_")
        rates = RATES["sgd"].keys() if "training.optimizer" in change else set()
        if own in CHANGES:
            _, values = CHANGES[own]
            assert change.keys() <= values.keys() | rates
        else:
            arch = change.pop("model.arch", configs[0].model.arch)
            assert arch == name in NETWORKS
            left = {key for key in change if not key.startswith("model.")}
            assert left <= {"training.optimizer"} | rates
    tried = {name.removeprefix("without_") for name in found}
    assert tried >= set(CHANGES)
    assert small or tried >= set(NETWORKS) - {configs[0].model.arch}


def test_a_network_is_tried_with_what_it_has_of_the_configs_options():
    own = with_settings(BEST, {"model.norm": "zero_last"})
    found = changes(ablation_configs(own, small=False))
    whole = {"model.width": 1.0}
    assert found["resnet18"] == whole
    assert found["resnet34"] == {"model.arch": "resnet34"} | whole
    assert found["wide_resnet"] == {
        "model.arch": "wide_resnet",
        "model.norm": "plain",
        **whole,
    }
    assert found["vgg"]["model.squeeze_excitation"] is False
    assert found["convnext"]["training.optimizer"] == "adamw"
    assert found["convnext"]["training.lr"] == 2e-3


def test_no_two_configs_are_alike_and_none_cannot_be_built():
    own = with_settings(LAPTOP, {"evaluation.tta": "ten_crop"})
    found = changes(ablation_configs(own, small=False))
    assert found["tta_flip"] == {"evaluation.tta": "flip"}
    assert "without_tta_ten_crop" not in found
    own = with_settings(LAPTOP, {"model.arch": "vgg"})
    names = set(changes(ablation_configs(own, small=False)))
    assert "fixed_scale" in names
    assert not names & {"zero_last", "squeeze_excitation"}


def test_what_a_config_has_is_left_out_and_what_it_lacks_is_put_in():
    found = changes(ablation_configs(LAPTOP, small=False))
    assert found["without_ema"] == {"training.ema_decay": 0.0}
    assert found["without_mixup"] == {"augmentation.mixup_alpha": 0.0}
    assert found["sam"] == {"training.sam_rho": 0.05}
    assert found["without_growing_images"] == {"training.start_size": 0}
    assert found["tta_ten_crop"] == {"evaluation.tta": "ten_crop"}
    assert found["crops"] == {"data.crop_size": 40}
    # Muon has AdamW's rates, and SGD its own.
    assert set(found["muon"]) == {"training.optimizer", "training.momentum"}
    assert found["sgd"]["training.lr"] == 0.05
    best = changes(ablation_configs(BEST, small=False))
    assert best["without_sgd"]["training.optimizer"] == "adamw"
    assert best["muon"]["training.lr"] == 2e-3
    assert best["without_alternating_flip"] == {"augmentation.horizontal_flip": True}


def test_an_ablation_holds_out_a_fold_and_its_small_form_is_small():
    assert all(each.data.fold == 1 for each in ablation_configs(BEST, small=False))
    for each in ablation_configs(LAPTOP, small=True):
        assert each.data.train_subset == 8000 and each.data.image_size == 32
        assert each.model.width == 0.5 and each.training.epochs == 12


def test_every_config_of_an_ablation_has_a_network_that_can_be_built():
    asked = {
        (each.model.arch, each.model.squeeze_excitation, each.model.norm)
        for name in ("best", "speedrun", "laptop")
        for each in ablation_configs(
            config.load(ROOT / f"configs/{name}.yaml"), small=False
        )
    }
    for arch, squeeze_excitation, norm in asked:
        shape = Options(
            num_classes=7,
            width=0.125,
            squeeze_excitation=squeeze_excitation,
            norm=norm,
        )
        _, params, _ = create(arch, jax.random.key(0), shape)
        assert params["stem"]["kernel"].shape[2] == 1


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Three experiments with three seeds each; what "sam" does is worse."""
    folder = tmp_path_factory.mktemp("recipe")
    for name, skill in (("baseline", 0.6), ("sam", 0.3), ("ema", 0.6)):
        for seed in range(3):
            write(folder, make_result(name, seed, skill=skill))
    return folder


def printed(thing):
    console = Console(file=io.StringIO(), width=120)
    console.print(thing)
    return console.file.getvalue()


def test_the_report_has_means_deviations_and_the_ensemble(finished, tmp_path):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    own = compare.load_runs(tmp_path, ["ema"])[0]
    rng = np.random.default_rng(0)
    for run in own:
        for split in ("val", "test"):
            run.scores[split]["accuracy_clean"] = 0.5
            with np.load(run.folder / f"predictions_{split}.npz") as file:
                arrays = dict(file)
            noise = rng.normal(size=arrays["logits"].shape)  # else there are ties
            arrays["logits"] += np.float32(noise)
            runs.write_predictions(run.folder, split, **arrays)
    text = printed(recipe.scores_table(own))
    for split in ("val", "test"):
        scores = [100 * run.scores[split]["accuracy"] for run in own]
        assert f"{np.mean(scores):.1f} ± {np.std(scores, ddof=1):.1f}" in text
        together, labels = [], None
        for run in own:
            with np.load(run.folder / f"predictions_{split}.npz") as file:
                together.append(softmax(np.float64(file["logits"]), axis=1))
                labels = file["labels"]
        expected = (np.mean(together, axis=0).argmax(axis=1) == labels).mean()
        assert recipe.ensemble_accuracy(own, split) == pytest.approx(expected)
        assert f"{100 * expected:.1f}" in text
    assert "val chose the epoch" in text and "n = 3" in text


def test_the_speed_is_the_time_at_which_the_mean_reaches_the_target(tmp_path):
    curves = ([0.5, 0.66, 0.72, 0.71], [0.6, 0.73, 0.70, 0.72])
    for seed, curve in enumerate(curves):
        folder = write(tmp_path, make_result("speedrun", seed))
        rows = [
            {"epoch": n + 1, "val_accuracy": value, "wall_s": 10.0 * (n + 1) + seed}
            for n, value in enumerate(curve)
        ]
        files.write_jsonl(folder / "metrics.jsonl", rows)
    own = compare.load_runs(tmp_path, [])[0]
    text = recipe.time_to_target(own)
    # After two epochs the mean is 69.5 %, after three 71 %.
    assert "71.0 ± 1.4 % after 3 epochs and 30.5 ± 0.7 s" in text
    assert "2 seeds, on cpu" in text
    for run in own:
        files.write_jsonl(run.folder / "metrics.jsonl", rows[:1])
    assert "at most 60.0 %; the target is 70 %" in recipe.time_to_target(own)
    (own[0].folder / "metrics.jsonl").write_text("{")
    with pytest.raises(UserError, match="metrics.jsonl cannot be read"):
        recipe.time_to_target(own)


def test_the_table_of_an_ablation_has_both_splits_and_the_test_on_the_fold(finished):
    rows = result_rows(compare.load_runs(finished, [])[0])
    assert all(len(row) == len(COLUMNS) for row in rows)
    by_name = {row[0]: row for row in rows}
    assert set(by_name) == {"baseline", "sam", "ema"} and rows[-1][0] == "sam"
    assert by_name["baseline"][3] == by_name["baseline"][-1] == ""
    assert by_name["sam"][-1] == "worse" and by_name["ema"][-1] == "n.s."
    assert by_name["sam"][3].startswith("-") and by_name["sam"][5].startswith("-")
    assert by_name["ema"][6] == "1.00" and by_name["ema"][1] == "3"


@pytest.fixture
def done(tmp_path, monkeypatch):
    """Calls bin/recipe over a folder of fake runs; what it has the batch do is kept."""
    seen = []
    monkeypatch.setattr(batch, "main", lambda argv: seen.append(argv) or 0)

    def call(stage, own, *options, runs_of=()):
        for each in runs_of:
            write(tmp_path, make_result(each.name, 42, config=each.model_dump()))
        options = ["--runs_dir", str(tmp_path), *options]
        status = recipe.main(["--stage", stage, "--config", str(own), *options])
        return status, seen[-1]

    return call


def test_the_ablation_ends_with_its_own_table_of_its_own_runs(done, tmp_path, capsys):
    configs = ablation_configs(LAPTOP, small=True)
    stray = with_settings(configs[4], {"training.lr": 0.5})  # of another config
    of_these = [*configs[:3], stray]
    status, command = done("ablation", LAPTOP_FILE, "--small", runs_of=of_these)
    out = capsys.readouterr().out
    assert status == 0 and "One change at a time" in out
    table = (tmp_path / "ablation.md").read_text().splitlines()
    assert table[0].startswith("| change | n | fold |") and len(table) == 2 + 3
    assert all(each.name in out for each in configs[:3]) and stray.name not in out
    folder = tmp_path / recipe.CONFIGS
    assert command[-2:] == ["--configs", str(folder)] and "--data_root" not in command
    options = dict(itertools.pairwise(command))
    assert options["--seeds"] == "3" and options["--budget"] == "240"
    assert len(list(folder.glob("*.yaml"))) == len(configs)


def test_a_dry_run_writes_nothing_and_an_empty_data_root_is_passed_on(done, tmp_path):
    before = sorted(tmp_path.iterdir())
    _, command = done("ablation", LAPTOP_FILE, "--dry-run", "--data_root", "")
    assert sorted(tmp_path.iterdir()) == before
    assert dict(itertools.pairwise(command))["--data_root"] == ""
    assert "--dry-run" in command


@pytest.mark.parametrize(
    ("stage", "planned"), [("best", 5), ("speedrun", 5), ("ablation", 3 * 20)]
)
def test_every_stage_has_a_plan(
    stage, planned, tiny_csv, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(ROOT)
    options = ["--data_root", str(tiny_csv), "--runs_dir", str(tmp_path / "runs")]
    assert recipe.main(["--stage", stage, *options, "--dry-run"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    runs_planned = int(re.search(r"(\d+) of \d+ runs to do", out)[1])
    assert runs_planned == planned or stage == "ablation" and runs_planned > planned
    assert not (tmp_path / "runs").exists()


def test_without_a_finished_run_of_the_config_there_is_one_sentence(done):
    with pytest.raises(UserError, match="holds no run "):
        done("ablation", LAPTOP_FILE, "--small")
    wide = with_settings(LAPTOP, {"name": "laptop_wide", "model.width": 2.0})
    with pytest.raises(UserError, match="holds no finished run of laptop with these"):
        done("best", LAPTOP_FILE, runs_of=[wide])
    with pytest.raises(UserError, match=r"the config nope.yaml cannot be read"):
        done("best", "nope.yaml")


def test_the_best_reports_its_own_runs(done, capsys):
    wide = with_settings(LAPTOP, {"name": "laptop_wide", "model.width": 2.0})
    assert done("best", LAPTOP_FILE, runs_of=[LAPTOP, wide])[0] == 0
    out = capsys.readouterr().out
    assert "laptop: accuracy in %, mean ± sd, n = 1" in out and "(n = 1)" in out


def test_the_small_form_is_of_the_ablation_alone():
    with pytest.raises(UserError, match="--small is only for --stage ablation"):
        recipe.main(["--stage", "best", "--small"])


def test_a_batch_begins_no_run_that_its_budget_has_no_time_for(
    finished_run, tiny_csv, tmp_path, capsys
):
    source, _ = finished_run
    shutil.copytree(source, tmp_path / "runs" / "baseline" / "seed_42")
    configs = tmp_path / "configs"
    configs.mkdir()
    shutil.copy(source / "config.yaml", configs / "baseline.yaml")
    command = ["--configs", str(configs), "--data_root", str(tiny_csv), "--yes"]
    command += ["--runs_dir", str(tmp_path / "runs"), "--seeds", "3"]
    assert batch.main([*command, "--budget", "1e-6"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "2 of 3 runs to do" in out
    assert "the budget of 1e-06 min leaves no time for baseline/seed_43, " in out
    assert not (tmp_path / "runs/baseline/seed_43").exists()
    with pytest.raises(UserError, match="--budget is 0.0; expected minutes"):
        batch.main([*command, "--budget", "0"])
