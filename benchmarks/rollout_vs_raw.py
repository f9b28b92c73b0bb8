"""Rollout tokens/s end to end, against the same token workload offered offline to bare vLLM on the same cores.

    .venv/bin/python benchmarks/rollout_vs_raw.py small [field=value …]
    .venv/bin/python benchmarks/rollout_vs_raw.py small_256 [field=value …]
    .venv/bin/python benchmarks/rollout_vs_raw.py 135m [field=value …]

`small` plays an iteration of the quick start with its own models, 128 episodes in flight; `small_256` has twice as
many, as asynchronous training has with `train.max_staleness=1`; `135m`, of 64 episodes, plays with SmolLM2-135M as
policy and as experience model, tuned just long enough to keep to the format. What either needs is made first, once, in
`runs/`.

Ours is `fleet.play`: policy engine, rollout actor, Serve, retrieval, engine of the dream, parsing, Arrow. Every call
that it made of either engine is then a request to `vllm.LLM.generate` of the same engine settings: the same prompt,
sampling and seed, and as many tokens as were written, all known beforehand and offered at once, turn by turn, so that a
turn finds its conversation in the prefix cache. Two ways are measured: one engine after the other with all cores each,
and both side by side with half of the cores each, as ours have them. The faster one is the limit.
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import Any

import psutil
import ray
from compare import by_turns, median_ratio, rounded, smollm2_gguf
from raw import RawEngine
from record import ROOT, record
from workload import Played, episodes_of, play, recorded_services, tasks_of

from dreamgym.commands.annotate import annotate
from dreamgym.commands.collect import collect
from dreamgym.commands.sft import sft
from dreamgym.config import RunConfig
from dreamgym.config.loading import load_config

RECIPE = ROOT / "recipes" / "quickstart.yaml"
ROUNDS = 5


def main() -> None:
    kind, *overrides = sys.argv[1:]
    config = load_config(RECIPE, [*OVERRIDES[kind](), *overrides])
    for stage in (collect, annotate, sft):
        stage(config)
    with recorded_services(config) as services:
        raw = Raw(config)
        tasks = tasks_of(config)
        played: dict[int, Played] = {}

        def ours(number: int) -> float:
            played[number] = play(services, episodes_of(config, tasks, number))
            return played[number].seconds

        seconds = by_turns(
            {
                "ours": ours,
                "bare, one after the other": lambda number: raw.one_after_the_other(played[number]),
                "bare, side by side": lambda number: raw.side_by_side(played[number]),
            },
            ROUNDS,
        )
    limit = min(("bare, one after the other", "bare, side by side"), key=lambda name: statistics.median(seconds[name]))
    kept = [played[number] for number in range(1, ROUNDS + 1)]
    record(
        ROOT / "benchmarks" / "results" / f"rollout_vs_raw_{kind}.json",
        " ".join(["python benchmarks/rollout_vs_raw.py", *sys.argv[1:]]),
        {f"rollout_vs_raw_{kind}": median_ratio(seconds[limit], seconds["ours"])},
        how=f"seconds of bare vLLM over ours, median of {ROUNDS} rounds; the limit: {limit}",
        seconds=rounded(seconds),
        tokens_per_s={
            n: round(statistics.median(p.tokens / s for p, s in zip(kept, t, strict=True))) for n, t in seconds.items()
        },
        workload=[described(one) for one in kept],
    )


def smollm2_overrides() -> list[str]:
    """SmolLM2-135M twice, fewer episodes, and fine-tuning as a pre-trained model bears it."""
    tuned = [f"{who}.sft.{field}" for who in ("world", "policy") for field in ("optimizer=adamw", "lr=5e-4")]
    return [
        "name=smollm2",
        f"world.model.source={smollm2_gguf()}",
        "policy.model.dtype=bfloat16",
        "world.sft.tokens=40000",
        "policy.sft.tokens=8000",
        "policy.sft.stop_loss=0",
        *tuned,
        "collect.tasks=120",
        "collect.heldout_tasks=2",
        "env.max_steps=6",
        "train.groups=8",
    ]


OVERRIDES: dict[str, Any] = {
    "small": list,
    "small_256": lambda: ["train.groups=32"],
    "135m": smollm2_overrides,
}


class Raw:
    """Two bare engines: the policy's and the dream's."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._cores = len(psutil.Process().cpu_affinity())
        actor = ray.remote(RawEngine).options(num_cpus=0)
        folder = config.run_dir
        self._policy = actor.remote(
            str(folder / "warm_start"),
            config.policy.engine,
            dtype=config.policy.model.dtype,
            trained=True,
            threads=self._cores,
        )
        self._dream = actor.remote(
            str(folder / "world"),
            config.world.engine,
            dtype=config.world.model.dtype,
            trained=False,
            threads=self._cores,
        )

    def one_after_the_other(self, played: Played) -> float:
        return sum(ray.get(call) for call in self._calls(played, self._cores))

    def side_by_side(self, played: Played) -> float:
        began = time.perf_counter()
        ray.get(list(self._calls(played, max(1, self._cores // 2))))
        return time.perf_counter() - began

    def _calls(self, played: Played, threads: int) -> Any:
        yield self._policy.generate.remote(played.policy, self._config.policy.sampling, True, threads)
        yield self._dream.generate.remote(played.dream, self._config.world.sampling, False, threads)


def described(played: Played) -> dict[str, float]:
    """What a round's rollouts came to, in counts."""
    ok = [t for t in played.trajectories if t.status == "ok"]
    told = {
        name: sum(t.info.get(name, 0.0) for t in ok)
        for name in ("policy_read", "policy_cached", "dream_read", "dream_cached", "dream_written", "dream_dreamed")
    }
    return {
        "episodes": len(played.trajectories),
        "failed": len(played.trajectories) - len(ok),
        "steps": sum(len(t.steps) for t in ok),
        "policy_written": sum(len(call.written) for call in played.policy),
        **told,
    }


if __name__ == "__main__":
    main()
