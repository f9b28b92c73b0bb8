"""The curves of a run as numbers, a panel each; the page draws them, alone or over those of other runs."""

from __future__ import annotations

from typing import Any, NamedTuple

from dreamgym.report.measures import FIDELITY, LEARNING, SETS, fidelity_sets, leaf, smooth
from dreamgym.report.rundata import RunData
from dreamgym.view.health import iteration_seconds

Line = dict[str, Any]
"""label, x (iterations), y, and where there is an interval low and high."""


class Panel(NamedTuple):
    """One plot. `shape` is percent, number or log; `name` is the same for every run."""

    name: str
    title: str
    unit: str
    shape: str
    lines: list[Line]


def panels(data: RunData) -> list[Panel]:
    """The panels for which there is data, the headline first."""
    found = [_success(data), _kept(data), _throughput(data), *_fidelity(data), *_learning(data), *_curriculum(data)]
    found += _buffer(data)
    return [panel._replace(lines=lines) for panel in found if (lines := [line for line in panel.lines if line["x"]])]


def _line(data: RunData, key: str, label: str) -> Line:
    x, y = data.series(key)
    return {"label": label, "x": x, "y": y}


def _success(data: RunData) -> Panel:
    where = "dreamed" if data.dreamed else "real"
    learning = _line(data, "dream/success", f"learning, {where} (mean of 5)")
    learning["y"] = smooth(learning["y"])
    real = [r for r in data.of("eval") if r.get("real/success") is not None]
    dev = {
        "label": "dev fold, real",
        "x": [r["iteration"] for r in real],
        "y": [r["real/success"] for r in real],
        "low": [r.get("real/low") for r in real],
        "high": [r.get("real/high") for r in real],
    }
    dreamed = _line(data, "dream/dev_success", "dev fold, dreamed")
    return Panel("success", "Success, dreamed and real", "episodes won", "percent", [dev, dreamed, learning])


def _kept(data: RunData) -> Panel:
    lines = [_line(data, "again/kept", "won for real too"), _line(data, "again/obeyed", "the dream obeyed too much")]
    return Panel("kept", "Won dreams, played for real", "share of won dreams", "percent", lines)


def _throughput(data: RunData) -> Panel:
    seconds = dict(iteration_seconds(data))
    found = [(r["iteration"], r["rollout/episodes"] / seconds[r["iteration"]]) for r in data.of("iteration")
             if r.get("rollout/episodes") and seconds.get(r["iteration"])]  # fmt: skip
    line = {"label": "episodes", "x": [at for at, _ in found], "y": [rate for _, rate in found]}
    return Panel("throughput", "Throughput", "episodes a second", "number", [line])


def _fidelity(data: RunData) -> list[Panel]:
    sets = fidelity_sets(data)
    return [
        Panel(
            f"fidelity/{metric}",
            f"Fidelity: {title[0].lower()}{title[1:]}",
            "of real transitions",
            "percent",
            [_line(data, f"fidelity/{name}/{metric}", SETS.get(name, name)) for name in sets],
        )
        for metric, title in FIDELITY.items()
    ]


def _learning(data: RunData) -> list[Panel]:
    return [
        Panel(title, title, unit, "log" if logarithmic else "number",
              [_line(data, key, label or title) for key, label in lines.items()])
        for title, unit, lines, logarithmic in LEARNING
    ]  # fmt: skip


def _curriculum(data: RunData) -> list[Panel]:
    fates = ["curriculum/admitted", *data.keys("curriculum/rejected_")]
    return [
        Panel("value", "Mean task value V", "variance of return", "number",
              [_line(data, "curriculum/value_mean", "value")]),
        Panel("generated", "Invented tasks", "share of tasks", "percent",
              [_line(data, "curriculum/generated_share", "invented")]),
        Panel("fates", "Fate of inventions", "tasks an iteration", "number",
              [_line(data, key, leaf(key)) for key in fates]),
    ]  # fmt: skip


def _buffer(data: RunData) -> list[Panel]:
    held = [_line(data, key, leaf(key)) for key in ("replay/real", "replay/dream")]
    refused = [_line(data, key, leaf(key)) for key in data.keys("replay/refused_")]
    return [
        Panel("buffer", "Replay buffer", "transitions", "number", held),
        Panel("refused", "Refused by the gate so far", "transitions", "number", refused),
    ]
