"""The schema of an experiment: every setting, its type and its range.

Each key is used by the code or refused here.
"""

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)
from pydantic_core import PydanticCustomError

from fer_jax import emotions
from fer_jax.config.settings import ELSEWHERE, with_current_names
from fer_jax.errors import UserError
from fer_jax.metrics import Metric


class _Section(BaseModel):
    # Strict, since lax mode reads `epochs: true` as 1 and `epochs: "30"` as 30.
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False
    )


class Model(_Section):
    """The network: a name from `fer_jax.models.MODELS`, its shape and weights."""

    arch: str
    dropout: float = Field(ge=0, lt=1)
    width: float = Field(ge=0.125, le=8)  # times the channels of every hidden layer
    # Residual blocks at each resolution; null: the network's own.
    blocks: list[Annotated[int, Field(ge=0, le=100)]] | None
    squeeze_excitation: bool  # at the end of each residual branch
    norm: Literal["plain", "zero_last", "fixed_scale"]
    whitened_stem: bool  # the first layer whitens the train images
    # "shipped", a folder that export wrote, or torchvision's or timm's .safetensors.
    pretrained: str | None


class Training(_Section):
    """The optimizer, its schedule, weight averaging and early stopping."""

    epochs: int = Field(ge=1, le=100_000)
    batch_size: int = Field(ge=1, le=65_536)
    eval_batch_size: int = Field(ge=1, le=65_536)
    optimizer: Literal["adamw", "sgd", "muon"]
    momentum: float = Field(ge=0, lt=1)  # used by sgd (Nesterov) and muon
    schedule: Literal["one_cycle", "cosine", "step"]
    lr: float = Field(gt=0, le=100)  # the peak of the schedule
    weight_decay: float = Field(ge=0, le=100)
    clip_norm: float = Field(ge=0, le=1e6)  # largest L2 norm of the gradient; 0: off
    pct_start: float = Field(gt=0, lt=1)  # share of the steps that warm up
    sam_rho: float = Field(ge=0, le=10)  # radius of SAM; 0: off
    ema_decay: float = Field(ge=0, lt=1)  # of the averaged weights; 0: off
    start_size: int = Field(ge=0, le=512)  # image size in the first third; 0: off
    patience: int = Field(ge=0)  # epochs without a better val macro-F1; 0: off
    seed: int = Field(ge=0, lt=2**31)
    precision: Literal["auto", "float32", "bfloat16"]


class Loss(_Section):
    """The loss, and whether rare classes get larger weights."""

    type: Literal["ce", "focal"]
    label_smoothing: float = Field(ge=0, lt=1)
    focal_gamma: float = Field(ge=0, le=20)  # used when type is focal
    bootstrap: float = Field(ge=0, lt=1)  # share of a target that is the prediction
    use_class_weights: bool
    # The share of a target that is the teacher's; null: 0.5. With data.soft_targets.
    teacher_weight: float | None = Field(default=None, ge=0, le=1)
    teacher_temperature: float | None = Field(default=None, gt=0, le=100)  # null: 1


class Augmentation(_Section):
    """Augmentation of training images on the device; 0 or false switches one off."""

    # true: half of the images; "alternating": each image in every other epoch.
    horizontal_flip: Literal[True, False, "alternating"]
    rotation: float = Field(ge=0, le=180)  # maximum, degrees either way
    shift: float = Field(ge=0, le=0.5)  # maximum, share of the side
    scale: float = Field(ge=0, le=0.5)  # maximum, relative
    brightness: float = Field(ge=0, le=5)  # maximum, standard deviations
    contrast: float = Field(ge=0, lt=1)  # maximum, relative
    randaugment: int = Field(ge=0, le=10)  # operations per image
    randaugment_strength: float = Field(ge=0, le=1)  # used with randaugment
    random_erasing: float = Field(ge=0, le=1)  # share of images with a rectangle
    cutout: float = Field(ge=0, lt=1)  # side of a square erased in every image
    mixup_alpha: float = Field(ge=0, le=100)  # lambda ~ Beta(alpha, alpha)
    cutmix_alpha: float = Field(ge=0, le=100)  # the same; with both, half of each


class Data(_Section):
    """How the images are read and sampled."""

    image_size: int = Field(ge=16, le=512)
    crop_size: int = Field(ge=0, le=512)  # random crop that the network sees; 0: off
    channels: Literal[1, 3]  # 1: grey, 3: colour
    labels: Literal["fer2013", "ferplus_majority", "ferplus_soft"]
    vote_filter: Literal["published", "outliers", "none"]  # used with FER+ labels
    contempt: bool  # an eighth class; FER+ labels have it
    deduplicate: Literal["none", "exact", "near"]  # train images that val or test has
    fold: int = Field(ge=0, le=5)  # this fifth of train becomes val; 0: off
    train_subset: int = Field(ge=0)  # number of train images, stratified; 0: all
    weighted_sampler: bool  # weight 1 / count, with replacement
    soft_targets: str | None = None  # a file of a teacher's probabilities of train
    stream: Literal["auto", "always", "never"]  # auto: if the images do not fit


class Evaluation(_Section):
    """Test-time augmentation: the views of an image that a prediction averages."""

    tta: Literal["none", "flip", "ten_crop"]


def _check_emotion(name: str) -> str:
    """Rejects a misspelt emotion; class folders may have any other names."""
    close = difflib.get_close_matches(name.lower(), emotions.NAMES, 1, cutoff=0.8)
    if close and name.lower() not in emotions.NAMES:
        raise PydanticCustomError("emotion", f"Input should be {close[0]!r}")
    return name


RARE = "rare"  # the emotions with less than half of an even share of the images


class Asks(_Section):
    """Which scores answer the question: overall metrics, or the F1 of emotions."""

    metrics: list[Metric] = ["macro_f1"]  # decisive if no emotion is named
    emotions: list[Annotated[str, AfterValidator(_check_emotion)]] = []


def _check_device(value: Any) -> Any:
    if value != "all" and (type(value) is not int or value < 1):
        raise PydanticCustomError(
            "device", "Input should be 'all' or a whole number, at least 1"
        )
    return value


# How many devices share each batch. A union type would report two errors.
_Device = Annotated[Any, BeforeValidator(_check_device)]


class Config(_Section):
    """One experiment, resolved and validated."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    description: str
    asks: Asks = Asks()
    device: _Device
    model: Model
    training: Training
    loss: Loss
    augmentation: Augmentation
    data: Data
    evaluation: Evaluation


def validate(
    values: Mapping[str, Any], where: str, origins: Mapping[str, str] | None = None
) -> Config:
    """Returns nested settings as a checked config.

    Args:
      values: the complete settings.
      where: the file to name in an error.
      origins: for each dotted key, the file or flag it came from, where known.

    Raises:
      UserError: names the first wrong key, with a suggestion for a typo.
    """
    try:
        config = Config.model_validate(with_current_names(values, where))
    except ValidationError as error:
        details = error.errors(include_url=False)
        message = _explain(details[0], where, origins or {})
        more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
        raise UserError(message + more) from None
    _check_sizes(config, where)
    return config


def _check_sizes(config: Config, where: str) -> None:
    """Rejects sizes that contradict one another."""
    size, crop = config.data.image_size, config.data.crop_size
    start, seen = config.training.start_size, crop or size
    if crop > size or 0 < crop < 16:
        raise UserError(
            f"{where}: data.crop_size is {crop}; expected 0 or 16 to data.image_size, "
            f"{size}"
        )
    if start > seen or 0 < start < 16:
        raise UserError(
            f"{where}: training.start_size is {start}; expected 0 or 16 to the size "
            f"that the network sees at full size, {seen}"
        )


def _explain(detail: Mapping[str, Any], where: str, origins: Mapping[str, str]) -> str:
    """Returns one of pydantic's errors as a sentence."""
    parts = [str(part) for part in detail["loc"]]
    key = ".".join(parts)
    place = origins.get(key, where)
    if detail["type"] == "extra_forbidden":
        section, last = _fields(parts[:-1]), parts[-1]
        # The same word elsewhere in the schema, what other libraries call a key of
        # ours, then a near word beside it.
        close = [name for name in _schema_keys() if name.endswith(f".{last}")]
        names = (last, "_".join(parts[-2:]))  # model.name is model_name elsewhere
        close += [ELSEWHERE[name] for name in names if name in ELSEWHERE]
        near = difflib.get_close_matches(last, section, 1)
        close += [".".join([*parts[:-1], name]) for name in near]
        hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(section)}"
        return f"{place}: {key} is not a known key; {hint}"
    if detail["type"] == "missing":
        return f"{place}: {key} is missing; set it, or extend baseline.yaml"
    found = detail["input"]
    if isinstance(found, float) and not math.isfinite(found):
        return f"{place}: {key} is {found}; expected a finite number"
    if detail["type"] == "invalid_key":
        return f"{place}: the key {key} is not text; known: {', '.join(_fields([]))}"
    expected = detail["msg"].removeprefix("Input should be ").replace("a valid ", "a ")
    expected = expected.replace("a integer", "a whole number")
    if detail["type"] == "model_type":
        expected = f"a section with the keys {', '.join(_fields(parts))}"
    elif detail["type"] == "string_pattern_mismatch":
        expected = "letters, digits, '.', '_' and '-', as it names a folder"
    try:
        text = repr(found)
    except ValueError:  # an integer of thousands of digits
        text = f"a {type(found).__name__} too long to print"
    text = text if len(text) <= 60 else text[:57] + "..."
    return f"{place}: {key} is {text}; expected {expected}"


def _fields(parts: Sequence[str]) -> list[str]:
    model: Any = Config
    for part in parts:
        model = model.model_fields[part].annotation
    return list(model.model_fields)


def _schema_keys() -> list[str]:
    return [
        f"{section}.{key}"
        for section, field in Config.model_fields.items()
        for key in getattr(field.annotation, "model_fields", ())
    ]
