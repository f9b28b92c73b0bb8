"""Updates of an engine that are late, whose core is in processes of its own, or that come from GPU to GPU."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from gloo import GlooGroup, cuda_there_is_none
from small_llama import ENGINE, HALF, agree, gaps, llama, requests

from dreamgym.config import SamplingConfig
from dreamgym.errors import WeightSyncError
from dreamgym.inference import transfer_backend
from dreamgym.inference.engine import Generation, TokenEngine
from dreamgym.inference.policy_engine import PolicyEngine
from dreamgym.inference.pool import PolicyPool
from dreamgym.inference.weight_transfer import offered, pack_weights, register
from dreamgym.inference.weight_updates import Updates
from dreamgym.learner.direct import Sender

SAMPLING = SamplingConfig(max_tokens=32)


class EngineOfProcesses(TokenEngine):
    """As it is on GPUs: the core in a process of its own, and each rank of it in another."""

    def _build(self) -> None:
        from vllm.v1.engine.async_llm import AsyncLLM

        self._llm = AsyncLLM.from_vllm_config(self._vllm_config(on_cpu=False), disable_log_stats=True)


async def answers(engine: TokenEngine, seed: int) -> list[Generation]:
    calls = (engine.generate(ids, SAMPLING, stop_ids=[], seed=s) for ids, s in requests(16, seed=seed))
    return await asyncio.gather(*calls)


@contextlib.contextmanager
def update(model: torch.nn.Module, version: int, in_process: bool) -> Iterator[dict[str, Any]]:
    """What the backend is told of a model's weights, as long as they are there."""
    payload = pack_weights(model.named_parameters(), version)
    with offered(payload, in_process) as name:
        manifest = [list(astuple(entry)) for entry in payload.manifest]
        yield {"parts": [{"name": name, "manifest": manifest, "checksum": payload.checksum}]}


async def test_an_update_that_is_late_leaves_the_engine_still_and_the_next_one_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    llama(0, tied=True).save_pretrained(tmp_path)
    register()
    engine = TokenEngine(tmp_path, ENGINE, dtype=HALF.dtype, weight_transfer=True, threads=1)
    await engine.start()
    updates, arrived, taken = Updates(engine, 60.0), threading.Event(), transfer_backend.taken
    monkeypatch.setattr(transfer_backend, "taken", lambda name: arrived.wait() and taken(name))
    late, newer = llama(1, tied=True), llama(2, tied=True)
    try:
        with update(late, 1, engine.in_process) as told:
            updates.timeout_s = 2.0
            with pytest.raises(WeightSyncError, match=r"weights 1 in 2 s; raise policy\.engine\.timeout_s"):
                await updates.load(told, 1)
            asked = asyncio.ensure_future(answers(engine, 0))
            assert engine.version == 0 and not (await asyncio.wait([asked], timeout=1.0))[0]
            arrived.set()
            updates.timeout_s = 60.0
            with update(newer, 2, engine.in_process) as told:
                await updates.load(told, 2)
        found = await asked
    finally:
        arrived.set()
        await engine.close()
    assert {version for answer in found for version in answer.versions} == {2}
    assert agree(gaps(newer, requests(16), found)) and not agree(gaps(late, requests(16), found))


@pytest.mark.slow
async def test_an_engine_of_several_processes_takes_new_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    older, newer = llama(0, tied=True), llama(1, tied=True)
    older.save_pretrained(tmp_path)
    register()
    two = ENGINE.model_copy(update={"tensor_parallel": 2})
    engine = EngineOfProcesses(tmp_path, two, dtype=HALF.dtype, weight_transfer=True)
    await engine.start()
    try:
        assert not engine.in_process
        assert agree(gaps(older, requests(16), await answers(engine, 0)))
        with update(newer, 1, engine.in_process) as told:
            await Updates(engine, 120.0).load(told, 1)
        found = await answers(engine, 0)
    finally:
        await engine.close()
    assert agree(gaps(newer, requests(16), found)) and not agree(gaps(older, requests(16), found))
    assert {version for answer in found for version in answer.versions} == {1}


class GlooEngine(PolicyEngine):
    """An engine that meets the learner by gloo in place of NCCL."""

    async def ready(self) -> int:
        from vllm.distributed.weight_transfer import nccl_engine

        cuda_there_is_none()
        nccl_engine.worker_init_process_group = lambda told, parallel: GlooGroup(  # type: ignore[assignment]
            told.master_address, told.master_port, told.rank_offset + parallel.rank, told.world_size
        )
        return await super().ready()


@ray.remote(num_cpus=0)
class Recorder:
    """Notes what an engine is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []

    def connect(self, backend: str, init_info: dict[str, Any]) -> None:
        self.told.append((backend, init_info))

    def begin(self, version: int) -> None:
        self.told.append(("begin", version))

    def receive(self, direct: dict[str, Any]) -> None:
        self.told.append(("receive", direct))

    def received(self, checksum: int) -> dict[str, float]:
        self.told.append(("received", checksum))
        return {"seconds": 0.5, "version": 4, "checksum": checksum}

    def all(self) -> list[tuple[str, Any]]:
        return self.told


@pytest.fixture
def sender(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes the learner's end, over gloo in place of NCCL; called with the model and the engines."""
    from vllm.distributed.weight_transfer import nccl_engine

    cuda_there_is_none(monkeypatch)

    def opened(told: Any) -> GlooGroup:
        return GlooGroup(told.master_address, told.master_port, 0, told.world_size)

    monkeypatch.setattr(nccl_engine, "open_trainer_endpoint", opened)

    def made(model: torch.nn.Module, engines: list[Any], ranks: int, port: int) -> Sender:
        source = (model, lambda names: contextlib.nullcontext())
        return Sender("nccl", 0, source, engines, ranks, ("127.0.0.1", port), 60.0)

    return made


def test_weights_come_by_vllms_nccl_backend(local_ray: None, tmp_path: Path, sender: Any) -> None:
    """All of it but NCCL's own broadcast, which needs GPUs: vLLM's two ends, versions, checksums, the gate."""
    older, newer = llama(0, tied=True), llama(1, tied=True)
    older.save_pretrained(tmp_path)
    engine = ray.remote(GlooEngine).remote(str(tmp_path), ENGINE, dtype=HALF.dtype)
    ray.get(engine.ready.remote(), timeout=300)
    learner = sender(newer, [engine], 1, GlooGroup.free_port())
    pool = PolicyPool([engine], ["one"], 60.0)

    def found() -> list[Generation]:
        async def ask() -> list[Generation]:
            calls = (pool.generate(ids, seed=s, sampling=SAMPLING, stop_ids=[]) for ids, s in requests(16))
            return await asyncio.gather(*calls)

        return asyncio.run(ask())

    try:
        assert agree(gaps(older, requests(16), found()))
        learner._trainer.model_update_group.damage = True
        with pytest.raises(WeightSyncError, match="checksum"):
            learner.send(1)
        assert pool.versions() == [0]
        learner._trainer.model_update_group.damage = False
        assert learner.send(2) > 0
        assert pool.versions() == [2]
        told = found()
        assert agree(gaps(newer, requests(16), told))
        assert {version for answer in told for version in answer.versions} == {2}
        with pytest.raises(WeightSyncError, match="version 2 does not follow 2"):
            learner.send(2)
    finally:
        pool.close()


def test_each_engine_is_told_its_ranks_and_every_chunk_in_order(local_ray: None, sender: Any) -> None:
    engines, port, model = [Recorder.remote() for _ in range(2)], GlooGroup.free_port(), llama(0, tied=True)
    GlooGroup.alone = True  # who records does not join
    try:
        learner = sender(model, engines, 2, port)
        assert learner.send(4) == 0.5
    finally:
        GlooGroup.alone = False
    first, second = (ray.get(engine.all.remote()) for engine in engines)
    assert [told for told, _ in first] == ["nccl", "begin", "receive", "received"] == [told for told, _ in second]
    assert (first[0][1]["rank_offset"], second[0][1]["rank_offset"]) == (1, 3)
    assert first[0][1]["world_size"] == 1 + 2 * 2
    assert first[1:] == second[1:]
    assert first[1][1] == 4
    named = dict(model.named_parameters())
    assert first[2][1]["names"] == list(named)
    assert first[2][1]["shapes"] == [list(p.shape) for p in named.values()]
    assert set(first[2][1]["dtype_names"]) == {"bfloat16"}
