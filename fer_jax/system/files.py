"""Files that are written whole or not at all, and checked before the work begins."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fer_jax.errors import UserError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a path to write to, whose file then takes the place of `path`.

    `path` is there whole or not at all, and on disk before what is written next.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes JSON atomically; refuses NaN, which other readers reject."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes one JSON object a line, atomically."""
    write_text(path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))


def check_target(path: Path, option: str, suffixes: Sequence[str]) -> None:
    """Refuses, before any work, a file that could not be written in the end."""
    if path.suffix not in suffixes:
        *first, last = suffixes
        known = f"{', '.join(first)} or {last}" if first else last
        raise UserError(f"{option} writes {known}, and {path} does not end in that")
    if not path.parent.is_dir():
        raise UserError(
            f"{option} {path}: there is no folder {path.parent}; make it first"
        )
    if path.is_dir():
        raise UserError(f"{option} {path}: that is a folder; name a file in it")


def write_whole(path: Path, text: str) -> None:
    """Writes `path`, which appears whole or not at all; an old one is replaced."""
    try:
        with replacing(path.resolve()) as partial:  # a link stays one
            partial.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error
