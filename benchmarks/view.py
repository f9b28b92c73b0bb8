"""How soon `dreamgym view` shows a run and 100,000 episodes, in a real Chromium; and the pictures of its page.

    .venv/bin/python benchmarks/view.py            # figures
    .venv/bin/python benchmarks/view.py timeless   # of the figures those that hang on no clock, the others as they were
    .venv/bin/python benchmarks/view.py pictures   # docs/how-to/view/*.png

Needs the extra `web`, a Chromium and npm. Runs are generated (`generated_run.py`); each round starts the command anew.
"""

from __future__ import annotations

import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow.parquet as pq
from accessibility import grave
from generated_run import write_run
from playwright.sync_api import sync_playwright
from record import ROOT, record

from dreamgym.envs.web.browser import system_browser
from dreamgym.view.app import STATIC

RESULTS = ROOT / "benchmarks" / "results" / "view.json"
PICTURES = ROOT / "docs" / "how-to" / "view"
ROUNDS = 5
FILTERS = ("Won", "Cut")
HOW = (
    "Medians of the rounds, each with a newly started command; the files are in the machine's page cache. command_s: "
    "from the call to the printed address. first_view_s: from the address to the overview of 40 iterations with its "
    "first curves. open_100k_s: from the address to the first rows of 100,000 episodes in 400 files. filter_100k_s: "
    "from choosing a filter to its rows; filter_100k_worst_s is the slowest. search_100k_s: a text in everything that "
    "was said, until the last file. asset_kb: all files that the page may load, with licences. axe_serious: serious "
    "and critical findings of axe-core 4.14.1 on every page, light and dark."
)


@contextmanager
def served(*folders: Path) -> Iterator[tuple[str, float]]:
    """The address of a page on some runs, and the seconds until it was printed."""
    call = [sys.executable, "-m", "dreamgym.cli", "view", *map(str, folders), "--no-open"]
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "COLUMNS": "200", "NO_COLOR": "1"}
    begin = time.perf_counter()
    with subprocess.Popen(call, stdout=subprocess.PIPE, text=True, env=env) as server:
        assert server.stdout is not None
        found = re.search(r"http://\S+/", server.stdout.readline())
        assert found is not None
        try:
            yield found[0], time.perf_counter() - begin
        finally:
            server.send_signal(signal.SIGINT)


def clocked(page: Any, do: Any, shown: str) -> float:
    """Seconds from an action to what it brings to the page."""
    begin = time.perf_counter()
    do()
    page.wait_for_selector(shown)
    return time.perf_counter() - begin


def one_round(browser: Any, small: Path, large: Path) -> tuple[dict[str, float], list[float]]:
    """The figures of a round, and the seconds of each filter."""
    page = browser.new_page(viewport={"width": 1200, "height": 800})
    told = {}
    with served(small) as (address, told["command_s"]):
        told["first_view_s"] = clocked(page, lambda: page.goto(address), ".chart canvas")
    page.goto("about:blank")
    with served(large) as (address, _):
        where = f"{address}#/run/{large.name}/episodes"
        told["open_100k_s"] = clocked(page, lambda: page.goto(where), "tbody tr")
        filters = [seconds for label in FILTERS for seconds in filtered(page, label)]
        page.goto("about:blank")
        told["search_100k_s"] = clocked(
            page, lambda: page.goto(f"{where}?text=in+the+attic&deep=yes"), "p.sub:text-matches('won$')"
        )
    page.close()
    return told, filters


def filtered(page: Any, label: str) -> Iterator[float]:
    """Seconds until the page tells another count, for "yes" and for "no" of a filter that parts the episodes."""
    choice = page.locator(f"label:has-text('{label}') select")
    for value in ("yes", "no"):
        before = page.inner_text("p.sub")
        yield clocked(page, lambda: choice.select_option(value), f"p.sub:not(:text-is({before!r}))")  # noqa: B023
    before = page.inner_text("p.sub")
    clocked(page, lambda: choice.select_option(""), f"p.sub:not(:text-is({before!r}))")


def figures(folder: Path) -> None:
    small = write_run(folder, "small", iterations=40, episodes=64)
    large = write_run(folder, "large", iterations=400, episodes=250)
    rounds, filters = [], []
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=system_browser(), args=["--no-sandbox"])
        for _ in range(ROUNDS):
            told, seconds = one_round(browser, small, large)
            print(told, max(seconds), flush=True)
            rounds.append(told)
            filters += seconds
        browser.close()
    metrics = {name: round(statistics.median(told[name] for told in rounds), 3) for name in rounds[0]}
    metrics |= {"filter_100k_s": round(statistics.median(filters), 3), "filter_100k_worst_s": round(max(filters), 3)}
    keep(metrics | without_clock(folder))


def without_clock(folder: Path) -> dict[str, float]:
    """The size of the page, and what axe-core finds on it."""
    shown = write_run(folder, "shown", iterations=10, episodes=16, tasks=4)
    other = write_run(folder, "other", iterations=5, episodes=8, tasks=4, seed=1, lr="3e-5")
    played = pq.read_table(sorted((shown / "train" / "trajectories").glob("*"))[0], columns=["trajectory_id"])
    with sync_playwright() as started, served(shown, other) as (address, _):
        browser = started.chromium.launch(executable_path=system_browser(), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 800})
        found = grave(page, address, shown.name, other.name, played["trajectory_id"][0].as_py())
        print("\n".join(found) or "axe-core finds nothing serious", flush=True)
        browser.close()
    size = sum(path.stat().st_size for path in STATIC.rglob("*") if path.is_file())
    return {"asset_kb": round(size / 1000, 1), "axe_serious": len(found)}


def timeless(folder: Path) -> None:
    keep(json.loads(RESULTS.read_text(encoding="utf-8"))["metrics"] | without_clock(folder))


def keep(metrics: dict[str, float]) -> None:
    record(RESULTS, ".venv/bin/python benchmarks/view.py", metrics, how=HOW)


def pictures(folder: Path) -> None:
    shown = write_run(folder, "lighthouse", iterations=40, episodes=32)
    PICTURES.mkdir(exist_ok=True)
    with sync_playwright() as started, served(shown) as (address, _):
        browser = started.chromium.launch(executable_path=system_browser(), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1000, "height": 720})
        page.goto(address)
        page.wait_for_selector(".chart canvas")
        page.screenshot(path=PICTURES / "overview.png")
        page.click("nav a:text-is('Episodes')")
        page.select_option("label:has-text('World') select", "dream")
        page.wait_for_selector("tbody tr")
        page.wait_for_timeout(500)
        page.screenshot(path=PICTURES / "episodes.png")
        page.click("tbody th a >> nth=0")
        page.click("button[aria-pressed=false]")
        page.locator(".row-of.parted").scroll_into_view_if_needed()
        page.locator("h2:text-is('Dream and real environment')").scroll_into_view_if_needed()
        page.screenshot(path=PICTURES / "beside.png")
        browser.close()


if __name__ == "__main__":
    with TemporaryDirectory() as made:
        {"": figures, "timeless": timeless, "pictures": pictures}["".join(sys.argv[1:])](Path(made))
