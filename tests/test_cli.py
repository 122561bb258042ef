"""`fer-jax` and its launchers."""

import subprocess
import sys

import pytest
from conftest import ROOT, environment

from fer_jax import cli, list_configs
from fer_jax.errors import UserError


def call(*command, cwd=None):
    return subprocess.run(
        command, env=environment(), capture_output=True, text=True, cwd=cwd
    )


def test_help_lists_every_command(capsys):
    assert cli.main(["--help"]) == cli.main([]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in cli.COMMANDS)
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize(
    ("name", "meant"),
    [("trian", "train"), ("run_batch", "batch"), ("infer", "predict")],
)
def test_an_unknown_command_gets_a_close_match(name, meant):
    with pytest.raises(UserError, match=f"no command {name}; did you mean {meant}"):
        cli.main([name])


def test_all_ways_to_a_command_are_the_same(tmp_path):
    ways = [
        [sys.executable, "-m", "fer_jax", "compare"],
        [sys.executable, "-m", "fer_jax.compare"],
        [sys.executable, "-m", "fer_jax.compare.cli"],
        [sys.executable, str(ROOT / "bin/compare")],
    ]
    for way in ways:
        found = call(*way, "--runs-dir", "nowhere", cwd=tmp_path)
        assert found.returncode == 2
        assert "error: there is no folder nowhere" in found.stderr


@pytest.mark.parametrize("room", ["audit", "batch", "bench", "recipes"])
def test_every_room_of_a_command_can_be_called(room, tmp_path):
    found = call(sys.executable, "-m", f"fer_jax.{room}", "--none", cwd=tmp_path)
    assert found.returncode == 2 and found.stderr.startswith("error: fer-jax ")


def test_configs_are_listed_and_copied(tmp_path, capsys):
    assert list_configs.main([]) == 0
    assert "loss_focal" in capsys.readouterr().out
    target = tmp_path / "configs"
    for _ in range(2):  # the second time they are there
        assert list_configs.main(["--to", str(target)]) == 0
    ours = {path.name: path.read_text() for path in (ROOT / "configs").glob("*.yaml")}
    assert {path.name: path.read_text() for path in target.iterdir()} == ours
    (target / "baseline.yaml").write_text("name: mine\n")
    with pytest.raises(UserError, match="baseline.yaml exists with other content"):
        list_configs.main(["--to", str(target)])
    assert (target / "baseline.yaml").read_text() == "name: mine\n"
