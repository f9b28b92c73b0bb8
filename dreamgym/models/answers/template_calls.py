"""How a chat template writes calls of tools: learned from what it renders, so that an answer is read the same way.

Each model family marks its calls in its own way, and its template is the one place that says how. We let it render
calls whose words we know, and take what stands between these words for the marks.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from dreamgym.errors import ModelError
from dreamgym.models.answers.call_messages import SHAPES, Message, MessageShape
from dreamgym.models.answers.calls import DEEPEST, Call, CallError, Tool, checked

HEAD = "probehead"
CALLS = tuple(
    Call(f"probename{n}", {"probekeya": f"probeval{n}", "probekeyb": 7071707 + n, "probekeyc": 9091909 + n})
    for n in (0, 1)
)
TOOLS = [
    {
        "name": call.name,
        "description": "",
        "parameters": {"type": "object", "properties": {key: {} for key in call.arguments}},
    }
    for call in CALLS
]
_NAME = re.compile(r"[\w.\-]+")
_KEY = re.compile(r"[\w.\-$]+")
_MARK = re.compile(r"<[^<>]+>")
_SPACE = re.compile(r"\s*")
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)
Render = Callable[[Message], str]
"""The text of a message of the assistant, without its end; raises ModelError where the template refuses it."""


Kinds = dict[str, frozenset[str]]
"""JSON's types that arguments may have, by their names."""
ALL = frozenset({"null", "boolean", "integer", "number", "string", "array", "object"})
_TYPES: tuple[tuple[frozenset[str], Any], ...] = (
    (frozenset({"null"}), type(None)),
    (frozenset({"boolean"}), bool),
    (frozenset({"integer", "number"}), int),
    (frozenset({"number"}), float),
    (frozenset({"string"}), str),
    (frozenset({"array"}), list),
    (frozenset({"object"}), dict),
)
MOST_ENDS = 64
"""Marks that are tried for the end of a value; more stand in no call."""


class TemplateCalls:
    """The marks of one template, with which calls are read.

    Arguments are one JSON object, or a key and a value each, as in `<parameter=to>attic</parameter>`.

    shape    how the template wants such a message
    several  whether a turn may have more than one call
    headed   whether what is said before the calls is rendered too
    nests    whether arguments that are objects and lists are read back
    """

    def __init__(self, shape: MessageShape, render: Render, several: bool, head: str) -> None:
        """Learn the marks; raises CallError where the calls cannot be found again in what `render` makes of them.

        `head` is rendered before the calls; empty where nothing is.
        """
        self.shape, self.several, self.headed = shape, several, bool(head)
        calls = list(CALLS if several else CALLS[:1])
        body = render(shape.message(head, calls))
        before, after = _around(body, calls[0].name)
        opens = before.rpartition(HEAD)[2].rpartition("</think>")[2].strip()
        self._open, self._mark = self._marks(opens), _MARK.match(opens)
        self._pairs = None if _object_in(after, calls[0]) else _Pairs(after, calls[0])
        opens, rest = self._split(after, calls[0])
        joins, last = _around(rest, calls[1].name) if several else ("", "")
        end = self._split(last, calls[1])[1] if several else rest
        self._middle, self._end = self._marks(opens), self._marks(end)
        self._join = self._marks(joins) if several else None
        bare = [call._replace(arguments={}) for call in calls]
        after = _around(render(shape.message("", bare)), calls[0].name)[1]
        joins, end = _around(after, calls[1].name) if several else ("", after)
        self._bare = (self._marks(joins) if several else None, self._marks(end))
        """What follows a name where there is no argument: up to the next name, and up to the end."""
        if not self._open.pattern or self.read(body, TOOLS)[1] != calls:
            raise CallError("calls are rendered in a way that cannot be read back")
        self.nests = self._nests(render)

    def read(self, text: str, tools: Sequence[Tool]) -> tuple[str, list[Call]]:
        """What an answer says before its calls, and the calls; none where it has no mark of one.

        Raises:
            CallError: there is a mark, but what follows is no call, or there is more behind the last one.
        """
        thought = text.find("</think>") if text.lstrip().startswith("<think>") else 0
        opened = self._open.search(text, thought) if thought >= 0 else None
        if not opened:
            if self._mark and thought >= 0 and self._mark[0] in text[thought:]:
                raise CallError(f"behind {self._mark[0]} stands no call")
            return text, []
        calls: list[Call] = []
        at, more = opened.end(), True
        while more:
            name = _NAME.match(text, at)
            if not name:
                raise CallError("a call has no name")
            arguments, at, more = self._called(text, name, _kinds_of(tools, name[0]))
            calls.append(checked(Call(name[0], arguments)))
        if text[at:].strip():
            raise CallError(f"after the call of {calls[-1].name} something else follows than its end")
        return text[: opened.start()], calls

    def _called(self, text: str, name: re.Match[str], kinds: Kinds) -> tuple[dict[str, Any], int, bool]:
        """The arguments of a call, where what follows begins, and whether that is another call."""
        at = name.end()
        arguments: dict[str, Any] = {}
        join, end = self._bare if self._pairs else (None, None)
        if not (join and _joined(join, text, at)) and not (end and _ended(end, text, at)):
            join, end = self._join, self._end
            opened = self._middle.match(text, at)
            if not opened:
                raise CallError(f"the arguments of {name[0]} are not where they belong")
            if self._pairs:
                arguments, at = self._pairs.read(text, opened.end(), kinds, (self._join, self._end))
            else:
                arguments, at = _decoded(text, opened.end(), name[0])
        if join and (found := _joined(join, text, at)):
            return arguments, found, True
        return arguments, (end and _ended(end, text, at)) or at, False

    def _nests(self, render: Render) -> bool:
        nested = CALLS[0]._replace(arguments={"probekeya": {"a": ["x", 1]}})
        try:
            return self.read(render(self.shape.message("", [nested])), TOOLS)[1] == [nested]
        except CallError:
            return False

    def _split(self, rest: str, call: Call) -> tuple[str, str]:
        """What stands between a call's name and its arguments, and what stands behind these."""
        found = _object_in(rest, call)
        if found:
            return rest[: found[0]], rest[found[1] :]
        first, last = min(call.arguments), str(max(map(str, call.arguments.values()), key=rest.find))
        return rest[: rest.find(first)], rest[rest.find(last) + len(last) :]

    def _marks(self, literal: str) -> re.Pattern[str]:
        pattern = re.sub(r"probename\d", r"[\\w.\\-]+", _loose(literal))  # some name a tool twice
        if self.shape.ids.startswith("functions"):
            return re.compile(re.sub(r"^:\d", r":\\d+", pattern))
        return re.compile(re.sub(r"call0000\d", r"[\\w-]+", pattern))


class _Pairs:
    """Arguments as keys and values."""

    def __init__(self, rest: str, call: Call) -> None:
        """Learn the marks between them from what follows the name of a call; raises CallError."""
        (a, text), (b, one), (c, two) = ((key, str(value)) for key, value in call.arguments.items())
        found = re.fullmatch(f".*?{a}(.+?){text}(.+?){b}(.+?){one}(.+?){c}(.+?){two}.*", rest, re.DOTALL)
        if not found:
            raise CallError("the arguments are not rendered one by one")
        first, quoted, value, pair, again = found.groups()
        if value != again or not first.startswith(value) or not quoted.endswith(pair):
            raise CallError("arguments are not rendered alike")
        self._quotes = first.removeprefix(value), quoted.removesuffix(pair)
        self._value, self._pair = re.compile(_loose(value)), re.compile(_loose(pair))

    def read(
        self, text: str, at: int, kinds: Kinds, ends: tuple[re.Pattern[str] | None, re.Pattern[str]]
    ) -> tuple[dict[str, Any], int]:
        """The arguments that begin here, and where they end; raises CallError."""
        arguments: dict[str, Any] = {}
        while True:
            key = _KEY.match(text, at)
            opened = self._value.match(text, key.end()) if key else None
            if not key or not opened:
                raise CallError("an argument is not a key and a value")
            arguments[key[0]], at = self._argument(text, opened.end(), kinds.get(key[0], ALL), ends)
            following = self._next(text, at)
            if not following:
                return arguments, at
            at = following

    def _next(self, text: str, at: int) -> int:
        """Where the next key begins; 0 where none does."""
        pair = self._pair.match(text, at)
        key = _KEY.match(text, pair.end()) if pair else None
        return pair.end() if pair and key and self._value.match(text, key.end()) else 0

    def _argument(
        self, text: str, at: int, kinds: frozenset[str], ends: tuple[re.Pattern[str] | None, re.Pattern[str]]
    ) -> tuple[Any, int]:
        opens, closes = self._quotes
        if opens in ("'", '"') and (quoted := _QUOTED.match(text, at)):
            value = _literal(quoted[0])
            return (quoted[0][1:-1] if value == quoted[0] else value), quoted.end()  # such as one with a line break
        if opens and text.startswith(opens, at):
            end = text.find(closes, at + len(opens))
            if end < 0:
                raise CallError("a text is not closed")
            return text[at + len(opens) : end], end + len(closes)
        written = text[at : at + 1] in ("[", "{") and not kinds <= {"string", "null"}
        begun = _json_end(text, at) if written else at
        for end in self._ends(text, begun, ends):
            value = text[at:end]
            found = _literal(value) if opens or not kinds <= {"string"} else value
            if not written or begun > at or not isinstance(found, str):
                return (found if opens or _kind(found) & kinds else value), end
        raise CallError("a value has no end")

    def _ends(self, text: str, at: int, ends: tuple[re.Pattern[str] | None, re.Pattern[str]]) -> Iterator[int]:
        """Where a value that begins before may end, nearest first; no more than `MOST_ENDS` of them."""
        join, close = ends
        marks = re.compile("|".join(mark.pattern for mark in (self._pair, join, close) if mark and mark.pattern))
        for count, found in enumerate(marks.finditer(text, at)):
            end = found.start()
            last = close.match(text, end)
            over = last is not None and not text[last.end() :].strip()
            if over or self._next(text, end) or (join and _joined(join, text, end)):
                yield end
            if count >= MOST_ENDS:
                return


def _loose(literal: str) -> str:
    """A pattern of these marks: inside them any blanks may stand for blanks, at their ends none for each."""
    inner = literal.strip()
    before, after = literal[: literal.find(inner)], literal[literal.find(inner) + len(inner) :] if inner else ""
    edges = ["".join(f"{re.escape(blank)}?" for blank in edge) for edge in (before if inner else literal, after)]
    return edges[0] + r"\s*".join(map(re.escape, re.split(r"\s+", inner))) + edges[1]


def _around(text: str, name: str) -> tuple[str, str]:
    """What stands before and behind a name; raises CallError."""
    before, found, after = text.partition(name)
    if not found:
        raise CallError(f"{name} is not rendered")
    return before, after


def _object_in(text: str, call: Call) -> tuple[int, int] | None:
    """Where the arguments of a call stand as one JSON object."""
    at = text.find("{", 0)
    while at >= 0:
        try:
            found, end = json.JSONDecoder().raw_decode(text, at)
        except ValueError:
            found, end = None, at
        if found == call.arguments:
            return at, end
        at = text.find("{", at + 1)
    return None


def _decoded(text: str, at: int, name: str) -> tuple[dict[str, Any], int]:
    blank = _SPACE.match(text, at)
    try:
        found, end = json.JSONDecoder().raw_decode(text, blank.end() if blank else at)
    except (ValueError, RecursionError) as error:
        raise CallError(f"the arguments of {name} are no JSON ({error})") from error
    if not isinstance(found, dict):
        raise CallError(f"the arguments of {name} are no JSON object")
    return found, end


def _joined(join: re.Pattern[str], text: str, at: int) -> int:
    """Where the name of the next call begins; 0 where none does."""
    found = join.match(text, at)
    return found.end() if found and _NAME.match(text, found.end()) else 0


def _ended(end: re.Pattern[str], text: str, at: int) -> int:
    """Where the end of the calls ends; 0 where it is not here, or not the last of the text."""
    blank = _SPACE.match(text, at)
    found = end.match(text, at) or end.match(text, blank.end() if blank else at)
    return found.end() if found and not text[found.end() :].strip() else 0


def _kinds_of(tools: Sequence[Tool], name: str) -> Kinds:
    """JSON's types that each argument of a tool may have, by the argument's name."""
    root: dict[str, Any] = next((tool["parameters"] for tool in tools if tool["name"] == name), {})
    return {key: kinds_in(schema, root) for key, schema in root.get("properties", {}).items()}


def kinds_in(schema: Any, root: Any, depth: int = 0) -> frozenset[str]:
    """JSON's types that a value may have by its schema; `root` is what the schema's references look into."""
    if not isinstance(schema, dict) or depth > DEEPEST:
        return ALL
    if isinstance(reference := schema.get("$ref"), str):
        found = root
        for part in reference.removeprefix("#").split("/")[1:]:
            found = found.get(part, {}) if isinstance(found, dict) else {}
        return kinds_in(found, root, depth + 1)
    if told := schema.get("type"):
        return frozenset([told] if isinstance(told, str) else told)
    if values := schema.get("enum", [schema["const"]] if "const" in schema else None):
        return frozenset().union(*map(_kind, values))
    several = [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
    return frozenset().union(*(kinds_in(one, root, depth + 1) for one in several)) if several else ALL


def _kind(value: Any) -> frozenset[str]:
    """What JSON calls a value of Python's."""
    for kind, types in _TYPES:
        if isinstance(value, types):
            return kind
    return frozenset()


def _literal(text: str) -> Any:
    """A value as JSON or as Python writes it; the text itself where it is neither."""
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text.strip())
            json.dumps(value, allow_nan=False)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
        return list(value) if isinstance(value, tuple) else value
    return text


def _json_end(text: str, at: int) -> int:
    """Where the JSON value that begins here ends; here, where none does."""
    try:
        return json.JSONDecoder().raw_decode(text, at)[1]
    except (ValueError, RecursionError):
        return at


def learn(render: Render, thinks: bool = False) -> TemplateCalls | None:
    """The marks of the template behind `render`; None where it renders no calls, or none that can be read.

    `thinks` says that what stands before calls is a thought, for the template has a place of its own for it.
    """
    one, other = CALLS
    before = f"<think>\n{HEAD}\n</think>\n\n" if thinks else HEAD
    for shape in SHAPES:
        if not _renders(render, shape.message("", [one]), one):
            continue
        several = _renders(render, shape.message("", CALLS), one, other)
        body = _tried(render, shape.message(before, [one]))
        head = before if HEAD in body.partition(one.name)[0] else ""
        try:
            return TemplateCalls(shape, render, several, head)
        except CallError:
            continue
    return None


def _renders(render: Render, message: Message, *calls: Call) -> bool:
    body = _tried(render, message)
    return all(call.name in body and str(call.arguments["probekeya"]) in body for call in calls)


def _tried(render: Render, message: Message) -> str:
    try:
        return render(message)
    except (ModelError, TypeError):  # such as one that wants arguments as text
        return ""
