"""Lists RAF-DB as its authors ship it: which aligned image shows which emotion.

S. Li, W. Deng and J. Du, "Reliable crowdsourcing and deep locality-preserving learning
for expression recognition in the wild" (2017): the basic emotions, a label a line in
`basic/EmoLabel/list_patition_label.txt`, the faces in `basic/Image/aligned`.
"""

import os
import re
from pathlib import Path

from fer_jax.data.records import Source, digest
from fer_jax.data.sources.class_folders import stamp
from fer_jax.emotions import EMOTIONS
from fer_jax.errors import UserError

LABELS = "EmoLabel/list_patition_label.txt"  # sic
ALIGNED = "Image/aligned"
NUMBERS = {
    "1": "surprise",
    "2": "fear",
    "3": "disgust",
    "4": "happy",
    "5": "sad",
    "6": "angry",
    "7": "neutral",
}

_NAME = re.compile(r"(train|test)_[0-9]{1,9}\.jpg", re.ASCII)
_MAX_BYTES = 2**24  # the authors' list has 0.3 MB


def find(root: Path) -> Source | None:
    """The RAF-DB that `root` is, or holds as `basic`; None where it is neither.

    Raises:
      UserError: where its labels or its images as a whole are of no use.
      OSError: where something may not be read.
    """
    for inside in ("basic", ""):
        if (root / inside / LABELS).is_file():
            return _list(root, inside)
    return None


def _list(root: Path, inside: str) -> Source:
    if not (root / inside / ALIGNED).is_dir():
        raise UserError(
            f"{root / inside} has no folder {ALIGNED}, expected RAF-DB's aligned "
            "images there; unpack its aligned.zip"
        )
    listing, stats, bad = {"train": [], "test": []}, [], []
    place = os.path.join(os.sep, inside, LABELS)
    seen: set[str] = set()
    for number, line in enumerate(_lines(root / inside / LABELS), 1):
        if not line.strip():
            continue
        name, _, label = line.strip().partition(" ")
        known = _NAME.fullmatch(name)
        split = known[1] if known else "unknown"
        if wrong := _wrong(name, label.strip(), seen):
            bad.append((split, f"{place}:{number} {wrong}"))
            continue
        seen.add(name)
        image = f"{name.removesuffix('.jpg')}_aligned.jpg"
        relative = os.path.join(inside, ALIGNED, image)
        emotion = EMOTIONS.index(NUMBERS[label.strip()])
        listing[split].append((relative, emotion))
        stats.append((relative, emotion, *stamp(root / relative)))
    if not stats and not bad:
        raise UserError(
            f"{root / inside / LABELS} is empty, expected a line such as "
            "train_00001.jpg 5 for each image; fetch it again"
        )
    listing = {split: sorted(files) for split, files in listing.items() if files}
    return Source(
        kind="folder",
        description=f"{Path(os.path.abspath(root)).name}/ (RAF-DB)",
        key=digest("RAF-DB", sorted(stats), bad),
        path=root,
        listing=listing,
        bad=tuple(bad),
    )


def _lines(path: Path) -> list[str]:
    with path.open("rb") as file:
        text = file.read(_MAX_BYTES + 1)
    if len(text) > _MAX_BYTES:
        raise UserError(
            f"{path} is larger than {_MAX_BYTES // 2**20} MiB, expected some 15,000 "
            "short lines; fetch it again"
        )
    return text.decode("utf-8-sig", "replace").splitlines()


def _wrong(name: str, label: str, seen: set[str]) -> str:
    """What is wrong with a line, in words that go on after file and line; or ""."""
    if not _NAME.fullmatch(name) or not label:
        line = f"{name} {label}".strip()[:40]
        return f"is {line!r}, expected a line such as train_00001.jpg 5"
    if label not in NUMBERS:
        return f"has the label {label[:20]!r}, expected 1 to 7"
    return f"names {name} a second time, expected once" if name in seen else ""
