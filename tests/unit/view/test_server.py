"""The server answers those who may ask, in sentences where something is wrong, and its pages can run nothing else."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from dreamgym.cli import main
from dreamgym.runs.ledger import Ledger
from dreamgym.view.app import STATIC, view_app
from dreamgym.view.viewed import find_runs
from tests.unit.view.runs import generated

ASSET_LIMIT = 600_000


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    generated.write_run(folder, "one", iterations=40, episodes=8, tasks=4)
    generated.write_run(folder, "two", iterations=10, episodes=8, tasks=4, seed=1, lr="3e-5")
    return folder


@pytest.fixture(scope="module")
def page(out: Path) -> TestClient:
    return TestClient(view_app(find_runs([], out)), base_url="http://127.0.0.1:8000")


def test_the_overview_has_what_the_report_computes(page: TestClient) -> None:
    told = page.get("/api/runs/one-seed0/overview").json()
    assert told["state"] == "done" and [s["name"] for s in told["stages"]] == ["collect", "sft-world", "train"]
    panels = {panel["name"]: panel for panel in told["panels"]}
    assert {"success", "kept", "throughput", "fidelity/state_exact", "Loss", "fates", "buffer"} <= panels.keys()
    dev = panels["success"]["lines"][0]
    assert len(dev["x"]) == 8 and all(
        low <= y <= high for low, y, high in zip(dev["low"], dev["y"], dev["high"], strict=True)
    )
    assert panels["throughput"]["lines"][0]["y"][5] == pytest.approx(8 / 20.5, rel=0.05)
    cards = {card["label"]: card["figure"] for card in told["cards"]}
    assert cards["Iteration"] == "40" and re.fullmatch(r"\d+\.\d%", cards["Real success, dev fold"])
    assert any("attempts at an episode failed" in remark["text"] for remark in told["remarks"])
    assert told["results"] and told["time"] and told["fidelity"]


def test_a_run_that_has_only_begun_has_a_page(tmp_path: Path) -> None:
    folder = generated.write_run(tmp_path, "new", iterations=1, episodes=2, tasks=1)
    for name in ("train", "eval", "stages", "data"):
        for path in sorted((folder / name).rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
    page = TestClient(view_app(find_runs([folder], tmp_path)), base_url="http://localhost")
    for what in ("overview", "episodes", "tasks", "pulse"):
        assert page.get(f"/api/runs/new-seed0/{what}").status_code == 200
    assert page.get("/api/runs/new-seed0/overview").json()["state"] == "new"


def test_a_stopped_run_and_its_faults_are_told_in_words(tmp_path: Path) -> None:
    folder = generated.write_run(tmp_path, "ill", iterations=3, episodes=2, tasks=1)
    ledger = Ledger(folder / "train")
    ledger.write("resumed", 2)
    ledger.write("started", 3, ["never-seen-again"])
    ledger.close()
    page = TestClient(view_app(find_runs([folder], tmp_path)), base_url="http://localhost")
    remarks = [r["text"] for r in page.get("/api/runs/ill-seed0/overview").json()["remarks"]]
    assert "The run went back to a checkpoint once." in remarks
    assert any(re.match(r"\d+ episodes were started and taught nothing", text) for text in remarks)


def test_runs_are_compared_by_curves_and_by_the_settings_that_differ(page: TestClient) -> None:
    told = page.get("/api/compare", params={"run": ["one-seed0", "two-seed1"]}).json()
    assert {row["name"] for row in told["settings"]} == {"name", "seed", "train.iterations", "learner.lr"}
    success = next(panel for panel in told["panels"] if panel["name"] == "success")
    assert {line["run"] for line in success["lines"]} == {0, 1}
    assert told["headlines"]["one-seed0"]["success_dream"] is not None


def test_invented_tasks_stand_below_what_they_were_made_from(page: TestClient) -> None:
    told = page.get("/api/runs/one-seed0/tasks").json()
    generation = {task["id"]: task["generation"] for task in told["tasks"]}
    for task in told["tasks"]:
        assert generation[task["id"]] == 1 + max(generation.get(parent, 0) for parent in task["parents"])
    assert sum(told["fates"].values()) == len(told["tasks"])
    assert all("fetch the coin" in told["real"][p] for t in told["tasks"] for p in t["parents"] if p.startswith("task"))


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("/api/runs/none/overview", "no run 'none' is shown here; choose one of"),
        ("/api/runs/one-seed0/episodes/none", "no episode 'none' in this run"),
        ("/api/runs/one-seed0/episodes?sort=x", "sort='x' is unknown"),
        ("/api/compare?run=one-seed0", "a comparison needs two runs"),
    ],
)
def test_what_is_not_there_is_one_sentence(page: TestClient, path: str, sentence: str) -> None:
    answer = page.get(path)
    assert answer.status_code == 404 and answer.json()["error"].startswith(sentence)


def test_a_broken_log_is_one_sentence(tmp_path: Path) -> None:
    folder = generated.write_run(tmp_path, "broken", iterations=1, episodes=2, tasks=1)
    (folder / "train" / "metrics.jsonl").write_text("no json\n{}\n")
    page = TestClient(view_app(find_runs([folder], tmp_path)), base_url="http://localhost")
    assert "metrics.jsonl:1: not a JSON object" in page.get("/api/runs/broken-seed0/overview").json()["error"]


def test_only_this_machine_may_ask_without_a_token(page: TestClient) -> None:
    for host in ("localhost:1", "127.0.0.1", "[::1]:80"):
        assert page.get("/api/runs", headers={"host": host}).status_code == 200
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", ""):
        assert page.get("/api/runs", headers={"host": host}).status_code == 403


def test_with_a_token_nobody_else_may_ask(out: Path) -> None:
    app = view_app(find_runs([], out), "secret-token")
    asked = TestClient(app, base_url="http://cluster.example")
    assert asked.get("/api/runs").status_code == asked.get("/").status_code == 403
    assert asked.get("/static/js/main.js").status_code == 403
    assert asked.get("/?token=another").status_code == 403
    answer = asked.get("/?token=secret-token", follow_redirects=False)
    assert answer.headers["location"] == "/" and "HttpOnly" in answer.headers["set-cookie"]
    assert asked.get("/api/runs").status_code == 200, "the cookie lets in"


def test_no_page_may_run_a_script_that_is_not_the_page_s_own(page: TestClient) -> None:
    for path in ("/", "/api/runs", "/static/js/main.js", "/none"):
        policy = page.get(path).headers["content-security-policy"]
        assert "default-src 'none'" in policy and "script-src 'self'" in policy and "unsafe" not in policy
    text = (STATIC / "index.html").read_text(encoding="utf-8")
    assert "<style" not in text and not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|\sstyle=|https?://", text)
    own = [path for path in STATIC.rglob("*.js") if path.parent.name == "js"]
    assert own and all("dangerouslySetInnerHTML" not in path.read_text() for path in own)
    assert all(len(path.read_text().splitlines()) <= 400 for path in own)


def test_the_page_is_small_and_names_the_licences_of_what_others_made() -> None:
    assert sum(path.stat().st_size for path in STATIC.rglob("*") if path.is_file()) < ASSET_LIMIT
    named = (STATIC / "vendor" / "LICENSES.txt").read_text(encoding="utf-8")
    for path in (STATIC / "vendor").iterdir():
        assert path.name == "LICENSES.txt" or path.stem in named, path


def test_the_command_says_in_a_sentence_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dreamgym.runtime.processes.TREE.end", lambda: None)  # children of the other tests live on
    assert main(["view", str(tmp_path / "gone"), "--no-open"]) == 2
    assert main(["view", "--port", "many"]) == 2
    folder = generated.write_run(tmp_path, "here", iterations=1, episodes=2, tasks=1)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["view", str(folder), "--no-open", "--port", str(taken.getsockname()[1])]) == 2
    said = capsys.readouterr().err
    assert "gone: no run is here" in said and "'many' is no port" in said and "cannot be opened" in said


def test_answers_are_json_whatever_a_model_wrote(tmp_path: Path) -> None:
    folder = generated.write_run(tmp_path, "odd", iterations=1, episodes=2, tasks=1)
    page = TestClient(view_app(find_runs([folder], tmp_path)), base_url="http://localhost")
    listed = page.get("/api/runs/odd-seed0/episodes?world=dream").json()["rows"]
    for row in listed:
        text = page.get(f"/api/runs/odd-seed0/episodes/{row['trajectory_id']}").text
        assert json.loads(text, parse_constant=lambda name: pytest.fail(name))
