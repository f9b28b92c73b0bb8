"""The replay actor on a local Ray: one batch for many searches, deadlines, and save and load."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from dreamgym.config import QdrantConfig, ReplayConfig
from dreamgym.errors import DataError
from dreamgym.replay import Candidate, Outcome, ReplayError, StoredTransition
from dreamgym.replay.actor import ReplayActor, ReplayClient, start_replay
from dreamgym.replay.buffer import ReplayBuffer
from tests.waiting import HANG_S

CONFIG = ReplayConfig(dim=64)
ITEMS = [
    StoredTransition(f"t{t}", f"e{t}", s, f"room {t} door {s}", f"go {s}", f"room {t}", 0.0, False, "", "real", "", -1)
    for t in range(20)
    for s in range(4)
]


@pytest.fixture
def handle(local_ray: None) -> Iterator[Any]:
    actor = start_replay(CONFIG, 0, "test")
    yield actor
    ray.kill(actor)


async def test_many_searches_become_few_batches_and_answers_are_the_buffer_s(
    handle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dreamgym.replay.actor.ADD_AT_ONCE", 7)
    client = ReplayClient(handle, HANG_S)
    assert await client.add(ITEMS) == len(ITEMS)

    def wait_longer_for_company(actor: ReplayActor) -> None:  # in here, so that it travels by value
        sys.modules[type(actor).__module__]._WINDOW_S = 2.0  # type: ignore[attr-defined]

    await handle.__ray_call__.remote(wait_longer_for_company)  # so that a slow sender's requests come together too
    asked = [
        ([(item.state, item.action)], 1 + n % 2, [item.trajectory_id], [(item.task_id, "t0")] if n % 3 else None)
        for n, item in enumerate(ITEMS)
    ]
    answers = await asyncio.gather(*(client.search(*request) for request in asked))
    buffer = ReplayBuffer(CONFIG)
    buffer.add(ITEMS)
    for item, request, answer in zip(ITEMS, asked, answers, strict=True):
        assert [d.score for d in answer[0]] == pytest.approx([d.score for d in buffer.search(*request)[0]], abs=1e-5)
        assert item.trajectory_id not in {d.trajectory_id for d in answer[0]}
    assert await handle.batches.remote() < len(ITEMS) / 2


async def test_a_bad_request_harms_no_other(handle: Any) -> None:
    client = ReplayClient(handle, HANG_S)
    await client.add(ITEMS)
    good, bad, worse = await asyncio.gather(
        client.search([(ITEMS[0].state, ITEMS[0].action)], 1),
        client.search([("s", "a")], 1, [None, None]),
        client.search([("s", "a")], 1, [None], [("t1",), ("t2",)]),
        return_exceptions=True,
    )
    assert isinstance(bad, ValueError) and isinstance(worse, ValueError)
    assert not isinstance(good, BaseException)
    assert good[0][0].state == ITEMS[0].state


async def test_offers_statistics_and_resume(handle: Any, tmp_path: Path) -> None:
    client = ReplayClient(handle, HANG_S)
    await client.add(ITEMS)
    new = StoredTransition("t", "d1", 0, "a blue cellar", "dig", "a hole", 0.0, False, "", "dream", "world-0", 1)
    assert (await client.screen([Candidate(new)]))[0].admitted
    assert [v.reason for v in await client.offer([Candidate(new, again=Outcome(0.0, False)), Candidate(new)])] == [
        "admitted",
        "duplicate",
    ]
    stats = await client.stats()
    assert (stats.real, stats.dream, stats.refused) == (80, 1, {"duplicate": 1})
    await client.save(tmp_path)
    other = start_replay(CONFIG, 0, "other")
    resumed = ReplayClient(other, HANG_S)
    await resumed.load(tmp_path)
    assert await resumed.stats() == stats
    with pytest.raises(DataError, match="no such file"):
        await resumed.load(tmp_path / "nowhere")
    ray.kill(other)


async def test_a_missed_deadline_and_a_dead_actor_are_one_sentence(handle: Any) -> None:
    await ReplayClient(handle, HANG_S).add(ITEMS)
    with pytest.raises(ReplayError, match=r"replay\.timeout_s"):
        await ReplayClient(handle, 1e-4).search([("s", "a")], 1)
    ray.kill(handle)
    with pytest.raises(ReplayError, match="died"):
        await ReplayClient(handle, HANG_S).search([("s", "a")], 1)


async def test_a_service_that_is_down_is_named_with_its_setting(local_ray: None) -> None:
    closed = ReplayConfig(dim=64, qdrant=QdrantConfig(url="http://127.0.0.1:9"))
    client = ReplayClient(start_replay(closed, 0, "down"), HANG_S)
    for call in (client.add(ITEMS), client.check()):
        with pytest.raises(ReplayError, match=r"replay\.qdrant\.url is reachable"):
            await call
    client.close()
