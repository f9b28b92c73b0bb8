"""The page of the replay buffer: its search is the dream's, its counts are the records', its map is PCA."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import PCA
from starlette.testclient import TestClient

from dreamgym.config import ReplayConfig
from dreamgym.errors import DataError
from dreamgym.replay.buffer import ReplayBuffer
from dreamgym.replay.records import StoredTransition
from dreamgym.view import buffer
from dreamgym.view.app import view_app
from dreamgym.view.buffer import BufferView, plane
from dreamgym.view.viewed import find_runs
from tests.unit.view.runs import NASTY, generated

SETTINGS = {"top_k": 3, "min_similarity": 0.2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found: Path = generated.write_run(tmp_path_factory.mktemp("runs"), "one", iterations=3, episodes=16, tasks=12)
    return found


@pytest.fixture
def stored(folder: Path) -> ReplayBuffer:
    """The same buffer as a run that goes on would have it."""
    found = ReplayBuffer(ReplayConfig(dim=64))
    path = BufferView(folder).path()
    assert path is not None
    found.load(path.parent)
    return found


def test_the_search_answers_as_the_dream_s(folder: Path, stored: ReplayBuffer) -> None:
    asked = [(item.state, action) for item in stored.items()[::25] for action in ("go on", "take coin", "dance")]
    view = BufferView(folder)
    for state, action in asked:
        (demos,) = stored.search([(state, action)], buffer.FOUND)
        found = view.search(state, action, SETTINGS)
        assert [item["score"] for item in found] == pytest.approx([demo.score for demo in demos], abs=1e-5)
        told = [(i["trajectory_id"], i["state"], i["action"], i["next_state"]) for i in found]
        clear = [n for n in range(len(demos) - 1) if demos[n].score - demos[n + 1].score > 1e-5]
        end = clear[-1] + 1 if clear else 0  # of equals, the cut may leave out others
        assert sorted(told[:end]) == sorted((d.trajectory_id, d.state, d.action, d.next_state) for d in demos[:end])
        assert [i["shown"] for i in found] == [n < 3 and d.score >= 0.2 for n, d in enumerate(demos)]


def test_counts_are_those_of_the_records(folder: Path, stored: ReplayBuffer) -> None:
    told = BufferView(folder).counts()
    items = stored.items()
    assert told["at"] == "iteration-00003" and told["total"] == len(items)
    assert told["by_origin"] == [stored.count("real"), 0, stored.count("dream")]
    assert told["retrieved"] == stored.stats().retrieved and told["counters"]["refused"] == {"duplicate": 5}
    tasks = Counter((item.task_id, item.world) for item in items)
    for row in told["tasks"]["rows"]:
        assert row["counts"] == [tasks[row["value"], "real"], 0, tasks[row["value"], "dream"]]
    assert {row["value"]: sum(row["counts"]) for row in told["rewards"]["rows"]} == {
        "0": sum(item.reward == 0 for item in items), "1": sum(item.reward == 1 for item in items)
    }  # fmt: skip
    assert sum(told["ended"]) == sum(item.done for item in items)


def test_the_map_is_that_of_the_principal_components() -> None:
    rng = np.random.default_rng(1)
    vectors = (rng.normal(size=(300, 24)) * np.linspace(3, 0.1, 24)).astype(np.float32)
    places, share = plane(vectors)
    oracle = PCA(2, svd_solver="full").fit(vectors)
    theirs = oracle.transform(vectors)
    assert np.allclose(np.abs(places), np.abs(theirs), atol=1e-3)
    assert share == pytest.approx(oracle.explained_variance_ratio_.sum(), abs=1e-5)
    assert np.array_equal(plane(vectors)[0], places)
    for few in (vectors[:1], vectors[:0]):
        assert plane(few)[0].shape == (len(few), 2) and plane(few)[1] == 0


def test_the_map_is_bounded_and_shows_every_origin(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffer, "POINTS", 10)
    monkeypatch.setattr(buffer, "WORDS", 20)
    told = BufferView(folder).map()
    assert Counter(told["origin"]) == {0: 10, 2: 10} and len(told["x"]) == len(told["y"]) == len(told["items"]) == 20
    assert all(len(item["state"]) <= 20 for item in told["items"])


def test_a_newer_checkpoint_is_read_and_one_that_is_not_whole_is_not(tmp_path: Path) -> None:
    folder = generated.write_run(tmp_path, "grows", iterations=2, episodes=4, tasks=2)
    (run,) = find_runs([folder], tmp_path)
    before, version = run.buffer(), run.version()
    fuller = ReplayBuffer(ReplayConfig(dim=16))
    fuller.add([StoredTransition("t", "e", 0, NASTY, "look", NASTY, 0.5, False, "", "real", "", -1)])
    fuller.save(folder / "train" / "checkpoints" / "iteration-00009.partial")
    assert run.version() == version and run.buffer() == before
    fuller.save(folder / "train" / "checkpoints" / "iteration-00009")
    assert run.version() != version and run.buffer()["total"] == 1
    (found,) = run.retrieved(NASTY, "look")
    assert found["state"] == NASTY and found["score"] == pytest.approx(1)


def test_a_run_without_a_buffer_says_so_and_a_broken_one_is_a_sentence(tmp_path: Path) -> None:
    folder = generated.write_run(tmp_path, "none", iterations=1, episodes=2, tasks=1)
    page = TestClient(view_app(find_runs([folder], tmp_path)), base_url="http://localhost")
    path = BufferView(folder).path()
    assert path is not None
    path.write_bytes(b"PAR1 torn")
    assert "not a readable Parquet file" in page.get("/api/runs/none-seed0/buffer").json()["error"]
    path.unlink()
    assert page.get("/api/runs/none-seed0/buffer").json() == {}
    for what in ("map", "search?state=a&action=b"):
        assert "no replay buffer was saved yet" in page.get(f"/api/runs/none-seed0/buffer/{what}").json()["error"]
    with pytest.raises(DataError, match="first checkpoint"):
        BufferView(folder).map()
