"""What a stage depends on: its settings and the contents of its files, as values that can be kept and compared."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dreamgym.config import RunConfig, Section

Settings = dict[str, Any]


def settings_of(config: RunConfig, sections: Sequence[str]) -> Settings:
    """The seed, and what sections or fields are set to, by their dotted names, as JSON's kinds.

    Every field of a section counts but those that `config/` marks as `Operational`. A file counts by its content.

    Raises:
        AttributeError: there is no such section.
    """
    found: Settings = {}
    for name in {"seed": None, **dict.fromkeys(sections)}:
        value: Any = config
        for part in name.split("."):
            value = getattr(value, part)
        found[name] = _plain(value)
    return found


def digest(value: Any) -> str:
    """16 hex digits of a value of JSON's kinds, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def difference(old: Any, new: Any, name: str = "") -> str:
    """The first setting that differs, in words; empty where none does."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            found = difference(old.get(key), new.get(key), f"{name}.{key}" if name else key)
            if found:
                return found
        return ""
    return "" if old == new else f"{name} was {json.dumps(old)}, is now {json.dumps(new)}"


def _plain(value: Any) -> Any:
    if isinstance(value, Section):
        kind = type(value)
        return {name: _plain(getattr(value, name)) for name in kind.model_fields if not kind.is_operational(name)}
    if isinstance(value, Path):
        return _content(value) if value.is_file() else str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value


def _content(path: Path) -> str:
    """A file's name and content: not its folder or its time, which differ where a job is unpacked once more."""
    with path.open("rb") as file:
        return f"{path.name} (sha256 {hashlib.file_digest(file, 'sha256').hexdigest()[:16]})"
