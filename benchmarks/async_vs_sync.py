"""Training with rollouts beside the learner (`train.max_staleness=1`) against by turns (0), on uneven episodes.

    .venv/bin/python benchmarks/async_vs_sync.py

Engine, learner and rollouts are the real ones; the engine computes on the first core, the learner on the last. Both
ways take turns in one process, with the same engine and learner. See `skewed.py` for the episodes: 1 to 12 turns.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import psutil
from compare import SMALL, WORDS, by_turns, median_ratio, rounded
from record import ROOT, record
from skewed import Skewed

from dreamgym.config import RunConfig
from dreamgym.learner.learner import Learner
from dreamgym.models.checkpoint import prepare_model
from dreamgym.telemetry.console import Bar, progress
from dreamgym.training.services import Services, start_services
from dreamgym.training.trainer import Trainer

ROUNDS, ITERATIONS = 5, 8


class Again(Trainer):
    """A trainer on an engine that others have trained before it: versions only ever grow."""

    def run(self, bar: Bar) -> int:
        self._sent = max(self.services.policy.versions())  # type: ignore[union-attr]
        return super().run(bar)

    def _send_weights(self, version: int) -> float:
        return super()._send_weights(self._sent + version)


def main() -> None:
    with tempfile.TemporaryDirectory() as home:
        config = configured(Path(home))
        model = config.run_dir / "world"
        model.parent.mkdir(parents=True)
        prepare_model(config.policy.model, model, [" ".join(WORDS)] * 50, seed=0)
        with start_services(config, model) as services:
            services.learner = Learner.start(model, config.learner, dtype=config.policy.model.dtype, seed=0, threads=1)
            pin()
            parts: list[dict[str, float]] = []
            seconds = by_turns(
                {
                    f"staleness {stale}": lambda number, stale=stale: timed(config, services, stale, number, parts)
                    for stale in (0, 1)
                },
                ROUNDS,
            )
    by_turn = [part for part in parts if part["staleness"] == 0]
    shares = {name: round(statistics.median(p[name] for p in by_turn), 3) for name in ("rollout", "learner")}
    record(
        ROOT / "benchmarks" / "results" / "async_vs_sync.json",
        "python benchmarks/async_vs_sync.py",
        {"async_vs_sync": median_ratio(seconds["staleness 0"], seconds["staleness 1"])},
        how=f"seconds of {ITERATIONS} iterations by turns over beside each other, median of {ROUNDS} rounds; "
        "engine and learner on a core each",
        share_of_time_by_turns=shares,
        seconds=rounded(seconds),
    )


def configured(home: Path) -> RunConfig:
    """The quick start's Llama; 96 episodes of 1 to 12 turns an iteration."""
    return RunConfig.model_validate(
        {
            "name": "skewed",
            "out": home,
            "env": {"name": "skewed:Skewed", "max_steps": 12, "workers": 256},
            "policy": {
                "model": {"scratch": SMALL, "dtype": "float32"},
                "sampling": {"max_tokens": 16},
                "engine": {"max_model_len": 1024, "max_num_seqs": 128, "kv_cache_gib": 0.5},
            },
            "curriculum": {"focus": 0.0},
            "learner": {"workers": 1, "lr": 1e-6, "minibatches": 2, "old_logprobs": "engine"},
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


def timed(config: RunConfig, services: Services, staleness: int, number: int, parts: list[dict[str, float]]) -> float:
    """Seconds of one training; adds the shares of its parts, the warm-up's aside."""
    config = config.model_copy(update={"train": config.train.model_copy(update={"max_staleness": staleness})})
    folder = config.run_dir / f"{number}-{staleness}"
    trainer = Again(config, folder, services, Skewed().tasks("train", 48, 0), [], [])
    with progress(folder.name, ITERATIONS) as bar:
        began = time.monotonic()
        trainer.run(bar)
        seconds = time.monotonic() - began
    if number:
        parts.append({"staleness": staleness, **{name: s / seconds for name, s in trainer.clock.parts().items()}})
    return seconds


def pin() -> None:
    """The engine on the first core, the learner on the last, all else where it likes."""
    cores = psutil.Process().cpu_affinity()
    for process in psutil.Process().children(recursive=True):
        title = " ".join(process.cmdline())
        for kind, core in (("ray::PolicyEngine", cores[0]), ("ray::LearnerWorker", cores[-1])):
            if title.startswith(kind):
                for thread in process.threads():
                    psutil.Process(thread.id).cpu_affinity([core])


if __name__ == "__main__":
    main()
