"""The pictures and videos that a command line names."""

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from fer_jax.data.sources.image_files import SUFFIXES
from fer_jax.data.sources.listing import is_hidden
from fer_jax.errors import UserError

VIDEOS = (".mp4", ".avi", ".mov", ".webm", ".mkv", ".m4v")


def listed(names: Iterable[str], lines: Iterable[str]) -> dict[Path, Path]:
    """Returns the files that names stand for, in order, and the folder of each.

    The folder of a file is relative to the named folder that it was found in.

    Args:
      names: files; folders, of which all pictures and videos below are taken, sorted,
        but no hidden ones; patterns such as `*.jpg`, for shells that leave them; "-"
        for `lines`. A folder that cannot be read stands for what is in it.
      lines: one name each, as of standard input.

    Raises:
      UserError: if the lines are no text.
    """
    found: dict[Path, Path] = {}
    for name in names:
        for path, folder in _files(name, lines):
            found.setdefault(path, folder)
    return found


def is_video(path: Path) -> bool:
    """Whether a file is a video, by its name."""
    return path.suffix.lower() in VIDEOS


def _files(name: str, lines: Iterable[str]) -> Iterator[tuple[Path, Path]]:
    if name == "-":
        for line in _checked(lines):
            yield from _files(line, ())
    elif os.path.isdir(name):
        closed: list[OSError] = []
        for folder, subfolders, files in os.walk(name, onerror=closed.append):
            subfolders[:] = sorted(each for each in subfolders if not is_hidden(each))
            for file in sorted(files):
                path = Path(folder, file)
                if path.suffix.lower() in (*SUFFIXES, *VIDEOS) and not is_hidden(file):
                    yield path, Path(os.path.relpath(folder, name))
        yield from ((Path(error.filename), Path()) for error in closed)
    elif not os.path.lexists(name) and glob.has_magic(name):
        matches = sorted(glob.glob(name, recursive=True))
        # Without a match, the name is reported as a file that is not there.
        for match in matches or [name]:
            yield Path(match), Path()
    else:
        yield Path(name), Path()


def _checked(lines: Iterable[str]) -> Iterator[str]:
    try:
        for line in map(str.strip, lines):
            if "\0" in line:
                raise ValueError
            if line:
                yield line
    except ValueError:  # a UnicodeDecodeError is one, too
        raise UserError(
            "standard input is no text, expected names of files, one a line; give a "
            "picture by its name"
        ) from None
