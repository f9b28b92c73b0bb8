"""Runs the quick start for several seeds and keeps what came out: docs/results/quickstart.json.

    .venv/bin/python benchmarks/quickstart.py 0 1 2

A seed that has run is not run again; every seed that was asked for is reported.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from typing import Any

from record import ROOT, record

RECIPE = ROOT / "recipes" / "quickstart.yaml"
WORST = {"minutes": max, "peak_gib": max, "gain_ci95_low": min, "real_transitions_during_rl": max}


def main() -> None:
    seeds = [int(seed) for seed in sys.argv[1:]] or [0, 1, 2]
    runs = []
    for seed in seeds:
        subprocess.run([sys.executable, "-m", "dreamgym.cli", "quickstart", str(RECIPE), f"seed={seed}"], check=True)
        runs.append(
            {"seed": seed, **json.loads((ROOT / "runs" / f"quickstart-seed{seed}" / "report.json").read_text())}
        )
    metrics = {name: over_seeds(name, [run[name] for run in runs]) for name in runs[0] if name != "seed"}
    how = "metrics: median of the seeds; the worst for " + ", ".join(WORST) + " and the logprob gaps"
    command = "python benchmarks/quickstart.py " + " ".join(map(str, seeds))
    record(ROOT / "docs" / "results" / "quickstart.json", command, metrics, seeds=seeds, how=how, per_seed=runs)


def over_seeds(name: str, values: list[Any]) -> Any:
    """The median, or the worst where a limit has to hold for every run; None where a run has no such figure."""
    if any(value is None for value in values):
        return None
    pick = max if "gap" in name else WORST.get(name, statistics.median)
    return pick(values)


if __name__ == "__main__":
    main()
