"""Prints a comparison: the header, the notes, the tables, and what they say."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from fer_jax.compare import changes, tables
from fer_jax.compare.findings import findings, seeds_note
from fer_jax.compare.layout import Sheet, print_sheet
from fer_jax.compare.results import (
    FinishedRun,
    data_sets,
    run_name,
    shortlist,
)
from fer_jax.compare.summary import Experiment, Summary, shared_overrides
from fer_jax.compare.wording import count
from fer_jax.metrics import CLASS_METRICS, not_learnt
from fer_jax.runs.folder import failure, test_reads


@dataclass(frozen=True)
class Terminal:
    """Prints what a summary holds, in one of several views."""

    console: Console  # its width decides how tables are laid out
    summary: Summary
    runs: Sequence[FinishedRun]
    unfinished: Sequence[Path]  # run folders

    def everything(self) -> None:
        """The header, all tables, and what they say."""
        summary = self.summary
        self._header()
        self._overall()
        if any(images.leaked for images in summary.images.values()):
            self._print(tables.clean(summary))
        star = not self.console.is_terminal
        for metric in CLASS_METRICS:
            self._print(tables.by_emotion(summary, metric, star=star))
        if len(summary.experiments) > 1:
            self._print(tables.best_by_emotion(summary))
        self._print(tables.costs(summary))
        self._print(changes.questions(summary, self.runs))
        if len({run.name for run in self.runs}) > 1:
            self._print(changes.changes(summary, self.runs))
        self._findings()

    def short(self) -> None:
        """The header, the overall tables, and what they say."""
        self._header()
        self._overall()
        self._findings()

    def emotion(self, name: str) -> None:
        """One emotion in depth."""
        self._header()
        self._print(tables.one_emotion(self.summary, name))
        self._seeds_note()

    def pair(self, one: Experiment, other: Experiment) -> None:
        """Two experiments in depth: all metrics, confusions, costs, settings."""
        self._header()
        self._print(tables.in_depth(self.summary, one, other))
        self._print(tables.confusion(one))
        self._print(tables.confusion(other))
        self._print(tables.costs(self.summary))
        self._print(changes.changes(self.summary, self.runs))
        self._findings()

    def show(self, sheet: Sheet) -> None:
        """One table."""
        self._print(sheet)

    def say(self, text: str, style: str = "") -> None:
        """Prints a line, in which square brackets are no markup."""
        self.console.print(Text(text, style=style))

    def _header(self) -> None:
        split = self.summary.split
        scored = [run for run in self.runs if split in run.scores]
        experiments = count(len({run.name for run in scored}), "experiment")
        runs = count(len(scored), "run")
        self.say(f"Comparison on {split}: {runs} of {experiments}", style="bold")
        for fingerprint, data in data_sets(scored).items():
            head = self.summary.marked("data", fingerprint)
            self.say(f"{head}: {data['description']}, fingerprint {fingerprint}")
            if data["source"] == "embedded":
                line = "drawn faces, not photographs: no evidence about real data"
                self.say(line, style="yellow")
            for note in data["notes"]:
                self.say(f"note: {note}")
        if shared := shared_overrides(scored):
            self.say(f"set in all runs: {', '.join(shared)}", style="yellow")
        if any(run.selection["split"] == split for run in scored):
            self.say(
                f"{split} selected each run's checkpoint: its scores are optimistic",
                style="yellow",
            )
        self._unfinished()
        self._notes(scored)

    def _unfinished(self) -> None:
        errors = {path: failure(path) for path in self.unfinished}
        for path, error in errors.items():
            if error:
                self.say(f"failed: {run_name(path)}: {error}", style="red")
        if left := [run_name(path) for path, error in errors.items() if not error]:
            self.say(f"{count(len(left), 'run')} not finished: {shortlist(left)}")

    def _notes(self, scored: Sequence[FinishedRun]) -> None:
        split = self.summary.split
        if without := [run.label for run in self.runs if split not in run.scores]:
            runs = count(len(without), "run")
            self.say(f"{runs} without {split} results, left out: {shortlist(without)}")
        reads = {run.label: test_reads(run.folder) for run in self.runs}
        again = [f"{label} ({n} times)" for label, n in reads.items() if n > 1]
        if again and split == "test":
            line = f"test was read more than once by {shortlist(again)}"
            self.say(line, style="yellow")
        for run in scored:
            if why := not_learnt(run.scores[split]):
                self.say(f"{run.label} has not learnt: {why}", style="yellow")
        devices = Counter(run.device for run in scored)
        if len(devices) > 1:
            names = ", ".join(f"{device} ({n})" for device, n in devices.items())
            self.say(f"minutes do not compare across devices: {names}")

    def _overall(self) -> None:
        """The overall table, and the differences from the baseline."""
        summary = self.summary
        failures = [path for path in self.unfinished if failure(path)]
        self._print(tables.overall(summary, failures))
        if summary.has_tests:
            self._print(tables.differences(summary))
        others = [each for each in summary.experiments if each.name != summary.baseline]
        lacking = [summary.label(each) for each in others if not each.versus]
        if lacking and len(summary.experiments) > len(summary.images):
            self.say(
                f"not tested: {shortlist(lacking)}, for want of {summary.split} "
                f"results of {summary.baseline} on the same data; --baseline names "
                "another",
                style="yellow",
            )

    def _findings(self) -> None:
        if found := findings(self.summary):
            self._heading(f"What this says, on {self.summary.split}")
        for finding in found:
            self.say(finding.question)
            self.console.print(Padding(Text(finding.answer), (0, 0, 0, 2)))
        self._seeds_note()

    def _seeds_note(self) -> None:
        if note := seeds_note(self.summary):
            self.console.print()
            self.say(note, style="yellow")

    def _heading(self, text: str) -> None:
        self.console.print()
        self.say(text, style="bold")

    def _print(self, sheet: Sheet) -> None:
        print_sheet(self.console, sheet)
