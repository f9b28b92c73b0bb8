"""The page in a real browser: open, filter, follow an episode, a run that grows, a phone, a keyboard; no complaint."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dreamgym.envs.web.browser import system_browser
from dreamgym.runs.log import RunLog
from dreamgym.view.still import write_report
from tests.unit.view.runs import NASTY, ROOT, accessibility, add, generated, trajectory

playwright = pytest.importorskip("playwright.sync_api", reason="the extra 'web' is not installed")
if not system_browser():
    pytest.skip("no Chromium is installed", allow_module_level=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs")
    generated.write_run(out, "other", iterations=5, episodes=8, tasks=4, seed=1, lr="3e-5")
    found: Path = generated.write_run(out, "shown", iterations=10, episodes=16, tasks=4)
    add(found, 90, trajectory("nasty-dream", iteration=90), trajectory("nasty-real", "real", iteration=90))
    return found


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """The real command, in a process of its own."""
    call = [sys.executable, "-m", "dreamgym.cli", "view", str(folder), str(folder.parent / "other-seed1"), "--no-open"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "COLUMNS": "200", "NO_COLOR": "1"}
    with subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env) as server:
        assert server.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:\d+/", first := server.stdout.readline())
        assert found, first + server.stdout.read()
        yield found[0]
        server.send_signal(signal.SIGINT)
        assert "the page is closed" in server.stdout.read()
    assert server.returncode == 0


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=system_browser(), args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page that may not say a word in the console."""
    opened = browser.new_page(viewport={"width": 1200, "height": 800})
    said: list[str] = []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on(
        "requestfailed", lambda request: said.append(request.url) if request.failure != "net::ERR_ABORTED" else None
    )
    yield opened
    opened.close()
    assert said == []


def go(page: Any, address: str, hash_: str) -> None:
    page.goto("about:blank")
    page.goto(address + hash_)
    page.wait_for_selector("main h1")


def test_an_episode_is_found_and_followed_turn_by_turn(page: Any, address: str) -> None:
    go(page, address, "#/")
    page.click("main a:text-is('shown-seed0')")
    page.wait_for_selector("h1:has-text('shown-seed0')")
    page.wait_for_selector(".chart canvas")
    page.click("nav a:text-is('Episodes')")
    page.wait_for_selector("text=174 of 174 episodes")
    page.select_option("label:has-text('World') select", "dream")
    page.wait_for_selector("text=161 of 174 episodes")
    page.fill("input[type=search]", "nasty-task")
    page.wait_for_selector("text=/^1 of 174 episodes/")
    assert "world=dream" in page.url and "text=nasty-task" in page.url
    page.click("tbody a:text-is('nasty-dream')")
    page.wait_for_selector("h2:text-is('Turn by turn')")
    assert page.locator(".turn-of").count() == 2
    page.click("button[aria-pressed=false]")
    page.wait_for_selector("text=They never part.")
    page.click("text=Show the tokens")
    page.wait_for_selector(".tokens")
    assert page.locator(".tokens .loss").count() == 2 and page.locator(".tokens .read").count() == 3
    page.go_back()
    page.wait_for_selector("text=/^1 of 174 episodes/")


def test_a_search_in_all_that_was_said_goes_through_every_file(page: Any, address: str) -> None:
    go(page, address, "#/run/shown-seed0/episodes?text=onerror&deep=yes")
    page.wait_for_selector("text=/^2 of 174 episodes/")


def test_text_of_a_world_is_never_markup(page: Any, address: str) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    for hash_ in ("#/run/shown-seed0/episodes?task=nasty-task", "#/run/shown-seed0/episodes/nasty-dream"):
        go(page, address, hash_)
        page.wait_for_selector(f"text={NASTY}")
        assert page.locator("main script, main img, main b").count() == 0
    assert page.evaluate("window.hit") is None
    assert not any(url.endswith("/x") for url in asked)


def test_the_first_difference_between_dream_and_real_is_marked(page: Any, address: str) -> None:
    go(page, address, "#/run/shown-seed0/episodes?world=dream&iteration_to=0")
    page.click("tbody th a >> nth=0")
    page.click("button[aria-pressed=false]")
    page.wait_for_selector(".row-of")
    parted = page.locator(".row-of.parted")
    assert parted.count() == 1 and "first difference" in parted.inner_text()


def test_tasks_and_two_runs_over_one_another_are_shown(page: Any, address: str) -> None:
    go(page, address, "#/run/shown-seed0/tasks")
    page.wait_for_selector(".tree .fate.active")
    go(page, address, "#/compare?run=shown-seed0&run=other-seed1")
    page.wait_for_selector("th:text-is('learner.lr')")
    page.wait_for_selector(".chart canvas")


def test_the_buffer_is_searched_and_its_map_read_by_pointer_and_by_keyboard(page: Any, address: str) -> None:
    go(page, address, "#/run/shown-seed0/episodes/nasty-dream")
    page.click("text=What the buffer has like this >> nth=0")
    page.wait_for_selector("h1:text-is('Replay buffer')")
    page.wait_for_selector(".found li")
    page.fill("textarea", "you are in the hall; exits lead to the kitchen; nothing lies here")
    page.fill("input[type=search]", "go on")
    page.keyboard.press("Enter")
    page.wait_for_selector(".found h3:has-text('Similarity 1') >> text=the dream would be shown it")
    page.locator(".map").scroll_into_view_if_needed()
    page.wait_for_selector(".map canvas")
    page.focus(".map")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector(".near .part.action")
    box = page.locator(".map .u-over").bounding_box()
    read = set()
    for across in range(20):
        page.mouse.move(box["x"] + box["width"] * across / 20, box["y"] + box["height"] / 2)
        read.add(page.inner_text(".near"))
    assert len(read) > 1, "what lies under the pointer is told"


def test_no_view_is_wider_than_a_phone(page: Any, address: str) -> None:
    page.set_viewport_size({"width": 360, "height": 700})
    views = ("", "run/shown-seed0/overview", "run/shown-seed0/episodes", "run/shown-seed0/episodes/nasty-dream",
             "run/shown-seed0/tasks", "run/shown-seed0/buffer?state=hall&action=go+on",
             "compare?run=shown-seed0&run=other-seed1")  # fmt: skip
    for view in views:
        go(page, address, f"#/{view}")
        page.wait_for_selector("main section")
        assert page.evaluate("document.documentElement.scrollWidth") == 360, view


@pytest.fixture(scope="module")
def axe() -> Any:
    """The rules of accessibility, where npm can fetch them."""
    try:
        accessibility.axe_core()
    except accessibility.Missing as missing:
        pytest.skip(str(missing))
    return accessibility


def test_axe_finds_nothing_serious_on_any_page_light_or_dark(page: Any, address: str, axe: Any) -> None:
    assert axe.grave(page, address, "shown-seed0", "other-seed1", "nasty-dream") == []


def test_a_report_is_a_still_of_the_pages_and_asks_for_nothing(page: Any, folder: Path, axe: Any) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    address = write_report(folder).as_uri()
    for width in (1200, 360):
        page.set_viewport_size({"width": width, "height": 700})
        for part in ("overview", "episodes", "episodes/nasty-dream", "tasks"):
            hash_ = f"#/run/shown-seed0/{part}"
            go(page, address, hash_)
            assert page.evaluate("document.documentElement.scrollWidth") == width, hash_
            assert axe.findings(page) == [], hash_
    page.set_viewport_size({"width": 1200, "height": 800})
    go(page, address, "")
    page.wait_for_selector(".chart canvas")
    page.click("nav a:text-is('Episodes')")
    page.wait_for_selector("text=chosen from the first and the last iteration")
    page.click("thead button:text-is('Steps')")
    page.wait_for_selector("th[aria-sort=descending] >> text=Steps")
    steps = [int(text) for text in page.locator("tbody td:nth-child(4)").all_inner_texts()]
    assert len(steps) > 4 and steps == sorted(steps, reverse=True)
    page.click("tbody a:text-is('nasty-dream')")
    page.wait_for_selector(f"text={NASTY}")
    page.click("button[aria-pressed=false]")
    page.wait_for_selector("text=They never part.")
    page.click("text=Open the other one")
    page.wait_for_selector("text=Played for real by policy")
    assert page.locator("main script, main img, main b").count() == 0 and page.evaluate("window.hit") is None
    assert {url.partition(":")[0] for url in asked} <= {"file", "data", "about"}


def test_axe_is_heard(page: Any, address: str, axe: Any) -> None:
    go(page, address, "#/run/shown-seed0/episodes")
    page.wait_for_selector("tbody a")
    page.evaluate("document.querySelectorAll('select').forEach((one) => one.parentNode.replaceWith(one))")
    assert any(finding.startswith("select-name (critical)") for finding in axe.findings(page))


def test_a_keyboard_is_enough(page: Any, address: str) -> None:
    go(page, address, "#/run/shown-seed0/episodes")
    page.wait_for_selector("tbody a")

    def tab_to(selector: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate("selector => document.activeElement.matches(selector)", selector):
                return
        pytest.fail(f"no way by keyboard to {selector}")

    tab_to(".skip")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"
    tab_to("thead button")
    page.keyboard.press("Enter")
    page.wait_for_selector("th[aria-sort=descending] >> text=Episode")
    tab_to("tbody a")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid", "the focus is seen"
    page.keyboard.press("Enter")
    page.wait_for_selector("h2:text-is('Turn by turn')")


def test_a_run_that_grows_is_seen_to_grow(page: Any, address: str, folder: Path) -> None:
    (folder / "stages" / "train.partial.json").write_text('{"fingerprint": "", "started": "2026-03-01", "seconds": 0}')
    go(page, address, "#/run/shown-seed0/overview")
    page.wait_for_selector(".state.running")
    page.wait_for_selector(".figure:text-is('10')")
    page.wait_for_timeout(500)  # the first pulse has passed
    with RunLog(folder / "train" / "metrics.jsonl") as log:
        log.write("iteration", 11, {"dream/success": 0.5, "rollout/episodes": 8, "dream/env_failed": 0})
    page.wait_for_selector(".figure:text-is('11')")
    page.click("nav a:text-is('Episodes')")
    page.wait_for_selector("text=174 of 174 episodes")
    page.wait_for_timeout(500)
    add(folder, 91, trajectory("newest"))
    page.wait_for_selector("text=175 of 175 episodes")
