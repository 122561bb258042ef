"""An experiment as a checked value: the schema, and how YAML files become one.

A file is either complete or `extends:` another file of the same folder and states
only what changes. Every key is used by the code or refused here.
"""

import dataclasses
import difflib
import math
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
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
from fer_jax.errors import UserError
from fer_jax.metrics import Metric

MAX_BYTES = 64 * 1024  # a config of the shipped size is 1 KiB
MAX_CHAIN = 20  # files that extend one another
MAX_PARTS = 100  # of a dotted key; the code that walks nested settings is recursive


class _Section(BaseModel):
    # Strict, since lax mode reads `epochs: true` as 1 and `epochs: "30"` as 30.
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False
    )


class Model(_Section):
    """The network: a name from `fer_jax.models.MODELS`, its shape and its start."""

    arch: str
    dropout: float = Field(ge=0, lt=1)
    width: float = Field(ge=0.125, le=8)  # times the channels of every hidden layer
    squeeze_excitation: bool  # weighs channels at the end of each residual branch
    norm: Literal["plain", "zero_last", "fixed_scale"]
    whitened_stem: bool  # the first layer starts whitening the train images
    pretrained: str | None  # a .safetensors file of torchvision or timm


class Training(_Section):
    """The optimisation: a rule, a schedule, averaging, and early stopping."""

    epochs: int = Field(ge=1, le=100_000)
    batch_size: int = Field(ge=1, le=65_536)
    eval_batch_size: int = Field(ge=1, le=65_536)
    optimizer: Literal["adamw", "sgd", "muon"]
    momentum: float = Field(ge=0, lt=1)  # read by sgd (Nesterov's) and muon
    schedule: Literal["one_cycle", "cosine", "step"]
    lr: float = Field(gt=0, le=100)  # the peak of the schedule
    weight_decay: float = Field(ge=0, le=100)
    clip_norm: float = Field(ge=0, le=1e6)  # of the gradient, at most; 0: not clipped
    pct_start: float = Field(gt=0, lt=1)  # share of the steps spent rising
    sam_rho: float = Field(ge=0, le=10)  # how far SAM looks around; 0: no SAM
    ema_decay: float = Field(ge=0, lt=1)  # of the averaged weights; 0: no average
    start_size: int = Field(ge=0, le=512)  # of images at first; 0: full size
    patience: int = Field(ge=0)  # epochs without a better val macro-F1; 0: no stop
    seed: int = Field(ge=0, lt=2**31)
    precision: Literal["auto", "float32", "bfloat16"]


class Loss(_Section):
    """The loss, and whether rare classes weigh more in it."""

    type: Literal["ce", "focal"]
    label_smoothing: float = Field(ge=0, lt=1)
    focal_gamma: float = Field(ge=0, le=20)  # read when type is focal
    bootstrap: float = Field(ge=0, lt=1)  # the share of a target that is predicted
    use_class_weights: bool


class Augmentation(_Section):
    """What happens to training images on the device; 0 or false switches one off."""

    # Mirrors half of the images; "alternating": each of them every other epoch.
    horizontal_flip: Literal[True, False, "alternating"]
    rotation: float = Field(ge=0, le=180)  # at most so many degrees either way
    shift: float = Field(ge=0, le=0.5)  # at most this share of the side
    scale: float = Field(ge=0, le=0.5)  # at most this much larger or smaller
    brightness: float = Field(ge=0, le=5)  # at most so many deviations either way
    contrast: float = Field(ge=0, lt=1)  # at most this much stronger or weaker
    randaugment: int = Field(ge=0, le=10)  # operations an image
    randaugment_strength: float = Field(ge=0, le=1)  # read with randaugment
    random_erasing: float = Field(ge=0, le=1)  # the share of images erased in part
    cutout: float = Field(ge=0, lt=1)  # the side of a square erased in every image
    mixup_alpha: float = Field(ge=0, le=100)  # lambda ~ Beta(alpha, alpha)
    cutmix_alpha: float = Field(ge=0, le=100)  # the same; with both, half of each


class Data(_Section):
    """How the images are read and sampled."""

    image_size: int = Field(ge=16, le=512)
    crop_size: int = Field(ge=0, le=512)  # what the network sees of it; 0: all
    channels: Literal[1, 3]  # 1: grey, 3: colour
    labels: Literal["fer2013", "ferplus_majority", "ferplus_soft"]
    vote_filter: Literal["published", "outliers", "none"]  # read with FER+ labels
    contempt: bool  # an eighth class, which FER+ labels have
    deduplicate: Literal["none", "exact", "near"]  # of train images, copies of others
    fold: int = Field(ge=0, le=5)  # that fifth of train takes val's place; 0: none
    train_subset: int = Field(ge=0)  # so many of train, stratified; 0: all
    weighted_sampler: bool  # draws classes evenly, with replacement
    stream: Literal["auto", "always", "never"]  # auto: what does not fit in memory


class Evaluation(_Section):
    """Test-time augmentation: the views of an image that a prediction averages."""

    tta: Literal["none", "flip", "ten_crop"]


def _check_emotion(name: str) -> str:
    """Refuses a typo of a known emotion; class folders may have any other names."""
    close = difflib.get_close_matches(name.lower(), emotions.NAMES, 1, cutoff=0.8)
    if close and name.lower() not in emotions.NAMES:
        raise PydanticCustomError("emotion", f"Input should be {close[0]!r}")
    return name


RARE = "rare"  # stands for the emotions with less than half an even share of images


class Asks(_Section):
    """Which scores answer the description: the F1 of emotions, or overall metrics."""

    metrics: list[Metric] = ["macro_f1"]  # decisive where no emotion is named
    emotions: list[Annotated[str, AfterValidator(_check_emotion)]] = []


def _check_device(value: Any) -> Any:
    if value != "all" and (type(value) is not int or value < 1):
        raise PydanticCustomError(
            "device", "Input should be 'all' or a whole number, at least 1"
        )
    return value


# How many devices share each batch. A union would be refused twice, in two sentences.
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


@dataclasses.dataclass(frozen=True)
class Tree:
    """Nested settings with, for each dotted key, the file or flag it came from."""

    values: dict[str, Any]
    origins: dict[str, str]


# Other names of keys and values, of older versions mostly: files with them still work.
_KEYS = {
    "loss.self_targets": "loss.bootstrap",
    "data.train_images": "data.train_subset",
    "evaluation.views": "evaluation.tta",
}
_VALUES = {
    "loss.type": {"cross_entropy": "ce"},
    "evaluation.tta": {"one": "none"},
}


def with_current_names(values: Mapping[Any, Any], where: str = "") -> dict[Any, Any]:
    """Nested settings with today's names of keys and values.

    Raises:
      UserError: if a key is given under its old and its new name; names `where`.
    """
    found = {k: dict(v) if isinstance(v, Mapping) else v for k, v in values.items()}
    for old, new in _KEYS.items():
        name, _, key = old.partition(".")
        section, current = found.get(name), new.partition(".")[2]
        if isinstance(section, dict) and key in section:
            if current in section:
                raise UserError(
                    f"{where}: {old} is the old name of {new}, which is given too; "
                    f"remove {old}"
                )
            section[current] = section.pop(key)
    for dotted, names in _VALUES.items():
        name, _, key = dotted.partition(".")
        section = found.get(name)
        if isinstance(section, dict) and isinstance(section.get(key), str):
            section[key] = names.get(section[key], section[key])
    return found


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Reads a YAML file with what it extends, applies overrides, and validates.

    Args:
      path: the YAML file.
      overrides: `"dotted.key=value"` items, each value in YAML; later ones win.

    Raises:
      UserError: in one sentence, for anything that is not a valid experiment.
    """
    path = Path(path)
    tree = _read_chain(path, ())
    for item in overrides:
        key, equals, text = item.partition("=")
        if not equals or not key.strip():
            raise UserError(
                f"--set {item!r} is not of the form key=value; "
                "write for example --set training.lr=1e-3"
            )
        value = parse(text, f"--set {item}")
        parts = key.strip().split(".")
        if len(parts) > MAX_PARTS:
            raise UserError(
                f"--set {key.strip()[:60]}... is a key of {len(parts):,} parts, which "
                "no setting has; write for example --set training.lr=1e-3"
            )
        for part in reversed(parts):
            value = {part: value}
        value = with_current_names(value, f"--set {item}")
        tree = _merge(tree, value, f"--set {item}")
    return validate(tree.values, str(path), tree.origins)


def validate(
    values: Mapping[str, Any], where: str, origins: Mapping[str, str] | None = None
) -> Config:
    """Checks nested settings against the schema.

    Args:
      values: the settings, complete.
      where: the file that is named in an error.
      origins: for each dotted key, the file or flag it came from, where known.

    Raises:
      UserError: names the first key that is wrong, and the close match of a typo.
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
    """Refuses sizes that contradict one another."""
    size, crop = config.data.image_size, config.data.crop_size
    start, seen = config.training.start_size, crop or size
    if crop > size or 0 < crop < 16:
        raise UserError(
            f"{where}: data.crop_size is {crop}; expected 0 or 16 to data.image_size, "
            f"which is {size}"
        )
    if start > seen or 0 < start < 16:
        raise UserError(
            f"{where}: training.start_size is {start}; expected 0 or 16 to the size "
            f"that the network sees in the end, {seen}"
        )


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one mapping from dotted keys to plain values."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


# What a run is called and asks, how many devices share it, and where its images are
# kept decide none of its numbers.
_NOT_COMPARED = ("name", "description", "asks", "device", "data.stream")


def compared_settings(
    config: Mapping[str, Any], *, seed: bool = False
) -> dict[str, Any]:
    """The settings that decide the numbers of an experiment, by dotted key.

    This defines "the same experiment": equal settings. With `seed`, the same run.

    Args:
      config: settings, nested or by dotted key.
      seed: keep `training.seed`.
    """
    ignored = _NOT_COMPARED if seed else (*_NOT_COMPARED, "training.seed")
    return {
        key: value
        for key, value in flatten(config).items()
        if key not in ignored and key.partition(".")[0] not in ignored
    }


def differing_keys(configs: Iterable[Mapping[str, Any]]) -> list[str]:
    """The keys whose values are not equal in all flat configs; absent is None."""
    configs = list(configs)
    keys = dict.fromkeys(key for config in configs for key in config)
    return [
        key
        for key in keys
        if any(each.get(key) != configs[0].get(key) for each in configs)
    ]


def dump(config: Config) -> str:
    """The resolved config as YAML, in the order of the schema."""
    return yaml.dump(
        config.model_dump(), Dumper=_Dumper, sort_keys=False, allow_unicode=True
    )


class _Loader(yaml.SafeLoader):
    """A safe loader that reads 1e-3 as a number and refuses what hides mistakes."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        # An alias can make a small file expand without bound.
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.constructor.ConstructorError(
                None, None, "aliases (*name) are not supported", event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        for key_node, _ in pairs:
            if not isinstance(key_node, yaml.ScalarNode):
                continue  # refused by PyYAML as no key
            if key_node.value in seen:
                problem = f"the key {key_node.value!r} appears twice"
                raise yaml.constructor.ConstructorError(
                    None, None, problem, key_node.start_mark
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)

    def construct_scalar(self, node: Any) -> Any:
        value = super().construct_scalar(node)
        value.encode()  # a lone surrogate would fail only when the run is written
        return value


class _Dumper(yaml.SafeDumper):
    """A safe dumper that quotes the text which `_Loader` would read as another."""

    def represent_str(self, text: str) -> yaml.ScalarNode:
        # A lone U+0085, a line break to YAML, is written bare and read back as nothing.
        style = None if text.isprintable() else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _Dumper.represent_str)


# PyYAML follows YAML 1.1, where 1e-3 (without a point) is a string.
for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
        list("-+0123456789"),
    )


def parse(text: str, where: str) -> Any:
    """The values of a YAML text, plain ones only; a UserError names `where`."""
    try:
        return yaml.load(text, Loader=_Loader)
    except Exception as error:  # PyYAML lets Python's own through: KeyError, …
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        if isinstance(error, RecursionError):
            problem = "nested too deeply"
        raise UserError(f"{where}{line}: not valid YAML: {problem}") from None


def _read_file(path: Path) -> dict[str, Any]:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for ever
            raise UserError(
                f"{path} is not a file but a directory, a pipe or a device; "
                "name a YAML file such as configs/baseline.yaml"
            )
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise UserError(
                f"{path} is larger than {MAX_BYTES // 1024} KiB, which no config "
                "needs to be; name a YAML file such as configs/baseline.yaml"
            )
        values = parse(raw.decode("utf-8"), str(path))
    except OSError as error:
        raise UserError(
            f"the config {path} cannot be read: {error.strerror}; "
            "name a YAML file such as configs/baseline.yaml"
        ) from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a text file in UTF-8") from None
    if not isinstance(values, dict):
        found = "nothing" if values is None else type(values).__name__
        raise UserError(f"{path} holds {found} where a mapping of keys was expected")
    return values


def _read_chain(path: Path, below: tuple[Path, ...]) -> Tree:
    """A file merged over the file that it extends, and so on down."""
    values = _read_file(path)
    tree = Tree({}, {})
    if "extends" in values:
        base = values.pop("extends")
        if not isinstance(base, str):
            raise UserError(f"{path}: extends is {base!r}; expected a file name")
        folder = path.resolve().parent
        try:
            target = (folder / base).resolve()
            exists = target.is_file()
        except (OSError, ValueError):  # a name too long, or with a NUL
            target, exists = folder / "?", False
        chain = (*below, path.resolve())
        if len(chain) > MAX_CHAIN:
            raise UserError(
                f"{path}: extends goes on over more than {MAX_CHAIN} files; "
                "extend baseline.yaml itself"
            )
        if not target.is_relative_to(folder):
            raise UserError(
                f"{path}: extends {base!r} leads out of the folder {folder}; "
                "a config extends only files beside or below it"
            )
        if target in chain:
            names = " -> ".join(file.name for file in (*chain, target))
            raise UserError(f"{path}: extends goes in a circle: {names}")
        if not exists:
            raise UserError(f"{path}: extends {base!r}, which does not exist")
        tree = _read_chain(target, chain)
    return _merge(tree, with_current_names(values, str(path)), str(path))


def _merge(base: Tree, values: Mapping[Any, Any], origin: str) -> Tree:
    """A new tree in which `values` win over `base`, section by section."""

    def join(old: Mapping[Any, Any], new: Mapping[Any, Any]) -> dict[Any, Any]:
        merged = dict(old)
        for key, value in new.items():
            both = isinstance(value, Mapping) and isinstance(old.get(key), Mapping)
            merged[key] = join(old[key], value) if both else value
        return merged

    origins = base.origins | dict.fromkeys(_all_keys(values), origin)
    return Tree(join(base.values, values), origins)


def _all_keys(values: Mapping[Any, Any], prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from _all_keys(value, f"{prefix}{key}.")


def _explain(detail: Mapping[str, Any], where: str, origins: Mapping[str, str]) -> str:
    """One sentence for one of pydantic's complaints."""
    parts = [str(part) for part in detail["loc"]]
    key = ".".join(parts)
    place = origins.get(key, where)
    if detail["type"] == "extra_forbidden":
        section = _fields(parts[:-1])
        # The same word elsewhere in the schema first, then a near one beside it.
        near = difflib.get_close_matches(parts[-1], section, 1)
        close = [name for name in _schema_keys() if name.endswith(f".{parts[-1]}")]
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
        if hasattr(field.annotation, "model_fields")
        for key in field.annotation.model_fields
    ]
