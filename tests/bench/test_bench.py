import io
import json
import subprocess
import sys
import types

import pytest
from conftest import ROOT, environment
from rich.console import Console

from fer_jax.bench import cli, parts, slopes
from fer_jax.bench.contest import Contender, Outcome, Score, contest
from fer_jax.bench.report import Options
from fer_jax.errors import UserError

SIDE = 16
SMALL = {"arch": "fernet", "batch": 16, "image_size": SIDE, "steps": 2}
ORDER = Contender("ours", "indices", {"batch": 8, "images": 64, "batches": 50})
STEP = Contender("ours", "step", SMALL)


def options(**changes):
    common = dict(rounds=1, batch=16, image_size=16, images=64, runs=2, limit_s=9.0)
    return Options(Console(quiet=True), **(common | changes), on_cpu=True)


def score(per_s, figures=(), items=100, **told):
    rounds = [{"begun": 0.0, "items": items, "seconds": items / per_s}]
    told = {"setup_s": 1.0, "import_memory_mb": 1.0} | told
    return Score(per_s, 0.0, told, 200.0, dict(figures), rounds)


def test_contenders_take_turns_and_tell_what_they_reached():
    scores, failed = contest({"step": STEP, "order": ORDER}, rounds=2)
    assert (list(scores), failed) == (["step", "order"], {})
    turns = sorted(
        (each["begun"], name) for name in scores for each in scores[name].rounds
    )
    assert [name for _, name in turns] == ["step", "order"] * 2
    # Indices take microseconds, and a step of a network milliseconds.
    assert scores["order"].per_s > scores["step"].per_s > 0
    assert scores["step"].told["temporary_mb"] > 0
    told = scores["step"].told
    assert scores["step"].memory_mb > told["import_memory_mb"] > 50
    assert told["setup_s"] > told["compile_s"] > 0


def test_a_contender_that_fails_is_told_with_its_reason():
    unknown = Contender("ours", "step", SMALL | {"arch": "vit"})
    with pytest.raises(UserError, match="the contender ours failed: .*vit"):
        contest({"ours": unknown}, rounds=1)
    both = {"order": ORDER, "other": unknown._replace(optional=True)}
    scores, failed = contest(both, rounds=1)
    assert list(scores) == ["order"]
    assert "the contender other failed" in failed["other"]


def stand_in(monkeypatch, outcome):
    """Has the parts compare what they are given instead of measuring."""
    asked = []

    def contest(contenders, **_):
        asked.append(contenders)
        return outcome

    monkeypatch.setattr(parts, "contest", contest)
    monkeypatch.setattr(slopes, "nominal_flops", lambda _: {"fernet": 2.0})
    return asked


def test_a_ratio_compares_ours_with_the_best_of_the_others(monkeypatch):
    scores = {"fer_jax": score(30.0), "PyTorch": score(10.0), "fast": score(20.0)}
    failed = {"PyTorch, compiled": "no compiler"}
    stand_in(monkeypatch, Outcome(scores, failed))
    console = Console(width=100, record=True, file=io.StringIO())
    report = parts.step(options()._replace(console=console))
    assert report["ratio_step"] == 1.5
    assert report["step"]["fer_jax"]["per_s"] == 30.0
    assert report["step"]["PyTorch, compiled"] == {"failed": "no compiler"}
    text = console.export_text()
    assert "note: no compiler" in text and "1.50" in text


def test_less_memory_is_a_ratio_above_1(monkeypatch):
    ours = score(1.0, {"device_mb": 100.0}, temporary_mb=3.0, arguments_mb=4.0)
    theirs = score(1.0, {"device_mb": 150.0})
    stand_in(monkeypatch, Outcome({"fer_jax": ours, "PyTorch": theirs}, {}))
    assert parts.memory(options())["ratio_memory"] == 1.5
    on_host = {"fer_jax": score(1.0), "PyTorch": score(1.0)._replace(memory_mb=50.0)}
    stand_in(monkeypatch, Outcome(on_host, {}))
    assert parts.memory(options())["ratio_memory"] == 0.25


def test_the_shares_of_an_epoch_sum_to_1(monkeypatch):
    spent = {"training_s": 7.0, "evaluation_s": 1.5, "checkpoint_s": 1.0}
    scores = {
        "fer_jax": score(10.0, spent),
        "0": score(1.0),
        "2": score(3.0),
        "PyTorch": score(5.0, spent),
        "fer_jax, steps alone": score(20.0),
        "PyTorch, steps alone": score(20.0),
    }
    asked = stand_in(monkeypatch, Outcome({k: scores[k] for k in ("0", "2")}, {}))
    assert parts._best_workers(options(), {"images": 64, "batch": 16}) == 2
    assert all(each.task == "epoch" for each in asked[0].values())
    monkeypatch.setattr(parts, "_best_workers", lambda *_: 2)
    whole = {k: v for k, v in scores.items() if not k.isdecimal()}
    stand_in(monkeypatch, Outcome(whole, {}))
    report = parts.epoch(options())
    assert report["ratio_epoch"] == 2.0
    shares = report["epoch"]["shares"]["fer_jax"]
    assert shares["not steps"] == 0.5
    # 100 images at 10 a second are 10 s, of which steps alone would take 5.
    expected = {"steps": 0.5, "input": 0.2, "evaluation": 0.15, "checkpoint": 0.1}
    assert {k: shares[k] for k in expected} == pytest.approx(expected)
    assert sum(shares.values()) - shares["not steps"] == pytest.approx(1.0)


def test_the_floor_is_the_faster_of_the_products(monkeypatch):
    scores = {"fer_jax": score(10.0), "PyTorch": score(5.0)}
    scores |= {"XLA's products": score(40.0), "PyTorch's products": score(50.0)}
    stand_in(monkeypatch, Outcome(scores, {}))
    floor = parts.floor(options())["floor"]
    assert floor["reached"] == {"fer_jax": 0.4, "PyTorch": 0.2}


def test_runs_together_are_compared_with_one_by_one(monkeypatch):
    scores = {"one by one": score(10.0), "vmap": score(5.0), "processes": score(12.0)}
    stand_in(monkeypatch, Outcome(scores, {"map": "no memory"}))
    report = parts.together(options())
    speedups = {k: v for k, v in report.items() if k.startswith("speedup")}
    assert speedups == {"speedup_vmap": 0.5, "speedup_processes": 1.2}
    assert report["together"]["map"] == {"failed": "no memory"}


def test_a_slope_is_the_power_and_a_point_beyond_the_limit_is_skipped(monkeypatch):
    assert slopes.slope([1, 2, 4], [3, 12, 48]) == pytest.approx(2.0)
    scores = {"fer_jax": score(10.0, items=100)}  # 10 s a round
    monkeypatch.setattr(slopes, "contest", lambda *_, **__: Outcome(scores, {}))
    told = []
    points = [
        slopes.Point(name, quantity, 16, {}, needs_mb=needs)
        for name, quantity, needs in (("a", 1, 0), ("b", 9, 0), ("c", 2, 1e12))
    ]
    line = slopes._measure(points, rounds=1, limit_s=100.0, tell=told.append)
    assert [point["label"] for point in line.points] == ["a"]
    assert "would take some 270 s" in line.skipped["b"]  # 3 rounds of 9 * 10 s
    assert "memory" in line.skipped["c"]
    assert len(told) == 3 and "skipped" in told[1]


def test_bad_numbers_are_refused(monkeypatch):
    with pytest.raises(UserError, match="--rounds is 0"):
        cli.main(["--rounds", "0"])
    with pytest.raises(UserError, match="less than one batch"):
        cli.main(["--images", "64"])
    missing = types.SimpleNamespace(find_spec=lambda _: None)
    monkeypatch.setattr(cli.importlib, "util", missing)
    with pytest.raises(UserError, match="PyTorch is not installed"):
        cli.main([])


def test_the_default_step_comes_first():
    assert next(iter(parts.PARTS)) == "step"


def test_an_epoch_goes_through_fit():
    settings = {"arch": "fernet", "batch": 16, "image_size": SIDE}
    settings |= {"images": 100, "val": 9}
    epoch = Contender("ours", "epoch", settings)
    scores = contest({"epoch": epoch}, rounds=2, warm_up=0).scores
    assert [each["items"] for each in scores["epoch"].rounds] == [96, 96]
    spent = scores["epoch"].figures
    assert spent.keys() >= {"training_s", "evaluation_s", "checkpoint_s"}
    assert min(spent.values()) > 0


def test_one_program_trains_several_runs():
    settings = SMALL | {"how": "vmap", "runs": 2, "steps": 1}
    both = Contender("together", "one_program", settings)
    scores = contest({"both": both}, rounds=1, warm_up=0).scores
    assert scores["both"].rounds[0]["items"] == 2 * 16


def test_pytorch_takes_the_same_epoch_and_counts_the_products():
    pytest.importorskip("torch", reason="PyTorch is the other side of the benchmark")
    settings = {"arch": "fernet", "batch": 16, "image_size": 16}
    archs = ["fernet", "resnet18"]
    epoch = settings | {"images": 100, "val": 9, "workers": 2}
    contenders = {
        "epoch": Contender("twin_epoch", "epoch", epoch),
        "flops": Contender("twin", "flops", {"archs": archs, "image_size": 32}),
    }
    scores = contest(contenders, rounds=2, warm_up=0).scores
    assert [each["items"] for each in scores["epoch"].rounds] == [96, 96]
    # He et al.'s network for CIFAR, as it is known: 0.56 G multiply-adds forwards,
    # and backwards twice that but for the images' gradient.
    expected = 2 * 3 * 0.556e9
    assert scores["flops"].told["resnet18"] == pytest.approx(expected, rel=0.02)


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
