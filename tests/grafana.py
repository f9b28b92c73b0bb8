"""The Grafana dashboard: what its queries ask for; and what a running job exports, as Prometheus reads it."""

from __future__ import annotations

import json
import re
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil

DASHBOARD = json.loads((Path(__file__).parents[1] / "cluster" / "grafana" / "dreamgym.json").read_text())
PANELS: list[dict[str, Any]] = [p for p in DASHBOARD["panels"] if p["type"] != "row"]
FUNCTIONS = {"sum", "max", "rate", "increase"}
_TOKEN = re.compile(r'\s*([A-Za-z_]\w*|\d+[smh]?|"[^"]*"|=~|[-+*/(){}\[\],=])')
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
Labels = dict[str, str]


class Selector(NamedTuple):
    """What a query reads: a metric, the labels that it chooses by, and those that it keeps or the legend names."""

    panel: str
    metric: str
    matched: frozenset[str]
    kept: frozenset[str]


def selectors() -> Iterator[Selector]:
    """Every selector of every panel; a query with a word that is not understood here is an error."""
    for panel in PANELS:
        for target in panel["targets"]:
            legend = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            yield from _selectors(panel["title"], target["expr"], legend)


def _selectors(panel: str, query: str, legend: set[str]) -> Iterator[Selector]:
    tokens = _TOKEN.findall(query)
    assert "".join(tokens) == re.sub(r"\s", "", query), f"not understood: {query}"
    kept, found, at = set(legend), [], 0
    while at < len(tokens):
        word, after = tokens[at], tokens[at + 1] if at + 1 < len(tokens) else ""
        if word == "by":
            end = tokens.index(")", at)
            kept |= {label for label in tokens[at + 2 : end] if label != ","}
            at = end
        elif word in FUNCTIONS:
            assert after in ("(", "by"), query
        elif word[0].isalpha():
            end = tokens.index("}", at) if after == "{" else at
            inside = tokens[at + 2 : end] if after == "{" else []
            assert all(
                operator == "=~" and value == '"$run"'
                for operator, value in zip(inside[1::4], inside[2::4], strict=True)
            )
            found.append((word, frozenset(inside[::4])))
            at = end
        at += 1
    assert found, query
    for metric, matched in found:
        yield Selector(panel, metric, matched, frozenset(kept))


class Scraper(threading.Thread):
    """Asks the metrics port of a process's local Ray again and again, until `close`, and keeps all that it was told."""

    def __init__(self, process: int, pause_s: float = 2.0) -> None:
        super().__init__(daemon=True)
        self._process, self._pause_s = process, pause_s
        self._over = threading.Event()
        self._lines: set[str] = set()
        self.start()

    def run(self) -> None:
        while not self._over.wait(self._pause_s):
            for port in self._ports():
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
                        told = answer.read().decode()
                except OSError:
                    continue  # Ray starts, or has ended
                asked = [line for line in told.splitlines() if line.startswith("ray_")]
                self._lines |= {line.rpartition(" ")[0] for line in asked}

    def _ports(self) -> set[str]:
        """Those of the Rays that the process has started."""
        try:
            family = psutil.Process(self._process).children(recursive=True)
            words = {word for one in family for word in one.cmdline() if word.startswith("--session-dir=")}
        except psutil.NoSuchProcess:
            return set()
        folders = [Path(word.partition("=")[2]) for word in words]
        return {path.read_text() for folder in folders for path in folder.glob("metrics_export_port_*")}

    def close(self) -> dict[str, list[Labels]]:
        """Stop; the labels of all samples that were seen, by the name of the metric."""
        self._over.set()
        self.join()
        found: dict[str, list[Labels]] = {}
        for line in self._lines:
            name, _, labels = line.partition("{")
            found.setdefault(name, []).append(dict(_LABEL.findall(labels)))
        return found
