"""A trained model as two files: written whole, and doubted when they are read.

FOLDER/weights.safetensors  float16: params/... and batch_stats/...
       model.json           what they are and where they come from; written last

model.json holds the SHA-256 of the weights, so that the two always belong together.
"""

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
from fer_jax.system.files import replacing, write_json

WEIGHTS, MODEL = "weights.safetensors", "model.json"
FORMAT = 1
MAX_BYTES = 500_000_000  # of the weights: more is no network of ours
_MAX_MODEL_BYTES = 1_000_000


class _Section(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class Network(_Section):
    """Which network the weights are of, as `fer_jax.models.create` takes it."""

    arch: str
    width: float
    squeeze_excitation: bool
    norm: str


class Preprocessing(_Section):
    """What is done to an image before the network sees it."""

    image_size: int = Field(ge=16, le=512)
    channels: Literal[1, 3]
    crop_size: int = Field(ge=0, le=512)  # what the network sees of it; 0: all
    views: Literal["none", "one", "flip", "ten_crop"]  # "one": older for "none"

    @model_validator(mode="after")
    def _is_part(self) -> "Preprocessing":
        if self.crop_size > self.image_size:
            raise ValueError("crop_size is larger than image_size")
        return self


class Description(_Section):
    """What of model.json is needed to predict; the rest of it is for people."""

    labels: list[str] = Field(min_length=2)
    network: Network
    preprocessing: Preprocessing
    sha256: str  # of the weights' file


class ModelFile(NamedTuple):
    """A model as it was read."""

    folder: Path
    info: dict[str, Any]  # all of model.json
    description: Description
    tensors: dict[str, np.ndarray]  # float16, by name


def pack(tensors: Mapping[str, np.ndarray], most: int = MAX_BYTES) -> bytes:
    """The content of a weights' file.

    Raises:
      UserError: if a value is too large for float16, or there are more bytes than
        `most`.
    """
    small = {}
    for name, tensor in tensors.items():
        with np.errstate(over="ignore"):  # found and told here
            small[name] = np.ascontiguousarray(tensor, np.float16)
        if not np.isfinite(small[name]).all():
            raise UserError(
                f"{name} holds values up to {np.abs(tensor).max():.3g}, which float16, "
                "in which models are stored, does not have; export another run"
            )
    raw = safetensors.numpy.save(small)
    if len(raw) > most:
        raise UserError(
            f"the weights take {len(raw) / 1e6:.1f} MB as float16, expected at most "
            f"{most / 1e6:.0f} MB there; export to another folder, or a run with a "
            "smaller network, such as model.arch=fernet"
        )
    return raw


def write(
    folder: Path, weights: bytes, info: Mapping[str, Any], *, force: bool = False
) -> bool:
    """Writes a model; what else the folder holds is left alone.

    Args:
      folder: where to; made if it is not there.
      weights: from `pack`.
      info: what model.json is to hold, without `format` and `sha256`.
      force: replace another model.

    Returns:
      False where the very same model is there already.

    Raises:
      UserError: if another model is there, or the folder cannot be written.
    """
    head = {"format": FORMAT, "sha256": hashlib.sha256(weights).hexdigest()}
    # As it will be read back, so that tuples equal lists.
    whole = json.loads(json.dumps(head | dict(info), allow_nan=False))
    there = [name for name in (WEIGHTS, MODEL) if os.path.lexists(folder / name)]
    if there and not force:
        if _holds(folder, whole):
            return False
        raise UserError(
            f"{folder} holds another model ({' and '.join(there)}); name another "
            "folder, or replace it with --force"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # First: whatever happens now, no description stands beside others' weights.
        (folder / MODEL).unlink(missing_ok=True)
        with replacing(folder / WEIGHTS) as partial:
            partial.write_bytes(weights)
        write_json(folder / MODEL, whole)
    except OSError as error:
        raise UserError(
            f"the folder {folder} cannot be written: {error.strerror}; name another"
        ) from None
    return True


def _holds(folder: Path, whole: Mapping[str, Any]) -> bool:
    try:
        return read(folder).info == whole  # and so, by their SHA-256, the weights
    except UserError:
        return False


def read(folder: Path) -> ModelFile:
    """Reads a model that `write` wrote.

    Raises:
      UserError: if a file is missing, cut off, damaged or of another format.
    """
    if not os.path.isdir(folder):
        raise UserError(
            f"{folder} is not a folder, expected one with a model; write one with "
            "bin/export RUN_DIR --to DIR"
        )
    info = _read_info(folder / MODEL)
    try:
        description = Description.model_validate(info)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{folder / MODEL}: {key}: {first['msg']}; export the model anew"
        ) from None
    path = folder / WEIGHTS
    raw = _bytes(path, MAX_BYTES)
    try:
        tensors = safetensors.numpy.load(raw)
    except (SafetensorError, ValueError, KeyError) as error:
        raise UserError(
            f"{path} is cut off or is no safetensors file ({error}); export the model "
            "anew"
        ) from None
    if hashlib.sha256(raw).hexdigest() != description.sha256:
        raise UserError(
            f"{path} is not the file that {MODEL} beside it describes (its SHA-256 "
            "is another); export the model anew"
        )
    return ModelFile(folder, info, description, tensors)


def _read_info(path: Path) -> dict[str, Any]:
    try:
        info = json.loads(_bytes(path, _MAX_MODEL_BYTES))
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is cut off or is not JSON ({error}); export the model anew"
        ) from None
    found = info.get("format") if isinstance(info, dict) else None
    if type(found) is not int or found != FORMAT:
        raise UserError(
            f"{path} has format {found!r}, and this version reads format {FORMAT}; "
            "export the model anew, or use the version that wrote it"
        )
    return info


def _bytes(path: Path, most: int) -> bytes:
    try:
        if not os.path.isfile(path):  # a pipe would be waited for
            raise UserError(
                f"{path} is missing or is no file, expected a model's; write one with "
                "bin/export RUN_DIR --to DIR"
            )
        with path.open("rb") as file:
            raw = file.read(most + 1)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    if len(raw) > most:
        raise UserError(
            f"{path} is larger than {most / 1e6:.0f} MB, which no model's is; export "
            "the model anew"
        )
    return raw
