"""Where a configuration comes from: defaults, a YAML recipe, `field=value` overrides; errors a user can act on."""

from __future__ import annotations

import difflib
import json
import logging
import os
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from dreamgym.config import ALGORITHM_PARTS, RunConfig
from dreamgym.errors import ConfigError

log = logging.getLogger(__name__)
COMMAND_LINE = "command line"
MAX_RECIPE_BYTES = 2**20
MAX_DEPTH = 32
_PLAIN = ("null", "bool", "int", "float", "str", "seq", "map", "merge")
_PLAIN_TAGS = {None, *(f"tag:yaml.org,2002:{kind}" for kind in _PLAIN)}
_EXPONENT = re.compile(r"[-+]?(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$")
_SURROGATE = re.compile("[\ud800-\udfff]")


class Field(NamedTuple):
    """One setting: its dotted name, its type and default as text, and what it means."""

    name: str
    type: str
    default: str
    help: str

    @property
    def section(self) -> str:
        """The dotted name without its last part; empty for a setting of the run itself."""
        return self.name.rpartition(".")[0]


class _Loader(yaml.SafeLoader):
    """YAML of plain values, whose numbers are those of YAML 1.2, so that 1e-6 is a number and not a text.

    Nothing can grow in it: no aliases, at most `MAX_DEPTH` levels. Whatever is wrong is a `YAMLError` with its line.
    """

    yaml_constructors: ClassVar = {
        tag: make for tag, make in yaml.SafeLoader.yaml_constructors.items() if tag in _PLAIN_TAGS
    }
    yaml_implicit_resolvers: ClassVar = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag in _PLAIN_TAGS]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """One node and all below it."""
        mark = self.peek_event().start_mark
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="an alias; write its value out", problem_mark=mark)
        if self._depth == MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem=f"more than {MAX_DEPTH} levels", problem_mark=mark)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """The value of a node."""
        try:
            value = super().construct_object(node, deep)
        except (ValueError, LookupError):
            value = "\0"
        if not _is_clean(value):
            raise yaml.MarkedYAMLError(problem="no text or number that can be kept", problem_mark=node.start_mark)
        return value


class _Dumper(yaml.SafeDumper):
    """Quotes the texts that `_Loader` would take for numbers."""


for _yaml in (_Loader, _Dumper):
    _yaml.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+0123456789."))


def load_config(recipe: Path | None, overrides: Sequence[str] = ()) -> RunConfig:
    """Defaults, then the recipe's fields, then each `dotted.field=value` of `overrides`.

    A section of the recipe keeps the defaults of the fields it does not name. Texts and paths are
    taken from the command line as they stand; other values are read as YAML. Where `overrides` take another
    `learner.algorithm` than the recipe's, the recipe's `ALGORITHM_PARTS` are left out, and that is told.

    Raises:
        ConfigError: a file is missing or no YAML, a field is unknown, or a value does not fit.
    """
    merged = _plain(RunConfig())
    origins: dict[str, str] = {}
    if recipe is not None:
        _merge(merged, _read_recipe(recipe, origins), (), origins, str(recipe))
    given = [(name, _nested(name, value)) for name, value in map(_parse_override, overrides)]
    _take_algorithm(merged["learner"], [nested for _, nested in given], recipe)
    for name, nested in given:
        origins.update(dict.fromkeys(_prefixes(name), COMMAND_LINE))
        _merge(merged, nested, (), origins, COMMAND_LINE)
    try:
        return RunConfig.model_validate_json(json.dumps(merged, default=str), strict=True)
    except ValidationError as error:
        raise ConfigError(_sentence(error, merged, origins)) from None


def load_run(run_dir: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The configuration that a run folder was last used with, wherever the folder lies now; then the `overrides`.

    Raises:
        ConfigError: it is no run folder, its name is no longer that of its run, or a value does not fit.
    """
    recipe = run_dir / "config.yaml"
    if not recipe.is_file():
        raise ConfigError(f"{run_dir}: a folder without config.yaml, so no run; give a recipe or the folder of a run.")
    home = Path(os.path.abspath(run_dir))
    config = load_config(recipe, [f"out={home.parent}"])
    if config.run_dir != home:
        raise ConfigError(f"{run_dir}: holds the run '{config.run_dir.name}'; give the folder that name again.")
    return load_config(recipe, [f"out={home.parent}", *overrides])


def dump_config(config: RunConfig) -> str:
    """The whole configuration as YAML that `load_config` reads back to an equal one."""
    return yaml.dump(_plain(config), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def describe_fields() -> list[Field]:
    """Every setting of `RunConfig`, depth first in the order of the source, with the defaults a run really has."""
    return list(_walk(RunConfig(), ""))


def _plain(config: BaseModel) -> dict[str, Any]:
    return config.model_dump(mode="json")


def _walk(section: BaseModel, prefix: str) -> Iterator[Field]:
    subsections: list[tuple[str, BaseModel]] = []
    for name, info in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            subsections.append((f"{prefix}{name}.", value))
            continue
        kind = _type_name(info.annotation) + "".join(filter(None, map(_bound, info.metadata)))
        shown = json.dumps(value, default=str) if not isinstance(value, (str, Path)) else str(value)
        yield Field(prefix + name, kind, shown, " ".join((info.description or "").split()))
    for inner_prefix, inner in subsections:
        yield from _walk(inner, inner_prefix)


def _type_name(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Literal:
        return " | ".join(map(str, get_args(annotation)))
    if origin in (Union, types.UnionType):
        return " | ".join(_type_name(a) for a in get_args(annotation))
    if origin is list:
        return f"list of {_type_name(get_args(annotation)[0])}"
    names = {str: "text", int: "int", float: "float", bool: "bool", Path: "path", type(None): "null"}
    return names.get(annotation, "mapping" if origin is dict else str(getattr(annotation, "__name__", annotation)))


def _bound(constraint: Any) -> str:
    for attribute, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<")):
        if hasattr(constraint, attribute):
            return f" {sign} {getattr(constraint, attribute)}"
    return ""


def _read_recipe(path: Path, origins: dict[str, str]) -> dict[str, Any]:
    """The recipe as nested dictionaries; `origins` learns the line of every field."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_RECIPE_BYTES + 1)
        text = raw.decode("utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such recipe; correct the path, or see the folder recipes/.") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as a recipe ({error}).") from None
    if len(raw) > MAX_RECIPE_BYTES:
        raise ConfigError(f"{path}: longer than {MAX_RECIPE_BYTES} bytes; give the recipe, not data.")
    try:
        root = yaml.compose(text, Loader=_Loader)
        data = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise ConfigError(f"{where}: not valid YAML: {problem}.") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: a recipe is a mapping of fields, such as 'learner: {{lr: 1e-4}}'.")
    _locate(root, "", path, origins)
    return data


def _locate(node: yaml.Node | None, prefix: str, path: Path, origins: dict[str, str]) -> None:
    """Note file and line of every key under `node`; a key that stands twice is an error."""
    if not isinstance(node, yaml.MappingNode):
        return
    seen: set[str] = set()
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        where = f"{path}:{key.start_mark.line + 1}"
        if name in seen:
            raise ConfigError(f"{where}: field {name!r:.200} stands here a second time; keep one of the two.")
        seen.add(name)
        origins[name] = where
        _locate(value, name + ".", path, origins)


def _parse_override(override: str) -> tuple[str, Any]:
    name, equals, text = override.partition("=")
    name = name.strip()
    if not equals or not name:
        raise ConfigError(f"{COMMAND_LINE}: {override!r:.200} is not of the form field=value, such as learner.lr=1e-6.")
    annotation = _annotation_at(tuple(name.split(".")))
    if not _is_clean(text):
        raise ConfigError(f"{COMMAND_LINE}: the value of {name!r:.200} is no text that can be kept: {text!r:.200}.")
    if annotation in (str, Path) or get_origin(annotation) is Literal:
        return name, text
    try:
        return name, yaml.load(text, Loader=_Loader)
    except yaml.YAMLError:
        raise ConfigError(f"{COMMAND_LINE}: the value of {name!r:.200} is not valid YAML: {text!r:.200}.") from None


def _is_clean(value: Any) -> bool:
    """Whether a single value can be a name, a path or a number: no NUL, no half a character, no endless int."""
    if isinstance(value, str):
        return "\0" not in value and not _SURROGATE.search(value)
    return not isinstance(value, int) or value.bit_length() <= 64


def _nested(name: str, value: Any) -> dict[str, Any]:
    """{a: {b: value}} of `a.b`."""
    for part in reversed(name.split(".")):
        value = {part: value}
    result: dict[str, Any] = value
    return result


def _take_algorithm(learner: dict[str, Any], overrides: Sequence[Mapping[str, Any]], recipe: Path | None) -> None:
    """Give another algorithm than that of the recipe, where `overrides` take one, its own form back."""
    sections = [given["learner"] for given in overrides if isinstance(given.get("learner"), Mapping)]
    taken = [section["algorithm"] for section in sections if "algorithm" in section]
    if taken and taken[-1] != learner["algorithm"]:
        left_out = {f"learner.{name}": learner[name] for name in ALGORITHM_PARTS if learner[name] is not None}
        learner.update(dict.fromkeys(ALGORITHM_PARTS))
        if left_out:
            shown = " and ".join(f"{name}={value}" for name, value in left_out.items())
            _tell(
                f"{recipe}: {shown} left out, for that is of learner.algorithm={learner['algorithm']}; to keep it with "
                f"{taken[-1]}, give it beside that."
            )


@cache
def _tell(sentence: str) -> None:
    """Say it once, however often a configuration is loaded."""
    log.warning(sentence)


def _prefixes(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def _merge(
    base: dict[str, Any], new: Mapping[Any, Any], at: tuple[str, ...], origins: Mapping[str, str], source: str
) -> None:
    """Lay the section `new` over `base` in place; unknown names and scalars in place of sections are refused."""
    for key, value in new.items():
        path = (*at, str(key))
        name = ".".join(path)
        where = origins.get(name, source)
        annotation = _annotation_at(path)
        if annotation is None:
            raise ConfigError(f"{where}: unknown field {name!r:.200}{_suggest(name)}")
        if not _is_section(annotation):
            base[key] = _value(annotation, value, base[key])
        elif isinstance(value, Mapping):
            _merge(base[key], value, path, origins, source)
        elif value is not None:
            example = f"{name}.{next(iter(annotation.model_fields))}"
            raise ConfigError(f"{where}: '{name}' is a section, not a value; set its fields, such as '{example}'.")


def _value(annotation: Any, value: Any, old: Any) -> Any:
    """A mapping keeps the keys that `value` does not name; 2e6 is whole where the field is."""
    if isinstance(value, Mapping) and isinstance(old, Mapping):
        return {**old, **value}
    return int(value) if annotation is int and isinstance(value, float) and value.is_integer() else value


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _annotation_at(path: tuple[str, ...]) -> Any:
    """The type of the field at a dotted path; below a mapping, anything; None where there is no such field."""
    annotation: Any = RunConfig
    for part in path:
        if get_origin(annotation) is dict:
            return Any
        info = annotation.model_fields.get(part) if _is_section(annotation) else None
        if info is None:
            return None
        annotation = info.annotation
    return annotation


def _suggest(name: str) -> str:
    """The known fields that `name` may stand for, as the end of a sentence."""
    known = [f.name for f in describe_fields()]
    section, _, leaf = name.rpartition(".")
    beside = [k for k in known if k.rpartition(".")[0] == section]
    close = difflib.get_close_matches(leaf, [k.rpartition(".")[2] for k in beside], n=1)
    found = [f"{section}.{close[0]}" if section else close[0]] if close else []
    found = found or sorted((k for k in known if k.rpartition(".")[2] == leaf), key=lambda k: k.count("."))[:3]
    found = found or difflib.get_close_matches(name, [*known, *{f.section for f in describe_fields()}], n=1)
    return f"; did you mean {' or '.join(map(repr, found))}?" if found else "; `dreamgym train --help` lists all."


def _sentence(error: ValidationError, merged: Mapping[str, Any], origins: Mapping[str, str]) -> str:
    """The first thing that is wrong, in one sentence: where, which field, what it must be, what it is."""
    first = error.errors(include_url=False)[0]
    name = ".".join(map(str, first["loc"]))
    where = next((origins[p] for p in reversed(_prefixes(name)) if p in origins), "defaults")
    message = (
        first["msg"]
        .removeprefix("Value error, ")
        .removeprefix("Input ")
        .removeprefix("String ")
        .replace("valid array", "list")
        .rstrip(".")
    )
    given = first.get("input")
    shown = "" if isinstance(given, Mapping) or first["type"] == "value_error" else f", not {given!r:.200}"
    return f"{where}: {name!r:.200} {message}{shown}." if name else f"{where}: {message}."
