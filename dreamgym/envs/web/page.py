"""A web page as the text that policy and dream read: a line for each element of BrowserGym's accessibility tree."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

TRANSPARENT = frozenset(
    {"generic", "none", "presentation", "paragraph", "LabelText", "Legend", "group", "region", "main", "banner"}
    | {"contentinfo", "navigation", "Section", "article", "complementary", "strong", "emphasis", "mark", "time"}
    | {"status", "log", "form", "MenuListPopup", "RootWebArea", "SvgRoot", "LayoutTable", "LayoutTableRow"}
    | {"LayoutTableCell", "LayoutTableSection", "rowgroup", "DescriptionList", "Abbr", "code", "figure", "Iframe"}
)
"""Roles that hold others together: they have a line of their own only where they can be clicked."""
LABELS = frozenset({"LabelText", "Legend"})
"""What a click on them does, a click on the field that they name does too."""
INPUTS = frozenset({"textbox", "searchbox", "combobox", "listbox", "checkbox", "radio", "slider", "spinbutton", "Date"})
MUTE = frozenset({"InlineTextBox", "LineBreak", "ListMarker"})
"""Nodes that repeat what another one says."""
STATES = ("checked", "selected", "expanded", "disabled")
LONGEST_NAME = 120
MOST_HELD = 5
"""Elements that can be acted on, in one that can be clicked itself; with more it is a part of the page, not a thing."""
MOST_ALIKE = 30
"""Children of one role under one parent (options, rows) of which the rest is only counted."""


@dataclass(frozen=True, slots=True)
class Element:
    """A line of a page.

    id       BrowserGym's id, which actions name, and which lives as long as the element; empty for text
    role     of the accessibility tree; `text` for words that belong to no other element
    name     what it is called; a clickable element without a name is called by its `title`, `alt`, id or class
    value    what has been put into it
    states   of `checked`, `selected`, `expanded`, `collapsed`, `disabled`
    depth    how many lines it is nested in
    seen     whether any part of it lies inside the window
    """

    id: str
    role: str
    name: str
    value: str = ""
    states: tuple[str, ...] = ()
    depth: int = 0
    seen: bool = True

    def __str__(self) -> str:
        words = [word for word in (self.id, self.role, self.name) if word]
        if self.value and self.value != self.name:
            words += ["=", self.value]
        return " " * self.depth + " ".join([*words, *(f"({state})" for state in self.states)])


@dataclass(frozen=True, slots=True)
class Marks:
    """What the document says of an element beside the accessibility tree.

    clickable  whether a click is listened to
    seen       whether it lies inside the window
    hint       what a nameless element may be called: its title, alternative text, id or class
    """

    clickable: bool = False
    seen: bool = True
    hint: str = ""


@dataclass(slots=True)
class _Node:
    id: str
    role: str
    name: str
    value: str
    states: tuple[str, ...]
    children: list[_Node] = field(default_factory=list)


def read_page(tree: Mapping[str, Any], marks: Mapping[str, Marks]) -> list[Element]:
    """The lines of a page, in its order.

    Args:
        tree: `axtree_object` of BrowserGym's observation (0.14).
        marks: of each id; see `read_marks`.
    """
    nodes = {node["nodeId"]: node for node in tree["nodes"]}
    if not nodes:
        return []
    root = tree["nodes"][0]
    return list(_fold(_joined(_lines(_node(root, nodes), marks, 0, True))))


def _node(raw: Mapping[str, Any], nodes: Mapping[str, Any]) -> _Node:
    """The tree below a node; an element that shares its id with its parts (a date with its fields) stands for them."""
    found = _Node(
        raw.get("browsergym_id", ""),
        raw.get("role", {}).get("value", ""),
        _clean(raw.get("name", {}).get("value", "")),
        _clean(raw.get("value", {}).get("value", "")),
        _states(raw),
    )
    children = [_node(nodes[child], nodes) for child in raw.get("childIds", ()) if child in nodes]
    if not (found.id and any(_holds(child, found.id) for child in children)):
        found.children = children
    return found


def _holds(node: _Node, id_: str) -> bool:
    return node.id == id_ or any(_holds(child, id_) for child in node.children)


def _states(raw: Mapping[str, Any]) -> tuple[str, ...]:
    said = {p["name"]: p.get("value", {}).get("value") for p in raw.get("properties", ())}
    states = [name for name in STATES if said.get(name) in (True, "true", "mixed")]
    if said.get("expanded") is False:
        states.append("collapsed")
    return tuple(states)


def _lines(node: _Node, marks: Mapping[str, Marks], depth: int, seen: bool) -> list[Element]:
    """The lines of a node and all below it; `seen` is whether what holds it lies inside the window."""
    mark = marks.get(node.id, Marks(seen=seen))
    seen = mark.seen or node.role == "option"
    if node.role == "StaticText":
        return [Element("", "text", node.name[:LONGEST_NAME], depth=depth, seen=seen)] if node.name else []
    below = [
        line for child in node.children if child.role not in MUTE for line in _lines(child, marks, depth + 1, seen)
    ]
    acts = [line for line in below if line.role != "text"]
    words = _clean(" ".join(line.name for line in below if line.role == "text"))
    if node.role in TRANSPARENT and acts and mark.clickable and node.role not in LABELS:
        thing = bool(words) and len(words) <= LONGEST_NAME and len(acts) <= MOST_HELD
        return [Element(node.id, "clickable", words, depth=depth, seen=seen), *acts] if thing else _up(below)
    held = node.role in TRANSPARENT and (not mark.clickable or node.role in LABELS)
    name = _name(node, mark, acts)
    if held or not node.id or not (name or node.value or (mark.clickable and not acts)):
        return _up(below)
    role = "clickable" if node.role in TRANSPARENT else node.role
    line = Element(node.id, role, name[:LONGEST_NAME], node.value[:LONGEST_NAME], node.states, depth, seen)
    if len(acts) == 1 and acts[0].name == name and not node.value and node.role not in INPUTS:
        return [_as_one(line, acts[0], mark.clickable)]
    return [line, *(found for found in below if found.role != "text" or found.name not in (name, node.value))]


def _up(lines: Sequence[Element]) -> list[Element]:
    return [replace(line, depth=line.depth - 1) for line in lines]


def _name(node: _Node, mark: Marks, acts: Sequence[Element]) -> str:
    """What an element is called: its name, its words, or a hint; one that only repeats what it holds has none."""
    if acts:
        own = _clean(" ".join(child.name for child in node.children if child.role == "StaticText"))
        repeats = node.name == _clean(" ".join(line.name for line in acts)) and len(acts) > 1
        return own if repeats else node.name or own
    if node.role in INPUTS:
        return node.name or mark.hint
    return node.name or _words(node) or (mark.hint if mark.clickable else "")


def _words(node: _Node) -> str:
    """All words below a node."""
    if node.role == "StaticText":
        return node.name
    return _clean(" ".join(_words(child) for child in node.children if child.role not in MUTE))


def _as_one(line: Element, inner: Element, clickable: bool) -> Element:
    """An element and the one inside it that says the same (a tab and its link): the one to be clicked gives the id."""
    states = tuple(dict.fromkeys((*line.states, *inner.states)))
    return replace(line, id=line.id if clickable else inner.id, states=states)


def _joined(lines: Sequence[Element]) -> Iterator[Element]:
    """Words that follow each other at one depth as one line, and none that only repeat the element beside them."""
    held: Element | None = None
    for before, line, after in zip([None, *lines], lines, [*lines[1:], None], strict=False):
        if line.role != "text":
            if held:
                yield held
            held = None
            yield line
        elif not any(beside and beside.role != "text" and beside.name == line.name for beside in (before, after)):
            if held and (held.depth, held.seen) == (line.depth, line.seen):
                held = replace(held, name=f"{held.name} {line.name}")
            else:
                if held:
                    yield held
                held = line
    if held:
        yield held


def _fold(lines: Iterator[Element]) -> Iterator[Element]:
    """Long runs of the same role at one depth, cut after `MOST_ALIKE` with a count of the rest."""
    run: list[Element] = []

    def cut() -> Iterator[Element]:
        yield from run[:MOST_ALIKE]
        if len(run) > MOST_ALIKE:
            yield Element("", "text", f"… {len(run) - MOST_ALIKE} more of {run[0].role}", depth=run[0].depth)

    for line in lines:
        if run and (line.role, line.depth) != (run[0].role, run[0].depth):
            yield from cut()
            run = []
        run.append(line)
    yield from cut()


def page_text(elements: Sequence[Element], most: int) -> str:
    """The page as text, at most `most` lines: what lies outside the window goes first, and is counted."""
    kept = list(elements)
    hidden = 0
    if len(kept) > most:
        kept = [element for element in kept if element.seen]
        hidden = len(elements) - len(kept)
    cut = max(0, len(kept) - most)
    lines = [str(element) for element in kept[:most]]
    if cut:
        lines.append(f"… {cut} more lines")
    if hidden:
        lines.append(f"… {hidden} lines out of sight")
    return "\n".join(lines)


def read_marks(properties: Mapping[str, Mapping[str, Any]], snapshot: Mapping[str, Any]) -> dict[str, Marks]:
    """What the document says of each id.

    Args:
        properties: `extra_element_properties` of BrowserGym's observation.
        snapshot: its `dom_object`.
    """
    hints = _hints(snapshot)
    return {
        id_: Marks(bool(found.get("clickable")), (found.get("visibility") or 0) > 0, hints.get(id_, ""))
        for id_, found in properties.items()
    }


def _hints(snapshot: Mapping[str, Any]) -> dict[str, str]:
    strings = snapshot["strings"]
    hints: dict[str, str] = {}
    for document in snapshot["documents"]:
        for flat in document["nodes"]["attributes"]:
            said = {strings[name]: strings[value] for name, value in zip(flat[::2], flat[1::2], strict=True)}
            if "bid" in said:
                words = (said.get(name, "") for name in ("title", "alt", "placeholder", "id", "class"))
                hints[said["bid"]] = next((_clean(word)[:LONGEST_NAME] for word in words if word.strip()), "")
    return hints


def _clean(text: object) -> str:
    """One line without blanks in a row; private-use characters (icon fonts) say nothing."""
    words = "" if text is None else str(text)
    return re.sub(r"\s+", " ", re.sub(r"[\ue000-\uf8ff\u200b\ufeff]", "", words)).strip()
