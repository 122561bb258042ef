"""One use of `bin/predict`: pictures and videos in, rows and crops out."""

import argparse
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console
from rich.progress import TextColumn

from fer_jax.errors import UserError
from fer_jax.inference.annotate import annotate
from fer_jax.inference.faces import make_detector
from fer_jax.inference.predictor import Predictor
from fer_jax.inference.results import Face, Faces
from fer_jax.inference.video import Tracker, Video, writing
from fer_jax.pretrained.model_file import ModelFile
from fer_jax.system.compilation_cache import keep_compiled
from fer_jax.system.console import progress


class Session:
    """What the options ask for, done to picture after picture.

    Attributes:
      problems: what could not be read, in sentences.
      labels: the model's.
    """

    def __init__(
        self,
        stored: ModelFile,
        args: argparse.Namespace,
        console: Console,
        places: Mapping[Path, Path] | None = None,
    ):
        """Loads the model and the detector that the options name.

        `places`: by path, the folder of what is written, relative to the option's.
        """
        keep_compiled()
        self._model = Predictor(stored)
        self._args, self._console = args, console
        self._detector = make_detector(args.detector) if args.detector else None
        self._places, self._names = places or {}, set[Path]()
        self.problems: list[str] = []
        self.labels = self._model.labels

    def detect(self, picture: Image.Image) -> Faces:
        """The faces in one picture."""
        return self._faces([picture])[0]

    def report(self, problem: str, *, strict: bool) -> None:
        """Keeps what is wrong with a file, or raises it."""
        if strict:
            raise UserError(problem)
        self.problems.append(problem)

    def pictures(
        self, pictures: Sequence[tuple[Path, Image.Image]]
    ) -> Iterator[dict[str, Any]]:
        """Yields the rows of some pictures."""
        if not pictures:  # as before a video; the model would be traced for nothing
            return
        found = self._faces([picture for _, picture in pictures])
        for (path, picture), faces in zip(pictures, found, strict=True):
            if self._args.to:
                drawn = annotate(picture, faces, self._args.min_confidence)
                drawn.save(self._target(self._args.to, path, "_faces.jpg"), quality=92)
            for n, face in enumerate(faces, 1):
                yield self._row(path, n, face) | self._crop(path, f"_{n}", face)
            if not faces:
                yield self._row(path, None, None)

    def video(self, path: Path, *, strict: bool) -> Iterator[dict[str, Any]]:
        """Yields a row for each face in each frame of a video."""
        try:
            video = Video(path)
        except ValueError as error:
            self.report(f"{path} {error}", strict=strict)
            return
        step, tracker = self._args.every, Tracker(self._args.smooth)
        with contextlib.ExitStack() as stack:
            stack.enter_context(video)
            speed = TextColumn("{task.speed:.1f} frames/s")
            bar = stack.enter_context(progress(self._console, speed))
            total = -(-video.frames // step) if video.frames else None
            task, write = bar.add_task(path.name, total=total), None
            for frame in video.every(step):
                (faces,) = self._faces([frame.picture])
                tracked = tracker.follow(frame.time_s, [*faces])
                if self._args.to and write is None:
                    target = self._target(self._args.to, path, "_faces.mp4")
                    out = writing(target, video.fps / step, frame.picture.size)
                    write = stack.enter_context(out)
                if write:
                    shown = [face for _, face in tracked]
                    write(annotate(frame.picture, shown, self._args.min_confidence))
                at = {"frame": frame.number, "time_s": round(frame.time_s, 3)}
                for n, (track, face) in enumerate(tracked, 1):
                    crop = self._crop(path, f"_{frame.number}_{track}", face)
                    yield self._row(path, n, face) | at | {"track": track} | crop
                if not tracked:
                    yield self._row(path, None, None) | at | {"track": None}
                bar.advance(task)

    def _faces(self, pictures: Sequence[Image.Image]) -> list[Faces]:
        if self._args.faces == "none":
            found = self._model.predict(pictures)
            pairs = zip(pictures, found, strict=True)
            return [Faces([Face(None, crop, p)]) for crop, p in pairs]
        return self._model.detect_all(
            pictures, detector=self._detector, crops=self._args.faces == "auto"
        )

    def _row(self, path: Path, n: int | None, face: Face | None) -> dict[str, Any]:
        row: dict[str, Any] = {"image": str(path), "face": n, "box": None}
        if face is None:
            return row | {"label": None, "confidence": None, "probabilities": None}
        return row | face.row(self._args.min_confidence)

    def _crop(self, path: Path, suffix: str, face: Face) -> dict[str, str]:
        """Writes the crop of a face if it is asked for; returns its name."""
        if not self._args.crops:
            return {}
        target = self._target(self._args.crops, path, f"{suffix}.png")
        face.crop.save(target)
        return {"crop": str(target)}

    def _target(self, folder: Path, path: Path, suffix: str) -> Path:
        """A file of the folder that no other picture of this session has."""
        folder /= self._places.get(path, "")
        folder.mkdir(parents=True, exist_ok=True)
        target, n = folder / f"{path.stem}{suffix}", 1
        while target in self._names:
            n += 1
            target = folder / f"{path.stem}_{n}{suffix}"
        self._names.add(target)
        return target
