"""The state of every run of a batch: `bin/run_batch --status`, and `--collect`.

Everything is read from the configs and the runs folder, on any machine that sees them.
No data are loaded and JAX is not imported, so the answer takes half a second.
"""

import contextlib
import os
import statistics
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from fer_jax import runs
from fer_jax.batch.plan import Configs, with_seed
from fer_jax.batch.run_state import Now, RunState, is_run, read_state
from fer_jax.config import Config
from fer_jax.errors import UserError, plain
from fer_jax.system.console import format_duration

# In the order in which the summary counts them.
STATES = (
    *("finished", "running", "starting", "queued", "lost", "failed"),
    *("stopped", "new", "blocked", "damaged"),
)
_ROW = "{:<8}  {:>7}  {:>5}  {:>6}  {}"  # after the name
_ROW_WIDTH = 47  # with a time such as "took 12 min", and the space before it
_MAX_NAMED = 20  # runs named in one sentence


def planned_runs(configs: Configs, seeds: int, runs_dir: Path) -> dict[Path, Config]:
    """Returns the run folders of a plan, in its order, with their configs."""
    planned = [
        with_seed(config, offset) for offset in range(seeds) for _, config in configs
    ]
    return {
        runs.run_dir(runs_dir, each.name, each.training.seed): each for each in planned
    }


def planned_state(folder: Path, now: Now, config: Config) -> RunState:
    """Returns the state of a planned run, "blocked" if another run has its folder."""
    with contextlib.suppress(UserError):  # then `read_state` reports it
        if changed := runs.differences(folder, config.model_dump()):
            reason = f"holds another run: {'; '.join(changed)}"
            return RunState("blocked", reason=reason, epochs=config.training.epochs)
    return read_state(folder, now, config.training.epochs)


def show_status(
    console: Console,
    configs: Configs,
    seeds: int,
    runs_dir: Path,
    filters: Sequence[str],
) -> None:
    """Prints the planned runs, then the others in the folder, and a count of states.

    With `filters`, the others are limited to names that start with one of them.
    """
    plan, now = planned_runs(configs, seeds, runs_dir), Now.at(runs_dir)
    states = {
        folder: planned_state(folder, now, config) for folder, config in plan.items()
    }
    others = {
        folder: read_state(folder, now)
        for folder in sorted(runs_dir.glob("*/seed_*"))
        if folder not in plan
        and is_run(folder)
        and (not filters or folder.parent.name.startswith(tuple(filters)))
    }
    labels = [_label(folder) for folder in (*states, *others)]
    width = min(max(map(len, labels)), max(console.width - _ROW_WIDTH, 20))
    head = _ROW.format("state", "epoch", "done", "val F1", "time")
    lines = [f"{'run':<{width}}  {head}", *_lines(states, width, console.width)]
    if others:
        lines += ["", "not in the plan:", *_lines(others, width, console.width)]
    for line in lines:
        console.print(line, soft_wrap=True)
    console.print(f"\n{_summary([*states.values(), *others.values()])}")
    if seconds := _training_left([*states.values()]):
        console.print(
            f"about {format_duration(seconds)} of training left, at the pace of the "
            "finished runs"
        )


def count_finished(configs: Configs, seeds: int, runs_dir: Path) -> tuple[int, str]:
    """Returns the number of finished runs of the plan, and a sentence on the others."""
    if not os.path.isdir(runs_dir):
        raise UserError(
            f"the runs folder {runs_dir} does not exist, so there is nothing to "
            "compare; name another with --runs_dir, or start runs without --collect"
        )
    plan, now = planned_runs(configs, seeds, runs_dir), Now.at(runs_dir)
    missing = [
        _label(folder)
        for folder, config in plan.items()
        if planned_state(folder, now, config).state != "finished"
    ]
    finished = len(plan) - len(missing)
    message = f"{finished} of {len(plan)} planned runs are finished"
    if missing:
        more = len(missing) - _MAX_NAMED
        message += f"; missing: {', '.join(missing[:_MAX_NAMED])}"
        message += f" and {more} more, see --status" if more > 0 else ""
    return finished, message


def _label(folder: Path) -> str:
    return f"{folder.parent.name}/{folder.name}"


def _lines(states: dict[Path, RunState], width: int, full: int) -> Iterator[str]:
    """Yields a line for each run, followed by reason and place."""
    for folder, run in states.items():
        label = _label(folder)
        if len(label) > width:  # a line of its own, so that the columns stay aligned
            yield label
            label = ""
        yield f"{label:<{width}}  {_row(run)}".rstrip()
        details = "; ".join(filter(None, (run.reason, run.place)))
        yield from textwrap.wrap(
            plain(details), full, initial_indent="  ", subsequent_indent="  "
        )


def _row(run: RunState) -> str:
    time = ""
    if run.seconds is not None:
        time = format_duration(run.seconds)
        time = f"took {time}" if run.state == "finished" else f"{time} left"
    started = run.state not in ("new", "damaged", "blocked")
    return _ROW.format(
        run.state,
        f"{run.epoch}/{run.epochs or '?'}" if started else "",
        f"{100 * run.done:.0f} %" if started else "",
        "" if run.best is None else f"{100 * run.best:.1f}",
        time,
    )


def _training_left(planned: Sequence[RunState]) -> float | None:
    """Returns the seconds to train what is planned; None before a run has finished."""
    paces = [
        run.seconds / run.epoch
        for run in planned
        if run.state == "finished" and run.seconds and run.epoch
    ]
    if not paces:
        return None
    pace = statistics.median(paces)
    return sum(
        pace * run.epochs * (1 - run.done) if run.seconds is None else run.seconds
        for run in planned
        if run.state not in ("finished", "blocked", "damaged") and run.epochs
    )


def _summary(states: Sequence[RunState]) -> str:
    counts = Counter(run.state for run in states)
    listed = ", ".join(f"{counts[name]} {name}" for name in STATES if counts[name])
    return f"{len(states)} {'run' if len(states) == 1 else 'runs'}: {listed}"
