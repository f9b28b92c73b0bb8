"""What is told of a run as blocks of text, figures, tables and pictures; and these as Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    alarm: bool = False


@dataclass(frozen=True)
class Cards:
    """Headline figures: (label, figure, detail)."""

    cards: Sequence[tuple[str, str, str]]


@dataclass(frozen=True)
class Table:
    """Rows of text; the columns whose numbers are in `left` are words, all others figures."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: Sequence[int] = (0,)


@dataclass(frozen=True)
class Plot:
    """A picture as PNG bytes; `name` is its file name, `caption` what to see in it."""

    name: str
    caption: str
    picture: bytes


@dataclass(frozen=True)
class Pair:
    """Two texts beside one another, each with a title."""

    left: tuple[str, str]
    right: tuple[str, str]


@dataclass(frozen=True)
class Listing:
    """A long text."""

    title: str
    text: str
    language: str = ""


Block = Text | Cards | Table | Plot | Pair | Listing


@dataclass
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: list[Block] = field(default_factory=list)


def to_markdown(title: str, subtitle: str, sections: Sequence[Section], folder: str) -> str:
    """Sections as Markdown, every text escaped; pictures are `folder/NAME.png`."""
    lines = [f"# {_md(title)}", _md(subtitle)]
    for section in sections:
        lines.append(f"## {_md(section.title)}")
        lines += [_markdown(block, folder) for block in section.blocks]
    return "\n\n".join(lines) + "\n"


def _markdown(block: Block, folder: str) -> str:
    match block:
        case Text(text, alarm):
            return ("> " if alarm else "") + _md(text)
        case Cards(cards):
            return "\n".join(f"- {_md(label)}: **{_md(figure)}** {_md(detail)}" for label, figure, detail in cards)
        case Table(header, rows, left):
            rule = [":--" if i in left else "--:" for i in range(len(header))]
            cells = [[_md(c) for c in header], rule, *([_md(c) for c in row] for row in rows)]
            return "\n".join("| " + " | ".join(row) + " |" for row in cells)
        case Plot(name, caption):
            return f"![{_md(caption)}]({folder}/{name}.png)\n\n*{_md(caption)}*"
        case Pair(left, right):
            return "\n\n".join(f"**{_md(title)}**\n\n{_fence(text)}" for title, text in (left, right))
        case Listing(title, text, language):
            return f"**{_md(title)}**\n\n{_fence(text, language)}"


def _md(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(text.split()))


def _fence(text: str, language: str = "") -> str:
    """A code block whose fence is longer than any in the text."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"
