"""A trained model in use: face crops of any size in, probabilities out.

Images are read and normalised by the functions that training and evaluation use.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from PIL import Image

from fer_jax import models
from fer_jax.data.records import resize_to_square
from fer_jax.data.sources.image_files import upright
from fer_jax.errors import UserError
from fer_jax.models import transfer
from fer_jax.pretrained import model_file
from fer_jax.pretrained.model_file import ModelFile
from fer_jax.system.backend import start_backend
from fer_jax.training import evaluate

# Images in one call of the compiled program. On a CPU, programs for eight or more take
# seconds to compile, as their convolutions are products of matrices, and gain little.
MAX_BATCH, MAX_BATCH_ON_CPU = 256, 4


ImagesLike = np.ndarray | jax.Array | Sequence[np.ndarray | Image.Image]


def load(path: str | Path | None = None) -> "Predictor":
    """Returns a model; see `fer_jax.load_pretrained`."""
    return Predictor(model_file.read(path))


class Predictor:
    """A trained network with its preprocessing and its labels.

    It computes in float32, so the probabilities do not depend on the device.

    Attributes:
      labels: the class names, in the order of the probabilities.
      info: the content of model.json: scores, settings and origin.
      image_size: the side in pixels to which images are resized.
      channels: 1 for grey, 3 for colour.
    """

    def __init__(self, model: ModelFile):
        """Creates the network and fills in the weights; compiles nothing yet.

        Raises:
          UserError: if the network is unknown or the weights do not fit it.
        """
        network, preprocessing = (
            model.description.network,
            model.description.preprocessing,
        )
        start_backend()
        self._model = model
        self.labels = tuple(model.description.labels)
        self.info = model.info
        self.image_size = preprocessing.image_size
        self.channels = preprocessing.channels
        try:
            created, params, batch_stats = models.create(
                network.arch,
                jax.random.key(0),
                models.Options(
                    num_classes=len(self.labels),
                    channels=self.channels,
                    width=network.width,
                    blocks=network.blocks,
                    squeeze_excitation=network.squeeze_excitation,
                    norm=network.norm,
                ),
            )
        except UserError as error:
            raise UserError(f"{model.folder / model_file.MODEL}: {error}") from None
        tta, crop_size = preprocessing.views, preprocessing.crop_size
        self._predict = evaluate.make_predict(created, tta=tta, crop_size=crop_size)
        self._features = evaluate.make_features(created, tta=tta, crop_size=crop_size)
        where = model.folder / model_file.WEIGHTS
        self._weights = transfer.fill(model.tensors, params, batch_stats, where)

    def __reduce__(self) -> tuple[type["Predictor"], tuple[ModelFile]]:
        """Pickles and copies the files' content; a copy compiles anew."""
        return Predictor, (self._model,)

    def __repr__(self) -> str:
        """What it is, in a line."""
        network, val = self.info["network"], self.info.get("scores", {}).get("val", {})
        size = (
            f", {network['parameters']:,} parameters" if "parameters" in network else ""
        )
        score = f", {100 * val['accuracy']:.1f} % on val" if "accuracy" in val else ""
        colour = "grey" if self.channels == 1 else "RGB"
        return (
            f"Predictor({network['arch']}{size}, {self.image_size} x {self.image_size} "
            f"{colour}, labels {', '.join(self.labels)}{score})"
        )

    def predict(self, images: ImagesLike) -> np.ndarray:
        """Returns the probability of each label for each image.

        Args:
          images: grey or RGB face crops: uint8 `[B, H, W]` or `[B, H, W, 3]`, or a
            sequence of `[H, W]`, `[H, W, 3]` or Pillow images of any sizes. The
            largest centred square is resized.

        Returns:
          float32 `[B, C]`, rows that sum to 1, in the order of `labels`.

        Raises:
          UserError: for another type or shape.
        """
        return scipy.special.softmax(self.logits(self._pixels(images)), axis=1)

    def features(self, images: ImagesLike) -> np.ndarray:
        """Returns the inputs of the last layer, to train another classifier on.

        Args:
          images: as those of `predict`.

        Returns:
          float32 `[B, F]`, averaged over the views of `info["preprocessing"]`.

        Raises:
          UserError: for another type or shape.
        """
        return self._in_batches(self._features, self._pixels(images))

    def logits(self, pixels: np.ndarray) -> np.ndarray:
        """Returns the calibrated logits of images as a data set has them.

        Args:
          pixels: uint8 `[B, image_size, image_size, channels]`.

        Returns:
          float32 `[B, C]`, whose softmax `predict` returns.
        """
        temperature = self._model.description.calibration.temperature
        return self._in_batches(self._predict, pixels) / np.float32(temperature)

    def _in_batches(
        self, compiled: evaluate.PredictFn, pixels: np.ndarray
    ) -> np.ndarray:
        """Returns what a compiled function gives for each image."""
        largest = MAX_BATCH_ON_CPU if jax.default_backend() == "cpu" else MAX_BATCH
        if not len(pixels):
            one = jax.ShapeDtypeStruct((1, *pixels.shape[1:]), np.uint8)
            width = jax.eval_shape(compiled, *self._weights, one).shape[1]
            return np.empty((0, width), np.float32)
        rows = []
        for first in range(0, len(pixels), largest):
            chunk = pixels[first : first + largest]
            # Padded to a power of two: nine compiled programs at most, three on a CPU.
            size = 1 << (len(chunk) - 1).bit_length()
            padding = np.repeat(chunk[:1], size - len(chunk), axis=0)
            batch = jnp.asarray(np.concatenate([chunk, padding]))
            rows.append(np.asarray(compiled(*self._weights, batch))[: len(chunk)])
        return np.concatenate(rows)

    def _pixels(self, images: Any) -> np.ndarray:
        """Returns the images as training reads them, uint8 `[B, S, S, C]`."""
        single = isinstance(images, str | bytes | Image.Image)
        if single or not isinstance(images, Iterable):
            raise _refusal("images", f"of type {type(images).__name__}")
        if isinstance(images, np.ndarray | jax.Array):
            images = np.asarray(images)
            # [H, W, 3] is one image, not a batch of images three pixels wide.
            if images.ndim < 3 or images.ndim == 3 and images.shape[-1] in (1, 3):
                raise _refusal("images", f"{images.dtype} {list(images.shape)}")
        size, channels = self.image_size, self.channels
        mode = "RGB" if channels > 1 else "L"
        pixels = [
            resize_to_square(
                np.asarray(upright(_picture(image, n), mode)), size, channels
            )
            for n, image in enumerate(images)
        ]
        return np.stack(pixels) if pixels else np.empty((0, size, size, channels))


def _picture(image: Any, n: int) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    try:
        pixels = np.asarray(image)
    except ValueError:  # rows of different lengths
        raise _refusal(f"images[{n}]", f"of type {type(image).__name__}") from None
    if pixels.ndim == 3 and pixels.shape[-1] == 1:  # as data sets store grey images
        pixels = pixels[:, :, 0]
    is_image = pixels.ndim == 2 or pixels.ndim == 3 and pixels.shape[-1] == 3
    if pixels.dtype != np.uint8 or not is_image or not pixels.size:
        raise _refusal(f"images[{n}]", f"{pixels.dtype} {list(pixels.shape)}")
    return Image.fromarray(pixels)


def _refusal(what: str, found: str) -> UserError:
    return UserError(
        f"{what} is {found}, expected pixels of 0..255 as uint8 [B, H, W] or "
        "[B, H, W, 3], or a list of [H, W] or [H, W, 3]; put a single image in a list, "
        "and multiply pixels of 0..1 by 255 before .astype(numpy.uint8)"
    )
