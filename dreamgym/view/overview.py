"""The first page of a run, as JSON: how it stands, what it reached, what is wrong, its curves, its time."""

from __future__ import annotations

from typing import Any

from dreamgym.report.findings import calibration_table, fidelity_table, result, stage_table, token_table
from dreamgym.report.measures import time_rows
from dreamgym.report.render import Block, Cards, Table, Text
from dreamgym.report.rundata import RunData, busy_seconds
from dreamgym.telemetry.clock import duration
from dreamgym.telemetry.stats import wilson
from dreamgym.view.activity import Activity, started
from dreamgym.view.curves import panels
from dreamgym.view.health import remarks
from dreamgym.view.viewed import ViewedRun


def overview(run: ViewedRun) -> dict[str, Any]:
    """Everything that the first page shows.

    Raises:
        DataError: a file of the run is broken.
    """
    data, now = run.data(), run.activity()
    return {
        "version": run.version(),
        "name": run.run_dir.name,
        "folder": str(run.run_dir),
        "about": _about(data),
        "state": now.state,
        "cards": _cards(data),
        "remarks": [block(text) for text in remarks(data, run.ledger(), now)],
        "stages": _stages(run, data, now),
        "panels": [panel._asdict() for panel in panels(data)],
        "results": [block(b) for b in result(data).blocks],
        "fidelity": [block(b) for b in (*fidelity_table(data), *calibration_table(data))],
        "time": [{"name": name, "seconds": seconds} for name, seconds in time_rows(data) or _loop_time(data)],
        "costs": [block(b) for b in (*stage_table(data), *token_table(data))],
        "config": data.config,
    }


def block(given: Block) -> dict[str, Any]:
    """A block of the report as JSON."""
    match given:
        case Text(text, alarm):
            return {"kind": "text", "text": text, "alarm": alarm}
        case Cards(cards):
            names = ("label", "figure", "detail")
            return {"kind": "cards", "cards": [dict(zip(names, card, strict=True)) for card in cards]}
        case Table(header, rows, left):
            return {"kind": "table", "header": header, "rows": rows, "left": left}
    raise TypeError(f"the live page has no {type(given).__name__}")


def _about(data: RunData) -> list[str]:
    words = [f"environment {data.settings['env']['name']}", f"seed {data.settings['seed']}"]
    if data.stages:
        words += [f"begun {data.stages[0]['started'][:16].replace('T', ' ')} UTC", duration(busy_seconds(data.stages))]
        words.append(f"peak memory {max(s['peak_gib'] for s in data.stages):.1f} GiB")
    return words


def _cards(data: RunData) -> list[dict[str, str]]:
    """How it goes, in the figures of the newest records."""
    found = []
    iterations = data.of("iteration")
    if iterations:
        planned = data.settings.get("train", {}).get("iterations")
        found.append(("Iteration", f"{iterations[-1]['iteration']:,}", f"of {planned:,}" if planned else ""))
    if (dream := data.last("dream/success")) is not None and iterations:
        games = int(iterations[-1].get("rollout/episodes", 0) - iterations[-1].get("dream/env_failed", 0))
        where = "Dream success" if data.dreamed else "Success while learning"
        found.append((where, f"{dream:.1%}", _interval(*wilson(round(dream * games), games), games)))
    evaluations = [r for r in data.of("eval") if r.get("real/success") is not None]
    if evaluations:
        last = evaluations[-1]
        detail = _interval(last.get("real/low", 0.0), last.get("real/high", 1.0), int(last.get("real/games", 0)))
        found.append(("Real success, dev fold", f"{last['real/success']:.1%}", detail))
    if (kept := data.last("again/kept")) is not None:
        found.append(("Won dreams kept", f"{kept:.0%}", f"of {data.last('again/wins'):,.0f}, played for real"))
    if (exact := data.last("fidelity/policy/state_exact")) is not None:
        found.append(("Next state exact", f"{exact:.0%}", "of the policy's real steps"))
    return [dict(zip(("label", "figure", "detail"), card, strict=True)) for card in found]


def _interval(low: float, high: float, games: int) -> str:
    return f"95% interval {100 * low:.1f}–{100 * high:.1f}%, {games:,} games"


def _stages(run: ViewedRun, data: RunData, now: Activity) -> list[dict[str, str]]:
    """Every stage that was begun, and how it stands."""
    finished = [{"name": s["stage"], "state": "done", "told": duration(s["seconds"])} for s in data.stages]
    state = "running" if now.state == "running" else "stopped"
    begun = [
        {"name": name, "state": state, "told": f"since {started(run.run_dir, name)[:16].replace('T', ' ')} UTC"}
        for name in now.begun
    ]
    return finished + begun


def _loop_time(data: RunData) -> list[tuple[str, float]]:
    """Where a loop's time goes that is not finished."""
    last = next(iter(data.of("iteration")[::-1]), {})
    parts = {key.removeprefix("time/").replace("_", " "): v for key, v in last.items() if key.startswith("time/") and v}
    return [(f"train · {name}", seconds) for name, seconds in parts.items()]
