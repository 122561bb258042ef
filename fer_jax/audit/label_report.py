"""What the audit tells of suspicious labels: numbers, a table, a CSV and a sheet.

Where FER+'s votes lie beside the csv, they say how well the ranking does.
"""

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from fer_jax.audit import contact_sheet
from fer_jax.audit.label_noise import overlap, rank_labels
from fer_jax.data import Dataset, ferplus
from fer_jax.data.lazy_images import read_pixels
from fer_jax.errors import UserError
from fer_jax.system.console import plain_table

SHOWN = 10  # rows of the table on the terminal


class SuspiciousLabels:
    """The train images of a data set, the most suspicious labels first."""

    def __init__(self, runs_dir: Path, dataset: Dataset):
        """Ranks them by the finished runs in a folder.

        Raises:
          UserError: if no run there tells of these images and labels.
        """
        self.dataset, self.ranking = dataset, rank_labels(runs_dir, dataset)
        self.order = self.ranking.order()
        self.votes, self.votes_note = _majority(dataset)
        self.facts = self._facts()

    def to_csv(self) -> str:
        """A row for each ranked image."""
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        votes = [] if self.votes is None else ["ferplus_majority"]
        rows.writerow(
            ["rank", "split", "row", "file", "label", "suggested", "suspicion"]
            + ["margin", "forgotten", "never_right", *votes]
        )
        train, found = self.dataset.splits["train"], self.ranking
        for rank, place in enumerate(self.order, 1):
            row = int(train.rows[place])
            rows.writerow(
                [
                    *(rank, "train", row, self.dataset.file_of("train", row)),
                    self._name(train.labels[place]),
                    self._name(found.rival[place]),
                    f"{found.suspicion[place]:.4f}",
                    f"{found.margin[place]:.3f}",
                    f"{found.forgotten[place]:.2f}",
                    f"{found.never[place]:.2f}",
                    *([self._vote(place)] if self.votes is not None else []),
                ]
            )
        return text.getvalue()

    def page(self) -> str:
        """The most suspicious images, with their label and what is suggested."""
        train, cells = self.dataset.splits["train"], []
        for place in self.order[: contact_sheet.SHOWN]:
            lines = [
                f"{self._name(train.labels[place])} → "
                f"{self._name(self.ranking.rival[place]) or 'none'}",
                f"train {train.rows[place]}",
                f"margin {self.ranking.margin[place]:.1f}",
            ]
            if vote := self._vote(place):
                lines.append(f"FER+ {vote}")
            cells.append(
                contact_sheet.figure(
                    read_pixels(train.images, np.array([place]))[0], *lines
                )
            )
        return contact_sheet.page(
            self.dataset.description,
            [
                contact_sheet.section(
                    "Train images, the most suspicious labels first",
                    cells,
                    len(self.order),
                )
            ],
        )

    def show(self, console: Console) -> None:
        """Prints the head of the ranking, and how it was made."""
        train, found, facts = self.dataset.splits["train"], self.ranking, self.facts
        runs = "1 run" if len(found.runs) == 1 else f"{len(found.runs)} runs"
        console.print(
            f"{facts['data']}: {facts['ranked']:,} of {len(train.rows):,} train "
            f"images, ranked by {runs}"
        )
        for run, why in found.left_out.items():
            console.print(f"left out: {run}, {why}")
        table = plain_table(
            "labels that training fights most",
            ["label", "suggested", "row", "margin", "forgotten", "never right"],
        )
        for place in self.order[:SHOWN]:
            table.add_row(
                self._name(train.labels[place]),
                self._name(found.rival[place]),
                f"{train.rows[place]:,}",
                f"{found.margin[place]:.2f}",
                f"{found.forgotten[place]:.1f}",
                f"{100 * found.never[place]:.0f} % of runs",
            )
        console.print(table)
        if self.votes_note:
            console.print(f"note: {self.votes_note}")
        if told := facts.get("ferplus"):
            share, first = 100 * told["chance"], 100 * told["first_100"]
            console.print(
                f"FER+'s majority has another label for {share:.1f} % of the "
                f"{told['images']:,} images that have one, and for {first:.0f} % of "
                f"the first 100; average precision {told['average_precision']:.3f} "
                f"(chance {told['chance']:.3f})"
            )

    def _facts(self) -> dict[str, Any]:
        facts = {
            "data": self.dataset.description,
            "fingerprint": self.dataset.fingerprint,
            "runs": list(self.ranking.runs),
            "left_out": self.ranking.left_out,
            "ranked": len(self.order),
        }
        if self.votes is not None:
            labels = self.dataset.splits["train"].labels
            known = self.order[self.votes[self.order] >= 0]
            if len(known):
                told = overlap(known, self.votes != labels)
                facts["ferplus"] = {"images": len(known), **told}
        return facts

    def _name(self, label: int) -> str:
        return self.dataset.class_names[label] if label >= 0 else ""

    def _vote(self, place: int) -> str:
        if self.votes is None or self.votes[place] < 0:
            return ""
        return (*self.dataset.class_names, "contempt")[self.votes[place]]


def _majority(dataset: Dataset) -> tuple[np.ndarray | None, str]:
    """FER+'s majority for the train images, -1 where there is none; or why not."""
    try:
        votes = ferplus.load(dataset)
    except UserError as error:
        return None, ferplus.unused_note(error)
    if votes is None:
        return None, ""
    rows = dataset.splits["train"].rows
    return ferplus.majority(votes, contempt=True)[rows], ""
