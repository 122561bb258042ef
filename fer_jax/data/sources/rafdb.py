"""Lists RAF-DB as its authors ship it.

S. Li, W. Deng and J. Du, "Reliable crowdsourcing and deep locality-preserving learning
for expression recognition in the wild" (2017), basic emotions: the labels are the lines
of `basic/EmoLabel/list_patition_label.txt`, the faces are in `basic/Image/aligned`.
"""

import os
import re
from pathlib import Path

from fer_jax.data.records import UNKNOWN, Source
from fer_jax.data.sources.listing import Listing
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
    """The RAF-DB in `root` or in `root/basic`; None if there is none.

    Raises:
      UserError: if its list or its images are unusable.
      OSError: if something cannot be read.
    """
    for inside in ("basic", ""):
        if (root / inside / LABELS).is_file():
            return _list(root, inside)
    return None


def _list(root: Path, inside: str) -> Source:
    path = root / inside / LABELS
    if not (root / inside / ALIGNED).is_dir():
        raise UserError(
            f"{root / inside} has no folder {ALIGNED}, expected RAF-DB's aligned "
            "images there; unpack its aligned.zip"
        )
    with path.open("rb") as file:
        text = file.read(_MAX_BYTES + 1)
    if not text.strip() or len(text) > _MAX_BYTES:
        found = "larger than 16 MiB" if text.strip() else "empty"
        raise UserError(
            f"{path} is {found}, expected some 15,000 lines such as "
            "train_00001.jpg 5; fetch it again"
        )
    listing, place = Listing(root, "RAF-DB"), os.path.join(os.sep, inside, LABELS)
    for number, line in enumerate(text.decode("utf-8-sig", "replace").splitlines(), 1):
        if not line.strip():
            continue
        name, _, label = line.strip().partition(" ")
        match = _NAME.fullmatch(name)
        split = match[1] if match else UNKNOWN
        image = os.path.join(inside, ALIGNED, f"{Path(name).stem}_aligned.jpg")
        try:
            if not match or not label.strip():
                expected = "a line such as train_00001.jpg 5"
                raise ValueError(f"is {line.strip()[:40]!r}, expected {expected}")
            if label.strip() not in NUMBERS:
                raise ValueError(f"has the label {label[:20]!r}, expected 1 to 7")
            if image in listing.stamps:
                raise ValueError(f"names {name} a second time, expected once")
        except ValueError as error:
            listing.problems.add(split, f"{place}:{number} {error}")
        else:
            listing.add(split, image, NUMBERS[label.strip()])
    return listing.source()
