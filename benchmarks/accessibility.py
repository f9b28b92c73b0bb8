"""What axe-core, the rules of accessibility that browsers and audits use, finds on the pages of `dreamgym view`.

axe-core comes from the npm registry, of the version and with the digest in `axe/package-lock.json`.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

PACKAGE = Path(__file__).parent / "axe"
GRAVE = ("serious", "critical")
TIMEOUT_S = 120
OPEN = "document.querySelectorAll('details').forEach((one) => { one.open = true; })"
RUN = "() => axe.run(document, { resultTypes: ['violations'] })"


class Missing(Exception):
    """axe-core cannot be had here."""


@cache
def axe_core() -> str:
    """The script of axe-core, fetched by npm, which checks its digest.

    Raises:
        Missing: there is no npm, or it has failed; with its own words.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise Missing("axe-core is fetched by npm, and there is none")
    with TemporaryDirectory() as made:
        folder = Path(shutil.copytree(PACKAGE, Path(made) / "axe", ignore=shutil.ignore_patterns("node_modules")))
        call = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        try:
            done = subprocess.run(call, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            raise Missing(f"npm did not fetch axe-core within {TIMEOUT_S} s") from error
        if done.returncode:
            raise Missing(f"npm cannot fetch axe-core: {' '.join(done.stderr.split())[-300:]}")
        return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text(encoding="utf-8")


def findings(page: Any) -> list[str]:
    """The serious and critical findings on a page as it stands, a sentence each with the element it is about."""
    page.evaluate(f"{axe_core()}\n;undefined")
    page.evaluate(OPEN)
    found = page.evaluate(RUN)
    assert found["passes"] or found["violations"], "axe-core has looked at nothing"
    return [
        f"{rule['id']} ({rule['impact']}): {rule['help']}: {node['target']} {node['html'][:160]}"
        for rule in found["violations"]
        if rule["impact"] in GRAVE
        for node in rule["nodes"]
    ]


def pages(run: str, other: str, episode: str) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Every page: where it is, what says that it is whole, and the buttons to press then.

    Args:
        episode: one of `run` that has tokens, and an episode of its task in the other world.
    """
    yield "", "main table", ()
    yield f"run/{run}/overview", ".chart canvas", ()
    yield f"run/{run}/episodes", "tbody td", ()
    yield f"run/{run}/episodes/{episode}", ".turn-of", ("text=Show the tokens",)
    yield f"run/{run}/episodes/{episode}", ".turn-of", ("button[aria-pressed=false]",)
    yield f"run/{run}/tasks", ".tree", ()
    yield f"run/{run}/buffer?state=in+the+hall&action=go+on", ".found li", ()
    yield f"compare?run={run}&run={other}", ".chart canvas", ()


def grave(page: Any, address: str, run: str, other: str, episode: str) -> list[str]:
    """The findings of all pages, light and dark, each with its place."""
    found = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        for hash_, whole, buttons in pages(run, other, episode):
            page.goto("about:blank")
            page.goto(f"{address}#/{hash_}")
            page.wait_for_selector(whole)
            for button in buttons:
                page.click(button)
                page.wait_for_selector(".tokens" if "tokens" in button else ".row-of")
            found += [f"#/{hash_} in {scheme}: {finding}" for finding in findings(page)]
    return found
