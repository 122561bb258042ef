import argparse
from pathlib import Path

import pytest
from conftest import HARD, ROOT, tiny_config, write_tiny_configs, write_tiny_csv

from fer_jax import data
from fer_jax import train as train_lib
from fer_jax.batch import plan
from fer_jax.errors import UserError
from fer_jax.system import compilation_cache, memory
from fer_jax.training import run as run_lib


def test_order_follows_the_phases():
    names = [config.name for _, config in plan.find_configs(ROOT / "configs", [])]
    assert names == list(plan.PHASES)
    by_name = plan.find_configs(ROOT / "configs", ["lr_"], "name")
    assert [config.name for _, config in by_name] == ["lr_high", "lr_low"]


def test_filters_that_match_nothing_name_what_there_is():
    with pytest.raises(
        UserError, match=r"no experiment name starts with los-; .*loss_focal"
    ):
        plan.find_configs(ROOT / "configs", ["los-"])


def test_tells_states_apart(finished_run, tiny_csv, tmp_path):
    folder, result = finished_run
    path = ROOT / "configs/baseline.yaml"

    def state(config, csv=tiny_csv, runs_dir=folder.parents[1]):
        dataset = data.load(str(csv), image_size=config.data.image_size)
        return plan.plan_run(path, config, 0, runs_dir, dataset)

    assert state(tiny_config(*HARD)).state == "finished"
    assert state(tiny_config(*HARD), runs_dir=tmp_path).state == "new"
    blocked = state(tiny_config(*HARD, "training.lr=1e-3"))
    assert blocked.state == "blocked"
    assert "training.lr is 0.003 there and 0.001 here" in blocked.reason
    other = write_tiny_csv(tmp_path / "other.csv", ("Training", "PublicTest"))
    assert "data set is" in state(tiny_config(*HARD), csv=other).reason


def test_a_run_trains_what_was_planned(tmp_path, monkeypatch):
    """The YAML file is edited after the plan was made, and before the run starts."""
    (path, config), *_ = plan.find_configs(write_tiny_configs(tmp_path, {}), [])
    config = plan.with_seed(config, 1)
    run = plan.PlannedRun(path, config, tmp_path / "run")
    args = argparse.Namespace(
        runs_dir=tmp_path, data_root=None, force=0, skip_bad=0, tensorboard=0
    )
    args.overrides = ["loss.focal_gamma=2"]  # as configured: it is recorded only
    (tmp_path / "settings").mkdir()
    command = plan.train_command(run, args, tmp_path / "settings")
    path.write_text(path.read_text().replace("lr: 0.003", "lr: 0.1"))
    seen = {}
    monkeypatch.setattr(
        run_lib, "train", lambda config, **more: seen.update(more, config=config)
    )
    monkeypatch.setattr(memory, "keep_memory", lambda: None)
    monkeypatch.setattr(compilation_cache, "keep_compiled", lambda: None)
    assert train_lib.main(command[3:]) == 0
    assert seen["config"] == config
    assert seen["options"].config_path == str(path)
    assert seen["options"].overrides == ("loss.focal_gamma=2", "training.seed=43")


def test_set_changes_every_experiment_but_not_its_name_or_seed(tmp_path):
    folder = write_tiny_configs(tmp_path, {"b": {}})
    found = plan.find_configs(folder, [], overrides=["training.lr=0.5"])
    assert [config.training.lr for _, config in found] == [0.5] * len(found)
    for item in ("name=x", "training.seed=3"):
        with pytest.raises(UserError, match=f"--set {item} would give all runs"):
            plan.find_configs(folder, [], overrides=[item])


def test_without_a_folder_of_configs_the_shipped_ones_are_planned(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    shipped = plan.find_configs(plan.default_folder(), [])
    assert [config.name for _, config in shipped] == list(plan.PHASES)
    (tmp_path / "configs").mkdir()
    assert plan.default_folder() == Path("configs")
