"""The dream played on the page, in a real browser: act, read, step back, judge; by keyboard, on a phone, in silence."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from dreamgym.envs.web.browser import system_browser
from dreamgym.view.app import view_app
from dreamgym.view.viewed import find_runs
from tests.unit.play.doors import player, write_run
from tests.unit.view.test_page import browser, go, page

playwright = pytest.importorskip("playwright.sync_api", reason="the extra 'web' is not installed")
if not system_browser():
    pytest.skip("no Chromium is installed", allow_module_level=True)
__all__ = ["browser", "page"]
"""Fixtures of the tests of the other pages."""
PLAY = "#/run/doors-seed0/play"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs")).run_dir


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """The real server on a thread, with a dream that is scripted."""
    with socket.create_server(("127.0.0.1", 0)) as place:
        app = view_app(find_runs([folder], folder.parent), player=player(write_run(folder.parent)))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([place])))
        thread.start()
        yield f"http://127.0.0.1:{place.getsockname()[1]}/"
        server.should_exit = True
        thread.join()


def act(page: Any, action: str) -> None:
    page.fill("input[type=text]", action)
    page.click("button:text-is('Act')")
    page.wait_for_selector(f".part.action:has-text('{action}')")


def test_a_dream_is_played_stepped_back_and_judged(page: Any, address: str, folder: Path) -> None:
    go(page, address, "#/")
    page.click("nav a:text-is('Play')")
    page.wait_for_selector("text=3 of 3 tasks")
    page.fill("input[type=search]", "attic")
    page.wait_for_selector("text=1 of 3 tasks")
    page.click(".choose a")
    page.wait_for_selector("h2:text-is('find the attic')")
    act(page, "look")
    assert page.locator(".turn-of").count() == 1
    assert "0.88 · real" in page.inner_text(".shown") and "it is look" in page.inner_text(".turn-of")
    act(page, "push")
    page.click("button:text-is('Step back')")
    page.wait_for_selector("text=1 of at most 4 steps")
    assert page.locator(".turn-of").count() == 1
    page.go_back()
    page.wait_for_selector("text=2 of at most 4 steps")
    page.check("text=beside the real environment")
    page.wait_for_selector("text=They part at step 2: the same action leads to another state.")
    assert "first difference" in page.inner_text(".turn-of.parted")
    page.click(".turn-of >> nth=0 >> button:text-is('Right')")
    page.wait_for_selector("text=judged right")
    page.click(".turn-of >> nth=1 >> button:text-is('Wrong')")
    page.fill(".right textarea", "the door is shut")
    page.click("text=Wrong, this is right")
    page.wait_for_selector("text=with what you say is right")
    lines = [json.loads(line) for line in (folder / "judged.jsonl").read_text().splitlines()]
    assert [line["judged"] for line in lines] == ["right", "wrong"] and lines[1]["truth"][
        "next_state"
    ] == "the door is shut"
    page.reload()
    page.wait_for_selector("button[aria-pressed=true]:text-is('Wrong')")


def test_the_end_and_an_unreadable_answer_are_told(page: Any, address: str) -> None:
    go(page, address, f"{PLAY}/t1?do=go+up")
    page.wait_for_selector("text=The dream says: the task is solved.")
    assert page.is_disabled("button:text-is('Act')")
    go(page, address, f"{PLAY}/t1?do=mumble")
    page.wait_for_selector("text=no readable step in 3 attempts")
    assert page.is_disabled("button:text-is('Right')") and page.is_enabled("button:text-is('Unreadable')")


def test_text_of_a_dream_is_never_markup(page: Any, address: str) -> None:
    go(page, address, f"{PLAY}/t2?do=nasty")
    page.wait_for_selector(".turn-of >> text=<script>window.hit=1</script>")
    assert page.locator("main script, main img").count() == 0 and page.evaluate("window.hit") is None


def test_a_keyboard_is_enough_to_play(page: Any, address: str) -> None:
    go(page, address, f"{PLAY}/t1")
    page.wait_for_selector("input[type=text]")
    page.focus("#content")
    for _ in range(10):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.matches('input[type=text]')"):
            break
    for number, action in enumerate(("look", "wait"), 1):
        page.keyboard.type(action)
        page.keyboard.press("Enter")
        page.wait_for_selector(f".turn-of >> nth={number - 1}")
        playwright.expect(page.locator("input[type=text]:focus")).to_have_value("")
    page.keyboard.press("Shift+Tab")
    assert page.evaluate("document.activeElement.textContent") == "Unreadable", "the last answer is next to it"
    page.keyboard.press("Enter")
    page.wait_for_selector("button[aria-pressed=true]:text-is('Unreadable')")


def test_playing_fits_a_phone(page: Any, address: str) -> None:
    page.set_viewport_size({"width": 360, "height": 700})
    for view in (PLAY, f"{PLAY}/t1?beside=yes&do=look&do=push", f"{PLAY}/t2?do=nasty"):
        go(page, address, view)
        page.wait_for_selector("main section")
        page.wait_for_timeout(200)
        assert page.evaluate("document.documentElement.scrollWidth") == 360, view
