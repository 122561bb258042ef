import io
import subprocess
import sys

from conftest import environment
from rich.console import Console

from fer_jax.system.console import (
    format_duration,
    heading,
    make_console,
    plain_table,
    print_scores,
)


def printed(result, width):
    console = Console(file=io.StringIO(), width=width)
    print_scores(console, result)
    return console.file.getvalue()


def test_scores_fit_80_columns_and_hold_every_class(finished_run):
    _, result = finished_run
    text = printed(result, 80)
    lines = [line.rstrip() for line in text.splitlines()]
    assert max(map(len, lines)) <= 80
    for name in result["data"]["class_names"]:
        (line,) = [line for line in lines if line.split()[:1] == [name]]
        scores = result["test"]["per_class"][name]
        expected = [f"{100 * scores['f1']:.1f}", str(scores["support"])]
        assert line.split()[-2:] == expected
    (line,) = [line for line in lines if line.split()[:1] == ["accuracy"]]
    assert line.split()[2:] == ["128", f"{100 * result['test']['accuracy']:.1f}", "128"]


def test_a_run_without_test_shows_val_alone(finished_run):
    _, result = finished_run
    only_val = {key: value for key, value in result.items() if key != "test"}
    text = printed(only_val, 80)
    assert "val" in text
    assert "test" not in text


def test_a_run_without_clean_images_has_no_clean_score(finished_run):
    _, result = finished_run
    none = dict.fromkeys(("macro_f1_clean", "accuracy_clean")) | {"n_clean": 0}
    text = printed(result | {"val": result["val"] | none}, 120)
    (line,) = [
        line for line in text.splitlines() if line.startswith(" macro F1, clean")
    ]
    test = f"{100 * result['test']['macro_f1_clean']:.1f}"
    assert line.split()[3:] == ["-", test]
    assert "note: every image of val has a copy in train" in text


def test_a_closed_pipe_ends_with_141_and_no_traceback():
    code = (
        "from fer_jax.system.console import make_console\n"
        "from fer_jax.errors import run_command\n"
        "def main():\n"
        "    console = make_console()\n"
        "    while True: console.print('x' * 100)\n"
        "raise SystemExit(run_command(main))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_durations_have_a_suitable_unit():
    seconds = (0.4, 89, 300, 5400, 100_000, 200_000)
    told = ["0 s", "89 s", "5 min", "1.5 h", "27.8 h", "2.3 days"]
    assert [format_duration(each) for each in seconds] == told


def test_output_in_a_pipe_is_unlimited_or_as_wide_as_columns(monkeypatch, capsys):
    def lines(columns=None):
        if columns:
            monkeypatch.setenv("COLUMNS", columns)
        console = make_console()
        table = plain_table("title", ["name", "text"])
        table.columns[1].justify = "left"
        table.add_row("a", "word " * 60)
        table.add_row("a_name_without_an_end_" * 4, "short")
        heading(console, "a heading")
        console.print(table)
        return capsys.readouterr().out.splitlines()

    wide = lines()
    assert [line for line in wide if line.endswith(" ")] == []
    assert any("word " * 59 in line for line in wide) and wide[0] == "a heading"
    assert max(map(len, lines("60"))) in (59, 60)
