"""The embedded data set: drawn faces, used when no data is given.

Every 48 x 48 grey face is drawn from a seed; none shows a real person. The set lets all
commands run without FER2013. Scores on it say nothing about photographs.

An expression is a set of facial action units (AUs), each with an intensity. The units
of each emotion follow P. Ekman, W. V. Friesen and J. C. Hager, "Facial Action Coding
System: Investigator's Guide" (2002), and W. V. Friesen and P. Ekman, "EMFACS-7" (1983).
The counts follow FER2013's train split (I. Goodfellow et al., "Challenges in
representation learning", 2013).

As in FER2013, some images are ambiguous: people have resting faces that look like an
expression, some expressions are weak, a third blend in a second emotion, some faces are
covered, blurred or noisy, and the share `MISLABELLED` has a wrong label.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import TypeVar

import numpy as np
import scipy

from fer_jax.data.split_notes import FER2013
from fer_jax.emotions import EMOTIONS

SIZES = {"train": 2000, "val": 700, "test": 700}
VERSION = 1  # part of the key of prepared copies; raise it if the drawing changes
MISLABELLED = 0.04
T = TypeVar("T")
_SEED, _SIZE = 48, 48
_PIXEL = 1 / 21  # in face coordinates: the eyes are about 0.7 apart, the chin at y = 1

# 1 inner and 2 outer brow raise, 4 brow lower, 5 upper lid raise, 6 cheek raise, 7 lid
# tighten, 9 nose wrinkle, 10 upper lip raise, 12 lip corners up, 15 lip corners down,
# 16 lower lip down, 17 chin raise, 20 lip stretch, 23 lip tighten, 25 lips part,
# 26 jaw drop, 43 eyes close. Each emotion has a prototype and variants.
# fmt: off
_PROTOTYPES = {
    "angry": ({4: 1.0, 5: 0.5, 7: 0.7, 23: 1.0}, {4: 0.9, 7: 0.8, 17: 0.7, 23: 0.6},
              {4: 1.0, 5: 0.6, 7: 0.5, 10: 0.5, 16: 0.5, 25: 1.0}),
    "disgust": ({9: 1.0, 15: 0.6, 16: 0.6, 4: 0.4, 7: 0.4},
                {9: 0.8, 10: 1.0, 16: 0.4, 25: 0.7, 4: 0.3, 7: 0.5},
                {9: 0.7, 10: 0.7, 17: 0.8, 7: 0.5}),
    "fear": ({1: 1.0, 2: 0.7, 4: 0.5, 5: 1.0, 20: 0.7, 25: 0.5, 26: 0.5},
             {1: 0.9, 2: 0.8, 4: 0.3, 5: 0.9, 20: 0.2, 25: 0.5, 26: 0.8},
             {1: 0.8, 2: 0.4, 4: 0.7, 5: 1.0, 20: 1.0, 25: 0.8}),
    "happy": ({6: 0.8, 12: 1.0}, {6: 1.0, 12: 1.0, 25: 1.0},
              {12: 0.9, 25: 0.6, 26: 0.3}),
    "sad": ({1: 1.0, 4: 0.5, 15: 1.0}, {1: 0.7, 4: 0.5, 15: 0.7, 17: 0.8, 43: 0.4}),
    "surprise": ({1: 1.0, 2: 1.0, 5: 0.8, 25: 0.5, 26: 1.0},
                 {1: 0.9, 2: 1.0, 5: 0.7, 25: 0.5, 26: 0.4}),
    "neutral": ({},),
}
# Emotions that people confuse it with; the source of blends and wrong labels.
_CONFUSED_WITH = {
    "angry": ("disgust", "sad", "neutral"), "disgust": ("angry", "angry", "sad"),
    "fear": ("surprise", "surprise", "sad"), "surprise": ("fear", "fear", "happy"),
    "sad": ("neutral", "neutral", "fear", "angry"), "neutral": ("sad", "sad", "angry"),
    "happy": ("surprise", "neutral", "disgust"),
}
_WEAKEST = {"happy": 0.8, "sad": 0.5}  # lowest intensity, if not 0.6
# A person, the pose and the light: each value is uniform in its range.
_PERSON = {
    "width": (0.68, 0.84), "taper": (0.18, 0.42), "age": (0.2, 1.0),
    "skin": (0.5, 0.85), "hair": (0.03, 0.4), "hairline": (-0.86, -0.62),
    "fringe": (-0.25, 0.3), "long_hair": (0.0, 1.0), "glasses": (0.0, 1.0),
    "beard": (0.0, 1.0), "eye_x": (0.31, 0.39), "eye_y": (-0.22, -0.12),
    "eye_width": (0.18, 0.23), "eye_height": (0.075, 0.11), "eye_tilt": (-0.03, 0.03),
    "iris": (0.05, 0.3), "brow_y": (-0.27, -0.2), "brow_thick": (0.03, 0.055),
    "brow_arch": (0.0, 0.07), "brow_tilt": (-0.025, 0.025),
    "nose_width": (0.12, 0.2), "nose_y": (0.18, 0.28),
    "mouth_y": (0.5, 0.6), "mouth_width": (0.3, 0.38), "mouth_rest": (-0.03, 0.025),
    "lips": (0.03, 0.07), "lip_tone": (0.6, 0.9),
    "roll": (-0.12, 0.12), "yaw": (-0.2, 0.2), "pitch": (-0.06, 0.06),
    "scale": (1.15, 1.35), "shift_x": (-0.08, 0.08), "shift_y": (-0.12, 0.04),
    "background": (0.1, 0.8), "ambient": (0.5, 0.85),
    "light_x": (-0.6, 0.6), "light_y": (-0.5, 0.2),
}
# fmt: on

_Y, _X = ((np.mgrid[:_SIZE, :_SIZE] - (_SIZE - 1) / 2) * _PIXEL).astype(np.float32)


def _clip(values: np.ndarray) -> np.ndarray:
    return np.minimum(np.maximum(values, 0.0), 1.0)  # twice as fast as np.clip


def _inside(distance: np.ndarray) -> np.ndarray:
    """Coverage of the pixels by a shape, from the signed distance to its edge."""
    return _clip(distance / _PIXEL + 0.5)


class _Canvas:
    """A grey image, and the face coordinates (x right, y down) of its pixels."""

    def __init__(self, face: SimpleNamespace) -> None:
        x, y = _X - face.shift_x, _Y - face.shift_y
        cos, sin = math.cos(face.roll) / face.scale, math.sin(face.roll) / face.scale
        self.x, self.y = cos * x + sin * y, cos * y - sin * x
        self.image = face.background + 0.1 * face.light_x * self.x

    def paint(self, cover: np.ndarray, tone: float) -> None:
        self.image = self.image + cover * (tone - self.image)

    def ellipse(self, x: float, y: float, a: float, b: float) -> np.ndarray:
        far = ((self.x - x) / a) ** 2 + ((self.y - y) / b) ** 2
        return _inside((1 - np.sqrt(far)) * min(a, b))

    def band(self, top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
        return _inside(self.y - top) * _inside(bottom - self.y)

    def fold(self, x: float, y: float, a: float, b: float) -> np.ndarray:
        """A soft spot without an edge, for folds and shadows."""
        far = ((self.x - x) / a) ** 2 + ((self.y - y) / b) ** 2
        near = np.maximum(1 - far / 4, 0) ** 2
        return near * near  # close to exp(-far), and the same bits on every machine


def _head(canvas: _Canvas, face: SimpleNamespace, jaw: float) -> np.ndarray:
    """Paints hair, neck, ears and head; returns the coverage of the head."""
    x, y = canvas.x, canvas.y
    if face.long_hair > 0.5:
        canvas.paint(canvas.ellipse(0, -0.05, face.width + 0.2, 1.3), face.hair)
    else:
        canvas.paint(canvas.ellipse(0, -0.5, face.width + 0.09, 0.8), face.hair)
        for side in (-1, 1):
            ear = canvas.ellipse(side * face.width, 0.02, 0.1, 0.2)
            canvas.paint(ear, face.skin * 0.8)
    canvas.paint(_inside(0.45 - abs(x)) * _inside(y - 0.6), face.skin * 0.6)
    half = face.width * (1 - face.taper * np.maximum(y, 0) * abs(y))
    high = np.where(y > 0, y / (1 + jaw), y / 1.2)
    far = (x / np.maximum(half, 0.1)) ** 2 + high**2
    cover = _inside((1 - np.sqrt(far)) * face.width)
    canvas.paint(cover, face.skin)
    return cover


def _eye(canvas: _Canvas, face: SimpleNamespace, au: Mapping, side: int) -> None:
    skin, x, y = face.skin, side * face.eye_x, face.eye_y
    canvas.paint(0.3 * canvas.fold(x, y - 0.05, 0.25, 0.14), skin * 0.5)
    narrow = 0.3 * au[6] + 0.4 * au[7] + 0.25 * au[9] + 0.1 * au[4]
    upper = max(1 + 0.9 * au[5] - narrow - 0.9 * au[43], 0.05)
    lower = max(0.7 + 0.15 * au[5] - 0.8 * narrow, 0.05)
    along = (side * canvas.x - face.eye_x) / face.eye_width  # -1 inner, 1 outer corner
    span, bow = abs(along) < 1, face.eye_height * np.maximum(1 - along**2, 0)
    top = y - face.eye_tilt * along - upper * bow * (1 - 0.25 * au[1] * au[4] * along)
    bottom = y - face.eye_tilt * along + lower * bow
    opening = canvas.band(top, bottom) * span
    canvas.paint(opening, 0.35 + 0.6 * skin)
    canvas.paint(opening * canvas.ellipse(x, y - 0.01, 0.075, 0.085), face.iris)
    canvas.paint(canvas.band(top - 0.03, top + 0.012) * span, skin * 0.25)
    canvas.paint(0.5 * canvas.band(bottom, bottom + 0.02) * span, skin * 0.5)
    bag, crow = 0.35 * au[6] + 0.15 * au[7], 0.3 * au[6]
    canvas.paint(bag * canvas.fold(x, y + 0.15, 0.2, 0.03), skin * 0.4)
    canvas.paint(crow * canvas.fold(x + side * 0.27, y, 0.07, 0.03), skin * 0.4)


def _brow(canvas: _Canvas, face: SimpleNamespace, au: Mapping, side: int) -> None:
    along = (side * canvas.x - face.eye_x + 0.05 * au[4]) / (1.25 * face.eye_width)
    outer = _clip((along + 1) / 2)  # 0 at the inner end, 1 at the outer
    inner, arch = 1 - outer, 4 * face.brow_arch * outer * (1 - outer)
    lift = 0.2 * au[1] * inner + 0.18 * au[2] * outer + arch
    low = (0.03 + 0.14 * inner) * au[4] + 0.05 * au[9]
    centre = face.eye_y + face.brow_y - lift + low + face.brow_tilt * (outer - inner)
    thick = face.brow_thick * (1.2 - 0.7 * outer)
    brow = canvas.band(centre - thick, centre + thick) * (abs(along) < 1)
    canvas.paint(0.9 * brow, min(face.hair, 0.6 * face.skin))
    frown = canvas.fold(side * 0.06, face.eye_y + face.brow_y + 0.06, 0.025, 0.1)
    canvas.paint(0.6 * face.age * min(au[4], 1) * frown, face.skin * 0.4)


def _nose(canvas: _Canvas, face: SimpleNamespace, au: Mapping) -> None:
    """Paints the nose, the folds beside it and the wrinkles above it."""
    skin, age, y = face.skin, face.age, face.nose_y - 0.05 * au[9]
    wing = face.nose_width * (1 + 0.2 * au[9])
    depth = min(age * (0.15 + 0.5 * (au[12] + au[10]) + 0.4 * au[9]), 0.8)
    run = _clip((canvas.y - y + 0.03) / 0.35)
    away = abs(abs(canvas.x) - wing - 0.05 - (0.2 + 0.08 * au[12]) * run)
    beside = _clip(1 - away / 0.06) * _inside(0.17 - abs(canvas.y - y - 0.14))
    canvas.paint(depth * beside, skin * 0.4)
    for side in (-wing, wing):
        canvas.paint(0.7 * canvas.fold(side * 0.6, y, 0.05, 0.035), skin * 0.2)
        canvas.paint(0.3 * canvas.fold(side, y - 0.05, 0.03, 0.07), skin * 0.4)
        canvas.paint(0.25 * canvas.fold(side * 0.6, y - 0.3, 0.04, 0.2), skin * 0.6)
    canvas.paint(0.2 * canvas.fold(0, y - 0.1, 0.06, 0.12), skin * 1.15)
    bridge, forehead = 0.55 * min(au[9], 1), 0.4 * age * min(au[1] * (0.4 + au[2]), 1)
    for row in (-0.07, 0.03):
        canvas.paint(bridge * canvas.fold(0, face.eye_y + 0.08 + row, 0.11, 0.022), 0.2)
        lines = canvas.fold(0, face.eye_y - 0.45 + 1.2 * row, 0.4, 0.022)
        canvas.paint(forehead * lines, skin * 0.4)


def _mouth(canvas: _Canvas, face: SimpleNamespace, au: Mapping) -> None:
    """Paints the lips and, between them, the teeth and the dark behind."""
    skin, tone = face.skin, face.skin * face.lip_tone
    wide = 1 + 0.28 * au[12] + 0.3 * au[20] - 0.22 * au[26] - 0.1 * (au[23] + au[17])
    along = canvas.x / (face.mouth_width * wide)
    span, bow = abs(along) < 1, np.maximum(1 - along**2, 0)
    round_bow = np.sqrt(bow)
    lift = 0.19 * au[12] - 0.17 * au[15] - 0.03 * au[20] + face.mouth_rest
    line = face.mouth_y - 0.05 * au[17] - lift * (along**2 - 0.4)
    part = 0.07 * (au[25] + au[16]) + 0.34 * au[26]
    top = line - (0.04 * au[25] + 0.09 * au[10] + 0.03 * au[9]) * bow
    bottom = line + part * round_bow
    lips = face.lips * max(1 - 0.75 * au[23] - 0.3 * (au[12] + au[20]), 0.15)
    lower = lips * (1.4 + 0.7 * au[17] + 0.4 * au[16])
    canvas.paint(canvas.band(top - lips * round_bow, bottom) * span, tone * 0.9)
    canvas.paint(canvas.band(top, bottom + lower * round_bow) * span, tone)
    canvas.paint(canvas.band(top - 0.018, bottom + 0.018) * span, skin * 0.2)
    show = min(au[12] + au[20] + au[10] + au[16], 1) * min(part / 0.08, 1)
    teeth = canvas.band(top + 0.01, np.minimum(bottom - 0.01, top + 0.12)) * span
    canvas.paint(0.9 * show * teeth, 0.3 + 0.65 * skin)
    pit = 0.15 + 0.3 * min(au[12] + au[15] + au[20], 1)
    for side in (-1, 1):  # the dimples beside raised or lowered corners
        x, y = side * face.mouth_width * wide, face.mouth_y - 0.6 * lift
        canvas.paint(pit * canvas.fold(x, y, 0.05, 0.05), skin * 0.3)
    chin = 0.3 * canvas.fold(0, face.mouth_y + part + lower + 0.07, 0.2, 0.04)
    dimple = 0.4 * min(au[17], 1) * canvas.fold(0, 0.83, 0.13, 0.05)
    canvas.paint(np.maximum(chin, dimple), skin * 0.5)


def _worn(canvas: _Canvas, face: SimpleNamespace, head: np.ndarray) -> None:
    """Paints beard, fringe and glasses."""
    x, y = canvas.x, canvas.y
    if face.beard > 0.8:
        low = _inside((y - 0.45 + 0.3 * x**2) * 0.3)
        bare = 1 - canvas.ellipse(0, face.mouth_y + 0.03, 0.36, 0.16)
        tone = min(face.hair, 0.6 * face.skin)
        canvas.paint(0.7 * face.beard * head * low * bare, tone)
    hairline = face.hairline + 0.35 * x**2 + face.fringe * x
    canvas.paint(head * _inside((hairline - y) * 0.6), face.hair)
    if face.glasses > 0.88:
        dark, y = 0.85 if face.glasses > 0.98 else 0.08, face.eye_y + 0.03
        for side in (-face.eye_x, face.eye_x):
            lens = canvas.ellipse(side, y, 0.22, 0.16)
            rim = canvas.ellipse(side, y, 0.27, 0.2) - lens
            canvas.paint(np.maximum(rim, dark * lens), 0.1)
        bridge = _inside(0.02 - abs(canvas.y - y + 0.02)) * (abs(x) < 0.1)
        canvas.paint(bridge, 0.1)


def draw(face: SimpleNamespace, units: Mapping[int, float]) -> np.ndarray:
    """The face of a person with some action units: float `[48, 48]`, 0..1."""
    au = defaultdict(float, units)
    canvas = _Canvas(face)
    head = _head(canvas, face, 0.16 * au[26])
    across, down = canvas.x, canvas.y
    depth = _clip(1 - (across / face.width) ** 2 - (down / 1.2) ** 2)
    # If the head turns, the nose and mouth move further than the outline.
    canvas.x, canvas.y = across - face.yaw * depth, down - face.pitch * depth
    _nose(canvas, face, au)
    _mouth(canvas, face, au)
    for side in (-1, 1):
        _eye(canvas, face, au, side)
        _brow(canvas, face, au, side)
    _worn(canvas, face, head)
    facing = face.light_x * across / face.width + face.light_y * down
    light = face.ambient + (1 - face.ambient) * (np.sqrt(depth) + facing)
    return _clip(canvas.image * (1 - head + head * np.clip(light, 0.15, 1.3)))


def person(rng: np.random.Generator) -> SimpleNamespace:
    """A random person, pose and light."""
    # This file uses rng.random() only, whose stream is the same in every numpy.
    drawn = {k: low + (high - low) * rng.random() for k, (low, high) in _PERSON.items()}
    return SimpleNamespace(**drawn)


def _pick(rng: np.random.Generator, choices: Sequence[T]) -> T:
    return choices[int(rng.random() * len(choices))]


def _units(rng: np.random.Generator, emotion: str) -> Mapping[int, float]:
    """The action units of one expression of `emotion`: often weak, some blended."""
    if rng.random() < MISLABELLED:
        emotion = _pick(rng, _CONFUSED_WITH[emotion])
    weakest = _WEAKEST.get(emotion, 0.6)
    strength = weakest + (1.3 - weakest) * rng.random()
    units: dict[int, float] = defaultdict(float)
    for unit, amount in _pick(rng, _PROTOTYPES[emotion]).items():
        units[unit] = amount * strength * (0.7 + 0.5 * rng.random())
    if rng.random() < 0.35:
        share = (0.25 if emotion == "neutral" else 0.4) * rng.random()
        second = _pick(rng, _PROTOTYPES[_pick(rng, _CONFUSED_WITH[emotion])])
        for unit in sorted({*units, *second}):
            units[unit] += share * (second.get(unit, 0.0) - units[unit])
    for unit in (1, 2, 4, 7, 25, 43):  # no face is entirely at rest
        units[unit] += 0.25 * rng.random() ** 3
    return units


def _cover_up(rng: np.random.Generator, image: np.ndarray, skin: float) -> np.ndarray:
    """Covers part of the face with a hand, a lock of hair or a bar."""
    at_x, at_y, turn, tone, half = (rng.random() for _ in range(5))
    x, y, turn = _X + 0.6 - 1.2 * at_x, _Y + 0.5 - 1.3 * at_y, 2.4 * turn - 1.2
    cos, sin = math.cos(turn), math.sin(turn)
    across, along = cos * x + sin * y, cos * y - sin * x
    half = 0.08 + 0.14 * half
    cover = _inside(half - abs(across))
    kind = _pick(rng, ("hand", "hair", "bar"))
    if kind == "hand":  # three fingers, up to their tips
        cover = _inside(0.24 - abs(across)) * _inside(along + 0.35)
        tone = skin * (0.75 + 0.25 * np.cos(across * 2 * np.pi / 0.16))
    elif kind == "hair":
        cover = 0.9 * _inside(half - abs(across + 0.2 * along**2))
        tone = 0.4 * tone
    return image + cover * (tone - image)


def _photograph(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Applies blur, gamma, contrast and noise; returns uint8."""
    blur, gamma = 0.7 * rng.random(), 0.8 + 0.5 * rng.random()
    contrast, black = 0.75 + 0.25 * rng.random(), rng.random()
    image = scipy.ndimage.gaussian_filter(image, blur)
    image = contrast * image**gamma + (1 - contrast) * black
    grain = rng.random((3, _SIZE, _SIZE)).sum(0) - 1.5  # near normal, deviation 0.5
    image = image + 2 * (0.006 + 0.03 * rng.random() ** 3) * grain
    return (_clip(image) * 255 + 0.5).astype(np.uint8)


def _labels(split: str) -> np.ndarray:
    """Shuffled labels in FER2013's proportions (largest remainder)."""
    share = np.array(FER2013["Training"])
    counts, left = np.divmod(SIZES[split] * share, share.sum())
    short = SIZES[split] - counts.sum()
    counts[np.argsort(-left, kind="stable")[:short]] += 1
    labels = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    rng = np.random.Generator(np.random.PCG64([_SEED, list(SIZES).index(split)]))
    return labels[np.argsort(rng.random(len(labels)), kind="stable")]


def generate(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images, uint8 `[N, 48, 48]`, and labels, int32 `[N]`, of a split.

    Every call returns the same bits. Each image has its own seed, hence its own person.
    """
    labels = _labels(split)
    images = np.empty((len(labels), _SIZE, _SIZE), np.uint8)
    for index, label in enumerate(labels):
        seed = [_SEED, list(SIZES).index(split), index]
        rng = np.random.Generator(np.random.PCG64(seed))
        face = person(rng)
        image = draw(face, _units(rng, EMOTIONS[label]))
        if rng.random() < 0.12:
            image = _cover_up(rng, image, face.skin)
        images[index] = _photograph(rng, image)
    return images, labels
