"""Files that a command is asked to write: checked first, whole or not at all."""

from collections.abc import Sequence
from pathlib import Path

from fer_jax.errors import UserError
from fer_jax.runs import replacing


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
