"""The addresses that play the dream: what they answer, and who may ask."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from dreamgym.view.app import view_app
from dreamgym.view.viewed import find_runs
from tests.unit.play.doors import FIRST, NASTY, player, write_run

LOOK = {"task": "t1", "actions": ["look"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_run(tmp_path).run_dir


@pytest.fixture
def page(folder: Path, tmp_path: Path) -> Iterator[TestClient]:
    app = view_app(find_runs([folder], tmp_path), player=player(write_run(tmp_path)))
    with TestClient(app, base_url="http://127.0.0.1:8000") as client:
        yield client


def test_a_dream_is_played_and_judged(page: TestClient, folder: Path) -> None:
    assert [run["play"] for run in page.get("/api/runs").json()] == [True]
    told = page.get("/api/play/tasks", params={"text": "FIND"}).json()
    assert [t["id"] for t in told["tasks"]] == ["t1", "t2", "g1"] and told["total"] == 3
    assert page.get("/api/play/tasks", params={"text": "cellar"}).json()["matching"] == 1
    begun = page.post("/api/play", json={"task": "t1", "actions": []}).json()
    assert begun["turns"] == [] and begun["task"]["first_state"] == FIRST and begun["beside"] is None
    asked = {"task": "t1", "draw": 0, "actions": ["look", "push"], "beside": True}
    played = page.post("/api/play", json=asked).json()
    first, last = played["turns"]
    assert (first["next_state"], first["reasoning"]) == ("nothing happens: look", "it is look")
    assert first["shown"][0] | {"next_state": ""} == {
        "state": "in hall", "action": "go up", "next_state": "", "reward": 1.0, "done": True, "world": "real",
        "score": 0.875,
    }  # fmt: skip
    assert played["difference"] == {"step": 1, "what": "state"} and last["judged"] == ""
    right = {"next_state": "the door is shut", "reward": 0.0, "done": False, "reasoning": ""}
    answer = page.post("/api/play/judge", json=asked | {"judged": "wrong", "right": right}).json()
    assert answer == {"judged": "wrong", "truth": True, "truth_by": "person"}
    assert page.post("/api/play", json=asked).json()["turns"][1]["judged"] == "wrong"
    assert json.loads((folder / "judged.jsonl").read_text())["truth"]["next_state"] == "the door is shut"


def test_without_a_player_nothing_can_be_played(folder: Path, tmp_path: Path) -> None:
    page = TestClient(view_app(find_runs([folder], tmp_path)), base_url="http://localhost")
    assert page.get("/api/runs").json()[0]["play"] is False
    assert page.post("/api/play", json=LOOK).status_code == 404


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        ({"task": "gone", "actions": []}, 404, "no task 'gone' in this run"),
        ({"task": "t1", "actions": [" "]}, 404, "an action is some text"),
        ({"task": "t1", "actions": ["go up", "look"]}, 404, "the episode is over after 1 steps"),
        ({"task": "t1"}, 400, "actions: Field required"),
        ({"task": "t1", "actions": ["look"], "draw": -1}, 400, "draw: Input should be"),
        ({"task": "t1", "actions": ["look"], "more": 1}, 400, "more: Extra inputs"),
        ({"task": "t1", "actions": ["look"] * 1001}, 400, "actions: List should have at most"),
    ],
)
def test_what_is_wrong_is_one_sentence(page: TestClient, body: dict[str, object], status: int, sentence: str) -> None:
    answer = page.post("/api/play", json=body)
    assert answer.status_code == status and answer.json()["error"].startswith(sentence)


def test_a_body_that_is_no_json_or_endless_is_refused(page: TestClient) -> None:
    as_json = {"content-type": "application/json"}
    assert page.post("/api/play", content=b"{", headers=as_json).status_code == 400
    assert "shorter episode" in page.post("/api/play", content=b" " * 5_000_000, headers=as_json).json()["error"]
    assert page.get("/api/play").status_code == 405


def test_another_page_in_the_same_browser_may_not_play(page: TestClient, folder: Path) -> None:
    body = json.dumps(LOOK | {"judged": "right"})
    as_json = {"content-type": "application/json"}
    foreign = [
        {"origin": "http://evil.example"},
        {"origin": "http://127.0.0.1:9999"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"host": "evil.example", "origin": "http://evil.example"},
    ]
    for headers in foreign:
        assert page.post("/api/play/judge", content=body, headers=as_json | headers).status_code == 403, headers
    simple = {"content-type": "text/plain"}  # what a page may send anywhere without asking
    assert page.post("/api/play/judge", content=body, headers=simple).status_code == 415
    assert not (folder / "judged.jsonl").exists()
    own = {"origin": "http://127.0.0.1:8000", "sec-fetch-site": "same-origin"}
    assert page.post("/api/play/judge", content=body, headers=as_json | own).status_code == 200


def test_with_a_token_nobody_else_may_play(folder: Path, tmp_path: Path) -> None:
    app = view_app(find_runs([folder], tmp_path), "secret-token", player(write_run(tmp_path)))
    with TestClient(app, base_url="http://cluster.example") as asked:
        assert asked.post("/api/play", json=LOOK).status_code == 403
        asked.get("/?token=secret-token")
        assert asked.post("/api/play", json=LOOK).status_code == 200


def test_text_of_a_model_comes_as_it_is(page: TestClient) -> None:
    played = page.post("/api/play", json={"task": "t2", "actions": ["nasty"]}).json()
    assert played["turns"][0]["next_state"] == NASTY
