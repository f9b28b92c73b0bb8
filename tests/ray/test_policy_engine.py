"""Policy engines on real vLLM and Ray: logprobs against a plain forward pass, weight transfers, refusals, deadlines."""

from __future__ import annotations

import asyncio
import dataclasses
import re
import socket
from collections.abc import Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import ray
import torch
from small_llama import ENGINE, HALF, VOCABULARY, agree, gaps, llama, requests

from dreamgym.config import EngineConfig, ModelConfig, PolicyConfig, SamplingConfig
from dreamgym.errors import EngineError, ModelError, WeightSyncError
from dreamgym.inference.engine import ContextFull, Generation, TokenEngine
from dreamgym.inference.pool import PolicyPool, Request
from dreamgym.inference.weight_transfer import WeightPayload, pack_weights
from tests.waiting import HANG_S

T = TypeVar("T")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(coroutine)


async def ask(
    pool: PolicyPool, batch: list[Request], sampling: SamplingConfig, stop: list[int], whose: Sequence[str] = ()
) -> list[Generation | EngineError]:
    """All answers, in the order of the requests."""
    stream = pool.generate_many(batch, sampling=sampling, stop_ids=stop, whose=whose)
    found = [answer async for some in stream for answer in some]
    assert sorted(place for place, _ in found) == list(range(len(batch)))
    return [answer for _, answer in sorted(found, key=lambda pair: pair[0])]


def answers(pool: PolicyPool, batch: list[Request], sampling: SamplingConfig, stop: list[int]) -> list[Generation]:
    found = run(ask(pool, batch, sampling, stop))
    assert all(isinstance(answer, Generation) for answer in found)
    return [answer for answer in found if isinstance(answer, Generation)]


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def setting(request: pytest.FixtureRequest, local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A pool of one engine, and the model it was started from."""
    model = llama(0, tied=request.param)
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    pool = PolicyPool.start(folder, PolicyConfig(model=HALF, engine=ENGINE), num_cpus=1)
    yield pool, model, request.param
    pool.close()


def next_version(pool: PolicyPool) -> int:
    return pool.versions()[0] + 1


def test_a_sleeping_engine_lets_requests_wait_and_then_answers_as_before(setting: Any) -> None:
    pool, _, _ = setting
    greedy, batch = SamplingConfig(temperature=0, max_tokens=16), requests(8)
    before = answers(pool, batch, greedy, [])

    async def story() -> list[Generation | EngineError]:
        await asyncio.to_thread(pool.sleep)
        asked = asyncio.create_task(ask(pool, batch, greedy, []))
        assert not (await asyncio.wait([asked], timeout=1.0))[0]
        await asyncio.to_thread(pool.wake)
        return await asked

    assert [answer.ids for answer in run(story()) if isinstance(answer, Generation)] == [a.ids for a in before]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_sleeping_engine_leaves_its_gpu_to_others(local_ray: None, tmp_path: Path) -> None:
    llama(0, tied=True).save_pretrained(tmp_path)
    config = PolicyConfig(engine=ENGINE.model_copy(update={"gpu_memory_utilization": 0.4}))
    pool = PolicyPool.start(tmp_path, config, gpus=0.5, colocated=True)
    awake = torch.cuda.mem_get_info()[0]
    pool.sleep()
    asleep = torch.cuda.mem_get_info()[0]
    pool.wake()
    batch = requests(8)
    found = answers(pool, batch, SamplingConfig(max_tokens=16), [])
    pool.close()
    assert asleep - awake > 0.2 * torch.cuda.mem_get_info()[1]
    assert agree(gaps(llama(0, tied=True), batch, found))


def test_logprobs_after_load_and_after_every_transfer(setting: Any) -> None:
    pool, model, tied = setting
    sampling, batch = SamplingConfig(max_tokens=48), requests(48)
    found = answers(pool, batch, sampling, [])
    assert agree(gaps(model, batch, found))
    assert {version for answer in found for version in answer.versions} == {pool.versions()[0]}
    for step in range(2):
        newer, version = llama(100 + step, tied=tied), next_version(pool)
        pool.update_weights(pack_weights(newer.named_parameters(), version))
        found = answers(pool, batch, sampling, [])
        assert agree(gaps(newer, batch, found))
        assert not agree(gaps(model, batch, found))
        assert {v for answer in found for v in answer.versions} == {version}


def test_a_checkpoint_on_disk_becomes_the_weights_of_a_running_engine(setting: Any, tmp_path: Path) -> None:
    pool, _, tied = setting
    other, version = llama(55, tied=tied), next_version(pool)
    other.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    pool.load(tmp_path)
    batch = requests(48)
    assert pool.versions() == [version]
    assert agree(gaps(other, batch, answers(pool, batch, SamplingConfig(max_tokens=48), [])))


def test_a_folder_without_weights_is_refused(setting: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no \*\.safetensors file"):
        setting[0].load(tmp_path)


def test_logprobs_are_those_of_the_tempered_distribution(setting: Any) -> None:
    pool, _, tied = setting
    model = llama(7, tied=tied)
    pool.update_weights(pack_weights(model.named_parameters(), next_version(pool)))
    batch = requests(24, seed=1)
    found = answers(pool, batch, SamplingConfig(max_tokens=48, temperature=0.6), [])
    assert agree(gaps(model, batch, found, temperature=0.6))
    assert not agree(gaps(model, batch, found, temperature=1.0))


def test_greedy_answers_are_the_argmax(setting: Any) -> None:
    pool, _, tied = setting
    model = llama(8, tied=tied)
    pool.update_weights(pack_weights(model.named_parameters(), next_version(pool)))
    batch = requests(4, seed=2)
    found = answers(pool, batch, SamplingConfig(max_tokens=16, temperature=0.0), [])
    assert agree(gaps(model, batch, found))
    for (prompt, _), answer in zip(batch, found, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + answer.ids])).logits[0, len(prompt) - 1 : -1].float()
        chosen = logits.gather(1, torch.tensor(answer.ids)[:, None])[:, 0]
        assert bool((logits.max(-1).values - chosen <= 0.1).all())


@pytest.mark.parametrize("fault", ["checksum", "version"])
def test_a_wrong_payload_is_refused_and_the_old_weights_stay(setting: Any, fault: str) -> None:
    pool, _, tied = setting
    model, version = llama(20, tied=tied), next_version(pool)
    pool.update_weights(pack_weights(model.named_parameters(), version))
    bad = pack_weights(llama(21, tied=tied).named_parameters(), version + (fault == "checksum"))
    if fault == "checksum":
        bad = dataclasses.replace(bad, checksum=bad.checksum ^ 1)
    with pytest.raises(WeightSyncError, match=fault):
        pool.update_weights(bad)
    assert pool.versions() == [version]
    batch = requests(16)
    found = answers(pool, batch, SamplingConfig(max_tokens=32), [])
    assert agree(gaps(model, batch, found))
    assert {v for answer in found for v in answer.versions} == {version}


def test_requests_in_flight_survive_an_update_and_carry_both_versions(setting: Any) -> None:
    pool, _, tied = setting
    old, new, batch = llama(30, tied=tied), llama(31, tied=tied), requests(16, seed=3)

    async def overlap(payload: WeightPayload) -> list[Any]:
        pending = asyncio.ensure_future(ask(pool, batch, SamplingConfig(max_tokens=300), []))
        while not pending.done() and not (await asyncio.to_thread(pool.metrics))["running"]:
            pass
        await asyncio.to_thread(pool.update_weights, payload)
        return await pending

    switched = 0
    while not switched:  # again, where this process was not awake while the engine worked
        version = next_version(pool)
        pool.update_weights(pack_weights(old.named_parameters(), version))
        found = run(overlap(pack_weights(new.named_parameters(), version + 1)))
        switched = sum(0 < answer.versions.count(version) < 300 for answer in found)
    under_its_own = []
    for request, answer in zip(batch, found, strict=True):
        assert answer.versions == sorted(answer.versions)
        assert len(answer.ids) == 300
        assert set(answer.versions) <= {version, version + 1}
        before = answer.versions.count(version)
        under_its_own += [gaps(old, [request], [answer])[:before], gaps(new, [request], [answer])[before:]]
    assert agree(np.concatenate(under_its_own))


def test_old_prefixes_are_not_reused_and_new_ones_are(setting: Any) -> None:
    pool, _, tied = setting
    model = llama(40, tied=tied)
    batch, sampling = requests(1, length=200, seed=4), SamplingConfig(max_tokens=4)
    answers(pool, batch, sampling, [])
    assert answers(pool, batch, sampling, [])[0].cached_tokens >= 128
    pool.update_weights(pack_weights(model.named_parameters(), next_version(pool)))
    assert answers(pool, batch, sampling, [])[0].cached_tokens == 0


def test_the_stop_token_ends_the_answer_and_is_part_of_it(setting: Any) -> None:
    pool, _, _ = setting
    stop = list(range(0, VOCABULARY, 8))
    found = answers(pool, requests(32, seed=5), SamplingConfig(max_tokens=64), stop)
    assert any(answer.finish_reason == "stop" for answer in found)
    for answer in found:
        assert len(answer.ids) == len(answer.logprobs) == len(answer.versions) <= 64
        assert (answer.ids[-1] in stop) == (answer.finish_reason == "stop")
        assert not set(answer.ids[:-1]) & set(stop)


def test_the_same_seed_gives_the_same_answer(setting: Any) -> None:
    pool, _, _ = setting
    prompt, sampling = requests(1, seed=6)[0][0], SamplingConfig(max_tokens=24)
    first, second, third = (answers(pool, [(prompt, seed)], sampling, [])[0].ids for seed in (1, 1, 2))
    assert first == second != third


def test_the_context_window_bounds_prompt_and_answer(setting: Any) -> None:
    pool, _, _ = setting
    (long, seed), (full, _) = requests(1, length=500)[0], requests(1, length=512)[0]
    assert len(answers(pool, [(long, seed)], SamplingConfig(max_tokens=96), [])[0].ids) == 12
    with pytest.raises(ContextFull, match="512 tokens"):
        run(pool.generate(full, seed=0, sampling=SamplingConfig(), stop_ids=[]))
    mixed = run(ask(pool, [(full, 0), (long, 0)], SamplingConfig(), []))
    assert [type(answer) for answer in mixed] == [ContextFull, Generation]


def test_an_id_outside_the_vocabulary_is_refused_before_it_reaches_the_model(setting: Any) -> None:
    pool, _, _ = setting
    with pytest.raises(EngineError, match="tokenizer that belongs"):
        run(pool.generate([1, VOCABULARY], seed=0, sampling=SamplingConfig(), stop_ids=[]))
    assert answers(pool, requests(1), SamplingConfig(max_tokens=2), [])


def test_a_short_answer_does_not_wait_for_a_long_one(setting: Any) -> None:
    pool, _, _ = setting
    (long, _), (short, _) = requests(1, length=40, seed=4)[0], requests(1, length=508, seed=4)[0]

    async def order() -> list[int]:
        stream = pool.generate_many([(long, 0), (short, 0)], sampling=SamplingConfig(max_tokens=400), stop_ids=[])
        return [place async for some in stream for place, _ in some]

    assert run(order()) == [1, 0]


def test_metrics_count_what_was_asked_and_answered(setting: Any) -> None:
    pool, _, _ = setting
    before = pool.metrics()
    found = answers(pool, requests(5, length=33, seed=9), SamplingConfig(max_tokens=7), [])
    after = pool.metrics()
    grown = {name: after[name] - before[name] for name in after}
    assert sum(len(answer.ids) for answer in found) == 35
    assert (grown["requests"], grown["prompt_tokens"], grown["generated_tokens"]) == (5, 165, 35)


def test_two_engines_start_from_a_folder_share_the_work_and_miss_a_deadline(local_ray: None, tmp_path: Path) -> None:
    llama(0, tied=True).save_pretrained(tmp_path)
    pool = PolicyPool.start(tmp_path, PolicyConfig(model=HALF, engines=2, engine=ENGINE), num_cpus=1)
    try:
        answers(pool, requests(8), SamplingConfig(max_tokens=4), [])
        assert pool.metrics()["requests"] == 8
        turns_of_an_episode_find_what_was_read(pool)
        payload = pack_weights(llama(1, tied=True).named_parameters(), 1)
        pool.update_weights(payload, timeout_s=HANG_S)
        assert pool.versions() == [1, 1]
        bound(pool, 3.0)
        late = run(ask(pool, requests(256), SamplingConfig(max_tokens=470), []))
        assert any(isinstance(answer, EngineError) and "3 s" in str(answer) for answer in late)
        bound(pool, HANG_S)
        assert len(answers(pool, requests(1), SamplingConfig(max_tokens=2), [])) == 1
    finally:
        pool.close()


def bound(pool: PolicyPool, timeout_s: float) -> None:
    """Change the engines' own deadline, which is shorter than the pool's."""

    def change(engine: Any) -> None:
        engine._engine._config.timeout_s = timeout_s

    ray.get([engine.__ray_call__.remote(change) for engine in pool.engines])


def turns_of_an_episode_find_what_was_read(pool: PolicyPool) -> None:
    """Sent the other way round, the second turns would each meet the other engine, were they not told apart."""
    names = [f"episode {n}" for n in range(8)]
    opening = requests(8, length=64, seed=3)
    first = run(ask(pool, opening, SamplingConfig(max_tokens=4), [], names))
    second = [([*ids, *answer.ids, 7, 7], seed) for (ids, seed), answer in zip(opening, first, strict=True)]
    before = pool.metrics()["cached_prompt_tokens"]
    run(ask(pool, second[::-1], SamplingConfig(max_tokens=4), [], names[::-1]))
    assert pool.metrics()["cached_prompt_tokens"] - before == 8 * 64


def test_an_episode_stays_with_its_engine_unless_that_has_far_more_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = PolicyPool([None, None], ["a", "b"], 1.0)
    home = pool._book("x")
    assert [pool._book("x") for _ in range(4)] == [home] * 4
    assert pool._book("x") == 1 - home == pool._book("x")  # 5 against 0 is too much, and there it stays
    pool._outstanding = [10, 10]
    assert {pool._book(f"new {n}") for n in range(8)} == {0, 1}
    assert sum(pool._outstanding) == 28 and max(pool._outstanding) == 14
    monkeypatch.setattr("dreamgym.inference.pool.REMEMBERED", 2)
    forgetful = PolicyPool([None, None], ["a", "b"], 1.0)
    for name in ("p", "q", "p", "r"):
        forgetful._book(name)
    assert list(forgetful._homes) == ["p", "r"]


def test_a_tied_head_is_fresh_in_float32_too(local_ray: None, tmp_path: Path) -> None:
    """In float32 the head runs on vLLM's packed copy of the embedding, which a transfer has to make anew."""
    model, newer = (llama(seed, tied=True, dtype=torch.float32) for seed in (0, 1))
    model.save_pretrained(tmp_path)
    config = PolicyConfig(engine=ENGINE, model=ModelConfig(dtype="float32"))
    pool = PolicyPool.start(tmp_path, config, num_cpus=1)
    try:
        pool.update_weights(pack_weights(newer.named_parameters(), 1))
        batch = requests(16)
        assert agree(gaps(newer, batch, answers(pool, batch, SamplingConfig(max_tokens=32), [])))
    finally:
        pool.close()


def test_a_model_that_is_not_there_is_one_sentence(local_ray: None, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nowhere"):
        PolicyPool.start(tmp_path / "nowhere", PolicyConfig(engine=ENGINE), num_cpus=1)


def test_a_core_that_is_a_process_of_its_own_says_where_its_words_are(local_ray: None, tmp_path: Path) -> None:
    """As on a GPU; the core fails, since it is to have more memory than there is."""
    llama(0, tied=True).save_pretrained(tmp_path)

    class GpuLike(TokenEngine):
        def _on_cpu(self) -> bool:
            return False

    class Starter:  # in here, so that it travels by value
        async def told(self) -> str:
            config = EngineConfig(max_model_len=256, gpu_memory_utilization=1.0, enforce_eager=True)
            try:
                await GpuLike(tmp_path, config, dtype="float32").start()
            except ModelError as error:
                return str(error)
            return "it started"

    told = ray.get(ray.remote(Starter).options(num_cpus=1).remote().told.remote(), timeout=300)
    found = re.search(r"its own words are in (\S+) on (\S+)$", told)
    assert found is not None, told
    assert found[2] == socket.gethostname()
    words = Path(found[1]).read_text()
    assert "Process EngineCore" in words and "initialization failed" in words
