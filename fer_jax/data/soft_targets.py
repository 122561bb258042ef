"""What a teacher says of the train images, as targets of another network.

Distillation (Hinton et al. 2015, arXiv:1503.02531): a target is part label, part the
probabilities of a trained network, which know how alike the classes of an image are.
`fer-jax targets` writes the file.
"""

import dataclasses
import hashlib
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fer_jax.config import Config
from fer_jax.data.prepare import Dataset
from fer_jax.errors import UserError
from fer_jax.system.files import replacing

WEIGHT, TEMPERATURE = 0.5, 1.0  # where the config has null
_AGAIN = "write it again with fer-jax targets"


class SoftTargets(NamedTuple):
    """A teacher's probabilities of train images."""

    fingerprint: str  # of the data set as loaded
    class_names: tuple[str, ...]
    rows: np.ndarray  # int32 [N], of the source, ascending
    probabilities: np.ndarray  # float32 [N, C], rows that sum to 1
    teachers: tuple[str, ...]  # the runs, such as baseline/seed_42


def write(path: Path, targets: SoftTargets) -> None:
    """Writes a file of soft targets, probabilities in half precision.

    Raises:
      UserError: it cannot be written.
    """
    arrays = targets._asdict() | {
        "rows": targets.rows.astype(np.int32),
        "probabilities": targets.probabilities.astype(np.float16),
    }
    try:
        with replacing(path.resolve()) as partial, partial.open("wb") as file:
            named: dict[str, Any] = {k: np.asarray(v) for k, v in arrays.items()}
            np.savez_compressed(file, **named)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from None


def read(path: Path) -> SoftTargets:
    """Reads a file of soft targets.

    Raises:
      UserError: it is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in SoftTargets._fields}
    except FileNotFoundError:
        raise UserError(
            f"data.soft_targets: there is no file {path.absolute()}; "
            "fer-jax targets writes one"
        ) from None
    except KeyError as error:
        raise UserError(f"{path} is no file of soft targets: {error.args[0]}") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged ({error}); {_AGAIN}") from None
    found = SoftTargets(
        fingerprint=str(arrays["fingerprint"]),
        class_names=tuple(arrays["class_names"].tolist()),
        rows=arrays["rows"],
        probabilities=arrays["probabilities"].astype(np.float32),
        teachers=tuple(arrays["teachers"].tolist()),
    )
    p, shape = found.probabilities, (len(found.rows), len(found.class_names))
    if p.shape != shape or not np.isfinite(p).all() or (p < 0).any():
        raise UserError(f"{path} is damaged; {_AGAIN}")
    if not np.allclose(p.sum(axis=1), 1, atol=0.01):  # float16
        raise UserError(f"{path}: its probabilities do not sum to 1; {_AGAIN}")
    return found._replace(probabilities=p / p.sum(axis=1, keepdims=True))


def mixed_in(dataset: Dataset, config: Config) -> Dataset:
    """The data set with train's soft labels mixed with those of `data.soft_targets`.

    With w the `loss.teacher_weight` and T the `loss.teacher_temperature`, a target is
    (1 - w) label + w p**(1/T) / sum p**(1/T).

    Raises:
      UserError: the file is missing, damaged, of other data, or lacks a train image.
    """
    name, loss = config.data.soft_targets, config.loss
    if name is None:
        return dataset
    path, targets = Path(name), read(Path(name))
    loaded = dataset.source_fingerprint or dataset.fingerprint
    if targets.fingerprint != loaded:
        raise UserError(
            f"data.soft_targets: {path} is of data {targets.fingerprint}, and "
            f"{dataset.description} is {loaded}: it needs the same images, image_size "
            f"and channels; {_AGAIN}"
        )
    if targets.class_names != tuple(dataset.class_names):
        raise UserError(
            f"data.soft_targets: {path} has the classes "
            f"{', '.join(targets.class_names)}, and the labels are "
            f"{', '.join(dataset.class_names)}; {_AGAIN}"
        )
    train = dataset.splits["train"]
    place = np.searchsorted(targets.rows, train.rows).clip(max=len(targets.rows) - 1)
    if lacking := int((targets.rows[place] != train.rows).sum()):
        raise UserError(
            f"data.soft_targets: {path} lacks {lacking:,} of the {len(train.rows):,} "
            f"train images; {_AGAIN}, from runs on all of them"
        )
    weight = WEIGHT if loss.teacher_weight is None else loss.teacher_weight
    temperature = loss.teacher_temperature or TEMPERATURE
    softened = targets.probabilities[place] ** np.float32(1 / temperature)
    softened /= softened.sum(axis=1, keepdims=True)
    own = train.soft
    if own is None:
        own = np.eye(len(dataset.class_names), dtype=np.float32)[train.labels]
    soft = ((1 - weight) * own + weight * softened).astype(np.float32)
    note = f"train targets: {weight:g} of the probabilities of {_list(targets)}"
    return dataclasses.replace(
        dataset,
        splits=dataset.splits | {"train": dataclasses.replace(train, soft=soft)},
        targets=hashlib.sha256(soft.tobytes()).hexdigest()[:16],
        notes=(*dataset.notes, note),
    )


def _list(targets: SoftTargets) -> str:
    first, count = targets.teachers[:3], len(targets.teachers)
    return ", ".join(first) + (f" and {count - 3} more" if count > 3 else "")
