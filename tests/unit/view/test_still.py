"""A report is one file that needs nothing else: the pages of the view with what they show written into it."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from dreamgym.errors import DataError
from dreamgym.view.app import STATIC
from dreamgym.view.overview import overview
from dreamgym.view.still import EACH, write_report
from dreamgym.view.viewed import find_runs
from tests.unit.view.runs import NASTY, add, generated, trajectory


class Parsed(HTMLParser):
    """Elements with their attributes and text, as a browser takes them apart."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), []))

    def handle_endtag(self, tag: str) -> None:
        self.elements.append(("", {}, []))

    def handle_data(self, data: str) -> None:
        if self.elements:
            self.elements[-1][2].append(data)

    def text(self, tag: str, **attributes: str) -> str:
        (found,) = [e for e in self.elements if e[0] == tag and attributes.items() <= e[1].items()]
        return "".join(found[2])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found: Path = generated.write_run(tmp_path_factory.mktemp("runs"), "one", iterations=10, episodes=16, tasks=4)
    add(found, 90, trajectory("nasty-dream", iteration=90), trajectory("nasty-real", "real", iteration=90))
    return found


@pytest.fixture(scope="module")
def written(folder: Path) -> Parsed:
    return Parsed(write_report(folder).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def held(written: Parsed) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(written.text("script", id="still"))
    return found


def test_it_shows_what_the_view_shows(folder: Path, held: dict[str, Any]) -> None:
    told = held["runs/one-seed0/overview"]
    (run,) = find_runs([folder], folder)
    now = overview(run)
    assert told.pop("about")[:-1] == now.pop("about")
    assert told == json.loads(json.dumps(now))
    labels = {card["label"] for block in told["results"] if block["kind"] == "cards" for card in block["cards"]}
    assert {"Warm start", "After the dream", "Gain"} <= labels
    tables = [block["header"] for part in ("fidelity", "results", "costs") for block in told[part] if "header" in block]
    assert ["iteration", "won in the dream", "won for real", "points too kind"] in tables and len(tables) >= 4


def test_its_episodes_are_of_both_ends_won_and_not_each_with_the_other_world(held: dict[str, Any]) -> None:
    listed = held["runs/one-seed0/episodes"]
    assert listed["total"] == 12 + 10 * 16 + 2
    ids = [row["trajectory_id"] for row in listed["rows"]]
    assert len(ids) == len(set(ids)) <= 2 * 4 * EACH
    dreams = [row for row in listed["rows"] if row["world"] == "dream"]
    assert {row["iteration"] for row in dreams} == {0, 90}
    assert {row["success"] for row in dreams if row["iteration"] == 0} == {True, False}
    for name in ids:
        found = held[f"runs/one-seed0/episodes/{name}"]
        assert {one["trajectory_id"] for one in found["siblings"]} <= set(ids), "no link leads nowhere"
        assert found["beside"] is None or found["beside"]["episode"]["trajectory_id"] in ids
    assert held["runs/one-seed0/episodes/nasty-dream"]["beside"]["episode"]["world"] == "real"


def test_no_text_ends_its_element_and_nothing_is_loaded(written: Parsed, held: dict[str, Any]) -> None:
    assert held["runs/one-seed0/episodes/nasty-dream"]["steps"][1]["next_state"] == NASTY
    assert "<" not in written.text("script", id="still")
    assert not any(tag in ("img", "b") for tag, _, _ in written.elements)
    for tag, attributes, _ in written.elements:
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith("data:"), tag
    (policy,) = [a["content"] for _, a, _ in written.elements if a.get("http-equiv") == "content-security-policy"]
    assert policy and "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy


def test_every_script_of_the_view_is_in_it_and_finds_its_neighbours(written: Parsed) -> None:
    imports = json.loads(written.text("script", type="importmap"))["imports"]
    files = {f"view/{path.relative_to(STATIC).as_posix()}" for path in STATIC.rglob("*.js")}
    assert imports.keys() == files
    for address in imports.values():
        text = base64.b64decode(address.removeprefix("data:text/javascript;base64,")).decode()
        named = re.findall(r'^import .*?"([^"]+)";$', text, re.M)
        assert set(named) <= files
    assert written.text("script", type="text/plain") == (STATIC / "vendor" / "LICENSES.txt").read_text()


def test_a_run_that_has_only_begun_has_a_report(tmp_path: Path) -> None:
    folder = generated.write_run(tmp_path, "new", iterations=1, episodes=2, tasks=1)
    for name in ("train", "eval", "stages", "data"):
        for path in sorted((folder / name).rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
    found = json.loads(Parsed(write_report(folder).read_text(encoding="utf-8")).text("script", id="still"))
    assert found["runs/new-seed0/episodes"]["rows"] == [] and found["runs/new-seed0/overview"]["state"] == "new"
    with pytest.raises(DataError, match="no run is here"):
        write_report(tmp_path / "nothing")
