"""A comparison of finished runs as an object: data frames, findings and figures."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fer_jax.compare import figure_style, figures, frames
from fer_jax.compare.analysis import summarise
from fer_jax.compare.findings import Finding, findings
from fer_jax.compare.folders import check_split, load_runs, usual_baseline
from fer_jax.compare.predictions import only_clean
from fer_jax.compare.results import LABEL_SETS, SPLITS, FinishedRun, shortlist
from fer_jax.compare.summary import SORTS, Summary
from fer_jax.compare.wording import count
from fer_jax.errors import UserError

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


def load(
    *folders: str | Path,
    split: str = "val",
    filter: str | Sequence[str] = (),
    baseline: str | None = None,
    sort: str = "macro_f1",
    labels: str | None = None,
    clean: bool = False,
    mixed: bool = False,
) -> Comparison:
    """Reads finished runs, to compare them.

    Args:
      folders: that hold `<name>/seed_<n>/result.json`; none: `runs`. An experiment that
        is in more than one gets the folder's name before its own.
      split: val or test.
      filter: prefixes of the names of experiments, any of which may match.
      baseline: what the others are compared with; None: the experiment `baseline`, of
        the first folder.
      sort: the order of experiments: macro_f1, accuracy, balanced_accuracy, name, time.
      labels: fer2013, ferplus_majority or agreed: the labels that score all runs; None:
        those that each run chose.
      clean: score only the images without a copy in train.
      mixed: allow runs of different data; they are kept apart.

    Raises:
      UserError: there is no finished run, a file is damaged, the runs do not compare,
        or none has the split.
    """
    for what, value, known in (
        ("split", split, SPLITS),
        ("sort", sort, SORTS),
        ("labels", labels, (None, *LABEL_SETS)),
    ):
        if value not in known:
            names = ", ".join(name for name in known if name)
            raise UserError(f"{what} is {value!r}; choose one of {names}")
    prefixes = [filter] if isinstance(filter, str) else filter
    runs, unfinished = load_runs(
        folders or "runs", prefixes, mixed=mixed, labels=labels
    )
    if clean:
        runs = [only_clean(run) for run in runs]
    base = baseline or usual_baseline(runs)
    made = Comparison(runs, unfinished, split=split, sort=sort, baseline=base)
    return made.replace(baseline=baseline)


class Comparison:
    """What finished runs say on one split.

    The data frames have a row for each thing, and scores in 0..1; `frames` documents
    their columns. They are computed when they are first asked for.

    Attributes:
      finished: the runs, as `FinishedRun`.
      unfinished: the folders of other runs.
      split: val or test.
    """

    def __init__(
        self,
        finished: Sequence[FinishedRun],
        unfinished: Sequence[Path] = (),
        *,
        split: str,
        sort: str,
        baseline: str,
    ):
        """Analyses nothing yet."""
        self.finished, self.unfinished = list(finished), list(unfinished)
        self.split, self._sort, self._baseline = split, sort, baseline

    def __repr__(self) -> str:
        """How many runs of how many experiments."""
        names = {run.name for run in self.finished}
        return (
            f"Comparison({self.split}: {count(len(self.finished), 'run')} of "
            f"{count(len(names), 'experiment')})"
        )

    @functools.cached_property
    def summary(self) -> Summary:
        """The analysis that everything else shows."""
        return summarise(self.finished, self.split, self._sort, self._baseline)

    def replace(
        self,
        *,
        runs: Sequence[FinishedRun] | None = None,
        split: str | None = None,
        baseline: str | None = None,
    ) -> Comparison:
        """The same with other runs, on another split, or with another baseline.

        Raises:
          UserError: no run, or none of the baseline, has the split.
        """
        chosen = self.finished if runs is None else runs
        where = split or self.split
        check_split(chosen, where)
        names = dict.fromkeys(run.name for run in chosen if where in run.scores)
        if baseline and baseline not in names:
            raise UserError(
                f"the baseline {baseline} is no experiment with {where} results; "
                f"there are {shortlist(names, 20)}"
            )
        return Comparison(
            chosen,
            self.unfinished if runs is None else [],
            split=where,
            sort=self._sort,
            baseline=baseline or self._baseline,
        )

    @functools.cached_property
    def runs(self) -> pd.DataFrame:
        """A row for each run; see `frames.runs`."""
        return frames.runs(self.finished, self.split)

    @functools.cached_property
    def experiments(self) -> pd.DataFrame:
        """A row for each experiment; see `frames.experiments`."""
        return frames.experiments(self.summary)

    @functools.cached_property
    def emotions(self) -> pd.DataFrame:
        """A row for each experiment, emotion and metric; see `frames.emotions`."""
        return frames.emotions(self.summary)

    @functools.cached_property
    def differences(self) -> pd.DataFrame:
        """A row for each tested difference; see `frames.differences`."""
        return frames.differences(self.summary)

    @functools.cached_property
    def changes(self) -> pd.DataFrame:
        """A row for each changed setting; see `frames.changes`."""
        return frames.changes(self.summary)

    @functools.cached_property
    def history(self) -> pd.DataFrame:
        """A row for each epoch of each run; see `frames.history`."""
        return frames.history(self.summary)

    @functools.cached_property
    def confusion(self) -> pd.DataFrame:
        """A row for each pair of emotions; see `frames.confusion`."""
        return frames.confusion(self.summary)

    @functools.cached_property
    def reliability(self) -> pd.DataFrame:
        """A row for each bin of confidence; see `frames.reliability`."""
        return frames.reliability(self.summary)

    @property
    def answers(self) -> list[Finding]:
        """The answer to each question that the experiments ask."""
        return findings(self.summary)

    @property
    def findings(self) -> str:
        """The questions and their answers, as text."""
        return "\n".join(f"{each.question}\n  {each.answer}" for each in self.answers)

    @property
    def figures(self) -> Figures:
        """The figures."""
        return Figures(self)


class Figures:
    """The figures of a comparison; `figures` has a function for each."""

    def __init__(self, comparison: Comparison):
        """Draws nothing yet."""
        self._of = comparison

    def scores(self, metric: str = "macro_f1", *, dark: bool = False) -> go.Figure:
        """Scores with intervals."""
        of = self._of
        return _made(figures.scores(of.experiments, metric, split=of.split), dark)

    def differences(
        self,
        metric: str = "macro_f1",
        emotion: str | None = None,
        *,
        dark: bool = False,
    ) -> go.Figure:
        """Differences from the baseline: a forest plot."""
        of = self._of
        found = figures.differences(of.differences, metric, emotion, split=of.split)
        return _made(found, dark)

    def emotions(self, metric: str = "f1", *, dark: bool = False) -> go.Figure:
        """A metric by emotion: a heat map."""
        of = self._of
        return _made(figures.emotions(of.emotions, metric, split=of.split), dark)

    def confusion(self, experiment: str, *, dark: bool = False) -> go.Figure:
        """What each emotion is taken for: a heat map."""
        of = self._of
        return _made(figures.confusion(of.confusion, experiment, split=of.split), dark)

    def curves(self, metric: str = "val_macro_f1", *, dark: bool = False) -> go.Figure:
        """Learning curves."""
        return _made(figures.curves(self._of.history, metric), dark)

    def precision_recall(self, emotion: str, *, dark: bool = False) -> go.Figure:
        """Precision against recall."""
        of = self._of
        found = figures.precision_recall(of.emotions, emotion, split=of.split)
        return _made(found, dark)

    def reliability(self, *, dark: bool = False) -> go.Figure:
        """Accuracy by confidence."""
        of = self._of
        return _made(figures.reliability(of.reliability, split=of.split), dark)

    def cost(self, metric: str = "macro_f1", *, dark: bool = False) -> go.Figure:
        """Score by minutes of training."""
        of = self._of
        return _made(figures.cost(of.experiments, metric, split=of.split), dark)


def _made(drawing: figures.Drawing, dark: bool) -> go.Figure:
    import plotly.graph_objects as go  # a third of a second

    made = go.Figure(drawing)
    return made.update_layout(template=figure_style.template(dark=dark))
