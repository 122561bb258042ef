import io
import json
import subprocess
import sys
import types

import numpy as np
import pytest
from bench.bench_tasks import BATCH, IMAGES, SIDE, SMALL
from conftest import CHILD, ROOT, environment
from rich.console import Console

from fer_jax.bench import cli, parts
from fer_jax.bench.contest import Contender, Outcome, Score, contest
from fer_jax.bench.parts import Options
from fer_jax.errors import UserError

TASKS = {
    "step": SMALL | {"steps": 2},
    "evaluation": SMALL | {"images": 20},
    "prediction": {"image_size": SIDE, "repeats": 3},
    "products": {"size": 8, "repeats": 2},
}
ITEMS = {"step": 2 * BATCH, "evaluation": 20, "prediction": 3, "products": 2048}


def options(console=None):
    console = console or Console(quiet=True)
    return Options(console, rounds=1, batch=16, image_size=16, images=64, on_cpu=True)


def score(per_s, items=100, info=(), **figures):
    rounds = [{"begun": 0.0, "items": items, "seconds": items / per_s}]
    figures = {"memory_mb": 200.0} | figures
    return Score(per_s, 0.0, {"setup_s": 1.0} | dict(info), figures, rounds)


def stand_in(monkeypatch, scores, failed=()):
    """Makes the parts compare given scores; returns the contenders they ask for."""
    asked = {}

    def contest(contenders, **_):
        asked.update(contenders)
        kept = {name: scores[name] for name in contenders if name in scores}
        return Outcome(kept, dict(failed))

    monkeypatch.setattr(parts, "contest", contest)
    return asked


def test_a_ratio_compares_ours_with_the_best_of_the_others(monkeypatch):
    compiled = score(20.0)
    scores = {"fer_jax": score(30.0), "PyTorch": score(10.0)}
    asked = stand_in(monkeypatch, scores | {"PyTorch, compiled": compiled})
    assert parts.step(options())["ratio_step"] == 1.5
    assert all(each.settings["batch"] == 16 for each in asked.values())
    stand_in(monkeypatch, scores, {"PyTorch, compiled": "no compiler"})
    console = Console(width=100, record=True, file=io.StringIO())
    report = parts.step(options(console))
    assert report["ratio_step"] == 3.0
    assert report["step"]["fer_jax"]["per_s"] == 30.0
    assert report["step"]["PyTorch, compiled"] == {"failed": "no compiler"}
    text = console.export_text()
    assert "note: no compiler" in text and "3.00" in text


def test_the_interval_of_a_ratio_is_over_the_rounds(monkeypatch):
    def rounds(*rates):
        each = [{"begun": 0.0, "items": rate, "seconds": 1.0} for rate in rates]
        return score(float(np.median(rates)))._replace(rounds=each)

    # Every round doubles, so that no draw of rounds can give another ratio.
    scores = {"fer_jax": rounds(20, 60, 40), "PyTorch": rounds(10, 30, 20)}
    stand_in(monkeypatch, scores)
    report = parts.evaluation(options())
    assert report["ratio_evaluation"] == 2.0
    assert report["interval_evaluation"] == [2.0, 2.0]
    # Where rounds disagree, so do the draws.
    scores["fer_jax"] = rounds(20, 60, 20)
    stand_in(monkeypatch, scores)
    low, high = parts.evaluation(options())["interval_evaluation"]
    assert low <= 1.0 < 2.0 <= high
    stand_in(monkeypatch, {"fer_jax": score(30.0), "PyTorch": score(10.0)})
    assert parts.evaluation(options())["interval_evaluation"] is None


def test_less_memory_is_a_ratio_above_1(monkeypatch):
    ours, theirs = score(1.0, device_mb=100.0), score(1.0, device_mb=150.0)
    stand_in(monkeypatch, {"fer_jax": ours, "PyTorch": theirs})
    assert parts.memory(options())["ratio_memory"] == 1.5
    on_host = {"fer_jax": score(1.0), "PyTorch": score(1.0, memory_mb=50.0)}
    stand_in(monkeypatch, on_host)
    assert parts.memory(options())["ratio_memory"] == 0.25


def test_the_shares_of_an_epoch_sum_to_1(monkeypatch):
    scores = {
        "fer_jax": score(10.0, training_s=7.0),
        **{"0": score(1.0), "2": score(3.0)},
        "PyTorch": score(5.0, training_s=15.0),
        "fer_jax, steps alone": score(20.0),
        "PyTorch, steps alone": score(10.0),
    }
    monkeypatch.setattr(parts, "_worker_counts", lambda: [0, 2])
    asked = stand_in(monkeypatch, scores)
    report = parts.epoch(options())
    assert report["ratio_epoch"] == 2.0
    # 100 images at 10 a second are 10 s. The steps alone take 5 of them, training 7.
    expected = {"steps": 0.5, "input": 0.2, "evaluation, checkpoint": 0.3}
    assert report["epoch"]["shares"]["fer_jax"] == pytest.approx(expected)
    assert report["epoch"]["workers"] == asked["PyTorch"].settings["workers"] == 2


def test_steps_are_compared_with_the_faster_products(monkeypatch):
    scores = {"fer_jax": score(10.0, info={"flops_per_image": 2.0})}
    scores |= {"PyTorch": score(5.0), "fer_jax, products": score(40.0)}
    stand_in(monkeypatch, scores | {"PyTorch, products": score(50.0)})
    floor = parts.floor(options())["floor"]
    assert floor["reached"] == {"fer_jax": 0.4, "PyTorch": 0.2}


def test_bad_numbers_are_refused(monkeypatch):
    with pytest.raises(UserError, match="--rounds is 0"):
        cli.main(["--rounds", "0"])
    with pytest.raises(UserError, match="less than one batch"):
        cli.main(["--images", "64"])
    missing = types.SimpleNamespace(find_spec=lambda _: None)
    monkeypatch.setattr(cli.importlib, "util", missing)
    with pytest.raises(UserError, match="PyTorch is not installed"):
        cli.main([])


def results(module, tasks):
    """What each task of a module reports after one round, all in one process."""
    settings = {"module": module, "tasks": tasks}
    contenders = {"all": Contender("bench.bench_tasks", "every", settings)}
    return contest(contenders, rounds=1, warm_up=0).scores["all"].info["found"]


@pytest.mark.slow
def test_the_tasks_of_fer_jax_run(monkeypatch):
    monkeypatch.syspath_prepend(CHILD)  # a spawned process inherits the path
    tasks = {"augmentation": SMALL | {"images": 64, "batches": 3}, "device": {}}
    tasks |= TASKS | {"epoch": SMALL | {"images": IMAGES}}
    found = results(parts.OURS, tasks)
    expected = ITEMS | {"augmentation": 3 * BATCH, "epoch": 96, "device": 1}
    assert {name: each["items"] for name, each in found.items()} == expected
    assert found["epoch"]["training_s"] > 0 and found["device"]["platform"]
    assert found["step"]["compile_s"] > 0 and found["step"]["flops_per_image"] > 0


def test_the_tasks_of_pytorch_run():
    pytest.importorskip("torch", reason="PyTorch is the other side of the benchmark")
    found = results(parts.TORCH_TASKS, TASKS)
    assert {name: each["items"] for name, each in found.items()} == ITEMS
    tasks = {
        "loader": SMALL | {"batches": 3, "workers": 0},
        "epoch": SMALL | {"images": IMAGES, "workers": 2},
    }
    found = results(parts.TORCH_EPOCH, tasks)
    assert [each["items"] for each in found.values()] == [3 * BATCH, 96]
    assert found["epoch"]["training_s"] > 0


def test_the_command_writes_ratios(tmp_path):
    pytest.importorskip("torch", reason="PyTorch is the other side of the benchmark")
    path = tmp_path / "bench.json"
    command = [sys.executable, ROOT / "bin/bench", "--only", "prediction"]
    done = subprocess.run(
        [*command, "--rounds", "2", "--image_size", "16", "--json", path],
        env=environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(path.read_text())
    ours, theirs = (report["prediction"][k] for k in ("fer_jax", "PyTorch"))
    assert report["ratio_prediction"] == ours["per_s"] / theirs["per_s"]
    assert f"{report['ratio_prediction']:.2f}" in done.stdout
    assert report["command"].startswith("bench --only prediction")
    machine = report["machine"]
    assert machine["cores"] >= 1 and {"jax", "torch"} <= machine["packages"].keys()
