"""The whole way in one command: seed data, reasoning, both models, the dream, the real measure, the page."""

from __future__ import annotations

import json
from contextlib import ExitStack

from rich.panel import Panel

from dreamgym.commands.pipeline import make
from dreamgym.commands.report import report
from dreamgym.config import RunConfig
from dreamgym.planning import GB
from dreamgym.planning.budget import Budget, given
from dreamgym.planning.check import models_of
from dreamgym.planning.estimate import estimate
from dreamgym.planning.machine import here
from dreamgym.telemetry.clock import duration
from dreamgym.telemetry.console import console


def quickstart(config: RunConfig) -> None:
    """Run every stage that is not done yet, then show what came out."""
    _forecast(config)
    sim_to_real = config.train.world == "dream" and config.real.transitions > 0
    with ExitStack() as alive:
        services = make(config, "policy_real" if sim_to_real else "policy", alive)
        from dreamgym.commands.evaluate import evaluate  # with torch and ray, which collecting does not need

        evaluate(config, "warm_start", services)
        evaluate(config, "policy", services)
        if sim_to_real:
            evaluate(config, "policy_real", services)
    report(config)
    console.print(_result(config))


def _forecast(config: RunConfig) -> None:
    """Say how long the whole way takes on this machine, by the rates of `dreamgym plan`, and how much memory.

    Only for models made from nothing: the shape of any other is known by building it, which takes a while.
    """
    if {config.world.model.source, config.policy.model.source} - {"scratch", "world"}:
        return
    models, on = models_of(config), here()
    found = estimate(config, models, on)
    seconds = sum(cost.seconds for cost in Budget(config, models, on, found, given({})).costs())
    most = max(row.used for row in found.rows if row.stage != "all")
    told = f"about {duration(seconds)} from beginning to end on {on.name}, and {most / GB:.1f} GB of memory at most"
    console.print(f"[dim]{told}; `dreamgym plan` says how that is reckoned[/]", soft_wrap=True)


def _result(config: RunConfig) -> Panel:
    found = json.loads((config.run_dir / "report.json").read_text(encoding="utf-8"))
    return Panel("\n".join(f"{key.replace('_', ' ')}: {value}" for key, value in found.items()), title="result")
