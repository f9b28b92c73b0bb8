"""The whole way in one command: seed data, reasoning, both models, the dream, the real measure, the page."""

from __future__ import annotations

import json
from contextlib import ExitStack

from rich.panel import Panel

from dreamgym.config import RunConfig
from dreamgym.obs.console import console
from dreamgym.stages.players import make
from dreamgym.stages.report import report


def quickstart(config: RunConfig) -> None:
    """Run every stage that is not done yet, then show what came out."""
    sim_to_real = config.train.world == "dream" and config.real.transitions > 0
    with ExitStack() as alive:
        services = make(config, "policy_real" if sim_to_real else "policy", alive)
        from dreamgym.stages.evaluate import evaluate  # with torch and ray, which collecting does not need

        evaluate(config, "warm_start", services)
        evaluate(config, "policy", services)
        if sim_to_real:
            evaluate(config, "policy_real", services)
    report(config)
    console.print(_result(config))


def _result(config: RunConfig) -> Panel:
    found = json.loads((config.run_dir / "report.json").read_text(encoding="utf-8"))
    return Panel("\n".join(f"{key.replace('_', ' ')}: {value}" for key, value in found.items()), title="result")
