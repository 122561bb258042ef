import errno
import fcntl
import subprocess
import sys
import threading
import time

import pytest
from conftest import environment

from fer_jax.errors import UserError
from fer_jax.runs.lock import holder, locked

HOLD = (
    "import sys; from fer_jax.runs import lock; from pathlib import Path\n"
    "with lock.locked(Path(sys.argv[1])): print('held', flush=True); input()"
)


def test_a_second_process_is_told_who_holds_the_folder(tmp_path):
    assert holder(tmp_path / "none") is holder(tmp_path) is None
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path],
        env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout.readline() == "held\n"
        told = f"process {process.pid} on "
        with (
            pytest.raises(UserError, match=f"in use by {told}"),
            locked(tmp_path),
        ):
            pass
        assert holder(tmp_path).startswith(told)
        process.kill()
    assert holder(tmp_path) is None  # the dead hold nothing
    with locked(tmp_path):
        assert holder(tmp_path)


def test_who_only_looks_keeps_nobody_out(tmp_path):
    with locked(tmp_path):
        pass
    over = threading.Event()

    def look():
        while not over.is_set():
            holder(tmp_path)
            time.sleep(0.005)  # still 400 times as often as a batch looks

    looker = threading.Thread(target=look)
    looker.start()
    try:
        for _ in range(200):
            with locked(tmp_path):
                pass
    finally:
        over.set()
        looker.join()


def test_who_looks_asks_for_what_a_reader_may_have(tmp_path, monkeypatch):
    """As NFS has it: no lock for us alone on a file that is open for reading."""
    real = fcntl.flock

    def flock(file, how):
        if how & fcntl.LOCK_EX and not file.writable():
            raise OSError(errno.EBADF, "Bad file descriptor")
        real(file, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked(tmp_path):
        assert holder(tmp_path).startswith("process ")
    assert holder(tmp_path) is None


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.ENOLCK, None),  # no locks here, which the run itself tells
        (errno.EBADF, "another process, perhaps ("),
        (errno.EIO, "another process, perhaps ("),
    ],
)
def test_what_cannot_be_asked_is_not_nobody(tmp_path, monkeypatch, number, told):
    def flock(*_):
        raise OSError(number, "it cannot be")

    with locked(tmp_path):
        monkeypatch.setattr(fcntl, "flock", flock)
        by = holder(tmp_path)
    assert by == told or by.startswith(told)


def test_a_run_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "seed_1").write_text("")
    with (
        pytest.raises(UserError, match="cannot be written"),
        locked(tmp_path / "seed_1"),
    ):
        pass
