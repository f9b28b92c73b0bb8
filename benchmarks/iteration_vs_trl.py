"""A whole GRPO iteration and its peak memory against TRL's `GRPOTrainer`, on the same multi-turn episodes.

    .venv/bin/python benchmarks/iteration_vs_trl.py [small | 135m]      (needs trl, of the extra `test`)

Same model, episodes (see `skewed.py`: turns of at most 16 tokens, and every iteration has tasks of 1 to 12 turns or,
for `135m`, of 2 to 12), group size, cores and one optimiser step. TRL learns from every group, ours leaves out those in
which all episodes had the same reward.
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
from skewed import TURNS, Skewed
from trl_peer import serve

from dreamgym.config import RunConfig
from dreamgym.runtime.processes import GIB, memory_of
from dreamgym.training.services import start_services
from dreamgym.training.trainer import Trainer

ROUNDS = 5
TURN = 16
MODELS: dict[str, dict[str, Any]] = {
    "small": {"make": lambda at: small_model(at, "float32"), "dtype": "float32", "groups": 12, "size": 8, "micro": 16},
    "135m": {"make": smollm2, "dtype": "bfloat16", "groups": 6, "size": 4, "micro": 8},
}


def main() -> None:
    kind = sys.argv[1] if sys.argv[1:] else "small"
    chosen = MODELS[kind]
    with tempfile.TemporaryDirectory() as home:
        groups, size = chosen["groups"], chosen["size"]
        config = configured(Path(home), chosen["dtype"], groups, size)
        model = config.run_dir / "world"
        model.parent.mkdir(parents=True)
        chosen["make"](model)
        tasks = Skewed().tasks("train", len(TURNS), 0)[:: -(len(TURNS) // groups)]
        here, there = get_context("spawn").Pipe()
        arguments = (there, str(model), chosen["dtype"], tasks, groups, size, chosen["micro"], TURN)
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
                    before, began = services.policy.metrics()["generated_tokens"], time.perf_counter()
                    metrics = trainer._iterate(number, beside)
                    seconds = time.perf_counter() - began
                sampled = services.policy.metrics()["generated_tokens"] - before
                trained = metrics["learner/trained_tokens"]
                told["ours"].append({"peak_gib": memory.gib, "sampled": sampled, "trained": trained})
                print({name: round(value, 3) for name, value in metrics.items() if name.startswith("time/")})
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
        episodes=groups * size,
        seconds=rounded(seconds),
        sampled_tokens={n: statistics.median(one["sampled"] for one in figures[1:]) for n, figures in told.items()},
        trained_tokens_ours=statistics.median(one["trained"] for one in told["ours"][1:]),
        peak_gib={name: round(value, 2) for name, value in peak.items()},
    )


def configured(home: Path, dtype: str, groups: int, size: int) -> RunConfig:
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
                "group_size": size,
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
