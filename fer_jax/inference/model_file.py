"""A trained model as two files, which are checked when they are read.

FOLDER/weights.safetensors  float16: params/... and batch_stats/...
       model.json           network, preprocessing and origin; written last

model.json holds the SHA-256 of the weights, so that the two always belong together.
"""

import contextlib
import hashlib
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
from fer_jax.system.arguments import typed
from fer_jax.system.files import replacing, write_json

WEIGHTS, MODEL = "weights.safetensors", "model.json"
SHIPPED = Path(__file__).resolve().parents[1] / "pretrained"
FORMAT = 1
MAX_BYTES = 500_000_000  # of the weights; our networks are smaller
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


class Description(_Section):
    """The keys of model.json that prediction needs; the others are for people."""

    labels: list[str] = Field(min_length=2)
    network: Network
    preprocessing: Preprocessing
    sha256: str  # of the weights' file


class ModelFile(NamedTuple):
    """A model as read from its files."""

    folder: Path
    info: dict[str, Any]  # all of model.json
    description: Description
    tensors: dict[str, np.ndarray]  # float16, by name


def pack(tensors: Mapping[str, np.ndarray]) -> bytes:
    """Returns the content of a weights file.

    Raises:
      UserError: for a value beyond float16, or more than `MAX_BYTES`.
    """
    packed = {}
    for name, tensor in tensors.items():
        with np.errstate(over="ignore"):
            packed[name] = np.ascontiguousarray(tensor, np.float16)
        if not np.isfinite(packed[name]).all():
            raise UserError(
                f"{name} holds values up to {np.abs(tensor).max():.3g}, more than the "
                "float16 of a model file can hold; export another run"
            )
    raw = safetensors.numpy.save(packed)
    if len(raw) > MAX_BYTES:
        raise UserError(
            f"the weights take {len(raw) / 1e6:.1f} MB as float16, expected at most "
            f"{MAX_BYTES / 1e6:.0f} MB; train a smaller network"
        )
    return raw


def write(
    folder: Path, weights: bytes, info: Mapping[str, Any], *, force: bool = False
) -> bool:
    """Writes a model into a folder, whose other files stay.

    `weights` is from `pack`, `info` the rest of model.json; `force` replaces another
    model. Returns False if the same model is already there.

    Raises:
      UserError: if another model is there, or the folder cannot be written.
    """
    head = {"format": FORMAT, "sha256": hashlib.sha256(weights).hexdigest()}
    # As it will be read back: tuples become lists.
    whole = json.loads(json.dumps(head | dict(info), allow_nan=False))
    existing = [name for name in (WEIGHTS, MODEL) if os.path.lexists(folder / name)]
    if existing and not force:
        with contextlib.suppress(UserError):
            if read(folder).info == whole:  # the SHA-256 in it covers the weights
                return False
        raise UserError(
            f"{folder} holds another model ({' and '.join(existing)}); name another "
            "folder, or replace it with --force"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # First, so that no description ever stands beside the weights of another.
        (folder / MODEL).unlink(missing_ok=True)
        with replacing(folder / WEIGHTS) as partial:
            partial.write_bytes(weights)
        write_json(folder / MODEL, whole)
    except OSError as error:
        raise UserError(
            f"the folder {folder} cannot be written: {error.strerror}; name another"
        ) from None
    return True


def read(path: str | Path | None = None) -> ModelFile:
    """Returns the model that `write` wrote in a folder; None: the shipped one.

    Raises:
      UserError: if a file is missing, damaged or of another format.
    """
    folder = SHIPPED if path is None else Path(path)
    if path is None and not (SHIPPED / MODEL).exists():
        raise UserError(
            f"this copy of fer_jax has no trained model in {SHIPPED}; train one, write "
            f"it with {typed('export')} RUN_DIR --to DIR, and pass DIR to "
            "load_pretrained"
        )
    if not os.path.isdir(folder):
        raise UserError(
            f"{folder} is not a folder, expected one with a model; write one with "
            f"{typed('export')} RUN_DIR --to DIR, or name none for the model that ships"
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
    raw = _read_bytes(weights, MAX_BYTES)
    try:
        tensors = safetensors.numpy.load(raw)
    except (SafetensorError, ValueError, KeyError) as error:
        raise UserError(
            f"{weights} is cut off or is no safetensors file ({error}); export the "
            "model again"
        ) from None
    if hashlib.sha256(raw).hexdigest() != description.sha256:
        raise UserError(
            f"{weights} is not the file that {MODEL} describes (its SHA-256 differs); "
            "export the model again"
        )
    return ModelFile(folder, info, description, tensors)


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
                f"{path} is missing or is no file, expected a model's; write one with "
                f"{typed('export')} RUN_DIR --to DIR"
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
