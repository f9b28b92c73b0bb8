"""What WebArena needs is told in a sentence before a browser is started; its packages are not needed for that."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import pytest

from dreamgym.envs.web.env import BrowserGym, BrowserGymTools, _judge
from dreamgym.envs.web.hosts import may_open
from dreamgym.envs.web.judging import _as_lists, answer_of
from dreamgym.envs.web.webarena import KEY, SITES, _fold, _task, tasks_of
from dreamgym.errors import EnvError


@pytest.fixture
def addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    for number, site in enumerate(SITES):
        monkeypatch.setenv(f"WA_{site}", f"http://localhost:{7770 + number}")


@pytest.mark.parametrize("gone", [("MAP",), ("REDDIT", "WIKIPEDIA"), SITES])
@pytest.mark.usefixtures("addresses")
def test_each_variable_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, gone: tuple[str, ...]) -> None:
    for site in gone:
        monkeypatch.delenv(f"WA_{site}")
    with pytest.raises(EnvError) as told:
        BrowserGym(["webarenalite"])
    for site in SITES:
        assert (f"WA_{site}," in f"{told.value}," or f"WA_{site} " in str(told.value)) is (site in gone)


@pytest.mark.parametrize("address", ["localhost:7770", "http://", "ftp://a.example", "http://a.example:none"])
@pytest.mark.usefixtures("addresses")
def test_a_variable_that_is_no_address_is_named(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("WA_GITLAB", address)
    with pytest.raises(EnvError, match=r"^WA_GITLAB: '.*' is no address of a site"):
        BrowserGym(["webarenalite"])


@pytest.mark.usefixtures("addresses")
def test_a_python_that_cannot_play_webarena_is_named() -> None:
    with pytest.raises(EnvError, match=r"^env\.options\.python: /no/such/python cannot be run"):
        BrowserGym(["webarenalite"], python="/no/such/python")
    with pytest.raises(EnvError, match=r"^env\.options\.python: /bin/echo cannot list WebArena's tasks"):
        BrowserGym(["webarenalite"], python="/bin/echo")
    if importlib.util.find_spec("browsergym") is None:
        with pytest.raises(EnvError, match="has no tasks of WebArena; install browsergym-webarenalite=="):
            tasks_of(sys.executable)


@pytest.mark.usefixtures("addresses")
def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(EnvError, match="browsergym-tools has no answer to the user"):
        BrowserGymTools(tasks=["webarenalite"])
    with pytest.raises(EnvError, match="'webarena-lite' is no id of BrowserGym"):
        BrowserGym(["webarena-lite"])


@pytest.mark.parametrize(
    ("judge", "words"),
    [
        ({"base_url": "http://localhost:8000/v1"}, "write {model: NAME"),
        ({"model": "m", "api_key": "secret"}, "write {model: NAME"),
        ("gpt-4", "write {model: NAME"),
        ({"model": "m", "base_url": "http://me:secret@localhost/v1"}, "holds a password"),
        ({"model": "m"}, f"set {KEY}"),
    ],
)
def test_a_judge_that_cannot_be_asked_is_told_without_its_secrets(
    monkeypatch: pytest.MonkeyPatch, judge: Any, words: str
) -> None:
    monkeypatch.delenv(KEY, raising=False)
    with pytest.raises(EnvError) as told:
        BrowserGym(["miniwob.click-test"], judge=judge)
    assert str(told.value).startswith("env.options.judge") and words in str(told.value)
    assert "secret" not in str(told.value)


def test_the_judges_key_comes_from_the_environment_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "secret")
    assert _judge({"model": "m"}, {"A": "b"}) == ("m", {"A": "b", KEY: "secret"})
    monkeypatch.delenv(KEY)
    at = {"model": "m", "base_url": "http://localhost:8000/v1"}
    assert _judge(at, {}) == ("m", {"OPENAI_BASE_URL": at["base_url"], KEY: "none"})
    assert _judge(None, {"A": "b"}) == ("", {"A": "b"})


@pytest.mark.parametrize(
    ("url", "open_"),
    [
        ("http://localhost:7770/a", True), ("http://LOCALHOST:7770", True), ("http://localhost:7771/", False),
        ("http://localhost/", False), ("https://shop.example/", True), ("https://shop.example:444/", False),
        ("http://shop.example/", False), ("http://localhost:7770@evil.example/", False), ("http://localhost:x/", False),
    ],
)  # fmt: skip
def test_a_host_with_a_port_is_that_port_alone(url: str, open_: bool) -> None:
    assert may_open(url, ["localhost:7770", "shop.example:443"], "") is open_


def test_the_answer_is_the_last_message_of_the_agent() -> None:
    greeting, goal = {"role": "assistant", "message": "Hi!"}, {"role": "user", "message": "Buy it"}
    assert answer_of([]) is answer_of([greeting, goal]) is None
    assert answer_of([greeting, goal, {"role": "assistant", "message": "Done"}]) == "Done"
    assert answer_of([greeting, goal, {"role": "infeasible", "message": "no"}]) == "N/A"


def test_one_phrase_is_a_list_of_one_and_all_else_stays() -> None:
    told = {"eval": {"eval_types": ["string_match"], "reference_answers": {"must_include": "a", "exact_match": "b"}}}
    assert _as_lists(told)["eval"]["reference_answers"] == {"must_include": ["a"], "exact_match": "b"}
    for answers in (None, {"must_include": ["a", "b"]}, {"exact_match": "b"}):
        assert _as_lists({"eval": {"reference_answers": answers}}) == {"eval": {"reference_answers": answers}}


@pytest.mark.parametrize(
    ("kinds", "answers", "contents", "judged"),
    [
        (["string_match"], {"must_include": ["a"]}, [], False),
        (["string_match"], {"fuzzy_match": ["a"]}, [], True),
        (["string_match"], {"fuzzy_match": "N/A"}, [], True),
        (["url_match"], {"fuzzy_match": ["a"]}, [], False),
        (["program_html"], None, [{"must_include": ["a"]}, {"fuzzy_match": ["b"]}], True),
        (["program_html"], None, [{"exact_match": "a"}], False),
    ],
)
def test_which_tasks_need_a_judge(kinds: list[str], answers: Any, contents: list[Any], judged: bool) -> None:
    programs = [{"required_contents": asked} for asked in contents]
    told = {"eval_types": kinds, "reference_answers": answers, "program_html": programs}
    row = {"intent": "a", "intent_template_id": 7, "sites": ["map"], "eval": told}
    assert _task("webarena.1", "train", row).judged is judged


def test_the_dev_fold_stays_what_it_is() -> None:
    assert [template for template in range(40) if _fold(template) == "dev"] == [3, 14, 24, 26, 28]
