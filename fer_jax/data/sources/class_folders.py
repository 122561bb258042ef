"""Lists a folder `train|val|test/<class>/<images>`."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from fer_jax.data.records import Source
from fer_jax.data.sources.listing import (
    Listing,
    class_folders,
    image_paths,
    loose_files,
)

_NUMBERED = (
    "the classes are numbers, which FER2013, FER+, RAF-DB and AffectNet assign to "
    "different emotions, so they stay numbers: rename the folders neutral, happy and "
    "so on, or, for AffectNet, put affectnet into the name of the data's folder"
)


def list_folder(
    root: Path, splits: Mapping[str, Path], notes: Sequence[str] = ()
) -> Source:
    """The images of class folders, by the names of the folders.

    Args:
      root: the folder of the data set.
      splits: the folder of each split; a folder of classes is its own train, which a
        run divides.
      notes: what the user must know of where it was found.

    Raises:
      UserError: if a class folder is empty, or train lacks a class.
    """
    listing = Listing(root, "folder")
    listing.notes += notes
    listing.unread += loose_files(root, splits)
    for split, folders in class_folders(splits).items():
        for folder in folders:
            for path in image_paths(root, splits[split] / folder, listing.unread):
                listing.add(split, path, folder)
    if all(map(str.isdecimal, listing.images["train"].values())):
        listing.notes.append(_NUMBERED)
    source = listing.source()
    return dataclasses.replace(source, undivided=splits == {"train": root})
