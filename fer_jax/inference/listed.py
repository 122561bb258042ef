"""The pictures and videos that a command line names."""

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from fer_jax.data.sources.image_files import SUFFIXES

VIDEOS = (".mp4", ".avi", ".mov", ".webm", ".mkv", ".m4v")


def listed(names: Iterable[str], lines: Iterable[str]) -> Iterator[Path]:
    """Returns the files that names stand for, each once, in order.

    Args:
      names: files; folders, of which all pictures and videos below are taken, sorted;
        patterns such as `*.jpg`, for shells that leave them; and "-" for `lines`.
      lines: one name each, as of standard input.
    """
    seen: set[Path] = set()
    for name in names:
        for path in _files(name, lines):
            if path not in seen:
                seen.add(path)
                yield path


def is_video(path: Path) -> bool:
    """Whether a file is a video, by its name."""
    return path.suffix.lower() in VIDEOS


def _files(name: str, lines: Iterable[str]) -> Iterator[Path]:
    if name == "-":
        for line in lines:
            if line.strip():
                yield from _files(line.strip(), ())
    elif os.path.isdir(name):
        for folder, subfolders, files in os.walk(name):
            subfolders.sort()
            for file in sorted(files):
                path = Path(folder, file)
                if path.suffix.lower() in (*SUFFIXES, *VIDEOS):
                    yield path
    elif not os.path.lexists(name) and glob.has_magic(name):
        matches = sorted(glob.glob(name, recursive=True))
        # Without a match, the name is reported as a file that is not there.
        for match in matches or [name]:
            yield Path(match)
    else:
        yield Path(name)
