"""Finds the faces in a picture, and crops them as FER2013's are cropped.

OpenCV does the work, which the extra `faces` installs.
"""

import functools
import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from fer_jax.errors import UserError

# A picture is searched at this size, in which a face has at least so many pixels.
LARGEST_SIDE, SMALLEST_FACE = 1280, 30
# FER2013's frames are 1.07 times as wide as the box that the cascade finds in them
# (median of 400 Training images, enlarged to 192 x 192, with their edges repeated).
MARGIN = 1.07
_OVERLAP = 0.3  # of two boxes for one face, as intersection over union
_INSTALL = "pip install 'fer_jax[faces]'"


class Box(NamedTuple):
    """A rectangle in pixels of the picture; it may reach beyond an edge."""

    left: int
    top: int
    width: int
    height: int


class Detection(NamedTuple):
    """Where a face is."""

    box: Box
    score: float | None  # the detector's own, if it has one
    angle: float = 0.0  # of the line through the eyes, degrees clockwise


Detector = Callable[[np.ndarray], list[Detection]]  # of uint8 RGB [H, W, 3]


@functools.cache
def default_detector() -> Detector:
    """The detector that is used where none is named."""
    return make_detector()


def make_detector(path: str | Path | None = None) -> Detector:
    """OpenCV's Haar cascade, or a YuNet network in an ONNX file.

    A detector may be called from several threads.

    Raises:
      UserError: if OpenCV is missing, or the file is no such network.
    """
    cv2 = _opencv()
    if path is None:
        return _on_smaller_pictures(_per_thread(lambda: _Haar(cv2)))
    if not Path(path).is_file():
        raise UserError(
            f"there is no file {path}; name a YuNet network, such as "
            "face_detection_yunet_2023mar.onnx of the OpenCV zoo, or leave --detector "
            "out"
        )
    _YuNet(cv2, path)  # refuses another file now
    return _on_smaller_pictures(_per_thread(lambda: _YuNet(cv2, path)))


def crop(picture: Image.Image, found: Detection) -> Image.Image:
    """The square around a face, turned upright; beyond the edge, pixels repeat.

    Args:
      picture: in mode RGB or L.
      found: of this picture.
    """
    box = found.box
    side = MARGIN * max(box.width, box.height)
    middle = box.left + box.width / 2, box.top + box.height / 2
    if found.angle:
        picture = picture.rotate(found.angle, Image.Resampling.BICUBIC, center=middle)
    left, top = (round(at - side / 2) for at in middle)
    side = max(1, round(side))
    rows = np.clip(np.arange(top, top + side), 0, picture.height - 1)
    columns = np.clip(np.arange(left, left + side), 0, picture.width - 1)
    return Image.fromarray(np.asarray(picture)[rows][:, columns])


def overlap(one: Box, other: Box) -> float:
    """Intersection over union of two boxes, in 0..1."""
    width = min(one.left + one.width, other.left + other.width)
    height = min(one.top + one.height, other.top + other.height)
    width, height = width - max(one.left, other.left), height - max(one.top, other.top)
    both = max(width, 0) * max(height, 0)
    either = one.width * one.height + other.width * other.height - both
    return both / either if either else 0.0


class _Haar:
    """The cascades that OpenCV brings (Lienhart & Maydt 2002).

    That of faces from the side takes five times as long as the frontal one, so it is
    asked where that one finds nothing.
    """

    def __init__(self, cv2: Any):
        self._cv2 = cv2
        folder = Path(cv2.data.haarcascades)
        self._frontal, self._profile = (
            cv2.CascadeClassifier(str(folder / f"haarcascade_{name}.xml"))
            for name in ("frontalface_alt2", "profileface")
        )

    def __call__(self, picture: np.ndarray) -> list[Detection]:
        grey = self._cv2.cvtColor(picture, self._cv2.COLOR_RGB2GRAY)
        # A cascade has thresholds of contrast, below which it ignores faces at night.
        brightest = max(float(np.percentile(grey[::4, ::4], 99)), 1.0)
        if brightest < _DARK:
            grey = np.minimum(grey * (255 / brightest), 255).astype(np.uint8)
        found = self._search(self._frontal, grey, 3)
        if not found:  # the cascade knows faces that look to the left
            found = self._search(self._profile, grey, 5)
            mirrored = np.ascontiguousarray(grey[:, ::-1])
            for box in self._search(self._profile, mirrored, 5):
                left = grey.shape[1] - box.left - box.width
                found.append(box._replace(left=left))
        return [Detection(box, None) for box in found]

    def _search(self, cascade: Any, grey: np.ndarray, neighbours: int) -> list[Box]:
        least = SMALLEST_FACE, SMALLEST_FACE
        boxes = cascade.detectMultiScale(grey, 1.1, neighbours, minSize=least)
        return [Box(*map(int, box)) for box in boxes]


_DARK = 128  # where a picture's brightest pixels are darker, it is brightened


class _YuNet:
    """A YuNet network (Wu et al. 2023), as OpenCV runs it."""

    def __init__(self, cv2: Any, path: str | Path):
        self._cv2 = cv2
        try:
            self._network = cv2.FaceDetectorYN.create(str(path), "", (320, 320), 0.7)
            self._network.detect(np.zeros((320, 320, 3), np.uint8))
        except cv2.error as error:
            reason = " ".join(str(error).split())[:100]
            raise UserError(
                f"{path} is no YuNet network that OpenCV can read ({reason}); name "
                "face_detection_yunet_2023mar.onnx of the OpenCV zoo"
            ) from None

    def __call__(self, picture: np.ndarray) -> list[Detection]:
        height, width = picture.shape[:2]
        self._network.setInputSize((width, height))
        _, rows = self._network.detect(picture[:, :, ::-1])
        found = []
        for row in rows if rows is not None else ():
            box = Box(*(round(float(value)) for value in row[:4]))
            right_eye, left_eye = row[4:6], row[6:8]  # the person's
            across, down = (float(each) for each in left_eye - right_eye)
            angle = math.degrees(math.atan2(down, across))
            found.append(Detection(box, float(row[14]), angle))
        return found


def _on_smaller_pictures(detect: Detector) -> Detector:
    """Searches a smaller copy of large pictures; merges boxes of one face.

    The faces come from left to right.
    """

    def search(picture: np.ndarray) -> list[Detection]:
        ratio = max(1.0, max(picture.shape[:2]) / LARGEST_SIDE)
        if ratio > 1:
            size = [max(1, round(side / ratio)) for side in picture.shape[1::-1]]
            picture = np.asarray(
                Image.fromarray(picture).resize(size, Image.Resampling.BOX)
            )
        kept: list[Detection] = []
        for found in sorted(detect(picture), key=_preference):
            if all(overlap(found.box, other.box) < _OVERLAP for other in kept):
                kept.append(found)
        at_full_size = [
            found._replace(box=Box(*(round(ratio * value) for value in found.box)))
            for found in kept
        ]
        return sorted(at_full_size, key=lambda found: found.box)

    return search


def _preference(found: Detection) -> tuple[float, int]:
    """Of several boxes for a face, the surest or else the largest is kept."""
    return -(found.score or 0), -found.box.width


def _per_thread(make: Callable[[], Detector]) -> Detector:
    """OpenCV's detectors are not safe to share among threads."""
    local = threading.local()

    def detect(picture: np.ndarray) -> list[Detection]:
        if not hasattr(local, "detector"):
            local.detector = make()
        return local.detector(picture)

    return detect


def _opencv() -> Any:
    try:
        import cv2
    except ImportError:
        raise UserError(
            f"finding faces needs OpenCV, which is not installed: {_INSTALL}; of "
            "pictures that are crops of faces, --faces none takes the whole"
        ) from None
    if not hasattr(cv2, "CascadeClassifier"):
        raise UserError(
            f"OpenCV {cv2.__version__} has no cascades; install an earlier one: "
            f"{_INSTALL}"
        )
    return cv2
