"""Training with rollouts beside the learner (`train.max_staleness=1`) against by turns (0), on uneven episodes.

    .venv/bin/python benchmarks/async_vs_sync.py

Engines, learner and rollouts are the real ones; the engine computes on one core, the learner on another. Both ways
take turns in one process, with the same engines and learner, and the ratio is the median over the pairs.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import psutil
from record import ROOT, record
from skewed import WORDS, Skewed

from dreamgym.config import ModelConfig, RunConfig, ScratchModel
from dreamgym.controller import Trainer
from dreamgym.learner.models import prepare_model
from dreamgym.obs.console import progress
from dreamgym.services import Services, start_services

PAIRS, ITERATIONS = 5, 6
COMMAND = ".venv/bin/python benchmarks/async_vs_sync.py"


def main() -> None:
    with tempfile.TemporaryDirectory() as home:
        config = configured(Path(home))
        model = config.run_dir / "world"
        model.parent.mkdir(parents=True)
        prepare_model(config.policy.model, model, [" ".join(WORDS)] * 50, seed=0)
        with start_services(config, model, learner=True) as services:
            pin()
            seconds(config, services, 0, "warm-up")
            pairs = [
                {f"staleness_{s}": seconds(config, services, s, f"{pair}-{s}") for s in (0, 1)} for pair in range(PAIRS)
            ]
    ratios = [pair["staleness_0"] / pair["staleness_1"] for pair in pairs]
    record(
        ROOT / "benchmarks" / "results" / "async_vs_sync.json",
        COMMAND,
        {"async_vs_sync": round(statistics.median(ratios), 3)},
        how=f"seconds of {ITERATIONS} iterations by turns over beside each other, median of {PAIRS} pairs",
        pairs=pairs,
    )


def configured(home: Path) -> RunConfig:
    """A scratch Llama of four layers; 48 episodes of 1 to 12 turns an iteration."""
    shape = ScratchModel(layers=4, hidden=192, intermediate=512, heads=4, vocab=400)
    engine = {"max_model_len": 1024, "max_num_seqs": 128, "kv_cache_gib": 0.5}
    return RunConfig.model_validate(
        {
            "name": "skewed",
            "out": home,
            "env": {"name": "skewed:Skewed", "max_steps": 12, "workers": 256},
            "policy": {
                "model": ModelConfig(scratch=shape, dtype="float32"),
                "sampling": {"max_tokens": 16},
                "engine": engine,
            },
            "learner": {"workers": 1, "lr": 1e-6, "minibatches": 2},
            "train": {
                "world": "real",
                "iterations": ITERATIONS,
                "groups": 12,
                "group_size": 8,
                "eval_every": 0,
                "checkpoint_every": 10**6,
            },
        }
    )


def seconds(config: RunConfig, services: Services, staleness: int, name: str) -> float:
    """Wall time of one training of `ITERATIONS` iterations."""
    config = config.model_copy(update={"train": config.train.model_copy(update={"max_staleness": staleness})})
    trainer = Trainer(config, config.run_dir / name, services, Skewed().tasks("train", 48, 0), [], [])
    with progress(name, ITERATIONS) as bar:
        began = time.monotonic()
        trainer.run(False, bar)
        return round(time.monotonic() - began, 3)


def pin() -> None:
    """The engine on the first core, the learner on the last, all else where it likes."""
    cores = psutil.Process().cpu_affinity()
    for process in psutil.process_iter(["cmdline"]):
        title = " ".join(process.info["cmdline"] or [])
        for kind, core in (("ray::PolicyEngine", cores[0]), ("ray::LearnerWorker", cores[-1])):
            if title.startswith(kind):
                process.cpu_affinity([core])
                for thread in process.threads():
                    psutil.Process(thread.id).cpu_affinity([core])


if __name__ == "__main__":
    main()
