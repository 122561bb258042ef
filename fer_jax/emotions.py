"""The seven emotions in FER2013's order, contempt, and the names people give them."""

from collections.abc import Iterable

EMOTIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
KNOWN = (*EMOTIONS, "contempt")  # AffectNet's and FER+'s eighth

_ALIASES = {
    "anger": "angry",
    "disgusted": "disgust",
    "fearful": "fear",
    "happiness": "happy",
    "joy": "happy",
    "sadness": "sad",
    "surprised": "surprise",
    "neutrality": "neutral",
    "contemptuous": "contempt",
} | {name: name for name in KNOWN}

NAMES = tuple(_ALIASES)  # all that `emotion` understands


def emotion(name: str) -> str | None:
    """The canonical emotion that `name` stands for, in any case, or None."""
    return _ALIASES.get(name.strip().lower())


def canonical(names: Iterable[str]) -> list[str]:
    """The emotions that class names stand for; other names stay as they are."""
    return [emotion(name) or name for name in names]


def class_names(folders: Iterable[str]) -> dict[str, str]:
    """Maps folder names to class names, in the order of the labels.

    Where every folder is an emotion under one of its usual names, the classes are
    the canonical names in FER2013's order, contempt last. Any other set keeps its
    folders' names, sorted. Two folders may map to one emotion (`sad` and `Sadness`).
    """
    folders = sorted(set(folders))
    known: dict[str, str] = {}
    for folder in folders:
        if (name := emotion(folder)) is None:
            return {folder: folder for folder in folders}
        known[folder] = name
    return dict(sorted(known.items(), key=lambda item: KNOWN.index(item[1])))
