"""Tokens/s of tuning the quick start's experience model, against another checkout of this project, by turns.

    .venv/bin/python benchmarks/tuning_vs_before.py CHECKOUT [ROUNDS]

CHECKOUT is a git worktree of the commit to hold it against. Each tunes on the episodes that it has recorded itself, by
the same seed. The rate is that of `stages/sft-world.json`: neither start-up nor the making of examples counts.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from record import ROOT, merge

from dreamgym.runtime.precision import of_cpu

RECIPE = ROOT / "recipes" / "quickstart.yaml"
TOKENS = {"before": 12_000, "now": 60_000}
"""Each takes as many as make half a minute or so."""


def dreamgym(checkout: Path, command: str, *settings: str) -> None:
    """Run a stage of a checkout's own code."""
    call = [sys.executable, "-m", "dreamgym.cli", command, str(RECIPE), *settings]
    subprocess.run(
        call, cwd=checkout, env={**os.environ, "PYTHONPATH": str(checkout)}, check=True, stdout=subprocess.DEVNULL
    )


def tuned(checkout: Path, home: Path, name: str, tokens: int) -> float:
    """Tokens/s of one short tuning from the beginning."""
    run = home / f"{name}-seed0"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(home / f"data-{name}-seed0", run)
    settings = [f"out={home}", f"name={name}", f"world.sft.tokens={tokens}", "world.model.scratch.drill_tokens=0"]
    dreamgym(checkout, "sft", *settings, "policy.sft.tokens=0")
    record: dict[str, Any] = json.loads((run / "stages" / "sft-world.json").read_text(encoding="utf-8"))
    return float(record["summary"]["tokens_per_s"])


def main() -> None:
    before, rounds = Path(sys.argv[1]).resolve(), int(sys.argv[2]) if len(sys.argv) > 2 else 5
    rates: dict[str, list[float]] = {"before": [], "now": []}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        checkouts = {"before": before, "now": ROOT}
        for name, checkout in checkouts.items():
            for stage in ("collect", "annotate"):
                dreamgym(checkout, stage, f"out={home}", f"name=data-{name}")
        for _ in range(rounds):
            for name, checkout in checkouts.items():
                rates[name].append(tuned(checkout, home, name, TOKENS[name]))
                print(name, f"{rates[name][-1]:,.0f} tokens/s", flush=True)
    ratio = median(now / then for now, then in zip(rates["now"], rates["before"], strict=True))
    kind = "bf16" if of_cpu().native else "avx2"
    merge(
        ROOT / "docs" / "results" / "machines.json",
        f"python benchmarks/tuning_vs_before.py CHECKOUT {rounds}",
        {
            f"{kind}_tuning_tokens_vs_before": round(ratio, 2),
            f"{kind}_tuning_tokens_per_s": {name: [round(rate) for rate in each] for name, each in rates.items()},
        },
    )


if __name__ == "__main__":
    main()
