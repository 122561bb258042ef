"""A run's metrics as TensorBoard event files: `tensorboard/` in its run folder.

`metrics.jsonl` and `result.json` are the record, and these files a picture of it. Each
attempt at a run begins them anew from the record, so that they hold every epoch once,
whatever ended the attempts before; a finished run needs no training to get them.
"""

import json
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Self

from fer_jax import runs
from fer_jax.config import flatten
from fer_jax.errors import UserError

Row = Mapping[str, Any]  # of metrics.jsonl
Event = Any  # tensorboardX.proto.event_pb2.Event
_OVERALL = ("loss", "accuracy", "macro_f1", "balanced_accuracy")
_DAMAGED = (ValueError, RecursionError, LookupError, TypeError, AttributeError)


def has_board(folder: Path) -> bool:
    """Whether an attempt at the run has begun event files."""
    return (folder / runs.TENSORBOARD).exists()


class Board:
    """The event file of one attempt at a run: a reporter, and a context manager.

    Each call writes through to the disk, from the thread that makes it. tensorboardX's
    own SummaryWriter has a thread for that, whose queue a flush does not wait for, and
    which a full disk ends without a word.
    """

    def __init__(self, folder: Path):
        """For the run in a folder; nothing is touched before `on_epoch`."""
        self._folder = folder / runs.TENSORBOARD
        self._file: Any = None
        self._epochs = 0  # how many it holds

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def on_step(self, step: int, loss: float) -> None:
        """Does nothing: an epoch has a mean loss."""

    def on_epoch(self, history: Sequence[Row]) -> None:
        """Adds the epochs of the record that it lacks.

        The first time these are all, in place of what earlier attempts wrote.
        """
        if self._file is None:
            self._open()
        self._write(map(_epoch_event, history[self._epochs :]))
        self._epochs = len(history)

    def end(self, history: Sequence[Row], result: Mapping[str, Any]) -> None:
        """Adds the scores of the selected checkpoint, and the settings."""
        self._write(_final_events(history, result))

    def _open(self) -> None:
        if self._folder.exists():
            shutil.rmtree(self._folder)
        self._folder.mkdir()
        # Absolute: what begins with "s3:" would be taken for an address.
        prefix = str(self._folder.absolute() / "events")
        self._file = _library().event_file_writer.EventsWriter(prefix)

    def _write(self, events: Iterable[Event]) -> None:
        for event in events:
            self._file.write_event(event)
        self._file.flush()


def write_finished(folder: Path, result: Mapping[str, Any]) -> None:
    """Writes the event files of a finished run from its record.

    Raises:
      UserError: if the record is not whole; older files are left as they were.
    """
    try:
        text = (folder / runs.METRICS).read_text("utf-8")
        history = [json.loads(line) for line in text.splitlines()]
        if len(history) != result["epochs_run"]:
            raise ValueError(f"{len(history)} epochs")
        # All that will be written, before anything is removed.
        _ = [*map(_epoch_event, history), *_final_events(history, result)]
    except (FileNotFoundError, *_DAMAGED):
        raise UserError(
            f"TensorBoard's files need {runs.METRICS} and {runs.RESULT}, and one of "
            f"them is missing or damaged in {folder}; repeat that run with --force"
        ) from None
    with Board(folder) as board:
        board.on_epoch(history)
        board.end(history, result)


def _library() -> ModuleType:
    """tensorboardX, imported when it is first used.

    Where PyTorch is installed, for `bin/bench`, it imports that too, which takes 2 s.
    """
    import tensorboardX.event_file_writer
    import tensorboardX.proto.event_pb2
    import tensorboardX.summary

    return tensorboardX


def _event(step: int, **content: Any) -> Event:
    make = _library().proto.event_pb2.Event
    return make(wall_time=time.time(), step=step, **content)


def _scalars(step: int, values: Mapping[str, float]) -> Event:
    listed = [{"tag": tag, "simple_value": value} for tag, value in values.items()]
    return _event(step, summary={"value": listed})


def _epoch_event(row: Row) -> Event:
    """An epoch's values, at its last step: `train_loss` is train/loss, `lr` is lr."""
    values = {}
    for key, value in row.items():
        split, _, name = key.partition("_")
        tag = f"{split}/{name}" if split in ("train", "val") else key
        if key not in ("epoch", "step"):
            values[tag] = float(value)
    return _scalars(row["step"], values)


def _final_events(history: Sequence[Row], result: Mapping[str, Any]) -> list[Event]:
    """The selected checkpoint's scores, at its step, and what the run was set to."""
    overall, by_class = {}, {}
    for split in ("val", "test"):
        if split in result:
            scores = result[split]
            for key in _OVERALL:
                overall[f"final/{split}/{key}"] = float(scores[key])
            for name, each in scores["per_class"].items():
                # The name of a folder need not be text, and a tag must.
                name = name.encode(errors="replace").decode()
                by_class[f"final/{split}/f1/{name}"] = float(each["f1"])
    step = history[result["selection"]["epoch"] - 1]["step"]
    words = ("description", "asks")  # no settings
    settings = flatten({k: v for k, v in result["config"].items() if k not in words})
    # As SummaryWriter.add_hparams writes them, but beside the scores: its subfolder
    # would be a run of its own to TensorBoard.
    summaries = _library().summary.hparams(settings, overall)
    return [
        _scalars(step, overall | by_class),
        *(_event(0, summary=summary) for summary in summaries),
    ]
