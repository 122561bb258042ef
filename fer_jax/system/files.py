"""Atomic writes, checks of output files, and where the package is imported from."""

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fer_jax.errors import UserError

# The folder that contains the package; child processes get it on PYTHONPATH.
IMPORT_ROOT = Path(__file__).resolve().parents[2]


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path; its file then replaces `path` atomically, synced."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def utc_time() -> str:
    """Returns the time in UTC as records state it, such as 2026-01-31T12:00:00Z."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes JSON atomically; NaN is an error, since other readers reject it."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes one JSON object per line, atomically."""
    write_text(path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))


def check_target(path: Path, option: str, suffixes: Sequence[str]) -> None:
    """Raises a UserError if an output file could not be written at the end."""
    if path.suffix not in suffixes:
        *first, last = suffixes
        known = f"{', '.join(first)} or {last}" if first else last
        raise UserError(f"{option} writes {known} files; {path} has another suffix")
    if not path.parent.is_dir():
        raise UserError(
            f"{option} {path}: the folder {path.parent} does not exist; create it first"
        )
    if path.is_dir():
        raise UserError(f"{option} {path} is a folder; name a file in it")


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file atomically; a UserError says why it cannot be written."""
    if isinstance(content, str):
        content = content.encode()
    try:
        with replacing(path.resolve()) as partial:  # keep symbolic links
            partial.write_bytes(content)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error
