"""YAML files to a checked config, and back.

A file is either complete or `extends:` another file of the same folder and states only
what changes.
"""

import difflib
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from fer_jax.config.schema import Config, validate
from fer_jax.config.settings import flatten, with_current_names
from fer_jax.errors import UserError

# In a checkout a link to configs/; in an installed package a folder of its own.
_SHIPPED = (Path(__file__).resolve().parents[1] / "configs").resolve()
MAX_BYTES = 64 * 1024  # a shipped config is 1 KiB
MAX_CHAIN = 20  # files that extend one another
MAX_PARTS = 100  # of a dotted key; the code that walks nested settings is recursive


class Tree(NamedTuple):
    """Nested settings, and the file or flag that each dotted key came from."""

    values: dict[str, Any]
    origins: dict[str, str]


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Reads a YAML file and the files it extends, applies overrides, and validates.

    Args:
      path: the YAML file, or the name of one that ships, such as "baseline".
      overrides: `"dotted.key=value"` items, values in YAML; later ones win.

    Raises:
      UserError: if the result is not a valid experiment.
    """
    path = find(path)
    tree = _read_chain(path, ())
    given = Tree({}, {})
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
        given = _merge(given, value, f"--set {item}")
    values = _with_own_question(given.values, tree.values)
    tree = _merge(tree, values, "--set")
    tree = tree._replace(origins=tree.origins | given.origins)
    return validate(tree.values, str(path), tree.origins)


def shipped() -> list[Path]:
    """Returns the YAML files that come with the package, by name."""
    return sorted(_SHIPPED.glob("*.yaml"))


def find(path: str | Path) -> Path:
    """Returns the file of a config: the path itself, or that of a shipped name."""
    path = Path(path)
    if path.name != str(path) or os.path.exists(path):
        return path
    return next((each for each in shipped() if each.stem == path.name), path)


def _instead(path: Path) -> str:
    """What to name in place of a file that cannot be read."""
    names = {each.stem: each.stem for each in shipped()}
    if path.parent.is_dir():
        names |= {each.stem: str(each) for each in path.parent.glob("*.yaml")}
    if close := difflib.get_close_matches(path.stem, names, 1):
        return f"did you mean {names[close[0]]}?"
    ours = ", ".join(each.stem for each in shipped())
    return f"name a YAML file, or one that ships with fer_jax: {ours}"


def dump(config: Config) -> str:
    """Returns the resolved config as YAML, in the order of the schema."""
    return yaml.dump(
        config.model_dump(), Dumper=_Dumper, sort_keys=False, allow_unicode=True
    )


class _Loader(yaml.SafeLoader):
    """A safe loader that reads 1e-3 as a number; no duplicate keys, no aliases."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        # Aliases can make a small file expand without bound.
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
                continue  # PyYAML rejects it
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
    """A safe dumper that quotes text which `_Loader` would read as something else."""

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
    """Returns the plain values of a YAML text; errors begin with `where`."""
    try:
        return yaml.load(text, Loader=_Loader)
    except Exception as error:  # PyYAML may raise KeyError and others
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        if isinstance(error, RecursionError):
            problem = "nested too deeply"
        raise UserError(f"{where}{line}: not valid YAML: {problem}") from None


def _read_file(path: Path) -> dict[str, Any]:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would block
            raise UserError(
                f"{path} is not a file but a directory, a pipe or a device; "
                "name a YAML file such as configs/baseline.yaml"
            )
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise UserError(
                f"{path} is larger than {MAX_BYTES // 1024} KiB, the most that a "
                "config may have; name a YAML file such as configs/baseline.yaml"
            )
        values = parse(raw.decode("utf-8"), str(path))
    except (OSError, ValueError) as error:
        if isinstance(error, UnicodeDecodeError):
            raise UserError(f"{path} is not a text file in UTF-8") from None
        why = getattr(error, "strerror", None) or error
        raise UserError(
            f"the config {path} cannot be read: {why}; {_instead(path)}"
        ) from None
    if not isinstance(values, dict):
        found = "nothing" if values is None else type(values).__name__
        raise UserError(f"{path} contains {found}; expected a mapping of keys")
    return values


def _read_chain(path: Path, below: tuple[Path, ...]) -> Tree:
    """Returns a file merged over the files that it extends."""
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
                f"{path}: extends leads through more than {MAX_CHAIN} files; "
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
        if not exists and (_SHIPPED / target.name).is_file():
            target, exists = _SHIPPED / target.name, True
        if not exists:
            raise UserError(
                f"{path}: extends {base!r}, which does not exist, and does not ship "
                f"with fer_jax; {_instead(target)}"
            )
        tree = _read_chain(target, chain)
    values = with_current_names(values, str(path))
    return _merge(tree, _with_own_question(values, tree.values), str(path))


def _with_own_question(
    values: Mapping[Any, Any], base: Mapping[Any, Any]
) -> Mapping[Any, Any]:
    """A description for settings that rename an experiment and state none.

    They would inherit the question of the experiment that they change.
    """
    name, old = values.get("name"), base.get("name")
    if "description" in values or name is None or old in (None, name):
        return values
    changed = {
        key: value
        for key, value in flatten(values).items()
        if key not in ("name", "training.seed") and not str(key).startswith("asks")
    }
    listed = ", ".join(f"{key}={value}" for key, value in changed.items())
    question = f"What does {listed} change?" if changed else f"Is {old} reproducible?"
    return {**values, "description": question}


def _merge(base: Tree, values: Mapping[Any, Any], origin: str) -> Tree:
    """Returns a tree in which `values` override `base`, section by section."""

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
