"""A state written by what changed since the one before, exact both ways: `...` stands for what is as it was."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher

REST = "..."
"""In a written state: the rest, or the lines up to the next one that is written, are as before."""
_POINTS = re.compile(r"\.{3,}")


class ParseError(ValueError):
    """The model's answer does not follow the format; the step is asked again, never rewarded."""


def last_line(state: str) -> str:
    """The line of a state that changes from step to step (what came first, such as a map, does not)."""
    return state.rsplit("\n", 1)[-1]


def abridge(before: str, after: str) -> str:
    """A state as a dream writes it: the shortest of three forms that `unabridge` reads back exactly.

    - Where only its first word is new, that word and `...`: states open with what the last action did, so an action
      that changed nothing costs a few tokens.
    - Where lines stay, the lines that are new, with `...` for those that stay. A line takes the place of the one that
      begins with the same word, if no other line does: on a page, of the element with the same id.
    - In full. A state that reads like a short one itself has one more point.
    """
    if one := same_rest(before, after):
        return one
    lines, old = after.split("\n"), before.split("\n")
    written = "\n".join(map(_escaped, lines))
    if len(lines) > 1 and len(old) > 1:
        for anchored in (False, True):
            short = "\n".join(_edits(old, lines, anchored))
            if len(short) < len(written) and _reads_back(before, short, after):
                return short
    first, _, rest = written.partition(" ")
    return f"{first} {rest}." if _POINTS.fullmatch(rest) else written


def same_rest(before: str, after: str) -> str:
    """The first word of a state and `...`, where the rest is that of the last line before; empty where it is not."""
    first, _, rest = after.partition(" ")
    return f"{first} {REST}" if rest and rest == last_line(before).partition(" ")[2] else ""


def unabridge(before: str, written: str) -> str:
    """The whole state of one that `abridge` shortened.

    Raises:
        ParseError: the state before has no rest to go on with, or not the line that a written one follows.
    """
    lines = written.split("\n")
    if REST in lines:
        return "\n".join(_merged(before.split("\n"), lines))
    first, _, rest = written.partition(" ")
    if rest != REST:
        plain = f"{first} {rest[:-1]}" if _POINTS.fullmatch(rest) else written
        return "\n".join(line[:-1] if _POINTS.fullmatch(line) else line for line in plain.split("\n"))
    kept = last_line(before).partition(" ")[2]
    if not kept:
        raise ParseError(f"'{written}' shortens a state, but the one before is one word")
    return f"{first} {kept}"


def _escaped(line: str) -> str:
    return f"{line}." if _POINTS.fullmatch(line) else line


def _reads_back(before: str, short: str, after: str) -> bool:
    try:
        return unabridge(before, short) == after
    except ParseError:
        return False


def _edits(old: Sequence[str], new: Sequence[str], anchored: bool) -> list[str]:
    """The new lines, runs that stay as `...`; `anchored` writes out the line before and after each change."""
    written: list[str] = []
    blocks = SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    for index, (kind, _, _, begin, end) in enumerate(blocks):
        if kind != "equal":
            written += map(_escaped, new[begin:end])
            continue
        first = 1 if anchored and index > 0 else 0
        last = 1 if anchored and index < len(blocks) - 1 else 0
        if end - begin <= first + last:
            written += map(_escaped, new[begin:end])
            continue
        written += map(_escaped, new[begin : begin + first])
        written.append(REST)
        written += map(_escaped, new[end - last : end])
    return written


def _merged(old: Sequence[str], written: Sequence[str]) -> list[str]:
    """The lines of the state: written ones, and old ones where `...` stands."""
    whole: list[str] = []
    at = 0
    places = _Places(old)
    for index, line in enumerate(written):
        if line == REST:
            following = next((w for w in written[index + 1 :] if w != REST), None)
            to = len(old) if following is None else places.of(_plain(following), at)
            if to is None:
                raise ParseError(f"'{following}' follows '{REST}', but takes the place of no line before")
            whole += old[at:to]
            at = to
            continue
        whole.append(_plain(line))
        place = places.of(_plain(line), at)
        at = at if place is None else place + 1
    return whole


def _plain(line: str) -> str:
    return line[:-1] if _POINTS.fullmatch(line) else line


class _Places:
    """Where a written line belongs among the old ones: at the same line, or at the only one with its first word."""

    def __init__(self, old: Sequence[str]) -> None:
        self._lines: dict[str, list[int]] = {}
        self._words: dict[str, list[int]] = {}
        for place, line in enumerate(old):
            self._lines.setdefault(line, []).append(place)
            self._words.setdefault(_word(line), []).append(place)

    def of(self, line: str, begin: int) -> int | None:
        """The place from `begin` on."""
        same = next((place for place in self._lines.get(line, ()) if place >= begin), None)
        if same is not None:
            return same
        found = self._words.get(_word(line), [])
        return found[0] if len(found) == 1 and found[0] >= begin and _word(line) else None


def _word(line: str) -> str:
    return line.split(maxsplit=1)[0] if line.strip() else ""
