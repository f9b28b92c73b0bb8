"""Runs over one another: the same curves, and the settings in which they differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from dreamgym.report.rundata import RunData, headline
from dreamgym.view.curves import Panel, panels
from dreamgym.view.viewed import ViewedRun


def compare(runs: Sequence[ViewedRun]) -> dict[str, Any]:
    """Headlines, settings that differ, and every panel that one of the runs has, with the lines of all.

    Raises:
        DataError: a file of a run is broken.
    """
    data = {run.key: run.data() for run in runs}
    shown = {key: {panel.name: panel for panel in panels(found)} for key, found in data.items()}
    names = dict.fromkeys(name for found in shown.values() for name in found)
    return {
        "runs": list(data),
        "headlines": {key: headline(found) for key, found in data.items()},
        "settings": differences(data),
        "panels": [_together(name, shown) for name in names],
    }


def _together(name: str, shown: dict[str, dict[str, Panel]]) -> dict[str, Any]:
    """One panel with the lines of every run, labelled by run."""
    first = next(found[name] for found in shown.values() if name in found)
    lines = [
        {**line, "label": f"{key}: {line['label']}", "run": place, "line": at}
        for place, (key, found) in enumerate(shown.items())
        if name in found
        for at, line in enumerate(found[name].lines)
    ]
    return {**first._asdict(), "lines": lines}


def differences(data: dict[str, RunData]) -> list[dict[str, Any]]:
    """The settings that are not the same in all runs: `name`, and `values` in the order of the runs."""
    flat = [dict(_flat(found.settings)) for found in data.values()]
    names = dict.fromkeys(name for settings in flat for name in settings)
    rows = [{"name": name, "values": [settings.get(name, "–") for settings in flat]} for name in names]
    return [row for row in rows if len(set(row["values"])) > 1]


def _flat(settings: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(settings, dict) and settings:
        for key, value in settings.items():
            yield from _flat(value, f"{name}.{key}" if name else str(key))
    else:
        yield name, str(settings)
