"""What can be watched of a run: metrics at a node's port, an engine's load, and a failed episode in the logs."""

from __future__ import annotations

import asyncio
import re
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import ray
from tiny_model import brief

from dreamgym.actors.episode import EpisodeSpec
from dreamgym.actors.fleet import RolloutFleet
from dreamgym.actors.rollout import WorldAddress
from dreamgym.config import ModelConfig, RunConfig, SamplingConfig, ScratchModel
from dreamgym.inference import engine_stats
from dreamgym.inference.engine import TokenEngine
from dreamgym.inference.pool import PolicyPool
from dreamgym.models.checkpoint import prepare_model
from dreamgym.replay.actor import ReplayClient, start_replay
from dreamgym.replay.records import Candidate, from_trajectory
from dreamgym.runtime.cluster import ensure_ray
from dreamgym.serve.app import WORLD, DreamApp, start_dream
from dreamgym.telemetry.ray_metrics import RayMetrics
from dreamgym.types import Transition, stable_id
from examples.keyhouse import KeyHouse
from tests.waiting import HANG_S, until


@dataclass
class Watched:
    config: RunConfig
    model: Path
    logs: Path
    pool: PolicyPool
    dream: DreamApp
    replay: ReplayClient
    fleet: RolloutFleet


@pytest.fixture(scope="module")
def watched(no_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """A policy and a dream that were never trained, so that no dream step can be read; Ray with its dashboard."""
    home = tmp_path_factory.mktemp("model") / "llama"
    shape = ScratchModel(layers=2, hidden=64, intermediate=128, heads=2, head_dim=32, vocab=400, tied=False)
    made = prepare_model(ModelConfig(scratch=shape, dtype="float32"), home, KeyHouse().commands() * 20, seed=0)
    model = brief(made)
    engine = {"max_model_len": 512, "max_num_seqs": 4, "kv_cache_gib": 0.1, "export_stats": True}
    part = {"model": {"dtype": "float32"}, "sampling": {"max_tokens": 32}, "engine": engine}
    config = RunConfig.model_validate(
        {
            "name": "watched",
            "out": str(home.parent),
            "log_level": "debug",
            "env": {"name": "examples.keyhouse:KeyHouse", "max_steps": 4},
            "policy": part,
            "world": {**part, "attempts": 2},
        }
    )
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=True,
        log_to_driver=False,
        logging_level="error",
        _system_config={"metrics_report_interval_ms": 500},
    )
    context = ray.get_runtime_context()
    logs = Path(context.get_temp_dir(), context.get_session_name(), "logs")
    pool = PolicyPool.start(model, config.policy, threads=1, num_cpus=0)
    replay = ReplayClient(start_replay(config.replay, 0, "watched"), 60.0)
    dream = start_dream(config, model, replay, threads=1)
    fleet = RolloutFleet(config, str(model), pool, WorldAddress(dream.name, WORLD), actors=1)
    yield Watched(config, model, logs, pool, dream, replay, fleet)
    fleet.close()
    dream.close()
    pool.close()


def scraped(name: str, **labels: str) -> float | None:
    """The sum of a metric's samples with these labels at the node's port, as Prometheus reads it."""
    port = ray.nodes()[0]["MetricsExportPort"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=HANG_S) as answer:
        text = answer.read().decode()
    values = [
        float(line.rsplit(" ", 1)[1])
        for line in text.splitlines()
        if line.startswith(name + "{") and all(f'{key}="{value}"' in line for key, value in labels.items())
    ]
    return sum(values) if values else None


def test_what_the_loop_writes_is_at_the_metrics_port_of_the_node(watched: Watched) -> None:
    assert ensure_ray().watched
    sink = RayMetrics("watched-seed0")
    sink.write("iteration", 1, {"dream/success": 0.25, "fleet/replayed": 3, "fidelity/policy/state_exact": 0.5})
    sink.write("iteration", 2, {"dream/success": 0.625, "fleet/replayed": 5})
    sink.write("iteration", 3, {"dream/success": 0.75, "fleet/replayed": 2})  # went on with a new fleet
    tag = {"run": "watched-seed0"}
    until("the metric", lambda: scraped("ray_dreamgym_loop_iteration", **tag) == 3)
    assert scraped("ray_dreamgym_dream_success", **tag) == 0.75
    assert scraped("ray_dreamgym_fidelity_policy_state_exact", **tag) == 0.5
    until("the metric", lambda: scraped("ray_dreamgym_fleet_replayed_total", **tag) == 7)


def test_a_failed_episode_can_be_followed_through_the_logs_of_the_parts(watched: Watched) -> None:
    task = replace(KeyHouse().tasks("train", 1, 0)[0], first_state="you are in the hall")
    name = stable_id("followed")
    episode = EpisodeSpec(name, task, 7, 1.0, group="g", iteration=0, world="dream")
    (lost,) = watched.fleet.play([episode])
    assert lost.status == "env_failed"
    lost.steps.append(Transition("hall", "go north", "kitchen", 0.0, False))
    told = asyncio.run(watched.replay.screen([Candidate(i, lost.status) for i in from_trajectory(lost, "watched")]))
    assert [v.reason for v in told] == ["env_failed"]

    expected = [
        r"DEBUG dreamgym\.serve\.experience dream step {id} action=",
        r"WARNING dreamgym\.serve\.experience asked again {id} attempt=1 reason=\"",
        r"WARNING dreamgym\.actors\.rollout retry {id} attempt=0 world=dream step=0 reason=\"the dream gave no",
        r"WARNING dreamgym\.actors\.rollout env_failed {id} attempt=1 world=dream step=0 reason=\"the dream gave",
        r"INFO dreamgym\.actors\.rollout episode {id} task=\S+ status=env_failed steps=0 success=False",
        r"INFO dreamgym\.replay\.actor refused {id} step=0 reason=env_failed",
    ]

    def lines() -> str:
        return "\n".join(file.read_text(errors="replace") for file in watched.logs.rglob("*worker-*.err"))

    patterns = [line.format(id=f"trajectory={name}") for line in expected]
    for pattern in patterns:
        until(f"a line {pattern}", lambda pattern=pattern: re.search(pattern, lines()))
    assert watched.fleet.metrics() | {"played": 0} == {
        "played": 0, "env_failed": 1, "retried": 1, "late": 0, "replayed": 0, "restarts": 0, "healthy": 1
    }  # fmt: skip


def test_the_replicas_of_the_dream_export_what_they_could_not_read(watched: Watched) -> None:
    counts = asyncio.run(watched.dream.world.metrics())
    assert (counts["steps"], counts["reasked"], counts["unparsed"]) == (2, 4, 2)
    until("the metric", lambda: scraped("ray_dreamgym_world_reasked_total", run="watched-seed0") == 4)
    until("the metric", lambda: scraped("ray_serve_deployment_replica_healthy", deployment=WORLD) == 1)


def test_an_engine_tells_its_load_while_it_works_and_vllm_exports_its_own(watched: Watched) -> None:
    sampling = SamplingConfig(max_tokens=200)

    async def seen() -> list[dict[str, float]]:
        requests = [([5, 6, 7, 8], seed) for seed in range(24)]
        loads = []
        async for _ in watched.pool.generate_many(requests, sampling=sampling, stop_ids=[]):
            loads.append(await asyncio.to_thread(watched.pool.metrics))
        return loads

    loads = asyncio.run(seen())
    while max(load["running"] for load in loads) < 4 or max(load["waiting"] for load in loads) == 0:
        loads += asyncio.run(seen())  # this process was not awake while the engine was full
    assert max(load["running"] for load in loads) == 4
    assert max(load["waiting"] for load in loads) > 0
    assert 0 < max(load["kv_usage"] for load in loads) <= 1
    rest = watched.pool.metrics()
    assert (rest["running"], rest["waiting"], rest["kv_usage"]) == (0, 0, 0)
    made = rest["generated_tokens"]
    policy = {"model_name": str(watched.model)}
    until("the metric", lambda: (scraped("ray_vllm_generation_tokens_total", **policy) or 0) >= made)
    assert scraped("ray_vllm_num_requests_running", **policy) is not None
    assert scraped("ray_vllm_kv_cache_usage_perc", **policy) is not None


async def test_the_load_that_a_scheduler_elsewhere_tells_is_the_one_that_it_has(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU the scheduler is in another process; here its reports can be held against the scheduler itself."""
    told = engine_stats.LoadLogger()
    monkeypatch.setattr(engine_stats, "stat_loggers", lambda *_: [lambda _config, _index: told])
    engine = await TokenEngine(watched.model, watched.config.policy.engine, dtype="float32", threads=1).start()
    assert told.load() == {"running": 0.0, "waiting": 0.0, "kv_usage": 0.0}
    lengths = [20] + [100] * 11
    calls = [
        asyncio.ensure_future(engine.generate([5, 6, 7], SamplingConfig(max_tokens=n), stop_ids=[], seed=seed))
        for seed, n in enumerate(lengths)
    ]
    await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    assert told.load()["running"] in (3, 4)  # of four seats one was just given up
    assert told.load()["waiting"] > 0 and told.load()["kv_usage"] > 0
    await asyncio.gather(*calls)
    now = engine.metrics()
    assert told.load() == {name: now[name] for name in ("running", "waiting", "kv_usage")}
    await engine.close()
