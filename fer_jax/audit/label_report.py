"""The report on suspicious labels: numbers, a table, a CSV and a page of images.

If FER+'s votes are beside the csv, they show how good the ranking is.
"""

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


class LabelReport:
    """The train images of a data set, the most suspicious labels first.

    Attributes:
      facts: the numbers, for JSON.
    """

    def __init__(self, runs_dir: Path, dataset: Dataset):
        """Ranks the labels by the finished runs in a folder.

        Raises:
          UserError: if no run there was trained on these images and labels.
        """
        self.dataset, self.train = dataset, dataset.splits["train"]
        self.ranking = rank_labels(runs_dir, dataset)
        self.order = self.ranking.order()
        self.votes, self.votes_note = _majority(dataset)
        self.facts: dict[str, Any] = {
            "data": dataset.description,
            "fingerprint": dataset.fingerprint,
            "runs": list(self.ranking.runs),
            "left_out": self.ranking.left_out,
            "ranked": len(self.order),
        }
        if self.votes is not None:
            voted = self.order[self.votes[self.order] >= 0]
            if len(voted):
                scores = overlap(voted, self.votes != self.train.labels)
                self.facts["ferplus"] = {"images": len(voted)} | scores

    def to_csv(self) -> str:
        """Returns one row for each ranked image."""
        import pandas as pd  # half a second, which --help can do without

        order, found = self.order, self.ranking
        rows = self.train.rows[order]
        columns: dict[str, Any] = {
            "rank": np.arange(1, len(order) + 1),
            "split": "train",
            "row": rows,
            "file": [self.dataset.file_of("train", int(row)) for row in rows],
            "label": [self._name(label) for label in self.train.labels[order]],
            "suggested": [self._name(rival) for rival in found.rival[order]],
            "suspicion": [f"{value:.4f}" for value in found.suspicion[order]],
            "margin": [f"{value:.3f}" for value in found.margin[order]],
            "forgotten": [f"{value:.2f}" for value in found.forgotten[order]],
            "never_right": [f"{value:.2f}" for value in found.never_right[order]],
        }
        if self.votes is not None:
            columns["ferplus_majority"] = [self._vote(index) for index in order]
        return pd.DataFrame(columns).to_csv(index=False)

    def to_html(self) -> str:
        """Returns a page of the most suspicious images with label and suggestion."""

        def show(index: int) -> str:
            suggested = self._name(self.ranking.rival[index]) or "none"
            lines = [
                f"{self._name(self.train.labels[index])} → {suggested}",
                f"train {self.train.rows[index]}",
                f"margin {self.ranking.margin[index]:.1f}",
            ]
            if vote := self._vote(index):
                lines.append(f"FER+ {vote}")
            image = read_pixels(self.train.images, np.array([index]))[0]
            return contact_sheet.figure(image, *lines)

        title = "Train images, the most suspicious labels first"
        cells = contact_sheet.section(title, self.order.tolist(), show)
        return contact_sheet.page(self.dataset.description, [cells])

    def show(self, console: Console) -> None:
        """Prints the top of the ranking, and what it is based on."""
        train, found, facts = self.train, self.ranking, self.facts
        runs = "1 run" if len(found.runs) == 1 else f"{len(found.runs)} runs"
        console.print(
            f"{facts['data']}: {facts['ranked']:,} of {len(train.rows):,} train "
            f"images, ranked by {runs}"
        )
        for run, reason in found.left_out.items():
            console.print(f"left out: {run}, {reason}")
        table = plain_table(
            "most suspicious labels",
            ["label", "suggested", "row", "margin", "forgotten", "never right"],
        )
        for index in self.order[:SHOWN]:
            table.add_row(
                self._name(train.labels[index]),
                self._name(found.rival[index]),
                f"{train.rows[index]:,}",
                f"{found.margin[index]:.2f}",
                f"{found.forgotten[index]:.1f}",
                f"{100 * found.never_right[index]:.0f} % of runs",
            )
        console.print(table)
        if self.votes_note:
            console.print(f"note: {self.votes_note}")
        if votes := facts.get("ferplus"):
            percent, first = 100 * votes["chance"], 100 * votes["first_100"]
            console.print(
                f"FER+'s majority has another label for {percent:.1f} % of the "
                f"{votes['images']:,} images that have one, and for {first:.0f} % of "
                f"the first 100; average precision {votes['average_precision']:.3f} "
                f"(chance {votes['chance']:.3f})"
            )

    def _name(self, label: int) -> str:
        return self.dataset.class_names[label] if label >= 0 else ""

    def _vote(self, index: int) -> str:
        if self.votes is None or self.votes[index] < 0:
            return ""
        return (*self.dataset.class_names, "contempt")[self.votes[index]]


def _majority(dataset: Dataset) -> tuple[np.ndarray | None, str]:
    """Returns FER+'s majority for each train image, -1 for none, or why not."""
    try:
        votes = ferplus.load(dataset)
    except UserError as error:
        return None, ferplus.unused_note(error)
    if votes is None:
        return None, ""
    rows = dataset.splits["train"].rows
    return ferplus.majority(votes, contempt=True)[rows], ""
