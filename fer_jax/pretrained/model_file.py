"""A trained model as a folder of files, which are checked when they are read.

FOLDER/weights.safetensors  float16: params/... and batch_stats/...
       train_hashes.npy     of the images it was trained on, if they are known
       model.json           network, preprocessing and origin; written last

model.json holds the SHA-256 of the others, so that all always belong together.
"""

import contextlib
import hashlib
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import safetensors.numpy
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError

from fer_jax.errors import UserError
from fer_jax.system.arguments import close_match, typed
from fer_jax.system.files import replacing, write_json

WEIGHTS, HASHES, MODEL = "weights.safetensors", "train_hashes.npy", "model.json"
SHIPPED = {"shipped": Path(__file__).resolve().parent}  # by name
HEAD = ("format", "sha256", "train_hashes")  # keys of model.json that `write` adds
FORMAT = 1
MAX_BYTES = 500_000_000  # of a file; our networks are smaller
_MAX_MODEL_BYTES = 1_000_000


class _Section(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class Network(_Section):
    """The network, in the terms of `fer_jax.models.create`."""

    arch: str
    width: float
    blocks: list[int] | None
    squeeze_excitation: bool
    norm: str


class Preprocessing(_Section):
    """What is done to an image before the network sees it."""

    image_size: int = Field(ge=16, le=512)
    channels: Literal[1, 3]
    crop_size: int = Field(ge=0, le=512)  # side of the centred part; 0: all
    views: Literal["none", "flip", "ten_crop"]  # test-time augmentation

    @model_validator(mode="after")
    def _is_part(self) -> "Preprocessing":
        if self.crop_size > self.image_size:
            raise ValueError("crop_size is larger than image_size")
        return self


class Calibration(_Section):
    """How probabilities are made to match accuracy; fitted on val."""

    temperature: float = Field(gt=0, le=100)  # divides the logits


class Description(_Section):
    """The keys of model.json that prediction needs; the others are for people."""

    labels: list[str] = Field(min_length=2)
    network: Network
    preprocessing: Preprocessing
    calibration: Calibration = Calibration(temperature=1.0)
    sha256: str  # of the weights' file
    train_hashes: str | None = None  # the SHA-256 of that file


class ModelFile(NamedTuple):
    """A model as read from its files."""

    folder: Path
    info: dict[str, Any]  # all of model.json
    description: Description
    tensors: dict[str, np.ndarray]  # float16 as read, by name
    train_hashes: np.ndarray | None = None  # uint64 [N, 2]; None: not known


def in_half_precision(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns weights in float16, as a model file holds them.

    Raises:
      UserError: for a value beyond float16.
    """
    rounded = {}
    for name, tensor in tensors.items():
        with np.errstate(over="ignore"):
            rounded[name] = np.ascontiguousarray(tensor, np.float16)
        if not np.isfinite(rounded[name]).all():
            raise UserError(
                f"{name} holds values up to {np.abs(tensor).max():.3g}, more than the "
                "float16 of a model file can hold; export another run"
            )
    return rounded


def pack(tensors: Mapping[str, np.ndarray]) -> bytes:
    """Returns the content of a weights file.

    Raises:
      UserError: for a value beyond float16, or more than `MAX_BYTES`.
    """
    raw = safetensors.numpy.save(in_half_precision(tensors))
    if len(raw) > MAX_BYTES:
        raise UserError(
            f"the weights take {len(raw) / 1e6:.1f} MB as float16, expected at most "
            f"{MAX_BYTES / 1e6:.0f} MB; train a smaller network"
        )
    return raw


def write(
    folder: Path,
    weights: bytes,
    info: Mapping[str, Any],
    *,
    hashes: np.ndarray | None = None,
    force: bool = False,
) -> bool:
    """Writes a model into a folder, whose other files stay.

    `weights` is from `pack`, `info` the rest of model.json, and `hashes` those of the
    images it was trained on, uint64 `[N, 2]`; `force` replaces another model. Returns
    False if the same model is already there.

    Raises:
      UserError: if another model is there, or the folder cannot be written.
    """
    head = {"format": FORMAT, "sha256": hashlib.sha256(weights).hexdigest()}
    files = {WEIGHTS: weights}
    if hashes is not None:
        files[HASHES] = _array_bytes(hashes)
        head["train_hashes"] = hashlib.sha256(files[HASHES]).hexdigest()
    # As it will be read back: tuples become lists.
    facts = head | {key: info[key] for key in info if key not in HEAD}
    whole = json.loads(json.dumps(facts, allow_nan=False))
    all_files = (WEIGHTS, HASHES, MODEL)
    existing = [name for name in all_files if os.path.lexists(folder / name)]
    if existing and not force:
        with contextlib.suppress(UserError):
            if read(folder).info == whole:  # the SHA-256 in it cover the other files
                return False
        raise UserError(
            f"{folder} holds another model ({' and '.join(existing)}); name another "
            "folder, or replace it with --force"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # First, so that no description ever stands beside the weights of another.
        for name in (MODEL, HASHES):
            (folder / name).unlink(missing_ok=True)
        for name, content in files.items():
            with replacing(folder / name) as partial:
                partial.write_bytes(content)
        write_json(folder / MODEL, whole)
    except OSError as error:
        raise UserError(
            f"the folder {folder} cannot be written: {error.strerror}; name another"
        ) from None
    return True


def read(path: str | Path | None = None) -> ModelFile:
    """Returns the model in a folder, or the one that ships under a name.

    Args:
      path: a folder that `write` wrote, or a name of `SHIPPED`; None: its first.

    Raises:
      UserError: if a file is missing, damaged or of another format.
    """
    name = next(iter(SHIPPED)) if path is None else str(path)
    folder = SHIPPED.get(name, Path(name))
    if not os.path.isdir(folder):
        raise UserError(
            f"there is no model {name}{close_match(name, SHIPPED)}; name a folder that "
            f"{typed('export')} RUN_DIR --to DIR wrote, or one that ships: "
            f"{', '.join(SHIPPED)}"
        )
    info = _read_info(folder / MODEL)
    try:
        description = Description.model_validate(info)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{folder / MODEL}: {key}: {first['msg']}; export the model again"
        ) from None
    weights = folder / WEIGHTS
    raw = _read_described(weights, description.sha256)
    try:
        tensors = safetensors.numpy.load(raw)
    except (SafetensorError, ValueError, KeyError) as error:
        raise UserError(
            f"{weights} is no safetensors file ({error}); export the model again"
        ) from None
    hashes = None
    if description.train_hashes is not None:
        raw = _read_described(folder / HASHES, description.train_hashes)
        hashes = np.load(io.BytesIO(raw), allow_pickle=False)
    return ModelFile(folder, info, description, tensors, hashes)


def _read_described(path: Path, sha256: str) -> bytes:
    """The content of a file, which must be the one that model.json describes."""
    raw = _read_bytes(path, MAX_BYTES)
    if hashlib.sha256(raw).hexdigest() != sha256:
        raise UserError(
            f"{path} is not the file that {MODEL} describes, or is cut off (its "
            "SHA-256 differs); export the model again"
        )
    return raw


def _array_bytes(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def _read_info(path: Path) -> dict[str, Any]:
    try:
        info = json.loads(_read_bytes(path, _MAX_MODEL_BYTES))
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is cut off or is not JSON ({error}); export the model again"
        ) from None
    found = info.get("format") if isinstance(info, dict) else None
    if type(found) is not int or found != FORMAT:
        raise UserError(
            f"{path} has format {found!r}, and this version reads format {FORMAT}; "
            "export the model again, or use the version that wrote it"
        )
    return info


def _read_bytes(path: Path, limit: int) -> bytes:
    try:
        if not os.path.isfile(path):  # opening a pipe would wait forever
            raise UserError(
                f"{path} is missing or is no file, expected a model's; copy the whole "
                f"folder, or write it again with {typed('export')} RUN_DIR --to DIR, "
                "without another --format"
            )
        with path.open("rb") as file:
            raw = file.read(limit + 1)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    if len(raw) > limit:
        raise UserError(
            f"{path} is larger than {limit / 1e6:.0f} MB, too large for a model; "
            "export the model again"
        )
    return raw
