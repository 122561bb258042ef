"""The checks' script, with make-believe commands: nothing is installed or tested."""

import shutil
import subprocess

import pytest
from conftest import ROOT
from slurm.cluster import PROGRAMS

TOOLS = ("bash", "dirname", "mktemp", "rm")
# Each shows how it is called.
SHOWN = ("apt-get", "pip", "ruff", "lint-imports", "mypy", "pytest")
BROWSER = ("chromium", "chromedriver")


@pytest.fixture
def check(tmp_path):
    """A function that runs the script where there are some commands, and no others."""
    if any(shutil.which(name, path="/usr/sbin:/sbin") for name in BROWSER):
        pytest.skip("the browser is where system commands are")
    folder = tmp_path / "bin"
    folder.mkdir()

    def put(name, script):
        (folder / name).write_text(f"#!{shutil.which('bash')}\n{script}\n")
        (folder / name).chmod(0o755)

    def run(present=(), apt=0, user=0):
        for name in TOOLS:
            (folder / name).symlink_to(shutil.which(name))
        for name in (*SHOWN, *present):
            put(name, f'echo "{name} $*" >&2')
        put("apt-get", f'echo "apt-get $*" >&2; exit {apt}')
        put("id", f"echo {user}")
        # As `python3 -m venv FOLDER`.
        put("python3", f'{shutil.which("mkdir")} "$3/bin"; : > "$3/bin/activate"')
        return subprocess.run(
            [ROOT / ".ci/run"],
            env={"PATH": str(folder), "TMPDIR": str(tmp_path), "PYTHON": "python3"},
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    return run


def test_what_is_lacking_is_installed_and_skipped_tests_are_shown(check):
    done = check()
    assert done.returncode == 0, done.stderr
    called = done.stderr.splitlines()
    assert sum(line.startswith("apt-get -qq install") for line in called) >= 1
    assert any(line.endswith(" chromium chromium-driver") for line in called)
    assert called[-1].startswith("pytest -m  -rs")


def test_what_cannot_be_installed_is_told_and_ends_nothing(check):
    done = check(apt=100)
    assert done.returncode == 0, done.stderr
    assert "could not install chromium chromium-driver; tests that" in done.stderr
    assert "\npytest -m  -rs" in done.stderr


def test_who_may_not_install_is_told_what_is_lacking(check):
    done = check(present=["chromium"], user=1000)
    assert done.returncode == 0, done.stderr
    assert "there is no chromedriver (chromium chromium-driver)" in done.stderr
    assert "apt-get" not in done.stderr


def test_nothing_is_installed_where_all_is_there(check):
    done = check(present=[*BROWSER, *PROGRAMS, "scancel", "sinfo"])
    assert done.returncode == 0, done.stderr
    assert "apt-get" not in done.stderr


@pytest.mark.parametrize("name", PROGRAMS)
def test_each_command_that_the_cluster_needs_is_looked_for(check, name):
    if shutil.which(name, path="/usr/sbin:/sbin"):
        pytest.skip("it is where system commands are")
    others = {*BROWSER, *PROGRAMS, "scancel", "sinfo"} - {name}
    assert "slurm-wlm munge" in check(present=others).stderr
