"""A whole GRPO iteration and its peak memory against TRL's `GRPOTrainer`, on the same multi-turn episodes.

    .venv/bin/python benchmarks/iteration_vs_trl.py [small | 135m]      (needs trl, of the extra `test`)

Same model, episodes (see `skewed.py`: 1 to 12 turns of at most 16 tokens), group size, cores and one optimiser step.
Ours is one turn of the training loop: rollouts on the fleet, Arrow, Parquet, the learner's step, new weights in the
engine. TRL generates with transformers, batched over all episodes a turn at a time, through its `rollout_func`: its
vLLM mode needs a GPU. Both take turns; memory is that of all processes of either side (PSS), Ray's own among ours.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psutil
from compare import by_turns, median_ratio, rounded, small_model, smollm2
from record import ROOT, record
from skewed import Skewed
from trl_peer import serve

from dreamgym.config import RunConfig
from dreamgym.controller import Trainer
from dreamgym.obs.processes import GIB, memory_of
from dreamgym.services import start_services

ROUNDS = 5
TURN = 16
MODELS: dict[str, dict[str, Any]] = {
    "small": {"make": lambda at: small_model(at, "float32"), "dtype": "float32", "groups": 12, "micro": 16},
    "135m": {"make": smollm2, "dtype": "bfloat16", "groups": 3, "micro": 8},
}
GROUP_SIZE = 8


def main() -> None:
    kind = sys.argv[1] if sys.argv[1:] else "small"
    chosen = MODELS[kind]
    with tempfile.TemporaryDirectory() as home:
        config = configured(Path(home), chosen["dtype"], chosen["groups"])
        model = config.run_dir / "world"
        model.parent.mkdir(parents=True)
        chosen["make"](model)
        tasks = Skewed().tasks("train", 48, 0)
        here, there = get_context("spawn").Pipe()
        arguments = (there, str(model), chosen["dtype"], tasks, chosen["groups"], GROUP_SIZE, chosen["micro"], TURN)
        peer = get_context("spawn").Process(target=serve, args=arguments, daemon=True)
        peer.start()
        told: dict[str, list[dict[str, float]]] = {"ours": [], "trl": []}

        me, other = psutil.Process(), psutil.Process(peer.pid)

        def theirs(number: int) -> float:
            with Peak(lambda: [other]) as memory:
                here.send(True)
                figures = here.recv()
            told["trl"].append(figures | {"peak_gib": memory.gib})
            return float(figures["seconds"])

        with start_services(config, model, learner=True) as services, ThreadPoolExecutor(1) as beside:
            trainer = Trainer(config, config.run_dir / "train", services, tasks, [], [])

            def ours(number: int) -> float:
                with Peak(lambda: {me, *me.children(recursive=True)} - {other}) as memory:
                    began = time.perf_counter()
                    metrics = trainer._iterate(number, beside)
                    seconds = time.perf_counter() - began
                sampled = metrics["learner/trained_tokens"]
                told["ours"].append({"seconds": seconds, "peak_gib": memory.gib, "sampled": sampled})
                return seconds

            seconds = by_turns({"ours": ours, "trl": theirs}, ROUNDS)
        here.send(False)
        peer.join(60)
    ending = "" if kind == "small" else f"_{kind}"
    peak = {name: max(one["peak_gib"] for one in figures) for name, figures in told.items()}
    record(
        ROOT / "benchmarks" / "results" / f"iteration_vs_trl{ending}.json",
        f"python benchmarks/iteration_vs_trl.py {kind}",
        {
            f"iteration_vs_trl{ending}": median_ratio(seconds["trl"], seconds["ours"]),
            f"peak_memory_vs_trl{ending}": round(peak["ours"] / peak["trl"], 3),
        },
        how=f"iteration: their seconds over ours, median of {ROUNDS} rounds; memory: our peak over theirs",
        episodes=chosen["groups"] * GROUP_SIZE,
        seconds=rounded(seconds),
        sampled_tokens={n: statistics.median(one["sampled"] for one in figures[1:]) for n, figures in told.items()},
        peak_gib={name: round(value, 2) for name, value in peak.items()},
    )


def configured(home: Path, dtype: str, groups: int) -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": "skewed",
            "out": home,
            "env": {"name": "skewed:Skewed", "max_steps": 12, "workers": 256},
            "policy": {
                "model": {"dtype": dtype},
                "sampling": {"max_tokens": TURN},
                "engine": {"max_model_len": 1024, "max_num_seqs": 128, "kv_cache_gib": 0.5},
            },
            "curriculum": {"focus": 0.0},
            "learner": {
                "workers": 1,
                "lr": 1e-6,
                "minibatches": 1,
                "token_budget": 8192 if dtype == "float32" else 2048,
            },
            "train": {
                "world": "real",
                "iterations": 10**6,
                "groups": groups,
                "group_size": GROUP_SIZE,
                "eval_every": 0,
                "checkpoint_every": 10**6,
            },
        }
    )


class Peak:
    """The largest memory of some processes while inside, sampled every 0.1 s; the same for either side."""

    def __init__(self, processes: Callable[[], Iterable[psutil.Process]]) -> None:
        self._processes = processes
        self._bytes = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def gib(self) -> float:
        return self._bytes / GIB

    def _sample(self) -> None:
        while True:
            self._bytes = max(self._bytes, sum(map(memory_of, self._processes())))
            if self._over.wait(0.1):
                return


if __name__ == "__main__":
    main()
