"""The replay buffer: exact cosine retrieval, never of the excluded trajectory, provenance kept, resumable."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qdrant_client import QdrantClient

from dreamgym.config import QdrantConfig, ReplayConfig
from dreamgym.errors import DataError
from dreamgym.replay import Candidate, Outcome, ReplayError, StoredTransition
from dreamgym.replay.buffer import ReplayBuffer
from dreamgym.replay.bulk import exact_top_k, leave_one_out
from dreamgym.replay.embed import HashingEmbedder, query_text
from dreamgym.replay.embedded import EmbeddedQdrant
from dreamgym.replay.index import VectorIndex
from dreamgym.types import Task, Trajectory, Transition, World
from tests.waiting import HANG_S

WORDS = [f"word{i}" for i in range(60)]
CONFIG = ReplayConfig(dim=64)


def transition(trajectory: int, step: int, world: World = "real") -> StoredTransition:
    draw = random.Random(f"{world} {trajectory} {step}")
    return StoredTransition(
        task_id=f"task{trajectory}",
        trajectory_id=f"{world}{trajectory}",
        step=step,
        state=" ".join(draw.choice(WORDS) for _ in range(8)),
        action=" ".join(draw.choice(WORDS) for _ in range(2)),
        next_state=" ".join(draw.choice(WORDS) for _ in range(8)),
        reward=float(step == 3),
        done=step == 3,
        reasoning="because",
        world=world,
        model_version="" if world == "real" else "world-0",
        iteration=-1 if world == "real" else 2,
    )


def episodes(number: int, world: World = "real") -> list[StoredTransition]:
    return [transition(t, s, world) for t in range(number) for s in range(4)]


def filled(items: list[StoredTransition], config: ReplayConfig = CONFIG) -> ReplayBuffer:
    buffer = ReplayBuffer(config, seed=0)
    assert buffer.add(items) == len(items)
    return buffer


def cosines(items: list[StoredTransition], state: str, action: str) -> np.ndarray:
    embedder = HashingEmbedder(CONFIG.dim)
    stored = embedder.embed([query_text(i.state, i.action) for i in items]).astype(np.float64)
    return stored @ embedder.embed([query_text(state, action)])[0].astype(np.float64)


def test_search_is_the_exact_cosine_ranking() -> None:
    items = episodes(30)
    buffer = filled(items)
    queries = [(i.state, i.action) for i in items[::7]]
    for (state, action), demos in zip(queries, buffer.search(queries, k=5), strict=True):
        expected = np.sort(cosines(items, state, action))[::-1][:5]
        np.testing.assert_allclose([d.score for d in demos], expected, atol=1e-5)
        assert (demos[0].state, demos[0].action) == (state, action)
        assert demos[0].score == pytest.approx(1.0, abs=1e-5)


def test_of_equals_the_oldest_comes_first_however_the_index_grew(tmp_path: Path) -> None:
    same = transition(0, 0)
    items = [dataclasses.replace(same, trajectory_id=f"e{n}") for n in range(30)] + episodes(3)
    at_once, one_by_one, loaded = filled(items), ReplayBuffer(CONFIG), ReplayBuffer(CONFIG)
    for item in items:
        one_by_one.add([item])
    at_once.save(tmp_path)
    loaded.load(tmp_path)
    for buffer in (at_once, one_by_one, loaded):
        demos = buffer.search([(same.state, same.action)], 5, ["e1"])[0]
        assert [d.trajectory_id for d in demos] == ["e0", "e2", "e3", "e4", "e5"]


def test_a_repeated_search_sees_what_was_written_and_pruned_since() -> None:
    buffer = filled([transition(0, 0)], ReplayConfig(dim=64, capacity=2, real_share=0.0))
    first, second = transition(0, 0), transition(1, 0)
    query = [(second.state, second.action)]
    assert buffer.search(query, 1) == buffer.search(query, 1)
    assert buffer.search(query, 1)[0][0].trajectory_id == "real0"
    dreamed = [dataclasses.replace(transition(n, 0, "dream"), state=second.state, action=second.action) for n in (1, 2)]
    buffer.add(dreamed)
    assert buffer.search(query, 1)[0][0].trajectory_id == "dream1"
    assert buffer.prune() == 1
    assert {d.trajectory_id for d in buffer.search(query, 3)[0]} == {"real0", "dream1"}
    assert buffer.search([(first.state, first.action)], 1, ["real0"])[0][0].trajectory_id == "dream1"


def test_everything_about_a_demo_comes_back() -> None:
    item = transition(1, 3)
    demo = filled([item]).search([(item.state, item.action)], k=3)[0][0]
    for field in ("state", "action", "next_state", "reward", "done", "reasoning", "trajectory_id", "world"):
        assert getattr(demo, field) == getattr(item, field)


@settings(max_examples=25)
@given(sizes=st.lists(st.integers(1, 6), min_size=1, max_size=6), k=st.integers(1, 8), data=st.data())
def test_the_excluded_trajectory_never_comes_back(sizes: list[int], k: int, data: st.DataObject) -> None:
    # Few words, so that equal texts in different trajectories, the hard case, are common.
    items = [
        dataclasses.replace(transition(t, s), state=data.draw(st.sampled_from("ab")), action="go")
        for t, size in enumerate(sizes)
        for s in range(size)
    ]
    buffer = filled(items)
    found = buffer.search([(i.state, i.action) for i in items], k, [i.trajectory_id for i in items])
    embedder = HashingEmbedder(CONFIG.dim)
    vectors = embedder.embed([query_text(i.state, i.action) for i in items])
    groups = np.asarray([int(i.trajectory_id.removeprefix("real")) for i in items])
    rows, scores = exact_top_k(vectors, vectors, k, groups, groups, chunk=3)
    for item, group, demos, near, bulk in zip(items, groups, found, rows, scores, strict=True):
        assert item.trajectory_id not in {d.trajectory_id for d in demos}
        assert len(demos) == min(k, len(items) - sizes[group])
        assert (groups[near[near >= 0]] != group).all()
        np.testing.assert_allclose([d.score for d in demos], bulk[near >= 0], atol=1e-5)


@pytest.mark.filterwarnings("ignore:Payload indexes have no effect", "ignore:Local mode performs exact")
def test_a_payload_filter_and_fetching_more_find_the_same() -> None:
    items = episodes(20)
    vectors = HashingEmbedder(64).embed([query_text(i.state, i.action) for i in items])
    payloads = [{"trajectory_id": i.trajectory_id} for i in items]
    exclude = [None if n % 3 == 0 else item.trajectory_id for n, item in enumerate(items)]
    answers = []
    for client in (EmbeddedQdrant(), QdrantClient(":memory:")):
        index = VectorIndex(client, "x", 64)
        index.upsert([i.id for i in items], vectors, payloads)
        answers.append(index.search(vectors, 3, exclude))
    own = {i.id: i.trajectory_id for i in items}
    for a, b, group in zip(*answers, exclude, strict=True):
        assert group not in {own[point] for point, _ in a + b}
        assert len(a) == len(b) == 3
        np.testing.assert_allclose([s for _, s in a], [s for _, s in b], atol=1e-5)


def test_demos_of_a_data_set_leave_out_the_trajectory_itself() -> None:
    task = Task("t", "env", "do it")
    trajectories = [
        Trajectory(f"e{t}", task, "expert", "real", [Transition(f"room {s}", "go", f"room {s + 1}", 0.0, False)] * 3)
        for t, s in enumerate([1, 1, 2, 3])
    ]
    demos = leave_one_out(trajectories, HashingEmbedder(64), k=2, asking=[True] * 4)
    assert [len(steps) for steps in demos] == [3, 3, 3, 3]
    for trajectory, steps in zip(trajectories, demos, strict=True):
        assert all(d.trajectory_id != trajectory.id for step in steps for d in step)
    assert {d.trajectory_id for d in demos[0][0]} == {"e1"}
    some = leave_one_out(trajectories, HashingEmbedder(64), k=2, asking=[True, False, False, True])
    assert some == [demos[0], [[], [], []], [[], [], []], demos[3]]


@pytest.mark.parametrize("by_task", [None, -1.0])
def test_an_episode_that_is_there_several_times_is_never_shown_itself(by_task: float | None) -> None:
    """A false win is read again and again, and each time asks for demonstrations or not."""
    task = Task("t", "env", "do it")
    one, other = (
        Trajectory(f"e{n}", task, "expert", "real", [Transition(f"room {n}", "go", f"hall {n}", 0.0, False)])
        for n in range(2)
    )
    demos = leave_one_out([one, one, other, one], HashingEmbedder(64), 2, [True, False, True, True], by_task)
    assert [[{d.trajectory_id for d in step} for step in steps] for steps in demos] == [
        [{"e1"}],
        [set()],
        [{"e0"}],
        [{"e1"}],
    ]


def test_provenance_is_stored_and_never_optional() -> None:
    dreamed = transition(5, 2, "dream")
    buffer = filled([dreamed, transition(1, 0)])
    kept = next(i for i in buffer.items() if i.world == "dream")
    assert (kept.task_id, kept.trajectory_id, kept.step) == ("task5", "dream5", 2)
    assert (kept.model_version, kept.iteration, kept.world) == ("world-0", 2, "dream")
    broken: dict[str, Any] = {"model_version": "", "trajectory_id": " ", "task_id": "", "iteration": -1, "step": -1}
    for field, value in broken.items():
        with pytest.raises(DataError, match=field):
            buffer.add([transition(7, 0), dataclasses.replace(dreamed, **{field: value})])
    assert buffer.count() == 2


def test_adding_again_changes_nothing() -> None:
    items = episodes(3)
    buffer = filled(items)
    assert buffer.add(items[:5] + [transition(9, 0)] * 2) == 1
    assert buffer.count() == 13
    assert buffer.stats().watermark == 13


def test_an_empty_buffer_and_k_zero_give_no_demo() -> None:
    buffer = ReplayBuffer(CONFIG)
    assert buffer.search([("s", "a")], 2) == [[]]
    buffer.add(episodes(1))
    assert buffer.search([("s", "a")], 0) == [[]]
    assert buffer.search([], 3) == []


def test_novelty_counts_only_the_same_outcome_and_looks_past_many_neighbours() -> None:
    stored = transition(0, 0)
    twins = [dataclasses.replace(stored, trajectory_id=f"r{n}") for n in range(40)]
    buffer = filled([*twins, transition(1, 0)], ReplayConfig(dim=64, consistency=False))
    dreamed = dataclasses.replace(
        stored, world="dream", model_version="w", iteration=0, trajectory_id="d0", task_id="another"
    )
    won = dataclasses.replace(dreamed, reward=1.0, done=True, trajectory_id="d1")
    again = dataclasses.replace(won, trajectory_id="d2")
    reasons = [v.reason for v in buffer.offer([Candidate(dreamed), Candidate(won), Candidate(again)])]
    assert reasons == ["duplicate", "admitted", "duplicate"]
    assert buffer.screen([Candidate(dataclasses.replace(won, trajectory_id="d3"))])[0].reason == "duplicate"
    assert buffer.stats().refused == {"duplicate": 3}
    assert buffer.count("dream") == 1


REAL = dataclasses.replace(
    transition(0, 0), trajectory_id="seen", state="at hall sees box", action="put coin in box", next_state="refused"
)
DREAM = dataclasses.replace(REAL, world="dream", model_version="w", iteration=0, trajectory_id="dream")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"next_state": "solved", "reward": 1.0, "done": True}, "contradicts_reward"),
        ({"next_state": "failed", "done": True}, "contradicts_end"),
        ({"next_state": "put in box"}, "contradicts_state"),
        ({}, "duplicate"),
        ({"reward": 1.0, "done": True, "task_id": "invented"}, "admitted"),
        ({"reward": 1.0, "done": True, "action": "take coin"}, "admitted"),
        ({"reward": 1.0, "done": True, "state": "at attic sees nothing"}, "admitted"),
    ],
)
def test_a_dream_that_contradicts_a_near_real_transition_of_its_task_is_refused(
    changes: dict[str, Any], reason: str
) -> None:
    buffer = filled([REAL, *episodes(5)], ReplayConfig(dim=64, consistency=False))
    candidate = Candidate(dataclasses.replace(DREAM, **changes))
    screened, (decided,) = buffer.screen([candidate]), buffer.offer([candidate])
    assert [v.reason for v in screened] == [decided.reason] == [reason]
    assert buffer.stats().refused == ({} if reason == "admitted" else {reason: 2})


def test_what_reality_itself_answered_in_two_ways_contradicts_neither() -> None:
    """What the state does not tell, such as what is in focus, may decide."""
    won = dataclasses.replace(REAL, reward=1.0, done=True, next_state="solved", trajectory_id="real1")
    buffer = filled([REAL, won], ReplayConfig(dim=64, consistency=False))
    dreams = [dataclasses.replace(DREAM, next_state=i.next_state, reward=i.reward, done=i.done) for i in (REAL, won)]
    assert [v.reason for v in buffer.screen([Candidate(d) for d in dreams])] == ["duplicate"] * 2


def test_the_nearest_real_transition_speaks_and_not_another_near_one() -> None:
    words = " ".join(WORDS)
    with_coin, without = (dataclasses.replace(REAL, state=f"{words} holds {thing}") for thing in ("coin", "nothing"))
    won = dataclasses.replace(with_coin, reward=1.0, done=True, trajectory_id="real1")
    buffer = filled([without, won], ReplayConfig(dim=64, consistency=False, novelty=0.9))
    lie = dataclasses.replace(DREAM, state=without.state, reward=1.0, done=True)
    assert cosines([won], lie.state, lie.action)[0] > 0.9
    assert buffer.screen([Candidate(lie)])[0].reason == "contradicts_reward"


def test_dreams_that_new_real_transitions_contradict_leave_the_buffer() -> None:
    lie = dataclasses.replace(DREAM, reward=1.0, done=True)
    elsewhere = dataclasses.replace(lie, task_id="another", trajectory_id="dream2")
    buffer = filled([lie, elsewhere, *episodes(2)])
    assert buffer.add([REAL]) == 1
    assert [i.trajectory_id for i in buffer.items() if i.world == "dream"] == ["dream2"]
    assert buffer.stats().pruned == 1
    assert buffer.search([(lie.state, lie.action)], 1, None, [("task0",)])[0][0].world == "real"


def test_offered_transitions_that_pass_can_be_retrieved() -> None:
    buffer = filled(episodes(3))
    good, bad = transition(8, 1, "dream"), transition(9, 1, "dream")
    verdicts = buffer.offer([Candidate(good, again=Outcome(0.0, False)), Candidate(bad, again=Outcome(0.0, True))])
    assert [v.reason for v in verdicts] == ["admitted", "inconsistent"]
    assert buffer.search([(good.state, good.action)], 1)[0][0].trajectory_id == "dream8"
    assert all(d.trajectory_id != "dream9" for d in buffer.search([(bad.state, bad.action)], 20)[0])


def test_pruning_takes_the_least_used_then_oldest_dreams_and_protects_real_data() -> None:
    config = ReplayConfig(dim=64, capacity=12, real_share=0.5)
    real, dreams = episodes(2), episodes(3, "dream")
    buffer = filled(real + dreams, config)
    useful = dreams[0]
    buffer.search([(useful.state, useful.action)], 1)
    assert buffer.prune() == 8
    assert [i.id for i in buffer.items()] == [i.id for i in [*real, useful, *dreams[-3:]]]
    assert (buffer.count("real"), buffer.count("dream"), buffer.stats().pruned) == (8, 4, 8)
    found = buffer.search([(i.state, i.action) for i in dreams], 30)
    assert {d.trajectory_id for demos in found for d in demos} <= {"real0", "real1", "dream0", "dream2"}


@settings(max_examples=25)
@given(st.integers(0, 12), st.integers(0, 12), st.integers(1, 15), st.sampled_from([0.0, 0.25, 0.5, 0.8, 1.0]))
def test_pruning_keeps_its_bounds(real: int, dream: int, capacity: int, share: float) -> None:
    items = [transition(t, 0) for t in range(real)] + [transition(t, 0, "dream") for t in range(dream)]
    buffer = filled(items, ReplayConfig(dim=64, capacity=capacity, real_share=share))
    buffer.prune()
    assert buffer.count() <= capacity
    assert buffer.count("real") >= share * buffer.count() - 1e-9
    assert buffer.count("real") == min(real, capacity)


def test_the_index_stays_exact_when_most_of_it_was_deleted() -> None:
    items = [transition(t, 0) for t in range(1400)]
    vectors = HashingEmbedder(64).embed([query_text(i.state, i.action) for i in items])
    index = VectorIndex(EmbeddedQdrant(), "x", 64)
    index.upsert([i.id for i in items], vectors, [{"trajectory_id": i.trajectory_id} for i in items])
    index.delete([i.id for i in items[:1000]])
    assert len(index) == 400
    left = items[1000:]
    np.testing.assert_allclose(index.vectors([i.id for i in left]), vectors[1000:], atol=1e-6)
    hits = index.search(vectors[1000:1010], 1, [None] * 10)
    assert [h[0][1] for h in hits] == pytest.approx([1.0] * 10, abs=1e-5)


def test_a_saved_buffer_resumes_where_it_was(tmp_path: Path) -> None:
    config = ReplayConfig(dim=64, capacity=14, real_share=0.5)
    buffer = filled(episodes(2) + episodes(2, "dream"), config)
    queries = [(i.state, i.action) for i in episodes(3)]
    buffer.search(queries, 2)
    buffer.offer([Candidate(transition(6, 0, "dream"), status="env_failed")])
    buffer.save(tmp_path)
    resumed = ReplayBuffer(config, seed=0)
    resumed.add(episodes(5))
    resumed.load(tmp_path)
    assert resumed.items() == buffer.items()
    assert resumed.stats() == buffer.stats()
    for ours, theirs in zip(buffer.search(queries, 3), resumed.search(queries, 3), strict=True):
        assert [(d.trajectory_id, d.state) for d in ours] == [(d.trajectory_id, d.state) for d in theirs]
    more = [transition(t, 1) for t in range(20, 25)]
    assert (buffer.add(more), buffer.prune()) == (resumed.add(more), resumed.prune())
    assert resumed.items() == buffer.items()
    assert [p.name for p in tmp_path.iterdir()] == ["replay.parquet"]


def test_another_embedder_reads_the_same_file(tmp_path: Path) -> None:
    items = episodes(4)
    filled(items).save(tmp_path)
    wider = ReplayBuffer(ReplayConfig(dim=128))
    wider.load(tmp_path)
    demo = wider.search([(items[5].state, items[5].action)], 1)[0][0]
    assert demo.state == items[5].state
    assert demo.score == pytest.approx(1.0, abs=1e-5)


def test_an_empty_buffer_can_be_saved(tmp_path: Path) -> None:
    ReplayBuffer(CONFIG).save(tmp_path)
    buffer = filled(episodes(1))
    buffer.load(tmp_path)
    assert buffer.count() == 0


def test_a_missing_or_broken_file_is_one_sentence(tmp_path: Path) -> None:
    buffer = ReplayBuffer(CONFIG)
    with pytest.raises(DataError, match=r"replay\.parquet: no such file"):
        buffer.load(tmp_path)
    (tmp_path / "replay.parquet").write_bytes(b"PAR1 is not enough")
    with pytest.raises(DataError, match="not a readable Parquet file"):
        buffer.load(tmp_path)


@pytest.mark.filterwarnings("ignore:Failed to obtain server version")
def test_an_unreachable_service_is_one_sentence() -> None:
    config = ReplayConfig(qdrant=QdrantConfig(url="http://127.0.0.1:9"), timeout_s=HANG_S)
    with pytest.raises(ReplayError, match=r"replay\.qdrant"):
        ReplayBuffer(config)
