import os
import subprocess
import sys
import threading
import time

import pytest
from conftest import ROOT, environment
from fake_runs import make_result, write
from rich.console import Console

from fer_jax.compare import watch
from fer_jax.errors import UserError


class Stop(Exception):
    pass


def test_it_draws_when_something_has_changed_and_only_then(tmp_path, monkeypatch):
    drawn = []
    changes = iter(
        [
            lambda: None,
            lambda: write(tmp_path, make_result("a", 1)),
            lambda: None,
            lambda: (tmp_path / "b" / "seed_1").mkdir(parents=True),
            lambda: (tmp_path / "b" / "seed_1" / "failed.json").write_text("{}"),
        ]
    )

    def sleep(_):
        try:
            next(changes)()
        except StopIteration:
            raise Stop from None

    def draw():
        drawn.append(sum(1 for _ in tmp_path.glob("*/*/result.json")))
        if not drawn[-1]:
            raise UserError("no finished run")

    monkeypatch.setattr(time, "sleep", sleep)
    console = Console(record=True, file=open(os.devnull, "w"), width=200)  # noqa: SIM115
    with pytest.raises(Stop):
        watch.watch(console, [tmp_path], draw)
    assert drawn == [0, 1, 1, 1]
    assert "nothing to show yet: no finished run" in console.export_text()


def test_the_command_shows_a_run_that_finishes_and_ends_by_ctrl_c(tmp_path):
    command = [sys.executable, "-u", str(ROOT / "bin/compare"), "--watch"]
    command += ["--runs_dir", str(tmp_path), "--report", str(tmp_path / "r.html")]
    with subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, text=True
    ) as child:
        limit = threading.Timer(120, child.kill)  # else a reader might wait for ever
        limit.start()
        try:
            first = child.stdout.readline()
            assert first.startswith("nothing to show yet: ")
            write(tmp_path, make_result("baseline", 1))
            shown = ""
            while "written: " not in shown:
                shown += (line := child.stdout.readline())
                assert line, shown
            child.send_signal(2)
            assert child.wait(30) == 130
        finally:
            limit.cancel()
            child.kill()
    assert "val: overall" in shown
    assert "baseline" in (tmp_path / "r.html").read_text()
