"""Reads the part of Kustomize that k8s/ uses, so that its manifests are tested where no kustomize is installed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

Document = dict[str, Any]
_FIELDS = {"apiVersion", "kind", "namespace", "resources", "components", "patches", "replacements"}
_STEP = re.compile(r"\[([^\]]+)\](?:\.|$)|((?:\\.|[^.\\])+)(?:\.|$)")


def read(path: Path) -> list[Any]:
    """The documents of a YAML file, without aliases between their parts."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(json.dumps(document)) for document in yaml.load_all(file, yaml.CSafeLoader)]


def build(folder: Path, reached: set[Path] | None = None) -> list[Document]:
    """What `kustomize build` makes of a folder; every file on the way is added to `reached`.

    Raises:
        FileNotFoundError: a kustomization names a file that does not exist.
        ValueError: it uses a field that is not known here, or names a field of a document that is not there.
    """
    documents: list[Document] = []
    _accumulate(folder.resolve(), documents, set() if reached is None else reached)
    return documents


def select(documents: list[Document], **selector: str) -> list[Document]:
    """The documents of a kind and a name."""
    return [
        document
        for document in documents
        if selector.get("kind", document["kind"]) == document["kind"]
        and selector.get("name", document["metadata"]["name"]) == document["metadata"]["name"]
    ]


def _accumulate(folder: Path, documents: list[Document], reached: set[Path]) -> None:
    file = folder / "kustomization.yaml"
    (spec,) = read(file)
    reached.add(file)
    if unknown := set(spec) - _FIELDS:
        raise ValueError(f"{file}: unknown fields {sorted(unknown)}")
    for resource in spec.get("resources", []):
        path = (folder / resource).resolve()
        documents += build(path, reached) if path.is_dir() else read(path)
        reached.add(path)
    for component in spec.get("components", []):
        _accumulate((folder / component).resolve(), documents, reached)
    for patch in spec.get("patches", []):
        path = (folder / patch["path"]).resolve()
        reached.add(path)
        (operations,) = read(path)
        for document in select(documents, **patch["target"]):
            for operation in operations:
                _patch(document, operation)
    if namespace := spec.get("namespace"):
        for document in documents:
            if document["kind"] != "Namespace":
                document["metadata"]["namespace"] = namespace
    for replacement in spec.get("replacements", []):
        _replace(documents, replacement, file)


def _patch(document: Document, operation: dict[str, Any]) -> None:
    """One operation of RFC 6902, add or replace."""
    *parents, last = [step.replace("~1", "/").replace("~0", "~") for step in operation["path"].split("/")[1:]]
    target: Any = document
    for step in parents:
        target = target[int(step) if isinstance(target, list) else step]
    value = json.loads(json.dumps(operation["value"]))
    if operation["op"] == "add" and isinstance(target, list):
        target.insert(len(target) if last == "-" else int(last), value)
    elif operation["op"] == "add" or (operation["op"] == "replace" and last in target):
        target[last] = value
    else:
        raise ValueError(f"{operation['op']} {operation['path']}: not there, or not known here")


def _replace(documents: list[Document], replacement: dict[str, Any], file: Path) -> None:
    origin = dict(replacement["source"])
    path = origin.pop("fieldPath")
    (source,) = select(documents, **origin)
    ((holder, key),) = _places(source, path, file)
    for target in replacement["targets"]:
        for document in select(documents, **target["select"]):
            for path in target["fieldPaths"]:
                for parent, last in _places(document, path, file):
                    parent[last] = type(parent[last])(holder[key])


def _places(document: Document, path: str, file: Path) -> Iterator[tuple[Any, Any]]:
    """Every place in a document that a field path of Kustomize means, as a container and its key.

    Raises:
        ValueError: there is none.
    """
    steps = [bracket or plain.replace("\\.", ".") for bracket, plain in _STEP.findall(path)]
    places: list[tuple[Any, Any]] = [({"": document}, "")]
    for step in steps:
        following: list[tuple[Any, Any]] = []
        for parent, key in places:
            node = parent[key]
            if isinstance(node, dict):
                following += [(node, step)] if step in node else []
            elif step == "*":
                following += [(node, index) for index in range(len(node))]
            elif "=" in step:
                name, value = step.split("=", 1)
                following += [(node, index) for index, item in enumerate(node) if item.get(name) == value]
            elif int(step) < len(node):
                following.append((node, int(step)))
        places = following
        if not places:
            raise ValueError(f"{file}: {path} stops at {step!r} in {document['kind']} {document['metadata']['name']}")
    yield from places
