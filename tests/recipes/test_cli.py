import itertools
import re
import shutil
from pathlib import Path

import pytest
from conftest import ROOT, write_tiny_configs
from fake_runs import make_result, write

from fer_jax import config, runs
from fer_jax.batch import cli as batch
from fer_jax.batch.plan import with_seed
from fer_jax.errors import UserError
from fer_jax.recipes import cli as recipe
from fer_jax.recipes.ablation import ablation_configs, with_settings
from fer_jax.recipes.distill import TARGETS
from fer_jax.training.run import train

LAPTOP_FILE = ROOT / "configs/laptop.yaml"
LAPTOP = config.load(LAPTOP_FILE)
TEACHER_FILE = ROOT / "configs/teacher.yaml"
TEACHER = config.load(TEACHER_FILE)


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
    text = (tmp_path / "ablation.md").read_text()
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert table[0].startswith("| change | n | fold |") and len(table) == 2 + 3
    assert all(each.name in out for each in configs[:3]) and stray.name not in out
    folder = tmp_path / recipe.CONFIGS
    assert command[-2:] == ["--configs", str(folder)] and "--data_root" not in command
    options = dict(itertools.pairwise(command))
    assert options["--seeds"] == "3" and options["--budget"] == "240"
    assert len(list(folder.glob("*.yaml"))) == len(configs)


def test_a_dry_run_writes_nothing_and_an_empty_data_root_is_passed_on(done, tmp_path):
    before = sorted(tmp_path.iterdir())
    _, command = done("ablation", LAPTOP_FILE, "--dry_run", "--data_root", "")
    assert sorted(tmp_path.iterdir()) == before
    assert dict(itertools.pairwise(command))["--data_root"] == ""
    assert "--dry_run" in command


def test_a_student_learns_from_all_its_teachers(
    tiny_csv, tmp_path, monkeypatch, capsys
):
    def train_here(argv):
        options = dict(itertools.pairwise(argv))
        for path in sorted(Path(options["--configs"]).glob("*.yaml")):
            for offset in range(int(options["--seeds"])):
                own = with_seed(config.load(path), offset)
                train(own, data_root=str(tiny_csv), runs_dir=options["--runs_dir"])
        return 0

    monkeypatch.setattr(batch, "main", train_here)
    monkeypatch.chdir(write_tiny_configs(tmp_path, {"teacher": {}}, epochs=1))
    command = ["--stage", "distill", "--config", "baseline.yaml", "--seeds", "1"]
    command += ["--teacher", "teacher.yaml", "--data_root", str(tiny_csv)]
    assert recipe.main([*command, "--teachers", "2"]) == 0
    out = capsys.readouterr().out
    assert "teacher: accuracy in %, mean ± sd, n = 2" in out
    assert "baseline_distilled: accuracy in %, mean ± sd, n = 1" in out
    folder = tmp_path / "runs/distill"
    result = runs.read_result(folder / "baseline_distilled/seed_42")
    assert "probabilities of teacher/seed_42, teacher/seed_43" in str(result["data"])
    before = (folder / TARGETS).stat().st_mtime_ns
    assert recipe.main([*command, "--teachers", "2"]) == 0
    assert (folder / TARGETS).stat().st_mtime_ns == before
    with pytest.raises(UserError, match="and the teachers are .*seed_44; name ano"):
        recipe.main([*command, "--teachers", "3"])


def test_without_all_teachers_there_is_no_student(done):
    with pytest.raises(UserError, match="1 of 8 teachers are finished within the budg"):
        done("distill", LAPTOP_FILE, "--teacher", str(TEACHER_FILE), runs_of=[TEACHER])
    for options in (["best", "--teachers", "2"], ["distill", "--teachers", "0"]):
        with pytest.raises(UserError, match="^--teacher"):
            recipe.main(["--stage", *options])


@pytest.mark.parametrize(
    ("stage", "planned"),
    [("best", 5), ("speedrun", 5), ("distill", 8), ("ablation", 60)],
)
def test_every_stage_has_a_plan(
    stage, planned, tiny_csv, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(ROOT)
    options = ["--data_root", str(tiny_csv), "--runs_dir", str(tmp_path / "runs")]
    assert recipe.main(["--stage", stage, *options, "--dry_run"]) == 0
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
