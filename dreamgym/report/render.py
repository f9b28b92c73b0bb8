"""One report, two forms: blocks of text, tables and pictures as a self-contained HTML page and as Markdown."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape


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
    """A picture as PNG bytes for light and for dark pages; `name` is its file name, `caption` what to see in it."""

    name: str
    caption: str
    light: bytes
    dark: bytes


@dataclass(frozen=True)
class Pair:
    """Two texts beside one another, each with a title."""

    left: tuple[str, str]
    right: tuple[str, str]


@dataclass(frozen=True)
class Listing:
    """A long text, folded away in HTML."""

    title: str
    text: str
    language: str = ""


Block = Text | Cards | Table | Plot | Pair | Listing


@dataclass
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: list[Block] = field(default_factory=list)


CSS = """
:root{color-scheme:light dark;--back:#f6f7f9;--card:#fff;--text:#20262f;--soft:#667080;--line:#e4e7ec;--accent:#0072b2;--alarm:#b3480a}
@media(prefers-color-scheme:dark){:root{--back:#0f1217;--card:#171b22;--text:#dde3ec;--soft:#929db0;--line:#2c333f;--accent:#56b4e9;--alarm:#f08a3c}}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--text);font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1020px;margin:0 auto;padding:32px 20px 64px}
h1{font-size:26px;margin:0 0 4px;letter-spacing:-.01em}
h2{font-size:17px;margin:0 0 12px}
.sub{color:var(--soft);margin:0 0 24px}
section{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:20px 22px;margin:0 0 18px}
section p{margin:0 0 12px;max-width:84ch}
p.alarm{border-left:3px solid var(--alarm);padding-left:10px}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(170px,1fr));gap:18px;margin:0 0 14px}
.cards .label{color:var(--soft);font-size:13px}
.cards .figure{font-size:30px;font-weight:650;letter-spacing:-.02em;font-variant-numeric:tabular-nums;line-height:1.25}
.cards .detail{color:var(--soft);font-size:13px;font-variant-numeric:tabular-nums}
.scroll{overflow-x:auto;margin:0 0 14px}
table{border-collapse:collapse;width:100%;font-size:13.5px;font-variant-numeric:tabular-nums}
th{color:var(--soft);font-weight:500}
th,td{text-align:right;padding:5px 10px;border-bottom:1px solid var(--line);vertical-align:top}
th.l,td.l{text-align:left}
td:first-child{white-space:nowrap}
tr:last-child td{border-bottom:0}
figure{margin:0 0 14px}
figure img{max-width:100%;height:auto;display:block;margin:0 auto}
figcaption{color:var(--soft);font-size:13px;margin-top:4px}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:14px;margin:0 0 14px}
@media(max-width:720px){.pair{grid-template-columns:1fr}}
.pair h3{font-size:13px;margin:0 0 6px;color:var(--soft);font-weight:600}
.pair>div{min-width:0}
pre{margin:0;padding:12px;border:1px solid var(--line);border-radius:7px;background:var(--back);font:12.5px/1.5 ui-monospace,Menlo,Consolas,monospace;white-space:pre-wrap;overflow-wrap:anywhere}
summary{cursor:pointer;color:var(--accent);margin-bottom:8px}
"""  # noqa: E501 - a style sheet reads best a rule a line


def to_html(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """A page that needs no other file; every text is escaped."""
    body = "\n".join(
        f"<section><h2>{escape(s.title)}</h2>\n" + "\n".join(_HTML[type(b)](b) for b in s.blocks) + "</section>"
        for s in sections
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{CSS}</style></head>\n<body><main>"
        f'<h1>{escape(title)}</h1><p class="sub">{escape(subtitle)}</p>\n{body}\n</main></body></html>\n'
    )


def to_markdown(title: str, subtitle: str, sections: Sequence[Section], folder: str) -> str:
    """The same as Markdown; pictures are `folder/NAME.png`."""
    lines = [f"# {_md(title)}", _md(subtitle)]
    for section in sections:
        lines.append(f"## {_md(section.title)}")
        lines += [_markdown(block, folder) for block in section.blocks]
    return "\n\n".join(lines) + "\n"


def _html_text(b: Text) -> str:
    kind = ' class="alarm"' if b.alarm else ""
    return f"<p{kind}>{escape(b.text)}</p>"


def _html_cards(b: Cards) -> str:
    parts = ("label", "figure", "detail")
    cards = (
        "".join(f'<div class="{name}">{escape(text)}</div>' for name, text in zip(parts, card, strict=True))
        for card in b.cards
    )
    return '<div class="cards">' + "".join(f"<div>{card}</div>" for card in cards) + "</div>"


def _html_table(b: Table) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        side = (' class="l"' if i in b.left else "" for i in range(len(cells)))
        return "<tr>" + "".join(f"<{tag}{s}>{escape(c)}</{tag}>" for s, c in zip(side, cells, strict=True)) + "</tr>"

    rows = "\n".join(row(cells, "td") for cells in b.rows)
    return f'<div class="scroll"><table><thead>{row(b.header, "th")}</thead><tbody>{rows}</tbody></table></div>'


def _html_plot(b: Plot) -> str:
    light, dark = (f"data:image/png;base64,{base64.b64encode(png).decode()}" for png in (b.light, b.dark))
    width = int.from_bytes(b.light[16:20]) * 2 // 3
    return (
        f'<figure><picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img alt="{escape(b.caption)}" width="{width}" src="{light}"></picture>'
        f"<figcaption>{escape(b.caption)}</figcaption></figure>"
    )


def _html_pair(b: Pair) -> str:
    sides = (f"<div><h3>{escape(title)}</h3><pre>{escape(text)}</pre></div>" for title, text in (b.left, b.right))
    return f'<div class="pair">{"".join(sides)}</div>'


def _html_listing(b: Listing) -> str:
    return f"<details><summary>{escape(b.title)}</summary><pre>{escape(b.text)}</pre></details>"


_HTML: dict[type, Callable[..., str]] = {
    Text: _html_text,
    Cards: _html_cards,
    Table: _html_table,
    Plot: _html_plot,
    Pair: _html_pair,
    Listing: _html_listing,
}


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
