"""WebArena-Lite by the installed package's own tasks and evaluators, in a real Chromium on small pages of our own."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dreamgym.config import EnvConfig
from dreamgym.envs.base import RealEnvironment
from dreamgym.envs.web.browser import system_browser
from dreamgym.envs.web.client import BrowserFault
from dreamgym.envs.web.env import BrowserGym
from dreamgym.envs.web.webarena import KEY, SITES, ArenaTask, tasks_of
from dreamgym.errors import EnvError
from dreamgym.types import Fold, Task
from tests.web_sites import Site

OWN = Path(__file__).parents[3] / ".webarena" / "bin" / "python"
PYTHON = str(OWN) if OWN.exists() else sys.executable
try:
    KNOWN = tasks_of(PYTHON)
except EnvError as missing:
    pytest.skip(str(missing), allow_module_level=True)
FOLDS: tuple[Fold, ...] = ("train", "dev", "test")


@pytest.fixture(scope="module")
def sites() -> Iterator[tuple[Site, Site]]:
    """GitLab, and all others with the judge."""
    gitlab, other = Site(), Site()
    gitlab.away = other.url
    with pytest.MonkeyPatch.context() as patch:
        for site in SITES:
            patch.setenv(f"WA_{site}", gitlab.url if site == "GITLAB" else other.url)
        patch.setenv(KEY, "secret")
        yield gitlab, other
    gitlab.close()
    other.close()


@pytest.fixture(scope="module")
def env(sites: tuple[Site, Site]) -> Iterator[BrowserGym]:
    if not system_browser():
        pytest.skip("no Chromium is installed")
    env = BrowserGym(["webarenalite"], python=PYTHON, judge={"model": "my-judge", "base_url": f"{sites[1].url}/v1"})
    yield env
    env.close()


def begin(env: BrowserGym, number: int) -> str:
    return env.reset(Task("a", "browsergym", "", json.dumps({"task": f"webarenalite.{number}", "seed": 0})))[0]


def element(env: BrowserGym, name: str) -> str:
    return next(e.id for e in env._page if e.id and e.name == name)


def of(fold: Fold) -> dict[str, ArenaTask]:
    return {task.id: task for task in KNOWN.values() if task.fold == fold}


# Folds ------------------------------------------------------------------------------------------------------


def test_test_is_webarena_lites_own_and_the_others_are_the_rest_of_webarena() -> None:
    numbers = {fold: {int(id_.split(".")[1]) for id_ in of(fold)} for fold in FOLDS}
    assert [len(numbers[fold]) for fold in FOLDS] == [556, 91, 165]
    assert set.union(*numbers.values()) == set(range(812)) and sum(map(len, numbers.values())) == 812
    assert all(id_.startswith("webarenalite.") is (task.fold == "test") for id_, task in KNOWN.items())
    assert not {task.template for task in of("dev").values()} & {task.template for task in of("train").values()}


def test_ids_are_those_that_browsergym_registers() -> None:
    registered = pytest.importorskip("browsergym.webarenalite.config", reason="the packages are in another Python")
    assert {f"webarenalite.{number}" for number in registered.TASK_IDS} == set(of("test"))


def test_a_task_comes_once_whatever_the_seed(sites: tuple[Site, Site]) -> None:
    env = BrowserGym(["webarenalite"], python=PYTHON, judge={"model": "m", "base_url": sites[1].url})
    for fold in FOLDS:
        first, second = env.tasks(fold, 1000, 0), env.tasks(fold, 1000, 1)
        assert {t.id for t in first} == {t.id for t in second} == set(of(fold))
        assert first != second and env.tasks(fold, 5, 0) == first[:5]
        assert all(json.loads(t.payload) == {"task": t.id, "seed": 0} for t in first)


def test_without_a_judge_its_tasks_are_left_out_and_counted(
    sites: tuple[Site, Site], caplog: pytest.LogCaptureFixture
) -> None:
    env = BrowserGym(["webarenalite"], python=PYTHON)
    assert [len(env.tasks(fold, 1000, 0)) for fold in FOLDS] == [479, 82, 125]
    assert "left out: 40 of 165 test, 9 of 91 dev, 77 of 556 train" in env.remark
    assert env.remark in caplog.text
    with pytest.raises(EnvError, match=r"the answer to 'webarenalite\.135' is judged by an LLM"):
        begin(env, 135)


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ("webarena.44", r"test fold; write webarenalite\.44"),
        ("webarenalite.45", "not one of WebArena-Lite's 165"),
        ("webarena.812", "not a task of WebArena"),
        ("webarenalite.135", r"^env\.options\.judge: "),
    ],
)
def test_a_named_task_that_is_not_of_its_fold_or_not_there_is_refused(
    sites: tuple[Site, Site], named: str, words: str
) -> None:
    with pytest.raises(EnvError, match=words):
        BrowserGym([named], python=PYTHON)


def test_named_tasks_are_played_in_their_fold_alone(sites: tuple[Site, Site]) -> None:
    env = BrowserGym(["webarenalite.44", "webarenalite.44", "webarenalite.205"], python=PYTHON)
    assert {task.id for task in env.tasks("test", 10, 0)} == {"webarenalite.44", "webarenalite.205"}
    with pytest.raises(EnvError, match=r"none of webarenalite\.44, .* is of the train fold"):
        env.tasks("train", 1, 0)
    with pytest.raises(EnvError, match="task of WebArena"):
        env.reset(Task("a", "browsergym", "", '{"task": "webarena.9999", "seed": 0}'))


def test_a_task_of_several_sites_tells_their_addresses(sites: tuple[Site, Site]) -> None:
    env = BrowserGym(["webarenalite.791"], python=PYTHON)
    (task,) = env.tasks("test", 1, 0)
    assert task.instruction.endswith(f" (sites: gitlab at {sites[0].url}, reddit at {sites[1].url})")


# Success, by WebArena's evaluators ----------------------------------------------------------------------------


def test_a_page_counts_where_the_agent_says_that_it_is_done(env: BrowserGym) -> None:
    """Task 44 asks for the address of a page. No step before the answer is judged."""
    assert "Projects" in begin(env, 44), "signed in"
    assert env._goal == "Check out my todos"
    assert "send_msg_to_user('done')" in env.commands() and env.expert_action() == ""
    state, reward, ended, _, info = env.step(f"click('{element(env, 'To-Do List')}')")
    assert "at /dashboard/todos" in state and (reward, ended, info["success"]) == (0.0, False, False)
    state, reward, ended, _, info = env.step("send_msg_to_user('here they are')")
    assert (reward, ended, info) == (1.0, True, {"success": True, "valid": True})
    begin(env, 44)
    assert env.step("send_msg_to_user('here they are')")[1:3] == (0.0, True)


def test_what_was_done_to_the_site_counts(env: BrowserGym, sites: tuple[Site, Site]) -> None:
    """Task 419 reads another page than the agent's, which the agent does not see, and only at the end."""
    sites[0].status = "nothing"
    begin(env, 419)
    sites[0].served.clear()
    env.step(f"fill('{element(env, 'Status')}', 'Enjoying life')")
    env.step(f"click('{element(env, 'Set status')}')")
    assert "/byteblaze" not in sites[0].served and sites[0].status == "Enjoying life"
    state, reward, ended, _, _ = env.step("send_msg_to_user('done')")
    assert (reward, ended) == (1.0, True) and "/byteblaze" in sites[0].served
    assert "at /\n" in state and "Set status" in state
    sites[0].status = "Busy"
    begin(env, 419)
    assert env.step("send_msg_to_user('done')")[1:3] == (0.0, True)


@pytest.mark.parametrize(
    ("number", "answer", "reward"),
    [
        (205, "1 commit", 1.0),
        (205, "11 commits", 0.0),
        (349, "It is yjlou alone.", 1.0),  # its reference is one phrase, where the evaluator takes a list
        (349, "nobody", 0.0),
    ],
)
def test_an_answer_in_words(env: BrowserGym, number: int, answer: str, reward: float) -> None:
    begin(env, number)
    assert env.step(f"send_msg_to_user({answer!r})")[1:3] == (reward, True)


def test_what_cannot_be_done_is_an_answer_too(env: BrowserGym) -> None:
    begin(env, 44)
    assert env.step("report_infeasible('no such page')")[1:3] == (0.0, True)


def test_a_judge_is_asked_once_by_its_own_name_and_without_a_verdict_nothing_counts(
    env: BrowserGym, sites: tuple[Site, Site]
) -> None:
    judge = sites[1]
    for verdict, reward in (("correct", 1.0), ("Incorrect.", 0.0)):
        judge.asked.clear()
        judge.verdict = verdict
        begin(env, 135)
        env.step("noop(1)")
        assert env.step("send_msg_to_user('none at all')")[1:3] == (reward, True)
        ((key, request),) = judge.asked
        assert (key, request["model"]) == ("Bearer secret", "my-judge") and "none at all" in str(request["messages"])
    judge.verdict = "I cannot say."
    begin(env, 135)
    with pytest.raises(BrowserFault, match="gave no verdict"):
        env.step("send_msg_to_user('none at all')")


# Sites --------------------------------------------------------------------------------------------------------


def test_only_the_tasks_sites_are_opened_also_by_a_redirect(env: BrowserGym, sites: tuple[Site, Site]) -> None:
    blocked = "blocked: 127.0.0.1 is not a host of this task"
    begin(env, 44)
    sites[1].served.clear()
    assert blocked in env.step(f"goto('{sites[1].url}/named')")[0].splitlines()
    begin(env, 44)
    state, _, ended, _, _ = env.step(f"click('{element(env, 'Moved')}')")
    assert blocked in state.splitlines() and not ended
    assert sites[1].served == []


def test_each_episode_signs_in_anew_and_leaves_nothing_behind(env: BrowserGym, sites: tuple[Site, Site]) -> None:
    begin(env, 44)
    folder = Path(env._browser._folder.name)  # type: ignore[union-attr]
    sites[0].served.clear()
    state = begin(env, 44)
    assert "/users/sign_in" in sites[0].served and "Projects" in state, "the form was there: no cookie of before"
    answers = [file for file in folder.iterdir() if file.is_file() and "reference_url" in file.read_text("latin-1")]
    assert answers == [], "BrowserGym leaves the reference answers in a file"
    env._browser.close()
    assert not folder.exists()


@pytest.mark.parametrize("how", ["no connection", "an error of the server", "lost later"])
async def test_a_site_that_does_not_answer_is_no_reward(
    sites: tuple[Site, Site], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    if not system_browser():
        pytest.skip("no Chromium is installed")
    if how == "no connection":
        monkeypatch.setenv("WA_GITLAB", "http://127.0.0.1:1")
    options = {"tasks": ["webarenalite.44"], "python": PYTHON}
    real = RealEnvironment(EnvConfig(name="browsergym", options=options, timeout_s=180))
    try:
        (task,) = await real.tasks("test", 9, 0)
        sites[0].broken = how == "an error of the server"
        result = await real.reset(task)
        sites[0].broken = False
        if how == "lost later":
            assert result.status == "ok"
            line = next(line for line in result.observation.splitlines() if line.endswith("link Gone"))
            result = await real.step(f"click('{line.split()[0]}')")
        assert result.status == "env_failed" and "127.0.0.1" in str(result.info["error"])
    finally:
        await real.close()
