"""The report of a run: the pages of the view as they stand, in one file that needs no server and no network."""

from __future__ import annotations

import base64
import hashlib
import json
import posixpath
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dreamgym.report.page import write_markdown
from dreamgym.runs.folder import write_text
from dreamgym.view import query
from dreamgym.view.overview import overview
from dreamgym.view.tasks import invented
from dreamgym.view.viewed import ViewedRun

STATIC = Path(__file__).parent / "static"
EACH = 4
"""Episodes that were won, and so many that were not, of the first iteration and of the last."""
_IMPORT = re.compile(r'(\b(?:from|import)\s+)"(\.{1,2}/[^"]+)"')
_STYLE = re.compile(r'<link rel="stylesheet" href="static/([^"]+)">')


def write_report(run_dir: Path) -> Path:
    """Write report.html, report.md with its pictures, and report.json into a run folder; returns the path of the page.

    Raises:
        DataError: there is no run, or a file in it is broken.
    """
    write_markdown(run_dir)
    path = run_dir / "report.html"
    write_text(path, page(still(ViewedRun(run_dir.name, run_dir), datetime.now(UTC))))
    return path


def still(run: ViewedRun, now: datetime) -> dict[str, Any]:
    """What the pages ask for, by the path that they ask: how the run stands, its tasks, and a sample of its episodes.

    Raises:
        DataError: a file of the run is broken.
    """
    home = f"runs/{run.key}"
    told = overview(run)
    told["about"] = [*told["about"], f"as of {now:%Y-%m-%d %H:%M} UTC"]
    ids = _sample(run)
    episodes = {one: run.episode(one) for one in ids}
    for found in list(episodes.values()):
        beside = found["beside"]
        if beside is not None and (other := beside["episode"]["trajectory_id"]) not in episodes:
            mine = {name: value for name, value in found.items() if name != "beside"}
            episodes[other] = {**run.episode(other), "beside": {**beside, "episode": mine}}
    for found in episodes.values():
        found["siblings"] = [one for one in found["siblings"] if one["trajectory_id"] in episodes]
    listed = run.page(query.parse({"limit": "1"}))
    listed |= {"rows": [_row(found) for found in episodes.values()], "offset": 0}
    return {
        "runs": [{"key": run.key}],
        f"{home}/overview": told,
        f"{home}/tasks": invented(run),
        f"{home}/episodes": listed,
        **{f"{home}/episodes/{name}": found for name, found in episodes.items()},
    }


def _sample(run: ViewedRun) -> list[str]:
    """Episodes that the policy learned from, of its first iteration and of its last, won and not; the last first."""
    found: list[str] = []
    asked = {"stage": "train", "source": "policy", "status": "ok"}
    for order in ("down", "up"):
        ends = run.page(query.parse({**asked, "order": order, "limit": "1"}))["rows"]
        for iteration in {str(row["iteration"]) for row in ends if row["iteration"] >= 0}:
            at = {"iteration_from": iteration, "iteration_to": iteration, "limit": str(EACH)}
            for won in ("yes", "no"):
                rows = run.page(query.parse({**asked, **at, "won": won}))["rows"]
                found += [row["trajectory_id"] for row in rows]
    return list(dict.fromkeys(found))


def _row(episode: dict[str, Any]) -> dict[str, Any]:
    """What the table of episodes shows of one."""
    steps = episode["steps"]
    names = ("trajectory_id", "iteration", "success", "truncated", "status", "world", "source", "task_id",
             "instruction", "task_origin", "error", "retried")  # fmt: skip
    return {
        **{name: episode[name] for name in names},
        "steps": len(steps),
        "reward": sum(step["reward"] or 0.0 for step in steps),
        "malformed": sum(bool(step["malformed"]) for step in steps),
    }


def page(held: dict[str, Any]) -> str:
    """The front end with what it needs in it; no text in it can end its element, and the file may load nothing."""
    text = (STATIC / "index.html").read_text(encoding="utf-8")
    data = json.dumps(held, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    styles = [_read(name) for name in _STYLE.findall(text)]
    modules = json.dumps({"imports": {f"view/{name}": _address(_module(name)) for name in _modules()}})
    start = 'import "view/js/main.js";'
    icon = _address(_read("icon.svg"), "image/svg+xml")
    policy = (
        f"default-src 'none'; script-src data: {_digest(modules)} {_digest(start)}; img-src data:; "
        f"style-src {' '.join(map(_digest, styles))}; base-uri 'none'; form-action 'none'"
    )
    head = [
        '<meta charset="utf-8">',
        f'<meta http-equiv="content-security-policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        "<title>dreamgym</title>",
        f'<link rel="icon" href="{icon}" type="image/svg+xml">',
        *(f"<style>{style}</style>" for style in styles),
        f'<script type="application/json" id="still">{data.encode("utf-8", "replace").decode()}</script>',
        f'<script type="text/plain">{_read("vendor/LICENSES.txt")}</script>',
        f'<script type="importmap">{modules}</script>',
        f'<script type="module">{start}</script>',
    ]
    body = text[text.index("</head>") :]
    return "\n".join(['<!doctype html>\n<html lang="en">\n<head>', *head, body])


def _modules() -> list[str]:
    found = [path for folder in ("js", "vendor") for path in (STATIC / folder).glob("*.js")]
    return sorted(path.relative_to(STATIC).as_posix() for path in found)


def _module(name: str) -> str:
    """A script whose imports are names of the import map, for one without an address has no neighbours."""
    home = posixpath.dirname(name)
    return _IMPORT.sub(lambda m: f'{m[1]}"view/{posixpath.normpath(posixpath.join(home, m[2]))}"', _read(name))


def _read(name: str) -> str:
    return (STATIC / name).read_text(encoding="utf-8")


def _address(text: str, kind: str = "text/javascript") -> str:
    return f"data:{kind};base64,{base64.b64encode(text.encode()).decode()}"


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
