"""Faces in videos: frames in, tracks out, annotated frames back."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from fer_jax.errors import UserError
from fer_jax.inference.faces import Box, overlap
from fer_jax.inference.results import Face, Probabilities

# FFmpeg and OpenCV print what is wrong with a file, which we say ourselves. FFmpeg's
# level is read once, when OpenCV first uses it.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
_SAME = 0.3  # overlap of the boxes of one face in two frames
_PATIENCE_S = 1.0  # how long a track is kept without its face


class Frame(NamedTuple):
    """A frame of a video."""

    number: int  # from 0
    time_s: float  # from the start
    picture: Image.Image  # RGB


class Video:
    """The frames of a video, read one by one; a context manager."""

    def __init__(self, path: Path):
        """Opens the video.

        Raises:
          ValueError: if it cannot be read, as a continuation of its path.
        """
        import cv2

        self._cv2, logging = cv2, cv2.utils.logging
        level = logging.getLogLevel()
        logging.setLogLevel(0)
        self._reader = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
        logging.setLogLevel(level)
        if not path.is_file() or not self._reader.isOpened():
            raise ValueError("is no video that can be read")
        self.fps = self._reader.get(cv2.CAP_PROP_FPS) or 25.0
        # Some formats do not say; 0 then.
        self.frames = max(0, int(self._reader.get(cv2.CAP_PROP_FRAME_COUNT)))

    def __enter__(self) -> "Video":
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.release()

    def every(self, step: int) -> Iterator[Frame]:
        """Every `step`-th frame; the others are not decoded."""
        number = 0
        while self._reader.grab():
            if number % step == 0:
                good, pixels = self._reader.retrieve()
                if good:
                    picture = Image.fromarray(pixels[:, :, ::-1].copy())
                    yield Frame(number, number / self.fps, picture)
            number += 1


@contextlib.contextmanager
def writing(path: Path, fps: float, size: tuple[int, int]) -> Iterator[Any]:
    """A function that appends a picture of `size` to an mp4.

    Raises:
      UserError: if it cannot be written.
    """
    import cv2

    code = cv2.VideoWriter.fourcc(*"mp4v")
    writer = cv2.VideoWriter(str(path), code, fps, size)
    if not writer.isOpened():
        raise UserError(f"{path} cannot be written; name another folder with --to")

    def append(picture: Image.Image) -> None:
        writer.write(np.asarray(picture)[:, :, ::-1].copy())

    try:
        yield append
    finally:
        writer.release()


class Tracker:
    """Gives the same number to the same face in successive frames.

    A face continues the track whose last box overlaps its own most. With smoothing s,
    its probabilities are s times those of the frame before plus 1 - s of its own.
    """

    def __init__(self, smoothing: float = 0.0):
        """Begins at track 1; `smoothing` is in [0, 1)."""
        self._smoothing = smoothing
        self._next = 1
        self._tracks: dict[int, tuple[float, Box, np.ndarray]] = {}

    def follow(self, time_s: float, faces: list[Face]) -> list[tuple[int, Face]]:
        """The faces of the next frame with their tracks, in the same order."""
        self._tracks = {
            track: state
            for track, state in self._tracks.items()
            if time_s - state[0] <= _PATIENCE_S
        }
        pairs = sorted(
            (
                (overlap(state[1], face.box), track, n)
                for track, state in self._tracks.items()
                for n, face in enumerate(faces)
                if face.box
            ),
            reverse=True,
        )
        track_of: dict[int, int] = {}
        for both, track, n in pairs:
            if both >= _SAME and n not in track_of and track not in track_of.values():
                track_of[n] = track
        found = []
        for n, face in enumerate(faces):
            if n not in track_of:
                track_of[n], self._next = self._next, self._next + 1
            found.append((track_of[n], self._smoothed(time_s, track_of[n], face)))
        return found

    def _smoothed(self, time_s: float, track: int, face: Face) -> Face:
        p = np.asarray(face.probabilities)
        if self._smoothing and track in self._tracks:
            before = self._tracks[track][2]
            p = self._smoothing * before + (1 - self._smoothing) * p
        box = face.box or Box(0, 0, *face.crop.size)
        self._tracks[track] = time_s, box, p
        labels = face.probabilities.labels
        return Face(face.box, face.crop, Probabilities.of(p, labels), face.score)
