import io
import json
import re
import stat
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_runs import OTHER, make_config, make_result, write

from fer_jax.compare import main
from fer_jax.compare.export import to_html, to_latex, to_markdown, to_parquet
from fer_jax.compare.layout import Sheet
from fer_jax.emotions import EMOTIONS
from fer_jax.errors import UserError

HOSTILE = Sheet("50 % of <b> & _x_", ["a|b", "c"], "lr", [["x_1 & {y}", "<script>"]])


pytestmark = pytest.mark.usefixtures("few_draws")


def save(folder, path, *options):
    assert main(["--runs_dir", str(folder), "--export", str(path), *options]) == 0
    return path.read_text("utf-8")


def test_json_holds_everything(many, tmp_path):
    (many / "dropout_05" / "seed_3").mkdir(exist_ok=True)
    content = json.loads(save(many, tmp_path / "x.json", "--split", "test"))
    assert content["split"] == "test" and set(content["splits"]) == {"val", "test"}
    assert content["baseline"] == "baseline"
    assert content["unfinished"] == ["dropout_05/seed_3"]
    experiments = {each["id"]: each for each in content["experiments"]}
    assert len(experiments) == 12
    assert experiments["lr_low"]["changes"] == [
        {"key": "training.lr", "baseline": "0.0003", "value": "0.0001"}
    ]
    assert experiments["lr_low"]["seeds"] == [1, 2]
    curve = experiments["lr_low"]["curves"][0]
    assert curve["epoch"][:2] == [1, 2] and len(curve["val_macro_f1"]) == 21
    test = content["splits"]["test"]
    assert test["n"] == sum(test["support"].values()) == 300
    assert not test["selected_here"] and content["splits"]["val"]["selected_here"]
    assert "baseline" not in test["differences"]
    result = json.loads((many / "lr_low" / "seed_1" / "result.json").read_text())
    other = json.loads((many / "lr_low" / "seed_2" / "result.json").read_text())
    mean = (result["test"]["macro_f1"] + other["test"]["macro_f1"]) / 2
    score = test["scores"]["lr_low"]["macro_f1"]
    assert score["value"] == pytest.approx(mean, abs=1e-6)
    assert score["low"] < score["value"] < score["high"]
    row = test["differences"]["lr_low"]["f1_fear"]
    assert row["p"] <= row["p_holm"] <= 1 and row["test"] == "permutation"
    matrix = np.array(test["confusion"]["lr_low"])
    assert matrix.sum() == 600  # of two seeds
    assert len(test["best"]) == 7 and len(test["findings"]) == 12
    bins = test["calibration"]["lr_low"]["bins"]
    assert sum(each["count"] for each in bins) == 600


def test_json_of_several_data_sets_tells_them_apart(tmp_path):
    for name in ("baseline", "b"):
        write(tmp_path / "runs", make_result(name, 1))
        write(tmp_path / "runs", make_result(name, 2, data=OTHER))
    content = json.loads(save(tmp_path / "runs", tmp_path / "x.json", "--mixed"))
    assert {each["id"] for each in content["experiments"]} == {
        f"{name} [{mark}]" for name in ("baseline", "b") for mark in "AB"
    }
    differences = content["splits"]["val"]["differences"]
    assert set(differences) == {"b [A]", "b [B]"}  # each against its own baseline


def test_without_a_baseline_settings_that_differ_are_told(tmp_path):
    for name, lr in {"a": 0.1, "b": 0.2}.items():
        config = make_config(training__lr=lr)
        write(tmp_path / "runs", make_result(name, 1, config=config))
    content = json.loads(save(tmp_path / "runs", tmp_path / "x.json"))
    assert content["baseline"] is None
    told = {each["id"]: each["changes"] for each in content["experiments"]}
    change = {"key": "training.lr", "baseline": "-"}
    assert told == {"a": [change | {"value": "0.1"}], "b": [change | {"value": "0.2"}]}


def test_experiments_that_only_val_has_are_listed(tmp_path):
    write(tmp_path / "runs", make_result("baseline", 1))
    write(tmp_path / "runs", make_result("a", 1, test=False))
    text = save(tmp_path / "runs", tmp_path / "x.json", "--split", "test")
    content = json.loads(text)
    assert {each["id"] for each in content["experiments"]} == {"baseline", "a"}
    assert set(content["splits"]["test"]["scores"]) == {"baseline"}
    assert set(content["splits"]["val"]["differences"]) == {"a"}


def test_several_files_at_once_but_none_twice(many, tmp_path):
    paths = [tmp_path / name for name in ("a.csv", "b.md")]
    save(many, paths[0], "--export", str(paths[1]))
    assert all(path.stat().st_size for path in paths)
    again = ["--report", str(tmp_path / "x.html"), "--export", str(tmp_path / "x.html")]
    with pytest.raises(UserError, match="is named twice"):
        main(["--runs_dir", str(many), *again])
    assert not (tmp_path / "x.html").exists()


def test_a_link_stays_a_link(many, tmp_path):
    (tmp_path / "real.md").write_text("old")
    (tmp_path / "link.md").symlink_to(tmp_path / "real.md")
    save(many, tmp_path / "link.md")
    assert (tmp_path / "link.md").is_symlink()
    assert (tmp_path / "real.md").read_text().startswith("**val: ")


def test_markdown_is_a_table_of_equal_rows(many, tmp_path):
    text = save(many, tmp_path / "x.md", "--split", "test")
    blocks = re.split(r"\n\n(?=\*\*)", text.strip())
    assert len(blocks) == 6  # overall, differences, costs, F1, precision, recall
    *_, notes = blocks[-1].split("\n\n")
    assert notes.startswith("- Intervals are 95 %")
    blocks[-1] = blocks[-1].removesuffix(f"\n\n{notes}")
    for block in blocks:
        caption, _, *lines = block.split("\n")
        assert caption.startswith("**test: ")
        assert len({line.count("|") for line in lines}) == 1
        assert len(lines) in (2 + 12, 2 + 11)


def test_latex_is_booktabs(many, tmp_path):
    text = save(many, tmp_path / "x.tex")
    for command in ("toprule", "midrule", "bottomrule"):
        assert text.count(rf"\{command}") == 6
    assert r"loss\_focal\_weighted\_sampler & 2 & " in text
    for table in re.findall(r"\\begin\{tabular\}.*?\\end\{tabular\}", text, re.S):
        columns = len(re.search(r"\{tabular\}\{([lr]+)\}", table)[1])
        rows = [line for line in table.split("\n") if line.endswith(r"\\")]
        assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {columns - 1}


def test_html_is_well_formed(many, tmp_path):
    class Counter(HTMLParser):
        open, tables = [], 0

        def handle_starttag(self, tag, attrs):
            self.tables += tag == "table"
            self.open += [tag] if tag != "meta" else []

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

    parser = Counter()
    parser.feed(save(many, tmp_path / "x.html"))
    assert parser.open == [] and parser.tables == 6


def test_what_would_break_out_is_escaped():
    assert r"| a\|b | c |" in to_markdown([HOSTILE], [])
    assert r"x\_1 \& \{y\} & \textless{}script\textgreater{} \\" in to_latex(
        [HOSTILE], []
    )
    assert "$-$1.2 [$-$3.4, +5.6] a-1" in to_latex([], ["-1.2 [-3.4, +5.6] a-1"])
    page = to_html([HOSTILE], [])
    assert "&lt;script&gt;" in page and "<script>" not in page


@pytest.mark.parametrize("name", ["x", "x.pdf", "x.CSV"])
def test_other_suffixes_are_refused_before_reading(tmp_path, name):
    with pytest.raises(UserError, match=r"--export writes \.csv, \.parquet, \.json"):
        main(["--runs_dir", "nowhere", "--export", str(tmp_path / name)])
    with pytest.raises(UserError, match=r"--report writes \.html"):
        main(["--runs_dir", "nowhere", "--report", str(tmp_path / "x.csv")])


def test_a_folder_is_no_file(tmp_path):
    (tmp_path / "x.csv").mkdir()
    with pytest.raises(UserError, match="is a folder; name a file in it"):
        main(["--export", str(tmp_path / "x.csv")])


def test_the_report_is_written_from_the_same_content(many, tmp_path):
    path = tmp_path / "report.html"
    assert main(["--runs_dir", str(many), "--report", str(path)]) == 0
    text = path.read_text("utf-8")
    assert text.lower().startswith("<!doctype html>") and "loss_focal" in text
    assert len(text) < 5_000_000


# --- one row per run


def test_csv_round_trip(tmp_path):
    results = [make_result(name, seed) for name in ("a", "b") for seed in (1, 2)]
    for result in results:
        write(tmp_path / "runs", result)
    path = tmp_path / "results.csv"
    path.write_text("old")
    save(tmp_path / "runs", path, "--split", "test")
    frame = pd.read_csv(path)
    assert list(frame["name"]) == ["a", "a", "b", "b"]
    for (_, cells), result in zip(frame.iterrows(), results, strict=True):
        test = result["test"]
        assert cells["split"] == "test"
        assert cells["seed"] == cells["training.seed"] == result["seed"]
        assert cells["training.lr"] == 3e-4
        assert cells["augmentation.horizontal_flip"]
        assert cells["loss"] == test["loss"]  # the metric; the config's are loss.*
        assert cells["loss.type"] == "ce"
        assert cells["macro_f1"] == test["macro_f1"]
        for emotion in EMOTIONS:
            for metric, value in test["per_class"][emotion].items():
                assert cells[f"{metric}_{emotion}"] == value
        assert cells["selection_split"] == "val"
        assert cells["selection_epoch"] == result["selection"]["epoch"]
        assert cells["data_fingerprint"] == "0123456789abcdef"
        assert cells["parameters"] == 700_000
        assert cells["device"] == "cpu"
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["results.csv"]
    assert stat.S_IMODE(path.stat().st_mode) & 0o044  # others may read it as usual


def test_csv_keeps_config_keys_that_are_named_like_a_metric(tmp_path):
    config = make_config() | {"accuracy": "high"}
    write(tmp_path, make_result("a", 1, config=config))
    save(tmp_path, tmp_path / "x.csv")
    frame = pd.read_csv(tmp_path / "x.csv")
    assert frame.at[0, "config.accuracy"] == "high"
    assert frame.at[0, "accuracy"] < 1


def test_csv_leaves_out_runs_without_the_split(tmp_path):
    write(tmp_path, make_result("a", 1))
    write(tmp_path, make_result("a", 2, test=False))
    save(tmp_path, tmp_path / "x.csv", "--split", "test")
    assert list(pd.read_csv(tmp_path / "x.csv")["seed"]) == [1]


def test_export_refuses_other_suffixes_and_missing_folders(tmp_path):
    write(tmp_path, make_result("a", 1))
    args = ["--runs_dir", str(tmp_path), "--export"]
    with pytest.raises(UserError, match=r"writes \.csv, .*x\.xlsx has another suffix"):
        main([*args, str(tmp_path / "x.xlsx")])
    with pytest.raises(UserError, match="the folder .*nowhere does not exist"):
        main([*args, str(tmp_path / "nowhere" / "x.csv")])


def test_a_failed_export_keeps_the_old_file(tmp_path, monkeypatch):
    write(tmp_path / "runs", make_result("a", 1))
    path = tmp_path / "x.csv"
    path.write_text("old")
    write_bytes = Path.write_bytes

    def fail(self, content):
        write_bytes(self, content[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(UserError, match=r"x\.csv cannot be written: No space left"):
        save(tmp_path / "runs", path)
    assert path.read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["runs", "x.csv"]


def test_parquet_holds_the_rows_of_csv(many, tmp_path):
    for name in ("x.csv", "x.parquet"):
        assert main([str(many), "--export", str(tmp_path / name)]) == 0
    table, text = (
        pd.read_parquet(tmp_path / "x.parquet"),
        pd.read_csv(tmp_path / "x.csv"),
    )
    assert [*table] == [*text] and len(table) == len(text) == 24
    for name in ("name", "seed", "macro_f1", "training.lr", "stopped_early"):
        assert table[name].tolist() == text[name].tolist()


def test_a_setting_of_several_types_is_text_in_parquet():
    frame = pd.DataFrame({"a": [None, [1, 2]], "b": [1, "all"], "c": [0.5, 1.0]})
    back = pd.read_parquet(io.BytesIO(to_parquet(frame)))
    assert back["a"].tolist()[1] == "[1, 2]" and back["b"].tolist() == ["1", "all"]
    assert back["c"].tolist() == [0.5, 1.0]
