"""The metrics of a run as TensorBoard event files, in `tensorboard/` of its folder.

Each attempt writes the files again from `metrics.jsonl`, so they contain every epoch
once, however earlier attempts ended. A finished run gets them without training.
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
    """Returns whether the run has event files."""
    return (folder / runs.TENSORBOARD).exists()


class Board:
    """The event file of one attempt: a context manager, and a reporter of the loop.

    Each call writes from the calling thread. SummaryWriter of tensorboardX writes from
    a thread of its own: `flush` does not wait for it, and it hides a full disk.
    """

    def __init__(self, folder: Path):
        """Prepares the files of a run; nothing is written before `on_epoch`."""
        self._folder = folder / runs.TENSORBOARD
        self._file: Any = None
        self._epochs = 0  # epochs written

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def on_step(self, step: int, loss: float) -> None:
        """Does nothing: an epoch has the mean loss."""

    def on_epoch(self, history: Sequence[Row]) -> None:
        """Writes new epochs; the first call replaces the files of earlier attempts."""
        if self._file is None:
            self._open()
        self._write(map(_epoch_event, history[self._epochs :]))
        self._epochs = len(history)

    def end(self, history: Sequence[Row], result: Mapping[str, Any]) -> None:
        """Writes the scores of the selected checkpoint, and the settings."""
        self._write(_final_events(history, result))

    def _open(self) -> None:
        if self._folder.exists():
            shutil.rmtree(self._folder)
        self._folder.mkdir()
        # Absolute: "s3:..." would be taken for an address.
        prefix = str(self._folder.absolute() / "events")
        self._file = _library().event_file_writer.EventsWriter(prefix)

    def _write(self, events: Iterable[Event]) -> None:
        for event in events:
            self._file.write_event(event)
        self._file.flush()


def write_finished(folder: Path, result: Mapping[str, Any]) -> None:
    """Writes the event files of a finished run from its metrics and result.

    Raises:
      UserError: if these are missing or damaged; older event files are kept.
    """
    try:
        text = (folder / runs.METRICS).read_text("utf-8")
        history = [json.loads(line) for line in text.splitlines()]
        if len(history) != result["epochs_run"]:
            raise ValueError(f"{len(history)} epochs")
        # Build everything before older files are removed.
        _ = [*map(_epoch_event, history), *_final_events(history, result)]
    except (FileNotFoundError, *_DAMAGED):
        raise UserError(
            f"{folder}: {runs.METRICS} or {runs.RESULT} is missing or damaged, and the "
            "event files are made from them; repeat that run with --force"
        ) from None
    with Board(folder) as board:
        board.on_epoch(history)
        board.end(history, result)


def _library() -> ModuleType:
    """Returns tensorboardX, imported late: it also imports PyTorch if there is one."""
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
    """Returns the values of an epoch; `train_loss` becomes train/loss."""
    values = {}
    for key, value in row.items():
        split, _, name = key.partition("_")
        tag = f"{split}/{name}" if split in ("train", "val") else key
        if key not in ("epoch", "step"):
            values[tag] = float(value)
    return _scalars(row["step"], values)


def _final_events(history: Sequence[Row], result: Mapping[str, Any]) -> list[Event]:
    """Returns the scores of the selected checkpoint, and the settings."""
    overall, by_class = {}, {}
    for split in ("val", "test"):
        if split in result:
            scores = result[split]
            for key in _OVERALL:
                overall[f"final/{split}/{key}"] = float(scores[key])
            for name, each in scores["per_class"].items():
                # A folder name may be invalid text; a tag may not.
                name = name.encode(errors="replace").decode()
                by_class[f"final/{split}/f1/{name}"] = float(each["f1"])
    step = history[result["selection"]["epoch"] - 1]["step"]
    words = ("description", "asks")  # no settings
    settings = flatten({k: v for k, v in result["config"].items() if k not in words})
    # As SummaryWriter.add_hparams, which would write them to a run of their own.
    summaries = _library().summary.hparams(settings, overall)
    return [
        _scalars(step, overall | by_class),
        *(_event(0, summary=summary) for summary in summaries),
    ]
