"""What a run would do on 8 to 512 GPUs: iterations an hour, how busy each part is, what binds next, and the remedy.

    .venv/bin/python benchmarks/simulate.py [SIZE …]

A simulation (`simulation.py`), not a measurement. It is fed by what the other benchmarks have measured
(`results/*.json`), and where nothing is measured by assumptions; the result names each with its source. The model has
7.6B weights, as policy and as experience model, on H100s; GPUs are shared out among engines, experience model and
learner by the work that an iteration has for each; an iteration has 8 episodes a GPU, and 512 at the least. What binds
is found by trying: every part in turn has twice the capacity, and the one that helps most is named. `remedied` is a run
whose weights go from GPU to GPU and whose replay buffer is searched approximately. `checks` holds the simulator against
what was measured on a CPU. Sizes of earlier calls are kept as long as the constants are the same.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Any

from record import ROOT, write
from simulation import Cluster, Engines, Outcome, Run, Workload
from skewed import TURNS

RESULTS = ROOT / "benchmarks" / "results"
SIZES = (8, 16, 32, 64, 128, 256, 512)
WAYS = {"staleness 0": (0, False), "staleness 1": (1, False), "staleness 2": (2, False), "remedied 1": (1, True)}
"""max_staleness, and whether remedied."""
ITERATIONS, WARM_UPS = 4, 2
WORTH = 0.02
"""A part whose doubling gains less than this does not bind."""
WEIGHTS, LAYERS, WIDTH = 7.6e9, 28, 3584
NODE_GPUS = 8
EPISODES_PER_GPU, FEWEST_EPISODES = 8, 512
EPISODE_TURNS = tuple(2 * turns for turns in TURNS)
TURN_TOKENS = {"policy": (150, 120), "dream": (400, 200)}
"""Tokens that a turn adds to what the engine has read already, and tokens written."""
TOKEN_BUDGET, MINIBATCHES = 16_384, 2
ASSUMED: dict[str, tuple[float, str]] = {
    "alone_tokens_per_s": (110.0, "decoding of one sequence, bfloat16 on an H100"),
    "full_tokens_per_s": (8000.0, "decoding of a full engine, bfloat16 on an H100"),
    "read_tokens_per_s": (30_000.0, "prefill on an H100, half of its peak"),
    "learner_peak_share": (0.40, "share of 989 TFLOP/s, 6N + 6LHT a token"),
    "network_gb_per_s": (40.0, "between nodes, of each GPU's card; gradients and weights"),
    "cpu_ms_actor": (4.0, "CPU time of a turn in a rollout actor"),
    "cpu_ms_driver": (1.0, "CPU time of a turn in the driver"),
}
REMEDIED = {"transfer_mb_per_s": 1000 * ASSUMED["network_gb_per_s"][0], "retrieval_ms": 1.0}
"""Constants of the way `remedied`."""
REMEDIES = {
    "policy engines": "more GPUs for the policy's engines",
    "experience model": "more replicas of the experience model, or larger groups, of which the memo spares more",
    "rollout actors": "more rollout actors (train.rollout_actors)",
    "replay": "an approximate index, or a Qdrant service, in place of the embedded exact search",
    "driver": "fewer bytes through the driver: batches from the actors to the learner directly",
    "learner": "more learner GPUs; where micro-batches are fewer than GPUs, a smaller token_budget",
    "weight transfer": "weights from GPU to GPU (NCCL) in place of the object store",
    "length of an episode": "more episodes an iteration, a higher max_staleness, or engines that answer one request "
    "sooner (tensor parallelism, speculative decoding): engines wait for the last turns",
}


def main() -> None:
    sizes = [int(size) for size in sys.argv[1:]] or list(SIZES)
    constants = Constants.read()
    before = kept("simulation") or {}
    found = before["by_gpus"] if before.get("constants") == constants.told() else {}
    calls = [(gpus, way) for gpus in sizes for way in WAYS]
    with ProcessPoolExecutor() as pool:
        for (gpus, way), one in zip(
            calls, pool.map(forecast, *zip(*calls, strict=True), repeat(constants)), strict=True
        ):
            print(gpus, way, one["iterations_per_hour"], one["next"], flush=True)
            found.setdefault(str(gpus), {})[way] = one
    found = {gpus: found[gpus] for gpus in sorted(found, key=int)}
    write(
        RESULTS / "simulation.json",
        "python benchmarks/simulate.py",
        how=f"simulated, no measurement: {ITERATIONS} iterations after {WARM_UPS}; busy: of the capacity of a part; "
        "gain: in iterations an hour, from twice the capacity of a part",
        constants=constants.told(),
        by_gpus=found,
        checks=(tested := checks()),
    )
    print(json.dumps(tested, indent=2), table(found), sep="\n")


@dataclass(frozen=True)
class Constants:
    """Numbers by name, and where each is from."""

    values: dict[str, float]
    sources: dict[str, str]

    def __getitem__(self, name: str) -> float:
        return self.values[name]

    @classmethod
    def read(cls) -> Constants:
        """What is measured, and an assumption for the rest; without a measured one that has no stand-in it ends."""
        values = {name: value for name, (value, _) in ASSUMED.items()}
        sources = {name: f"assumed: {why}" for name, (_, why) in ASSUMED.items()}
        for file, measure in MEASURED.items():
            if (result := kept(file)) is not None:
                values |= (measured := measure(result))
                sources |= dict.fromkeys(measured, f"measured: results/{file}.json")
        if missing := {"retrieval_ms", "dreamed", "transfer_fixed_s", "transfer_mb_per_s"} - set(values):
            raise SystemExit(f"simulate.py finds no {', '.join(sorted(missing))}; run the benchmarks that measure it.")
        return cls(values, sources)

    def told(self) -> dict[str, Any]:
        shape = {"weights": WEIGHTS, "layers": LAYERS, "width": WIDTH, "minibatches": MINIBATCHES}
        chosen = shape | {"turns": list(EPISODE_TURNS), "token_budget": TOKEN_BUDGET}
        tokens = {who: {"read": read, "written": written} for who, (read, written) in TURN_TOKENS.items()}
        numbers = {n: {"value": float(f"{v:.4g}"), "source": self.sources[n]} for n, v in self.values.items()}
        return {"numbers": numbers, "remedied": REMEDIED, "chosen": chosen | {"tokens of a turn": tokens}}


def kept(name: str) -> dict[str, Any] | None:
    """A result, where there is one."""
    path = RESULTS / f"{name}.json"
    found: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    return found


def of_retrieval(result: Mapping[str, Any]) -> dict[str, float]:
    largest = max(result["by_size"], key=int)
    return {"retrieval_ms": result["by_size"][largest]["of_16_together_p50_ms"]}


def of_memo(result: Mapping[str, Any]) -> dict[str, float]:
    return {"dreamed": result["tokens"]["steps dreamed"] / result["tokens"]["steps"]}


def of_transfer(result: Mapping[str, Any]) -> dict[str, float]:
    """A line through the two models: seconds that every transfer takes, and bytes a second."""
    small, large = (result["by_model"][name] for name in ("small", "135m"))
    seconds = [statistics.median(one["seconds"]["idle"]) for one in (small, large)]
    rate = (large["bytes"] - small["bytes"]) / (seconds[1] - seconds[0])
    stood = [large["engine_stood_still_s"]["in flight"], seconds[1]]
    fixed = max(0.0, seconds[0] - small["bytes"] / rate)
    return {
        "transfer_fixed_s": fixed,
        "transfer_mb_per_s": rate / 1e6,
        "standstill_share": min(1.0, stood[0] / stood[1]),
    }


def of_gpu(result: Mapping[str, Any]) -> dict[str, float]:
    shares = [one["peak_share"] for one in result["by_size"].values()]
    return {"learner_peak_share": shares[-1]}


def of_growth(result: Mapping[str, Any]) -> dict[str, float]:
    """The CPU time of a turn where actors are few and busy."""
    points = result["curves"].get("actors", {}).get("points", {})
    if not points:
        return {}
    told = points[min(points, key=int)]["cpu_ms_per_turn"]
    return {"cpu_ms_actor": told["actors"], "cpu_ms_driver": told["driver"]}


MEASURED: dict[str, Callable[[Mapping[str, Any]], dict[str, float]]] = {
    "retrieval": of_retrieval,
    "world_tokens_saved": of_memo,
    "weight_transfer_vs_copy": of_transfer,
    "gpu": of_gpu,
    "growth": of_growth,
}


def forecast(gpus: int, way: str, constants: Constants) -> dict[str, Any]:
    """How a run on so many GPUs would go, and what would help it most."""
    staleness, remedied = WAYS[way]
    constants = replace(constants, values=constants.values | (REMEDIED if remedied else {}))
    load = workload(gpus, constants)
    cluster = planned(gpus, load, staleness, constants)
    now = simulated(cluster, load, staleness)
    gains = {
        part: now.seconds / simulated(better, load, staleness).seconds - 1 for part, better in twice(cluster).items()
    }
    best = max(gains, key=lambda part: gains[part])
    binds = gains[best] >= WORTH
    policy, dream = cluster.policy.count, cluster.dream.count
    return {
        "episodes": load.episodes,
        "iterations_per_hour": round(3600 / now.seconds, 2),
        "gpus": {"policy": policy, "dream": dream, "learner": gpus - policy - dream},
        "busy": {part: round(share, 3) for part, share in now.busy.items()},
        "gain": {part: round(gain, 3) for part, gain in gains.items()},
        "next": best if binds else "nothing alone",
        "remedy": REMEDIES[best] if binds else "more GPUs for all parts",
    }


def workload(gpus: int, constants: Constants) -> Workload:
    episodes = max(FEWEST_EPISODES, EPISODES_PER_GPU * gpus)
    return Workload(episodes, EPISODE_TURNS, constants["dreamed"])


def simulated(cluster: Cluster, load: Workload, staleness: int) -> Outcome:
    return Run(cluster, load, staleness).outcome(WARM_UPS + ITERATIONS + staleness, WARM_UPS)


def twice(cluster: Cluster) -> dict[str, Cluster]:
    """The cluster with twice the capacity of one part."""
    policy, dream = cluster.policy, cluster.dream
    return {
        "policy engines": replace(cluster, policy=replace(policy, count=2 * policy.count)),
        "experience model": replace(cluster, dream=replace(dream, count=2 * dream.count)),
        "rollout actors": replace(cluster, actors=2 * cluster.actors),
        "replay": replace(cluster, replays=2 * cluster.replays),
        "driver": replace(cluster, driver_s=cluster.driver_s / 2),
        "learner": replace(cluster, learner_s=cluster.learner_s / 2),
        "weight transfer": replace(cluster, transfer_s=cluster.transfer_s / 2, standstill_s=cluster.standstill_s / 2),
        "length of an episode": replace(cluster, policy=policy.faster(), dream=dream.faster()),
    }


def planned(gpus: int, load: Workload, staleness: int, constants: Constants) -> Cluster:
    """GPUs by the work of an iteration; by turns by its root, which then makes the sum of the times least."""
    turns = load.episodes * statistics.mean(load.turns)
    tokens = turns * sum(TURN_TOKENS["policy"])
    work = [
        turns * seconds_of("policy", constants, "full"),
        turns * constants["dreamed"] * seconds_of("dream", constants, "full"),
        tokens * flops_per_token() / learner_flops(constants),
    ]
    policy, dream, learner = shared_out(gpus, [w if staleness else math.sqrt(w) for w in work])
    nodes = math.ceil(gpus / NODE_GPUS)
    transfer, standstill = transfer_seconds(nodes, constants)
    return Cluster(
        policy=engines("policy", policy, constants),
        dream=engines("dream", dream, constants),
        actors=nodes,
        actor_s=constants["cpu_ms_actor"] / 1000,
        retrieval_s=constants["retrieval_ms"] / 1000,
        driver_s=turns * constants["cpu_ms_driver"] / 1000,
        learner_s=learner_seconds(learner, tokens, constants),
        transfer_s=transfer,
        standstill_s=standstill,
    )


def shared_out(gpus: int, weights: Sequence[float]) -> list[int]:
    """`gpus` in proportion to `weights`, at least one each (largest remainders)."""
    spare = gpus - len(weights)
    exact = [spare * weight / sum(weights) for weight in weights]
    counts = [int(share) for share in exact]
    order = sorted(range(len(exact)), key=lambda i: counts[i] - exact[i])
    for index in order[: spare - sum(counts)]:
        counts[index] += 1
    return [1 + count for count in counts]


def seconds_of(who: str, constants: Constants, state: str) -> float:
    """An engine's seconds for a turn: `alone`, or its share of a `full` engine's."""
    read, written = TURN_TOKENS[who]
    return read / constants["read_tokens_per_s"] + written / constants[f"{state}_tokens_per_s"]


def engines(who: str, count: int, constants: Constants) -> Engines:
    alone = seconds_of(who, constants, "alone")
    return Engines(count, alone, knee=alone / seconds_of(who, constants, "full"))


def flops_per_token() -> float:
    length = statistics.mean(EPISODE_TURNS) * sum(TURN_TOKENS["policy"])
    return 6 * WEIGHTS + 6 * LAYERS * WIDTH * length


def learner_flops(constants: Constants) -> float:
    return constants["learner_peak_share"] * 989e12


def learner_seconds(workers: int, tokens: float, constants: Constants) -> float:
    """Whole micro-batches, as many for every worker, and ZeRO's exchange of gradients and weights a minibatch."""
    bins = math.ceil(tokens / MINIBATCHES / (TOKEN_BUDGET * workers))
    computing = bins * TOKEN_BUDGET * flops_per_token() / learner_flops(constants)
    exchange = 2 * 2 * WEIGHTS * (workers - 1) / workers / (constants["network_gb_per_s"] * 1e9)
    return MINIBATCHES * (computing + exchange)


def transfer_seconds(nodes: int, constants: Constants) -> tuple[float, float]:
    """As built: packed and loaded at the measured rate, and sent from node to node, by all that have it."""
    size = 2 * WEIGHTS
    loading = constants["transfer_fixed_s"] + size / (constants["transfer_mb_per_s"] * 1e6)
    sending = math.ceil(math.log2(nodes)) * size / (constants["network_gb_per_s"] * 1e9)
    return loading + sending, loading * constants["standstill_share"]


def checks() -> dict[str, Any]:
    """The simulator against measurements, as far as there are some."""
    growth, pair = kept("growth"), kept("async_vs_sync")
    curve = growth["curves"].get("episodes", {}).get("points", {}) if growth else {}
    found: dict[str, Any] = {}
    if len(curve) > 2:  # the first and the last are fitted
        found["episodes in flight"] = check_in_flight({int(size): point for size, point in curve.items()})
    if pair is not None:
        found["side by side over by turns"] = check_pair(pair)
    return found


def check_in_flight(curve: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """An engine is fitted to the first and the last point of the curve, and foretells those between."""
    least, most = min(curve), max(curve)

    def seconds(size: int, alone: float, knee: float) -> float:
        load = Workload(curve[size]["episodes"], TURNS, dreamed=0.0, in_flight=size)
        return Run(on_cpu(Engines(1, alone, knee, most=128)), load, 0).outcome(1).total_s

    alone = bisected(lambda alone: seconds(least, alone, 1e6), curve[least]["seconds"], 1e-5, 10.0)
    knee = bisected(lambda knee: -seconds(most, alone, knee), -curve[most]["seconds"], 1e-2, 1e4)
    foretold = {size: seconds(size, alone, knee) for size in sorted(curve)}
    return {
        "how": "simulated over measured seconds, the engine fitted to the first and the last size",
        "alone_ms": round(1000 * alone, 2),
        "knee": round(knee, 2),
        "ratio": {size: round(s / curve[size]["seconds"], 3) for size, s in foretold.items()},
    }


def check_pair(measured: Mapping[str, Any]) -> dict[str, Any]:
    """From the shares of the time by turns, foretell what playing beside the learner gains."""
    iterations, shares = 8, measured["share_of_time_by_turns"]
    iteration = statistics.median(measured["seconds"]["staleness 0"]) / iterations
    load = Workload(96, TURNS, dreamed=0.0)
    rest = (1 - shares["rollout"] - shares["learner"]) * iteration

    def run(alone: float, staleness: int) -> Outcome:
        cluster = replace(on_cpu(Engines(1, alone, 8.0, most=128)), learner_s=shares["learner"] * iteration)
        return Run(replace(cluster, driver_s=rest), load, staleness).outcome(iterations)

    alone = bisected(lambda alone: run(alone, 0).total_s, iteration * iterations, 1e-5, 10.0)
    foretold = run(alone, 0).total_s / run(alone, 1).total_s
    return {
        "how": "gain of max_staleness=1, foretold from the shares of the time by turns",
        "simulated": round(foretold, 3),
        "measured": measured["metrics"]["async_vs_sync"],
    }


def on_cpu(engine: Engines) -> Cluster:
    """One engine, and nothing else that takes time."""
    return Cluster(engine, Engines(1, 0.0, 1.0), 1, 0.0, 0.0, 0.0, 0.0, 0.0)


def bisected(rising: Callable[[float], float], wanted: float, low: float, high: float) -> float:
    """Where a rising function has a value, by halving on a logarithmic scale."""
    for _ in range(40):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if rising(middle) < wanted else (low, middle)
    return math.sqrt(low * high)


def table(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """A line a size and way: iterations an hour, GPUs, the busiest parts, and what binds next."""
    rows = [("GPUs", "way", "iterations/h", "policy+dream+learner", "busy (policy, dream, learner)", "next")]
    for gpus, ways in found.items():
        for name, one in ways.items():
            busy = ", ".join(f"{one['busy'][p]:.0%}" for p in ("policy engines", "experience model", "learner"))
            seats = "+".join(str(one["gpus"][who]) for who in ("policy", "dream", "learner"))
            rows.append((gpus, name, f"{one['iterations_per_hour']:.1f}", seats, busy, one["next"]))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


if __name__ == "__main__":
    main()
