"""New weights from the learner into a policy engine, over a plain copy of the same bytes in memory.

    .venv/bin/python benchmarks/weight_transfer_vs_copy.py [small] [135m]

Ours is what the training loop does after an update: gather and pack on the learner, hand over, check, load, version,
with the engine idle and with requests in flight (which are kept, and go on). The copy is one thread's, from warm memory
to warm memory.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from compare import by_turns, median_ratio, rounded, small_model, smollm2
from record import ROOT, record

from dreamgym.config import LearnerConfig, PolicyConfig, SamplingConfig
from dreamgym.inference.pool import PolicyPool
from dreamgym.inference.weight_transfer import pack_weights
from dreamgym.learner.learner import Learner
from dreamgym.runtime.cluster import ensure_ray

ROUNDS, IN_FLIGHT = 9, 16
DTYPES = {"small": "float32", "135m": "bfloat16"}


def main() -> None:
    sizes = sys.argv[1:] or list(DTYPES)
    with tempfile.TemporaryDirectory() as home:
        models = {"small": lambda at: small_model(at, DTYPES["small"]), "135m": smollm2}
        found = {name: measured(models[name](Path(home) / name), DTYPES[name]) for name in sizes}
    metrics = {
        f"weight_transfer_vs_copy_{name}{ending}": one[f"ratio{ending}"]
        for name, one in found.items()
        for ending in ("", "_in_flight")
    }
    if "135m" in found:
        metrics["weight_transfer_vs_copy"] = found["135m"]["ratio"]
    record(
        ROOT / "benchmarks" / "results" / "weight_transfer_vs_copy.json",
        " ".join(["python benchmarks/weight_transfer_vs_copy.py", *sys.argv[1:]]),
        metrics,
        how=f"seconds over seconds, median of {ROUNDS} rounds by turns; in flight: {IN_FLIGHT} requests being decoded",
        by_model=found,
    )


def measured(model: Path, dtype: str) -> dict[str, Any]:
    machine = ensure_ray()
    engine = {"max_model_len": 2048, "max_num_seqs": IN_FLIGHT, "kv_cache_gib": 1.0}
    config = PolicyConfig.model_validate({"model": {"dtype": dtype}, "engine": engine})
    pool = PolicyPool.start(model, config, threads=machine.threads, num_cpus=0)
    learner = Learner.start(model, LearnerConfig(), dtype=dtype, seed=0)
    size = sum(p.stat().st_size for p in model.glob("*.safetensors"))
    source, target = np.ones(size, np.uint8), np.zeros(size, np.uint8)
    versions = iter(range(1, 10**6))
    stood: dict[str, list[float]] = {"idle": [], "in flight": []}

    def send(state: str) -> float:
        began = time.perf_counter()
        stood[state].append(pool.update_weights(learner.weights(next(versions), pack_weights)))
        return time.perf_counter() - began

    def in_flight(_: int) -> float:
        with Requests(pool):
            return send("in flight")

    def copy(_: int) -> float:
        began = time.perf_counter()
        np.copyto(target, source)
        return time.perf_counter() - began

    seconds = by_turns({"idle": lambda _: send("idle"), "in flight": in_flight, "copy": copy}, ROUNDS)
    pool.close()
    learner.close()
    return {
        "ratio": median_ratio(seconds["idle"], seconds["copy"]),
        "ratio_in_flight": median_ratio(seconds["in flight"], seconds["copy"]),
        "bytes": size,
        "seconds": rounded(seconds),
        "engine_stood_still_s": {name: round(statistics.median(times[1:]), 4) for name, times in stood.items()},
    }


class Requests:
    """Requests that an engine is in the middle of, as long as the context lasts."""

    def __init__(self, pool: PolicyPool) -> None:
        self._pool = pool
        self._begun = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._ask()), daemon=True)

    def __enter__(self) -> Requests:
        self._thread.start()
        self._begun.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()

    async def _ask(self) -> None:
        """One short request first, in the same batch: when it is answered, the others are being decoded."""
        rng = np.random.default_rng(0)
        prompts = [rng.integers(0, 300, 32).tolist() for _ in range(IN_FLIGHT)]
        lengths = [4, *[60] * (IN_FLIGHT - 1)]
        calls = [
            asyncio.ensure_future(
                self._pool.generate(prompt, seed=n, sampling=SamplingConfig(max_tokens=length), stop_ids=[])
            )
            for n, (prompt, length) in enumerate(zip(prompts, lengths, strict=True))
        ]
        await calls[0]
        self._begun.set()
        await asyncio.gather(*calls)


if __name__ == "__main__":
    main()
