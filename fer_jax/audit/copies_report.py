"""The report on copies, conflicting labels, blank images, class balance and storage."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from fer_jax.audit import contact_sheet
from fer_jax.data import Dataset
from fer_jax.data.duplicates.audit import Audit
from fer_jax.data.lazy_images import concatenate, read_pixels
from fer_jax.data.records import MISNAMED, OTHERS, Stored, is_misnamed
from fer_jax.system.console import plain_table

SHOWN_KINDS = 6  # kinds of stored images in the table
_SHOWN_DROPPED = 10
_CARVED = (
    "There is no {} split: training sets images of train aside as {}, and keeps copies "
    "together."
)


class Pair(NamedTuple):
    """Two images that are copies, as indices into the audit."""

    first: int
    second: int
    kind: str  # "exact" or "near"
    correlation: float
    mirrored: bool


class CopiesReport:
    """What an audit found, as numbers, tables, a CSV of pairs and a page of images.

    Attributes:
      facts: the numbers, for JSON.
    """

    def __init__(self, dataset: Dataset, found: Audit):
        """Counts what is in `found`, the audit of `dataset`."""
        self.dataset, self.found = dataset, found
        self.facts = summarize(found) | {
            "data": dataset.description,
            "fingerprint": dataset.fingerprint,
            "skipped": dataset.skipped,
            "dropped": list(dataset.dropped),
            "notes": list(dataset.notes),
            "carved": "val" not in dataset.splits,
            "stored": summarize_stored(dataset.stored),
        }

    def to_csv(self) -> str:
        """Returns one row for each pair of copies."""
        import pandas as pd  # half a second, which --help can do without

        keys = ("split", "row", "label", "file")
        sides = [f"{key}_{side}" for side in "ab" for key in keys]
        rows = [
            [
                pair.kind,
                *self._origin(pair.first),
                *self._origin(pair.second),
                f"{pair.correlation:.4f}",
                pair.mirrored,
            ]
            for pair in pairs(self.found)
        ]
        header = ["kind", *sides, "correlation", "mirrored"]
        return pd.DataFrame(rows, columns=header).to_csv(index=False)

    def to_html(self) -> str:
        """Returns a page of the images: conflicts, other copies, blank images."""
        sections: dict[str, list[Pair]] = {
            "Copies with different labels": [],
            "Copies across splits": [],
            "Copies within a split": [],
        }
        conflicting, across, within = sections.values()
        for pair in pairs(self.found):
            first, second = pair.first, pair.second
            if self.found.labels[first] != self.found.labels[second]:
                conflicting.append(pair)
            elif self.found.split[first] != self.found.split[second]:
                across.append(pair)
            else:
                within.append(pair)
        splits = [self.dataset.splits[name].images for name in self.found.splits]
        images = concatenate(splits)

        def show_image(index: int) -> str:
            split, row, label, file = self._origin(index)
            image = read_pixels(images, np.array([index]))[0]
            return contact_sheet.figure(image, label, file or f"{split} {row}")

        def show_pair(pair: Pair) -> str:
            kind = f"{pair.kind}{' mirrored' * pair.mirrored} {pair.correlation:.2f}"
            figures = show_image(pair.first) + show_image(pair.second)
            return f"{figures}<p>{kind}</p>"

        def section(title: str, chosen: list[Pair]) -> str:
            # Near copies first: exact ones hold no surprise.
            order = sorted(chosen, key=lambda pair: (pair.kind == "exact", pair[3]))
            return contact_sheet.section(title, order, show_pair)

        blank = [int(index) for index in np.flatnonzero(self.found.blank)]
        return contact_sheet.page(
            self.facts["data"],
            [section(title, chosen) for title, chosen in sections.items()]
            + [contact_sheet.section("Blank images", blank, show_image)],
            summary=self._summary(),
        )

    def _summary(self) -> list[str]:
        """The findings in sentences."""
        facts = self.facts
        sizes = ", ".join(f"{k} {v['images']:,}" for k, v in facts["splits"].items())
        lines = [
            f"{facts['images']:,} images ({sizes}), of which {facts['distinct']:,} are "
            "distinct."
        ]
        for row in facts["copies"]:
            if row["in"] == "train" != row["split"]:
                lines.append(
                    f"{row['exact'] + row['near']:,} {row['split']} images have a copy "
                    f"in train ({row['exact']:,} exact)."
                )
        groups = facts["conflicts"]["exact or near"]["groups"]
        lines.append(f"{groups:,} groups of copies have different labels.")
        blank = sum(part["blank"] for part in facts["splits"].values())
        lines.append(f"{blank:,} images are blank.")
        if facts["carved"]:
            lines.append(self._carved())
        return [*lines, *self._notes()]

    def _carved(self) -> str:
        lacking = ("val", "test") if self.dataset.undivided else ("val",)
        return _CARVED.format(" and no ".join(lacking), " and ".join(lacking))

    def _notes(self) -> list[str]:
        """What the user must know of the data, and the first few images dropped."""
        lines = [f"note: {note}" for note in self.facts["notes"]]
        count = sum(self.facts["skipped"].values())
        lines += ["dropped:"] * bool(count)
        lines += (f"  {line}" for line in self.facts["dropped"][:_SHOWN_DROPPED])
        if count > _SHOWN_DROPPED:
            lines.append(f"  and {count - _SHOWN_DROPPED:,} more; see --json")
        return lines

    def _origin(self, index: int) -> tuple[str, int, str, str]:
        """Returns the split, row, label and file ("" in a csv) of an image."""
        split = self.found.splits[self.found.split[index]]
        row = int(self.found.rows[index])
        label = self.found.class_names[self.found.labels[index]]
        return split, row, label, self.dataset.file_of(split, row)

    def show(self, console: Console) -> None:
        """Prints the tables, in 80 columns."""
        facts = self.facts
        console.print(
            f"{facts['data']}: {facts['images']:,} images, {facts['distinct']:,} "
            f"distinct, fingerprint {facts['fingerprint']}"
        )
        splits = facts["splits"]
        table = plain_table("images by split", ["split", *splits])
        for name in self.found.class_names:
            _add_counts(
                table, name, [part["classes"][name] for part in splits.values()]
            )
        table.add_section()
        _add_counts(table, "all", [part["images"] for part in splits.values()])
        _add_counts(table, "blank", [part["blank"] for part in splits.values()])
        console.print(table)
        console.print(stored_table(facts["stored"]))
        headers = ["of", "in", "exact", "near only"]
        table = plain_table("images that have a copy", headers)
        for row in facts["copies"]:
            other = row["in"] if row["in"] != row["split"] else f"{row['in']} too"
            table.add_row(row["split"], other, f"{row['exact']:,}", f"{row['near']:,}")
        console.print(table)
        headers = ["copies", "groups", "images"]
        table = plain_table("copies with different labels", headers)
        for kind, counts in facts["conflicts"].items():
            _add_counts(table, kind, counts.values())
        console.print(table)
        for line in self._notes():
            console.print(line)
        if facts["carved"]:
            console.print(self._carved())
        if not facts["complete"]:
            console.print(
                "there are more similar pairs than were compared: near copies may be "
                "missing",
                style="yellow",
            )


def summarize(found: Audit) -> dict[str, Any]:
    """Returns an audit in numbers: images, classes, blank images, copies, conflicts."""
    exact = found.copies.exact
    splits, copies, conflicts = {}, [], {}
    for name in found.splits:
        own = found.of(name)
        counts = np.bincount(found.labels[own], minlength=len(found.class_names))
        splits[name] = {
            "images": int(own.sum()),
            "blank": int((own & found.blank).sum()),
            "classes": dict(zip(found.class_names, counts.tolist(), strict=True)),
        }
        for other in found.splits:
            same = own & found.has_copy_in(other, near=False)
            near = own & found.has_copy_in(other, near=True) & ~same
            counted = {"exact": int(same.sum()), "near": int(near.sum())}
            copies.append({"split": name, "in": other} | counted)
    for kind, near_too in (("exact", False), ("exact or near", True)):
        groups = found.conflicts(near=near_too)
        groups = groups[groups >= 0]
        conflicts[kind] = {"groups": len(np.unique(groups)), "images": len(groups)}
    return {
        "images": len(exact),
        "distinct": len(np.unique(exact)),
        "splits": splits,
        "copies": copies,
        "conflicts": conflicts,
        "complete": found.copies.complete,
    }


def summarize_stored(stored: Stored) -> dict[str, Any]:
    """Returns how the images are stored, and how many differ from the usual kind.

    The usual kind is that of most images, if there is one. An image is odd if it is of
    another kind, and misnamed if its suffix is that of another format.
    """
    usual = next(iter(_by_frequency(stored)), None)
    in_all = sum(sum(kinds.values()) for kinds in stored.values())
    if 2 * sum(kinds.get(usual or "", 0) for kinds in stored.values()) <= in_all:
        usual = None  # pictures from the web, all of other sizes

    def count(matches: Callable[[str], bool]) -> dict[str, int]:
        return {
            split: sum(n for kind, n in kinds.items() if matches(kind))
            for split, kinds in stored.items()
        }

    return {
        "kinds": stored,
        "usual": usual,
        "odd": count(lambda kind: usual is not None and kind != usual),
        "misnamed": count(is_misnamed),
    }


def stored_table(stored: dict[str, Any]) -> Table:
    """Returns a table of the most frequent kinds of stored images, and the odd ones."""
    splits = stored["kinds"]
    table = plain_table("as stored", ["kind", *splits])
    shown = _by_frequency(splits)[:SHOWN_KINDS]
    for kind in shown:
        _add_counts(table, kind, [kinds.get(kind, 0) for kinds in splits.values()])
    others = [
        sum(n for kind, n in kinds.items() if kind not in shown)
        for kinds in splits.values()
    ]
    if any(others):
        _add_counts(table, OTHERS, others)
    table.add_section()
    for key in ("odd", "misnamed") if stored["usual"] else ("misnamed",):
        _add_counts(table, key, stored[key].values())
    return table


def pairs(found: Audit) -> Iterator[Pair]:
    """Yields each image with the first one identical to it, then the near copies."""
    copies = found.copies
    for index in np.flatnonzero(copies.exact != np.arange(len(copies.exact))):
        yield Pair(int(copies.exact[index]), int(index), "exact", 1.0, False)
    for (first, second), correlation, mirrored in zip(
        copies.pairs, copies.correlation, copies.mirrored, strict=True
    ):
        yield Pair(int(first), int(second), "near", float(correlation), bool(mirrored))


def _by_frequency(stored: Stored) -> list[str]:
    """Returns the kinds of stored images, the most frequent first."""
    total: Counter[str] = Counter()
    for kinds in stored.values():
        total.update(kinds)
    kinds_only = total.keys() - {OTHERS, MISNAMED}
    return sorted(kinds_only, key=lambda kind: (-total[kind], kind))


def _add_counts(table: Table, name: str, counts: Iterable[int]) -> None:
    table.add_row(name, *(f"{count:,}" for count in counts))
