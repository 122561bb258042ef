"""Pictures in every form in which people have them, brought to Pillow's.

Nothing is guessed in silence: what could be two things is refused in a sentence.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fer_jax.data.sources.image_files import read_picture
from fer_jax.errors import UserError


def to_pictures(images: Any) -> tuple[list[Image.Image], bool]:
    """Returns pictures, and whether it was a single one.

    A single picture is a path, a Pillow image, or an array `[H, W]` or `[H, W, 3]`.
    Several are an array `[B, H, W]`, `[B, H, W, 1]` or `[B, H, W, 3]`, or any iterable
    of single ones. An array is whatever `numpy.asarray` takes: uint8 or other integers
    of 0..255, or floats, which are 0..1 if none is larger than 1, and else 0..255.

    Raises:
      UserError: for anything else.
    """
    if isinstance(images, str | Path | Image.Image):
        return [_picture(images, "images")], True
    if hasattr(images, "__array__"):
        array = _array(images, "images")
        if array.ndim == 2 or array.ndim == 3 and array.shape[2] in (1, 3):
            return [_from_array(array, "images")], True
        _check_order(array)
        array = _to_uint8(array, "images")
        several = [_from_array(each, f"images[{n}]") for n, each in enumerate(array)]
        return several, False
    if isinstance(images, bytes) or not isinstance(images, Iterable):
        raise _refusal("images", f"of type {type(images).__name__}")
    return [_picture(each, f"images[{n}]") for n, each in enumerate(images)], False


def _check_order(array: np.ndarray) -> None:
    """Refuses arrays that may be, or are, in PyTorch's order, or transparent."""
    found = f"images is {array.dtype} {list(array.shape)}"
    if array.ndim == 3 and array.shape[2] in (2, 4):
        height, width = array.shape[1:]
        raise UserError(
            f"{found}: {len(array)} grey images of {height} x {width}, or one with "
            f"transparency? Give images[..., :{width - 1}] for its colours"
        )
    if array.ndim == 3 and array.shape[0] == 3:
        raise UserError(
            f"{found}: three grey images, or one in the order [C, H, W]? Give "
            "images[..., None] for three, or images.transpose(1, 2, 0) for one"
        )
    if array.ndim == 4 and array.shape[1] in (1, 3) and array.shape[3] not in (1, 3):
        raise UserError(
            f"{found}, in the order [B, C, H, W]; give images.transpose(0, 2, 3, 1)"
        )


def _picture(image: Any, name: str) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, str | Path):
        try:
            return read_picture(Path(image))[0]
        except ValueError as error:
            raise UserError(f"{image} {error}") from None
    return _from_array(_array(image, name), name)


def _array(image: Any, name: str) -> np.ndarray:
    try:
        return np.asarray(image)
    except (ValueError, TypeError) as error:  # ragged rows; a tensor of another device
        raise _refusal(name, f"of type {type(image).__name__} ({error})") from None


def _from_array(pixels: np.ndarray, name: str) -> Image.Image:
    if pixels.ndim == 3 and pixels.shape[2] == 1:  # as data sets store grey images
        pixels = pixels[:, :, 0]
    is_image = pixels.ndim == 2 or pixels.ndim == 3 and pixels.shape[2] == 3
    if not is_image or not pixels.size:
        raise _refusal(name, f"{pixels.dtype} {list(pixels.shape)}")
    return Image.fromarray(_to_uint8(pixels, name))


def _to_uint8(pixels: np.ndarray, name: str) -> np.ndarray:
    """Pixels of 0..255; floats up to 1 are multiplied by 255."""
    if pixels.dtype == np.uint8 or not pixels.size:
        return pixels.astype(np.uint8)
    if pixels.dtype.kind not in "iuf":
        raise _refusal(name, f"{pixels.dtype} {list(pixels.shape)}")
    low, high = pixels.min(), pixels.max()
    if not (low >= 0 and high <= 255):
        raise UserError(
            f"{name} has values of {low:g} to {high:g}, expected 0..255, or floats of "
            "0..1; undo the normalisation, as the model has its own"
        )
    scale = 255 if pixels.dtype.kind == "f" and high <= 1 else 1
    return np.rint(pixels.astype(np.float32) * scale).astype(np.uint8)


def _refusal(name: str, found: str) -> UserError:
    return UserError(
        f"{name} is {found}, expected a path, a Pillow image, or pixels as [H, W], "
        "[H, W, 3], [B, H, W] or [B, H, W, 3]"
    )
