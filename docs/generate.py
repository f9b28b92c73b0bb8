"""Fills the documentation from the code when the site is built, so that no fact stands there twice. mkdocs calls it.

A page says `<!-- generate: NAME ARGUMENTS -->` where one of the functions of `PARTS` is to write. A link that leaves
docs/ (a recipe, an example, a README) leads to a copy of that file in the site. `python docs/generate.py PAGE` prints a
page as the site has it.
"""

from __future__ import annotations

import ast
import os
import re
import sys
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
SITE_COPIES = "files"
"""The folder of the site with the files of the repository that pages link to."""
_PART = re.compile(r"<!-- generate: ([\w-]+) ?([^>]*?) ?-->")
LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s#]*)(#[\w-]*)?\)")
"""A Markdown link: its text, its target, its anchor."""
_FENCE = re.compile(r"^( *)```.*?^\1```$", re.M | re.S)


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(text: str) -> str:
    """Text in which no pipe ends the cell; in Markdown's own code a backslash before it would be shown."""
    return re.sub(r"`([^`]*\|[^`]*)`", r"<code>\1</code>", text).replace("|", "&#124;")


def code(text: str) -> str:
    return f"`{text}`" if text else ""


def prose(text: str) -> str:
    """Text of a docstring, in which `<` is a letter; in code it is one anyhow."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else part.replace("<", "&lt;") for part in parts)


# Settings -----------------------------------------------------------------------------------------


def _section(name: str) -> Any:
    """The class of a section by its dotted name; of the run itself for an empty one."""
    from dreamgym.config import RunConfig

    found: Any = RunConfig
    for part in filter(None, name.split(".")):
        found = found.model_fields[part].annotation
    return found


def _rows(fields: Any) -> str:
    rows = []
    for field in fields:
        kind = _section(field.section)
        changes = "" if kind.is_operational(field.name.rpartition(".")[2]) else "yes"
        rows.append((code(field.name), field.type, code(field.default) or "empty", changes, prose(field.help)))
    return table(("setting", "type", "default", "undoes stages", "what it is"), rows)


def settings(*names: str) -> str:
    """Settings by name or by section; all of them where none is named."""
    from dreamgym.config.loading import describe_fields

    fields = describe_fields()
    if names:
        unknown = [n for n in names if not any(f.name == n or f.name.startswith(n + ".") for f in fields)]
        if unknown:
            raise ValueError(f"no such setting: {', '.join(unknown)}")
        return _rows([f for n in names for f in fields if f.name == n or f.name.startswith(n + ".")])
    parts = []
    for section, members in groupby(fields, lambda field: field.section):
        about = (_section(section).__doc__ or "").strip().split("\n\n")[0]
        parts += [f"## {section or 'run'}", prose(" ".join(about.split())), _rows(list(members))]
    return "\n\n".join(parts)


# Commands -----------------------------------------------------------------------------------------


def commands() -> str:
    """Every command with its options, its stages and a line on what it does."""
    from dreamgym.cli import BY_QUICKSTART, OPTIONS, QUICKSTART, RECIPE, WORDS
    from dreamgym.commands import COMMANDS

    parts = []
    for name, command in COMMANDS.items():
        options = OPTIONS.get(name, [])
        usage = " ".join([f"[{' '.join(filter(None, option[:2]))}]" for option in options])
        parts += [
            f"## {name}",
            command.help,
            f"```text\ndreamgym {name} {WORDS.get(name, RECIPE)} {usage}\n```",
        ]
        if name in BY_QUICKSTART:
            parts.append(f"The default recipe is `{QUICKSTART}`.")
        if command.stages:
            stages = " and ".join(code(stage.replace("{who}", "WHO")) for stage in command.stages)
            parts.append(f"It finishes the {'stage' if len(command.stages) == 1 else 'stages'} {stages}.")
        if options:
            rows = [(code(f"{option.name} {option.value}".strip()), option.help) for option in options]
            parts.append(table(("option", "what it does"), rows))
    return "\n\n".join(parts)


def rows() -> str:
    """The rows of the tables of `dreamgym experiment`, and what they set."""
    from dreamgym.commands.paper_tables import ROWS, TABLES

    found = [
        (code(name), code(row), ROWS[row].label, code(" ".join(ROWS[row].settings)))
        for name, members in TABLES.items()
        for row in members
    ]
    return table(("table", "row", "what it is", "what it sets over the recipe"), found)


# Metrics, trajectories ----------------------------------------------------------------------------


def metrics() -> str:
    """Every metric: its name in the log, its name in Prometheus, and what it is."""
    from dreamgym.telemetry.metrics import COUNTERS, GAUGES, exported_name

    def listed(known: dict[str, str], end: str) -> str:
        found = [(code(key), code(f"ray_{exported_name(key)}{end}"), meaning) for key, meaning in known.items()]
        return table(("in metrics.jsonl", "in Prometheus", "what it is"), found)

    return "\n\n".join(["## Gauges", listed(GAUGES, ""), "## Counters", listed(COUNTERS, "_total")])


def schema() -> str:
    """The columns of a trajectory, and the fields of its steps and samples."""
    from dreamgym.schema import SCHEMA_VERSION, TRAJECTORY_SCHEMA

    def fields(parent: Any, prefix: str) -> Iterator[tuple[str, str]]:
        for field in parent:
            nested = getattr(field.type, "value_type", None)
            inner = nested if nested is not None and hasattr(nested, "names") else None
            yield code(prefix + field.name), "list of structs" if inner is not None else code(str(field.type))
            if inner is not None:
                yield from fields(inner, f"{prefix}{field.name}[].")

    head = f"The version of the schema is `{SCHEMA_VERSION}`; it stands in the file's metadata. No value is null."
    return f"{head}\n\n{table(('column', 'Arrow type'), list(fields(TRAJECTORY_SCHEMA, '')))}"


# Algorithms, environments, folders, files ----------------------------------------------------------

_FORMS = ("advantage", "loss", "aggregation")
_DEFAULTS = {
    "clip_low": "0.2",
    "clip_high": "0.2",
    "drop_flat": "False",
    "kl_estimator": "k3",
    "kl_in_reward": "False",
    "whiten": "False",
}


def algorithm(name: str) -> str:
    """What `learner/algorithms/NAME.py` says of itself: its first lines, and the parts it is made of."""
    tree = ast.parse((ROOT / "dreamgym" / "learner" / "algorithms" / f"{name}.py").read_text(encoding="utf-8"))
    call = next(
        node.value for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ALGORITHM"
    )
    assert isinstance(call, ast.Call)
    given = dict(zip(_FORMS, map(_plain, call.args), strict=False))
    given |= _DEFAULTS | {str(word.arg): _plain(word.value) for word in call.keywords}
    given["advantage"] = given["advantage"].replace("None", "by a critic")
    known = [(code(part), code(value)) for part, value in given.items()]
    return f"{ast.get_docstring(tree)}\n\n{table(('part', 'its form'), known)}"


def _plain(node: ast.expr) -> str:
    return str(node.value) if isinstance(node, ast.Constant) else ast.unparse(node)


def environment(name: str) -> str:
    """What the class of a registered name says of itself: its states, and its options with their defaults."""
    module, _, target = _registry()[name].partition(":")
    tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))
    found = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == target)
    about, _, arguments = (ast.get_docstring(found) or "").partition("\n\nArgs:\n")
    parts = [prose(about.replace("`TextEnv`", "text environment"))]
    named = {ast.unparse(n.targets[0]): n.value for n in tree.body if isinstance(n, ast.Assign)}
    rows = [(code(f"env.options.{key}"), code(_value(value, named))) for key, value in _options(found)]
    described = dict(re.findall(r"^ {4}(\w+): (.+(?:\n {8}.+)*)", arguments.partition("\n\n")[0], re.M))
    if described:
        known = dict(rows)
        rows = [
            (key, known.get(key) or "empty", " ".join(described.get(key[13:-1], "").split()))
            for key in dict.fromkeys([*known, *(code(f"env.options.{word}") for word in described)])
        ]
        parts.append(table(("option", "default", "what it is"), rows))
    elif rows:
        parts.append(table(("option", "default"), rows))
    return "\n\n".join(parts)


def _registry() -> dict[str, str]:
    """The environments by name, read and not imported."""
    tree = ast.parse((ROOT / "dreamgym" / "envs" / "base.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "REGISTRY":
            return dict(ast.literal_eval(node.value))  # type: ignore[arg-type]
    raise LookupError("dreamgym/envs/base.py has no REGISTRY")


def _options(found: ast.ClassDef) -> Iterator[tuple[str, ast.expr]]:
    for node in found.body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "defaults":
            assert isinstance(node.value, ast.Dict)
            yield from zip(map(_plain, filter(None, node.value.keys)), node.value.values, strict=True)
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            words = node.args.args[len(node.args.args) - len(node.args.defaults) :]
            yield from zip((word.arg for word in words), node.args.defaults, strict=True)


def _value(node: ast.expr, named: dict[str, ast.expr]) -> str:
    """A default as text; a name stands for what the module assigns to it."""
    node = named.get(ast.unparse(node), node)
    return ", ".join(map(_plain, node.elts)) if isinstance(node, ast.Tuple) else _plain(node)


def folders() -> str:
    """The folders of the package, each with the first line of its `__init__`."""
    found = []
    for path in sorted((ROOT / "dreamgym").glob("*/__init__.py")):
        about = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]
        found.append((code(f"dreamgym/{path.parent.name}/"), about))
    return table(("folder", "what it holds"), found)


def file(path: str, first: str = "", last: str = "") -> str:
    """A file of the repository, whole or from the line that begins with `first` to the one before `last`."""
    text = (ROOT / path).read_text(encoding="utf-8")
    if first:
        text = text[text.index("\n" + first.replace("_", " ")) + 1 :]
    if last:
        text = text[: text.index("\n" + last.replace("_", " "))]
    kind = {"py": "python", "yaml": "yaml"}.get(path.rpartition(".")[2], "text")
    return f"```{kind}\n{text.rstrip()}\n```"


PARTS: dict[str, Callable[..., str]] = {
    part.__name__: part for part in (settings, commands, rows, metrics, schema, algorithm, environment, folders, file)
}


def expand(markdown: str) -> str:
    """A page with every `<!-- generate: … -->` filled.

    Raises:
        KeyError, ValueError: there is no such part, or it does not know what it was asked for.
    """
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))  # here, for mkdocs resets it once it has loaded this file
    return _PART.sub(lambda found: PARTS[found[1]](*found[2].split()), markdown)


# Links that leave docs/ ---------------------------------------------------------------------------


def outside(markdown: str, folder: Path) -> Iterator[tuple[str, Path]]:
    """The links of a page in `folder` to files of the repository outside docs/: the link's target, and the file."""
    for found in LINK.finditer(_FENCE.sub("", markdown)):
        target = found[2]
        if not target or re.match(r"\w+:", target):
            continue
        path = Path(os.path.normpath(folder / target))
        if path.is_relative_to(ROOT) and not path.is_relative_to(DOCS):
            yield target, path


def _landing(path: Path) -> Path | None:
    """The file that a link to a file or folder of the repository leads to."""
    found = path / "README.md" if path.is_dir() else path
    return found if found.is_file() else None


def in_site(path: Path) -> str:
    """Where the site has a file of the repository."""
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    return f"{SITE_COPIES}/{path.relative_to(ROOT).as_posix()}"


def relink(markdown: str, source: Path) -> str:
    """The page of a file, whose links to files outside docs/ lead to their copies in the site."""

    def moved(found: re.Match[str]) -> str:
        text, target, anchor = found[1], found[2], found[3] or ""
        if not target or re.match(r"\w+:", target):
            return found[0]
        path = Path(os.path.normpath(source.parent / target))
        if not path.is_relative_to(ROOT) or (path.is_relative_to(DOCS) and source.is_relative_to(DOCS)):
            return found[0]
        landing = _landing(path)
        if landing is None:
            return text
        return f"[{text}]({os.path.relpath(in_site(landing), os.path.dirname(in_site(source)))}{anchor})"

    pieces, at = [], 0
    for fence in _FENCE.finditer(markdown):
        pieces += [LINK.sub(moved, markdown[at : fence.start()]), fence[0]]
        at = fence.end()
    return "".join([*pieces, LINK.sub(moved, markdown[at:])])


# What mkdocs calls --------------------------------------------------------------------------------


def on_files(files: Any, config: Any) -> Any:
    """Add to the site the files outside docs/ that its menu names, its pages link to, and these link to."""
    from mkdocs.structure.files import File

    ways = [ROOT / uri for uri in re.findall(rf"'{SITE_COPIES}/([^']+)'", repr(config.nav))]
    for page in files.documentation_pages():
        ways += [path for _, path in outside(page.content_string, _home(page.src_uri))]
    known: set[Path] = set()
    while ways:
        landing = _landing(ways.pop())
        if landing is None or landing in known:
            continue
        known.add(landing)
        files.append(File.generated(config, in_site(landing), abs_src_path=str(landing)))
        if landing.suffix == ".md":
            ways += [path for _, path in outside(landing.read_text(encoding="utf-8"), landing.parent)]
    return files


def _home(src_uri: str) -> Path:
    """The folder of the repository that a page comes from."""
    prefix = f"{SITE_COPIES}/"
    return (ROOT / src_uri.removeprefix(prefix) if src_uri.startswith(prefix) else DOCS / src_uri).parent


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Fill a page, and mend its links."""
    return relink(expand(markdown), _home(page.file.src_uri) / Path(page.file.src_uri).name)


if __name__ == "__main__":
    print(expand(Path(sys.argv[1]).read_text(encoding="utf-8")))
