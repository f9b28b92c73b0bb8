"""The rollout fleet on real actors, engines and an environment: batches under way, deaths, new weights, an end."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import ray
from tiny_model import brief
from transformers import AutoModelForCausalLM

from dreamgym.actors.episode import EpisodeSpec
from dreamgym.actors.fleet import RolloutFleet
from dreamgym.config import ModelConfig, RunConfig, ScratchModel
from dreamgym.errors import EnvError
from dreamgym.inference.pool import PolicyPool
from dreamgym.inference.weight_transfer import pack_weights
from dreamgym.models.checkpoint import prepare_model
from dreamgym.training.evaluation import Measured
from dreamgym.types import stable_id
from examples.keyhouse import KeyHouse
from tests.waiting import HANG_S, until

TURNS = 12


@pytest.fixture(scope="module")
def policy(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, RunConfig, PolicyPool]]:
    texts = [*KeyHouse().commands(), *(task.instruction for task in KeyHouse().tasks("train", 20, 0))]
    shape = ScratchModel(layers=2, hidden=64, intermediate=128, heads=2, head_dim=32, vocab=400, tied=False)
    home = tmp_path_factory.mktemp("model") / "policy"
    model = brief(prepare_model(ModelConfig(scratch=shape, dtype="float32"), home, texts * 20, seed=0))
    engine = {"max_model_len": 1024, "max_num_seqs": 64, "kv_cache_gib": 0.2, "timeout_s": HANG_S}
    config = RunConfig.model_validate(
        {
            "env": {"name": "examples.keyhouse:KeyHouse", "max_steps": TURNS, "workers": 64, "timeout_s": HANG_S},
            "policy": {"model": {"dtype": "float32"}, "sampling": {"max_tokens": 4}, "engine": engine},
            "train": {"world": "real", "episode_timeout_s": HANG_S},
        }
    )
    pool = PolicyPool.start(model, config.policy, threads=1, num_cpus=0)
    yield model, config, pool
    pool.close()


@pytest.fixture
def fleet(policy: tuple[Path, RunConfig, PolicyPool]) -> Iterator[RolloutFleet]:
    model, config, pool = policy
    fleet = RolloutFleet(config, str(model), pool, None, actors=2)
    yield fleet
    fleet.close()


def episodes(name: str, count: int) -> list[EpisodeSpec]:
    tasks = KeyHouse().tasks("train", 8, 0)
    names = [stable_id(name, index) for index in range(count)]
    return [
        EpisodeSpec(n, tasks[index % len(tasks)], int(n, 16), 1.0, group=str(index // 4), iteration=0, world="real")
        for index, n in enumerate(names)
    ]


def test_batches_under_way_side_by_side_are_each_finished_in_their_order(fleet: RolloutFleet) -> None:
    sent = [episodes("first", 24), episodes("second", 8)]
    first, second = (fleet.begin(batch) for batch in sent)
    for batch, asked in ((second, sent[1]), (first, sent[0])):
        played = fleet.finish(batch)
        assert [t.id for t in played] == [e.id for e in asked]
        assert all(t.status == "ok" and 1 <= len(t.steps) <= TURNS for t in played)
    assert (fleet.counts.played, fleet.counts.replayed) == (32, 0)


def test_the_engine_is_asked_once_a_turn_and_computes_only_what_is_new(
    policy: tuple[Path, RunConfig, PolicyPool], fleet: RolloutFleet
) -> None:
    """Counts, not times. What is new of a prompt follows the turn before; at most a KV block more is read again."""
    before = policy[2].metrics()
    played = fleet.play(episodes("counted", 64))
    grown = {name: count - before[name] for name, count in policy[2].metrics().items()}
    turns = sum(len(t.steps) for t in played)
    samples = [sample for t in played for sample in t.samples]
    assert grown["requests"] == turns
    assert grown["generated_tokens"] == sum(sum(sample.mask) for sample in samples)
    computed = grown["prompt_tokens"] - grown["cached_prompt_tokens"]
    assert computed <= sum(len(sample.ids) for sample in samples) + 32 * turns
    assert computed < 0.5 * grown["prompt_tokens"]


def answers(actor: Any) -> bool:
    try:
        return bool(ray.get(actor.ping.remote()) == "pong")
    except ray.exceptions.RayActorError:
        return False


def test_an_actor_that_dies_costs_a_replay_of_what_it_had_and_nothing_else(
    policy: tuple[Path, RunConfig, PolicyPool], fleet: RolloutFleet
) -> None:
    fleet.play(episodes("warm-up", 4))
    sent = episodes("doomed", 64)
    policy[2].sleep()  # so that none is done before the actor dies
    batch, other = fleet.begin(sent), fleet.begin(episodes("other", 8))
    ray.kill(fleet._handles[0], no_restart=False)
    policy[2].wake()
    played = fleet.finish(batch)
    assert [t.id for t in played] == [e.id for e in sent]
    assert {t.status for t in played} == {"ok"}
    assert 0 < fleet.counts.replayed <= 40
    until("the dead actor", lambda: all(map(answers, fleet._handles)), pause_s=0.2)  # it knows of no other batch
    assert len(fleet.finish(other)) == 8


def test_an_environment_that_cannot_be_built_ends_the_run_with_its_reason(
    policy: tuple[Path, RunConfig, PolicyPool],
) -> None:
    model, config, pool = policy
    wrong = config.model_copy(update={"env": config.env.model_copy(update={"options": {"doors": 3}})})
    fleet = RolloutFleet(wrong, str(model), pool, None, actors=1)
    try:
        with pytest.raises(EnvError, match=r"cannot be built with doors"):
            fleet.play(episodes("homeless", 4))
        assert fleet.counts.replayed == 0
    finally:
        fleet.close()


def test_transitions_of_an_attempt_that_failed_are_counted(policy: tuple[Path, RunConfig, PolicyPool]) -> None:
    model, config, pool = policy
    env = config.env.model_copy(update={"name": "tests.ray.brittle:Brittle", "workers": 1})
    sampling = config.policy.sampling.model_copy(update={"max_tokens": 200})  # no answer is cut off
    settings = config.policy.model_copy(update={"sampling": sampling})
    changed = config.model_copy(update={"env": env, "policy": settings})
    fleet = RolloutFleet(changed, str(model), pool, None, actors=1)
    try:
        played = fleet.play(episodes("brittle", 5))
    finally:
        fleet.close()
    again = [t for t in played if t.info["attempts"] == 2]
    assert {t.status for t in played} == {"ok"}
    assert again and all(t.lost == 2 for t in again)  # the third was not answered
    assert Measured(played).steps == sum(len(t.steps) for t in played) + 2 * len(again)


def test_dreams_are_played_again_by_all_actors(fleet: RolloutFleet) -> None:
    fleet.play(episodes("warm-up", 4))
    dreams = fleet.play(episodes("dreamed", 7))
    found = fleet.replay_for_real(dreams)
    assert [(a.dreamed, a.won, a.steps, a.parted) for a in found] == [
        (t.success, t.success, len(t.steps), False) for t in dreams
    ]
    assert fleet.replay_for_real([]) == []


def test_weights_that_arrive_under_way_sample_the_tokens_that_follow(
    policy: tuple[Path, RunConfig, PolicyPool], fleet: RolloutFleet
) -> None:
    model, _, pool = policy
    fleet.play(episodes("warm-up", 4))
    weights = list(AutoModelForCausalLM.from_pretrained(model, dtype="float32").named_parameters())
    parted = False
    while not parted:  # again, where this process was not awake while the episodes were played
        before, asked = max(pool.versions()), pool.metrics()["requests"]
        batch = fleet.begin(episodes("updated", 64))
        until("the first turns", lambda asked=asked: pool.metrics()["requests"] >= asked + 32, pause_s=0.01)
        pool.update_weights(pack_weights(weights, before + 1))
        samples = [sample for t in fleet.finish(batch) for sample in t.samples]
        versions = [[v for v, m in zip(s.versions, s.mask, strict=True) if m] for s in samples]
        assert all(of == sorted(of) for of in versions)
        parted = any(of[0] < of[-1] for of in versions)
    assert {v for of in versions for v in of} == {before, before + 1}


def test_what_is_abandoned_ends_at_once_and_the_fleet_plays_on(
    policy: tuple[Path, RunConfig, PolicyPool], fleet: RolloutFleet
) -> None:
    """Of 256 episodes none has a second turn: the first of those that got a place are answered, and that is all."""
    _, config, pool = policy
    fleet.play(episodes("warm-up", 4))
    before = pool.metrics()["requests"]
    pool.sleep()
    fleet.begin(episodes("abandoned", 256))
    until("the first turns", lambda: pool.metrics()["waiting"] > 0)
    fleet.abandon()
    pool.wake()
    played = fleet.play(episodes("next", 4))
    assert len(played) == 4
    abandoned = pool.metrics()["requests"] - before - sum(len(t.steps) for t in played)
    assert abandoned <= 2 * config.policy.engine.max_num_seqs, "as many places as two actors have"
    assert fleet.counts.env_failed == 0


def test_actors_hold_back_where_the_engine_has_more_than_it_can_run(
    fleet: RolloutFleet, policy: tuple[Path, RunConfig, PolicyPool]
) -> None:
    """Two actors offer twice as many turns as the engine has seats; what waits for one soon is less than a quarter."""
    _, config, pool = policy
    batch = fleet.begin(episodes("full", 512))
    seen: list[tuple[float, float]] = []
    with ThreadPoolExecutor(1) as beside:
        played = beside.submit(fleet.finish, batch)
        while not played.done():
            now = pool.metrics()
            seen.append((now["requests"], now["waiting"]))
            time.sleep(0.02)
    assert all(t.status == "ok" for t in played.result())
    seats = config.policy.engine.max_num_seqs
    begun, ended = seen[0][0], pool.metrics()["requests"]
    waiting = [count for answered, count in seen if begun + (ended - begun) / 3 <= answered < ended]
    assert statistics.mean(waiting) < 0.25 * seats
