"""A trained model in use: face crops of any size in, probabilities out.

Images are read and normalised by the functions that training and evaluation use.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from fer_jax.data.records import resize_to_square
from fer_jax.data.sources.image_files import upright
from fer_jax.errors import UserError
from fer_jax.inference import network
from fer_jax.inference.faces import (
    SMALLEST_FACE,
    Detection,
    Detector,
    crop,
    default_detector,
)
from fer_jax.inference.inputs import to_pictures
from fer_jax.inference.results import Face, Faces, Probabilities
from fer_jax.pretrained import model_file
from fer_jax.pretrained.model_file import ModelFile
from fer_jax.system.backend import start_backend
from fer_jax.training import evaluate

# Images in one call of the compiled program. On a CPU, programs for eight or more take
# seconds to compile, as their convolutions are products of matrices, and gain little.
MAX_BATCH, MAX_BATCH_ON_CPU = 256, 4
# A picture that may be a crop of a face: its long side in pixels, and as a multiple of
# the short one. It is one if the face that is found in it fills this share of it.
_LARGEST_CROP, _SQUARE, _FILLS = 256, 1.3, 0.55


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
        preprocessing = model.description.preprocessing
        start_backend()
        self._model = model
        self.labels = tuple(model.description.labels)
        self.info = model.info
        self.image_size = preprocessing.image_size
        self.channels = preprocessing.channels
        created, self._weights = network.build(model)
        tta, crop_size = preprocessing.views, preprocessing.crop_size
        self._predict = evaluate.make_predict(created, tta=tta, crop_size=crop_size)
        self._features = evaluate.make_features(created, tta=tta, crop_size=crop_size)

    def __reduce__(self) -> tuple[type["Predictor"], tuple[ModelFile]]:
        """Pickles and copies the files' content; a copy compiles anew."""
        return Predictor, (self._model,)

    def __repr__(self) -> str:
        """What it is, in a line."""
        shape, val = self.info["network"], self.info.get("scores", {}).get("val", {})
        size = f", {shape['parameters']:,} parameters" if "parameters" in shape else ""
        score = f", {100 * val['accuracy']:.1f} % on val" if "accuracy" in val else ""
        colour = "grey" if self.channels == 1 else "RGB"
        return (
            f"Predictor({shape['arch']}{size}, {self.image_size} x {self.image_size} "
            f"{colour}, labels {', '.join(self.labels)}{score})"
        )

    def predict(self, images: Any) -> Probabilities:
        """Returns the probability of each label for each image.

        Args:
          images: face crops of any sizes, whose largest centred square is resized. One:
            a path, a Pillow image, or pixels `[H, W]` or `[H, W, 3]`; or many: pixels
            `[B, H, W]` or `[B, H, W, 3]`, or a list of single ones. Pixels are uint8,
            or other numbers of 0..255, or floats of 0..1 (if none is larger than 1);
            what `numpy.asarray` takes is an array, so torch's and JAX's are, too.

        Returns:
          float32 `[C]` of one and `[B, C]` of many, rows that sum to 1, in the order of
          `labels`; `.to_dataframe()` makes a table of it.

        Raises:
          UserError: for another type, shape or range, or a file that cannot be read.
        """
        pictures, is_single = to_pictures(images)
        found = _softmax(self.logits(self._pixels(pictures)))
        return Probabilities.of(found[0] if is_single else found, self.labels)

    def features(self, images: Any) -> np.ndarray:
        """Returns the inputs of the last layer, to train another classifier on.

        Args:
          images: as those of `predict`.

        Returns:
          float32 `[F]` of one and `[B, F]` of many, averaged over the views of
          `info["preprocessing"]`.

        Raises:
          UserError: for another type or shape.
        """
        pictures, is_single = to_pictures(images)
        found = self._in_batches(self._features, self._pixels(pictures))
        return found[0] if is_single else found

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

        def rows(first: int) -> np.ndarray:
            chunk = pixels[first : first + largest]
            # Padded to a power of two: nine compiled programs at most, three on a CPU.
            size = 1 << (len(chunk) - 1).bit_length()
            padding = np.repeat(chunk[:1], size - len(chunk), axis=0)
            batch = jnp.asarray(np.concatenate([chunk, padding]))
            return np.asarray(compiled(*self._weights, batch))[: len(chunk)]

        # One call does not keep two cores busy.
        with ThreadPoolExecutor(2) as pool:
            return np.concatenate(list(pool.map(rows, range(0, len(pixels), largest))))

    def detect(
        self, image: Any, *, detector: Detector | None = None, crops: bool = True
    ) -> Faces:
        """Returns the faces in a picture, with their probabilities.

        A small picture, up to 256 pixels and nearly square, may be a crop of a face: if
        no face is found in it, or one that fills it, the whole is the face, and its
        `box` None.

        Args:
          image: one picture, as `predict` takes it.
          detector: from `faces.make_detector`; None: OpenCV's cascade.
          crops: whether such pictures count as faces.

        Raises:
          UserError: for another type or shape, or if OpenCV is missing.
        """
        pictures, is_single = to_pictures(image)
        if not is_single:
            raise UserError("detect takes one picture at a time; call it for each")
        return self.detect_all(pictures, detector=detector, crops=crops)[0]

    def detect_all(
        self,
        pictures: Sequence[Image.Image],
        *,
        detector: Detector | None = None,
        crops: bool = True,
    ) -> list[Faces]:
        """Returns the faces in each of some pictures; see `detect`."""
        found = [_find(each, detector, crops) for each in pictures]
        faces = [crop for each in found for _, crop in each]
        probabilities = iter(self.predict(faces) if faces else ())
        return [
            Faces(
                Face(
                    box=one.box if one else None,
                    crop=crop,
                    probabilities=next(probabilities),
                    score=one.score if one else None,
                )
                for one, crop in each
            )
            for each in found
        ]

    def _pixels(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """Returns pictures as training reads images, uint8 `[B, S, S, C]`."""
        size, channels = self.image_size, self.channels
        mode = "RGB" if channels > 1 else "L"
        pixels = [
            resize_to_square(np.asarray(upright(each, mode)), size, channels)
            for each in pictures
        ]
        return np.stack(pixels) if pixels else np.empty((0, size, size, channels))


def _softmax(logits: np.ndarray) -> np.ndarray:
    """As `scipy.special.softmax`, whose import takes a quarter of a second."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def _find(
    picture: Image.Image, detector: Detector | None, crops: bool
) -> list[tuple[Detection | None, Image.Image]]:
    """The faces of a picture, or the whole of it if it is a crop of one."""
    picture = upright(picture, "RGB")
    long, short = max(picture.size), min(picture.size)
    may_be_crop = crops and long <= _LARGEST_CROP and long <= _SQUARE * short
    if may_be_crop and long < 2 * SMALLEST_FACE:  # it has room for nothing else
        return [(None, picture)]
    found = (detector or default_detector())(np.asarray(picture))
    if may_be_crop and all(each.box.width >= _FILLS * short for each in found):
        return [(None, picture)]
    return [(each, crop(picture, each)) for each in found]
