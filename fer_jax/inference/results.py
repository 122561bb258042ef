"""What a model says of pictures: arrays and dataclasses that become data frames."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from fer_jax.inference.faces import Box

if TYPE_CHECKING:  # half a second
    import pandas as pd


UNSURE = "unsure"


class Probabilities(np.ndarray):
    """Probabilities, float32 `[C]` or `[B, C]`, which know their labels.

    Attributes:
      labels: the C class names. Results of NumPy's functions may have none: ().
    """

    labels: tuple[str, ...] = ()

    @classmethod
    def of(cls, values: np.ndarray, labels: Sequence[str]) -> "Probabilities":
        """Probabilities with labels."""
        found = np.asarray(values).view(cls)
        found.labels = tuple(labels)
        return found

    def __array_finalize__(self, source: Any) -> None:
        labels = getattr(source, "labels", ())
        self.labels = labels if self.shape[-1:] == (len(labels),) else ()

    def __reduce__(self) -> tuple[Any, ...]:
        return Probabilities.of, (np.asarray(self), self.labels)

    @property
    def top(self) -> list[str]:
        """The label with the highest probability of each row."""
        rows = np.atleast_2d(np.asarray(self))
        return [self.labels[n] for n in rows.argmax(axis=1)]

    def to_dataframe(self) -> "pd.DataFrame":
        """A row for each image: label, confidence, and a column for each label."""
        import pandas as pd

        rows = np.atleast_2d(np.asarray(self))
        frame = pd.DataFrame(rows, columns=list(self.labels))
        frame.insert(0, "label", self.top)
        frame.insert(1, "confidence", rows.max(axis=1))
        return frame


@dataclass(frozen=True, eq=False)
class Face:
    """A face in a picture.

    Attributes:
      box: where the detector found it, in pixels; None if the whole picture was taken.
      crop: what the model was given, before it was resized.
      probabilities: float32 `[C]`.
      score: the detector's own, if it has one.
    """

    box: Box | None
    crop: Image.Image
    probabilities: Probabilities
    score: float | None = None

    @property
    def label(self) -> str:
        """The label with the highest probability."""
        return self.probabilities.top[0]

    @property
    def confidence(self) -> float:
        """Its probability."""
        return float(self.probabilities.max())

    def shown_label(self, min_confidence: float) -> str:
        """The label, or "unsure" below a confidence."""
        return self.label if self.confidence >= min_confidence else UNSURE

    def row(self, min_confidence: float = 0.0) -> dict[str, Any]:
        """Box, `shown_label`, confidence and probabilities as plain values."""
        pairs = zip(self.probabilities.labels, self.probabilities.tolist(), strict=True)
        return {
            "box": None if self.box is None else list(self.box),
            "label": self.shown_label(min_confidence),
            "confidence": self.confidence,
            "probabilities": dict(pairs),
        }


class Faces(Sequence[Face]):
    """The faces of a picture, from left to right."""

    def __init__(self, faces: Iterable[Face]):
        """A sequence of these faces."""
        self._faces = tuple(faces)

    def __getitem__(self, n: Any) -> Any:
        return self._faces[n]

    def __len__(self) -> int:
        return len(self._faces)

    def __iter__(self) -> Iterator[Face]:
        return iter(self._faces)

    def __repr__(self) -> str:
        each = (f"{face.label} {100 * face.confidence:.0f} %" for face in self)
        return f"Faces({', '.join(each) or 'none'})"

    def to_dataframe(self) -> "pd.DataFrame":
        """A row for each face: its box, label, confidence and probabilities."""
        import pandas as pd

        rows = []
        for face in self:
            box = face.box or (None,) * 4
            row = face.row()
            rows.append(
                dict(zip(Box._fields, box, strict=True))
                | {"label": row["label"], "confidence": row["confidence"]}
                | row["probabilities"]
            )
        return pd.DataFrame(rows)
