"""Runs the quick start for several seeds and keeps what came out: docs/results/quickstart.json.

    .venv/bin/python benchmarks/quickstart.py 0 1 2

A seed that has run is not run again; every seed that was asked for is reported.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[1]
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
    result = {
        "command": "python benchmarks/quickstart.py " + " ".join(map(str, seeds)),
        "machine": machine(),
        "date": datetime.now(UTC).date().isoformat(),
        "seeds": seeds,
        "metrics": {name: over_seeds(name, [run[name] for run in runs]) for name in runs[0] if name != "seed"},
        "how": "metrics: median of the seeds; the worst for " + ", ".join(WORST) + " and the logprob gaps",
        "per_seed": runs,
    }
    path = ROOT / "docs" / "results" / "quickstart.json"
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(path.read_text(encoding="utf-8"))


def over_seeds(name: str, values: list[Any]) -> Any:
    """The median, or the worst where a limit has to hold for every run; None where a run has no such figure."""
    if any(value is None for value in values):
        return None
    pick = max if "gap" in name else WORST.get(name, statistics.median)
    return pick(values)


def machine() -> str:
    """Processor, cores and memory."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    gib = psutil.virtual_memory().total / 2**30
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores, {gib:.0f} GiB, no GPU"


if __name__ == "__main__":
    main()
