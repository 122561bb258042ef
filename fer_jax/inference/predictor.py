"""A trained model in use: face crops of any size in, probabilities out.

What training and evaluation did to an image is done here by the same functions: the
class folders' reader turns it grey, crops and resizes it, and `evaluate.make_predict`
normalises it and runs the network.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from scipy.special import softmax

from fer_jax import models
from fer_jax.data.records import resize_to_square
from fer_jax.data.sources.image_files import upright
from fer_jax.errors import UserError
from fer_jax.inference import model_file
from fer_jax.inference.model_file import ModelFile
from fer_jax.training import evaluate

SHIPPED = Path(__file__).resolve().parents[1] / "pretrained"
# Images in one call of a compiled program. On a CPU programs for eight and more take
# seconds to compile, as their convolutions are composed of products, and gain little.
MAX_BATCH, MAX_BATCH_ON_CPU = 256, 4


def load(path: str | Path | None = None) -> "Predictor":
    """Loads a model; see `fer_jax.load_pretrained`."""
    if path is None and not (SHIPPED / model_file.MODEL).exists():
        raise UserError(
            f"this copy of fer_jax has no trained model in {SHIPPED}; train one, write "
            "it with bin/export RUN_DIR --to DIR, and give DIR to load_pretrained"
        )
    return Predictor(model_file.read(SHIPPED if path is None else Path(path)))


class Predictor:
    """A trained network with its preprocessing and its labels.

    It computes in float32 on every device, so that the numbers do not depend on it.

    Attributes:
      labels: the class names, in the order of the probabilities.
      info: the content of model.json: scores, settings, and where the model is from.
      image_size: the side of the square to which images are resized, in pixels.
      channels: 1 if they are turned grey, 3 if their colours are used.
    """

    def __init__(self, model: ModelFile):
        """Puts the weights on the device; nothing is compiled yet.

        Raises:
          UserError: if the network is unknown or the weights do not fit it.
        """
        description, where = model.description, model.folder / model_file.MODEL
        self.labels = tuple(description.labels)
        self.info = model.info
        self.image_size = description.preprocessing.image_size
        self.channels = description.preprocessing.channels
        asked, preprocessing = description.network, description.preprocessing
        try:
            network, params, batch_stats = models.create(
                asked.arch,
                jax.random.key(0),
                num_classes=len(self.labels),
                dropout=0.0,
                dtype=jnp.float32,
                channels=self.channels,
                width=asked.width,
                squeeze_excitation=asked.squeeze_excitation,
                norm=asked.norm,
            )
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        self._predict = evaluate.make_predict(
            network,
            tta="none" if preprocessing.views == "one" else preprocessing.views,
            crop_size=preprocessing.crop_size,
        )
        like = {"params": params, "batch_stats": batch_stats}
        self._weights = _filled(like, model)

    def predict(
        self, images: np.ndarray | jax.Array | Sequence[np.ndarray | Image.Image]
    ) -> np.ndarray:
        """The probability of each label for each image.

        Args:
          images: face crops, grey or red, green, blue, of any size: uint8 `[B, H, W]`
            or `[B, H, W, 3]`, or a sequence of `[H, W]`, `[H, W, 3]` or Pillow images,
            which may differ in size. They are cropped to the square in their middle
            and resized.

        Returns:
          float32 `[B, C]`, rows that sum to 1, in the order of `labels`.

        Raises:
          UserError: if they are of another type or shape.
        """
        pixels = self._pixels(images)
        rows = [np.empty((0, len(self.labels)), np.float32)]
        most = MAX_BATCH_ON_CPU if jax.default_backend() == "cpu" else MAX_BATCH
        for first in range(0, len(pixels), most):
            chunk = pixels[first : first + most]
            # So batches of any size share nine compiled programs; on a CPU three.
            size = 1 << (len(chunk) - 1).bit_length()
            padding = np.repeat(chunk[:1], size - len(chunk), axis=0)
            logits = self._predict(
                self._weights["params"],
                self._weights["batch_stats"],
                jnp.asarray(np.concatenate([chunk, padding])),
                jnp.arange(size, dtype=jnp.int32),
            )
            rows.append(softmax(np.asarray(logits)[: len(chunk)], axis=1))
        return np.concatenate(rows)

    def _pixels(self, images: Any) -> np.ndarray:
        """The images as in training, uint8 `[B, S, S, C]`."""
        single = isinstance(images, str | bytes | Image.Image)
        if single or not isinstance(images, Iterable):
            raise _refused("images", f"of type {type(images).__name__}")
        if isinstance(images, np.ndarray | jax.Array):
            images = np.asarray(images)
            # A batch of images one or three pixels wide would rather be one image.
            if images.ndim < 3 or images.ndim == 3 and images.shape[-1] in (1, 3):
                raise _refused("images", f"{images.dtype} {list(images.shape)}")
        mode = "RGB" if self.channels > 1 else "L"
        pictures = (upright(_picture(image, n), mode) for n, image in enumerate(images))
        size, channels = self.image_size, self.channels
        pixels = [
            resize_to_square(np.asarray(each), size, channels) for each in pictures
        ]
        return np.stack(pixels) if pixels else np.empty((0, size, size, channels))


def _filled(like: dict[str, Any], model: ModelFile) -> dict[str, Any]:
    """The stored tensors as float32, in the structure of `like`."""
    where, tensors = model.folder / model_file.WEIGHTS, model.tensors
    expected = named(like)
    for name, leaf in expected.items():
        if name not in tensors:
            raise UserError(f"{where} lacks the tensor {name}; export the model anew")
        found = tensors[name]
        if found.dtype.kind != "f" or found.shape != leaf.shape:
            raise UserError(
                f"{where}: {name} is {found.dtype} {list(found.shape)}, expected "
                f"float16 {list(leaf.shape)}; export the model anew"
            )
    if surplus := sorted(tensors.keys() - expected.keys()):
        raise UserError(
            f"{where} holds the tensor {surplus[0]}, which the network does not have; "
            "export the model anew"
        )
    leaves = [jnp.asarray(tensors[name], jnp.float32) for name in expected]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def named(tree: Any) -> dict[str, Any]:
    """The leaves of nested dicts by their names, such as params/head/linear/bias."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _picture(image: Any, n: int) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    try:
        pixels = np.asarray(image)
    except ValueError:  # rows of different lengths
        raise _refused(f"images[{n}]", f"of type {type(image).__name__}") from None
    if pixels.ndim == 3 and pixels.shape[-1] == 1:  # as data sets hold grey images
        pixels = pixels[:, :, 0]
    is_shaped = pixels.ndim == 2 or pixels.ndim == 3 and pixels.shape[-1] == 3
    if pixels.dtype != np.uint8 or not is_shaped or not pixels.size:
        raise _refused(f"images[{n}]", f"{pixels.dtype} {list(pixels.shape)}")
    return Image.fromarray(pixels)


def _refused(what: str, found: str) -> UserError:
    return UserError(
        f"{what} is {found}, expected pixels of 0..255 as uint8 [B, H, W] or "
        "[B, H, W, 3], or a list of [H, W] or [H, W, 3]; put a single image in a list, "
        "and multiply pixels of 0..1 by 255 before .astype(numpy.uint8)"
    )
