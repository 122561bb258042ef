"""Reading runs: what is read, and what is refused."""

import json

import pytest
from fake_runs import make_config, make_result, write
from printed import text_of

from fer_jax.compare import load_runs
from fer_jax.errors import UserError

pytestmark = pytest.mark.usefixtures("few_draws")


def test_runs_come_by_name_and_number_of_seed(tmp_path):
    for name, seed in [("b", 10), ("b", 9), ("a", 1)]:
        write(tmp_path, make_result(name, seed))
    (tmp_path / "notes.txt").write_text("not a run")
    (tmp_path / "a" / "plots").mkdir()
    runs, unfinished = load_runs(tmp_path)
    assert [run.label for run in runs] == ["a/seed_1", "b/seed_9", "b/seed_10"]
    assert unfinished == []
    assert runs[0].config["training.lr"] == 3e-4


def test_filters_are_prefixes_and_add_up(tmp_path):
    for name in ["lr_low", "lr_high", "loss_focal", "alr"]:
        write(tmp_path, make_result(name, 1))

    def names(*filters):
        return [run.name for run in load_runs(tmp_path, filters)[0]]

    assert names("lr_") == ["lr_high", "lr_low"]
    assert names("loss", "al") == ["alr", "loss_focal"]


def test_a_filter_also_leaves_out_broken_and_unfinished_runs(tmp_path):
    write(tmp_path, make_result("a", 1))
    (write(tmp_path, make_result("b", 1)) / "result.json").write_text("{")
    (tmp_path / "c" / "seed_1").mkdir(parents=True)
    runs, unfinished = load_runs(tmp_path, ["a"])
    assert [run.name for run in runs] == ["a"]
    assert unfinished == []


def test_unfinished_runs_are_counted_and_named(tmp_path):
    write(tmp_path, make_result("a", 1))
    for n in range(9):
        (tmp_path / "lr_low" / f"seed_{n}").mkdir(parents=True)
    assert len(load_runs(tmp_path)[1]) == 9
    assert (
        "9 runs not finished: lr_low/seed_0, lr_low/seed_1, lr_low/seed_2, "
        "lr_low/seed_3, lr_low/seed_4, lr_low/seed_5 and 3 more" in text_of(tmp_path)
    )


def test_no_runs_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match=r"no folder .*nowhere: train first"):
        load_runs(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no run .*train first"):
        load_runs(tmp_path)
    (tmp_path / "a" / "seed_1").mkdir(parents=True)
    with pytest.raises(UserError, match=r"no finished run \(not finished: a/seed_1\)"):
        load_runs(tmp_path)
    with pytest.raises(UserError, match="begins with zz or yy: there are a"):
        load_runs(tmp_path, ["zz", "yy"])


@pytest.mark.parametrize("content", ['{"format": 1, "na', "", "\xff\xfe", "[1, 2"])
def test_a_cut_off_result_is_named(tmp_path, content):
    path = write(tmp_path, make_result("a", 1)) / "result.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=r"a/seed_1/result.json is cut off"):
        load_runs(tmp_path)


@pytest.mark.parametrize("content", ['{"format": 2}', "{}", "[]", "null", "3"])
def test_another_format_is_named(tmp_path, content):
    path = write(tmp_path, make_result("a", 1)) / "result.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"a/seed_1/result.json has format"):
        load_runs(tmp_path)


@pytest.mark.parametrize(
    "path",
    [
        "name",
        "seed",
        "config",
        "data.fingerprint",
        "selection.epoch",
        "epochs_run",
        "val",
        "val.confusion_matrix",
        "test.loss",
        "model.parameters",
        "environment.device",
        "timing",
        "timing.train_s",
    ],
)
@pytest.mark.parametrize("value", [None, "absent"])
def test_lacking_fields_are_named(tmp_path, path, value):
    result = make_result("a", 1)
    del result["arrays"]
    *parents, leaf = path.split(".")
    inner = result
    for key in parents:
        inner = inner[key]
    inner[leaf] = value
    if value == "absent":
        del inner[leaf]
    folder = tmp_path / "a" / "seed_1"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(result))
    with pytest.raises(UserError) as caught:
        load_runs(tmp_path)
    assert f"a/seed_1/result.json lacks {path}" in str(caught.value)


def test_a_copied_folder_is_not_counted_twice(tmp_path):
    folder = write(tmp_path, make_result("a", 1))
    folder.rename(tmp_path / "a" / "seed_2")
    with pytest.raises(UserError, match="seed_2/result.json is the result of a/seed_1"):
        load_runs(tmp_path)


def test_configs_of_one_experiment_may_differ_in_the_seed_only(tmp_path):
    write(tmp_path, make_result("a", 1))
    write(tmp_path, make_result("a", 2))
    assert len(load_runs(tmp_path)[0]) == 2
    changed = make_config(training__lr=1e-3, loss__focal_gamma=2.0)
    write(tmp_path, make_result("a", 3, config=changed))
    with pytest.raises(UserError) as caught:
        load_runs(tmp_path)
    message = str(caught.value)
    assert "a/seed_1 and a/seed_3" in message
    assert "training.lr is 0.0003 and 0.001" in message
    assert "loss.focal_gamma is None and 2.0" in message


def test_what_a_resumed_run_may_change_is_no_other_experiment(tmp_path):
    change = {"device": 2, "asks": {"metrics": ["accuracy"], "emotions": ["fear"]}}
    config = make_config(data__stream="always") | change
    write(tmp_path, make_result("a", 1, description="old words"))
    new = make_result("a", 2, description="new words", config=config)
    write(tmp_path, new)
    assert len(load_runs(tmp_path)[0]) == 2
