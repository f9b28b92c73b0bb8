"""The documentation tells the truth: links lead somewhere, commands parse, code compiles, the example learns."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from dreamgym.cli import BY_QUICKSTART, OPTIONS, QUICKSTART
from dreamgym.commands import COMMANDS
from dreamgym.config import RunConfig
from dreamgym.config.loading import describe_fields, load_config
from dreamgym.envs.base import REGISTRY
from dreamgym.telemetry.metrics import COUNTERS, GAUGES

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [
    *(ROOT / name for name in ("README.md", "AGENTS.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")),
    *(ROOT / name for name in ("cluster/README.md", "cluster/grafana/README.md", "k8s/README.md")),
    *sorted(DOCS.rglob("*.md")),
]
WRITTEN = [page for page in PAGES if "results" not in page.parts]
"""Without the pages that a run has written."""
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.M | re.S)
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)")
STOP = {"|", ">", "&&", "||", ";", "&"}


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@cache
def generate() -> ModuleType:
    """docs/generate.py, which is no module of a package."""
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def blocks(page: Path, *kinds: str) -> Iterator[str]:
    for indent, kind, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        if kind in kinds:
            yield re.sub(rf"^{indent}", "", text, flags=re.M)


def commands(page: Path) -> Iterator[list[str]]:
    """The words behind `dreamgym` of every command that a page shows, in blocks and in the text."""
    text = page.read_text(encoding="utf-8")
    shown = [line for block in blocks(page, "bash", "") for line in block.replace("\\\n", " ").splitlines()]
    shown += [command for command in re.findall(r"`(dreamgym [^`]+)`", BLOCK.sub("", text)) if "|" not in command]
    for line in filter(re.compile(r"\bdreamgym ").search, shown):
        words = shlex.split(line, comments=True)
        starts = [i for i, word in enumerate(words) if word == "dreamgym" or word.endswith("/dreamgym")]
        if starts and words[0] != "kubectl":
            after = words[starts[0] + 1 :]
            end = next((i for i, word in enumerate(after) if word in STOP), len(after))
            yield after[:end]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_relative_link_has_a_target(page: Path) -> None:
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    for target in LINK.findall(text):
        path = target.partition("#")[0]
        if path and not re.match(r"\w+:", path):
            assert (page.parent / path).exists(), f"{name_of(page)}: {target}"


@pytest.mark.parametrize("page", WRITTEN, ids=name_of)
def test_every_command_exists_and_names_fields_that_exist(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for name, *words in commands(page):
        if name.startswith("-") or name.isupper():  # dreamgym --help, dreamgym COMMAND
            continue
        assert name in COMMANDS, f"{name_of(page)}: dreamgym {name}"
        known = {option.name: option for option in OPTIONS.get(name, [])}
        settings, others, skip = [], [], False
        for word in words:
            if skip:
                skip = False
            elif word.startswith("--") and word != "--help":
                assert word in known, f"{name_of(page)}: dreamgym {name} {word}"
                skip = bool(known[word].value)
            elif re.match(r"[\w.]+=", word):
                settings.append(word)
            else:
                others.append(word)
        recipes = [
            Path(word) for word in others if word.endswith(".yaml") and word.startswith(("recipes/", "examples/"))
        ]
        recipe = recipes[0] if recipes else QUICKSTART if name in BY_QUICKSTART else None
        told = [setting for setting in settings if not re.search("[…]|=[A-Z]$|=[A-Z]{2,}$", setting)]
        load_config(recipe, told)
        fields = {field.name for field in describe_fields()}
        for setting in settings:
            field = setting.partition("=")[0]
            assert field in fields or field.startswith("env.options."), f"{name_of(page)}: {setting}"


@pytest.mark.parametrize("page", WRITTEN, ids=name_of)
def test_settings_in_the_text_exist(page: Path) -> None:
    fields = {field.name for field in describe_fields()}
    sections = {field.section for field in describe_fields()}
    top = "|".join(RunConfig.model_fields)
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    for name in re.findall(rf"`((?:{top})(?:\.\w+)+)(?:=[^`]*)?`", text):
        known = name in fields | sections or name.startswith("env.options.")
        is_file = name.rpartition(".")[2] in ("yaml", "html", "md", "json", "jsonl", "parquet", "py")
        assert known or is_file, f"{name_of(page)}: {name}"


@pytest.mark.parametrize("page", WRITTEN, ids=name_of)
def test_python_blocks_compile_and_yaml_blocks_load(page: Path) -> None:
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "dreamgym":
                module = importlib.import_module(str(node.module))
                assert all(hasattr(module, alias.name) for alias in node.names), block
    for block in blocks(page, "yaml"):
        yaml.safe_load(block)


@pytest.mark.parametrize("recipe", sorted([*ROOT.glob("recipes/*.yaml"), *ROOT.glob("examples/*.yaml")]), ids=name_of)
def test_every_recipe_loads(recipe: Path) -> None:
    load_config(recipe)


def test_the_reference_tells_every_setting_command_metric_and_column() -> None:
    def page(name: str) -> str:
        text: str = generate().expand((DOCS / "reference" / name).read_text(encoding="utf-8"))
        assert "<!-- generate" not in text
        return text

    settings = page("settings.md")
    assert all(f"| `{field.name}` |" in settings for field in describe_fields())
    known = page("commands.md")
    assert all(f"\n## {name}\n" in known for name in COMMANDS)
    assert all(option.name in known for options in OPTIONS.values() for option in options)
    assert all(f"| `{metric}` |" in page("metrics.md") for metric in {**GAUGES, **COUNTERS})


@pytest.mark.parametrize("page", WRITTEN, ids=name_of)
def test_every_generated_part_can_be_written(page: Path) -> None:
    generate().expand(page.read_text(encoding="utf-8"))


def test_every_environment_and_algorithm_has_a_page() -> None:
    algorithms = {path.stem for path in (ROOT / "dreamgym" / "learner" / "algorithms").glob("*.py")}
    registered = {name for name in algorithms if "ALGORITHM = " in _source("learner", "algorithms", f"{name}.py")}
    assert {page.stem for page in (DOCS / "environments").glob("*.md")} == {"index", *REGISTRY}
    assert {page.stem for page in (DOCS / "algorithms").glob("*.md")} == {"index", "dpo", *registered}


def _source(*parts: str) -> str:
    return ROOT.joinpath("dreamgym", *parts).read_text(encoding="utf-8")


def test_every_page_is_in_the_menu_of_the_site_and_the_menu_has_no_other() -> None:
    class Loader(yaml.SafeLoader):
        """mkdocs.yml names a Python function for mermaid."""

    Loader.add_multi_constructor("tag:yaml.org,2002:python/name:", lambda loader, suffix, node: suffix)
    menu = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader=Loader)["nav"]

    def leaves(item: object) -> Iterator[str]:
        if isinstance(item, str):
            yield item
        else:
            for inner in item.values() if isinstance(item, dict) else item:  # type: ignore[attr-defined]
                yield from leaves(inner)

    named = list(leaves(menu))
    copies = f"{generate().SITE_COPIES}/"
    assert {name for name in named if not name.startswith(copies)} == {
        page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")
    }
    assert all((ROOT / name.removeprefix(copies)).exists() for name in named if name.startswith(copies))


@pytest.mark.parametrize(("seed_data", "rises"), [("mixed", True), ("expert", False)])
def test_the_loop_in_one_file_learns_from_a_true_dream_alone(seed_data: str, rises: bool) -> None:
    script = [sys.executable, str(ROOT / "examples" / "loop.py"), "--seed-data", seed_data]
    out = subprocess.run(script, check=True, capture_output=True, text=True, timeout=300).stdout
    told = [[int(share) / 100 for share in re.findall(r"(\d+)%", line)] for line in out.splitlines()]
    (_, before, _), (dream, after, kept) = told[0], told[-1]
    assert dream > 0.5
    if rises:
        assert after > before + 0.25 and kept > 0.8
    else:
        assert after < dream - 0.4 and kept < 0.4


def test_the_loop_in_one_file_stays_readable() -> None:
    assert len((ROOT / "examples" / "loop.py").read_text(encoding="utf-8").splitlines()) <= 200


def test_the_site_builds_strictly(tmp_path: Path) -> None:
    """A broken link, a page that no menu names or an object that is not there is an error."""
    call = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(call, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr[-3000:]
    assert (tmp_path / "site" / "reference" / "settings.html").stat().st_size > 20_000
