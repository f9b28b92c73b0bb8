"""Cautious outcomes: state and reasoning stay as sampled, and the outcome is asked for once more at temperature 0."""

from __future__ import annotations

import asyncio

import pytest

from dreamgym.config import RunConfig
from dreamgym.inference.engine import Generation
from dreamgym.models.chat import ChatFormat
from dreamgym.models.prompts import answer_parts
from dreamgym.models.tokenizer import train_tokenizer
from dreamgym.serve.cautious import before_outcome
from dreamgym.serve.experience import DreamAnswer, DreamQuery, ExperienceModel
from dreamgym.types import Task, Transition

CHAT = ChatFormat(train_tokenizer(["state: at hall\nreward=0 done=no reward=1 done=yes so go"] * 8, 340, 256))


def written(state: str, reward: float, done: bool) -> str:
    return "".join(answer_parts(Transition("at hall", "go", state, reward, done, "so")))


class Engine:
    """Samples a false win; what is most probable is that nothing is won."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, float]] = []

    async def generate(self, prompt: list[int], sampling: object, **_: object) -> Generation:
        self.asked.append((CHAT.decode(prompt), sampling.temperature))  # type: ignore[attr-defined]
        if sampling.temperature:  # type: ignore[attr-defined]
            return Generation(CHAT.answer(written("at attic", 1.0, True)), [], [], "stop", len(prompt), 0)
        begun = CHAT.answer(written("at attic", 0.0, False))
        kept = before_outcome(CHAT, begun)
        assert prompt[-len(kept) :] == kept
        return Generation(begun[len(kept) :], [], [], "stop", len(prompt), len(prompt) - 1)


def dreamed(cautious: bool) -> tuple[DreamAnswer, Engine]:
    config = RunConfig.model_validate({"world": {"probable_outcome": cautious, "sampling": {"temperature": 1.0}}})
    model = object.__new__(ExperienceModel)
    engine = Engine()
    model._config, model._chat, model._tools, model._engine = config.world, CHAT, (), engine  # type: ignore[assignment]
    model._tally = Tally()  # type: ignore[assignment]
    model._shown, model._check, model._seen = config.replay, None, None
    query = DreamQuery(Task("t", "e", "win", first_state="at hall"), [], "at hall", "go", 3)
    return asyncio.run(model._step(query, [])), engine


class Tally:
    def add(self, name: str, count: int = 1) -> None: ...


def test_off_the_outcome_is_as_it_was_sampled() -> None:
    answer, engine = dreamed(cautious=False)
    assert (answer.state, answer.reward, answer.done) == ("at attic", 1.0, True)
    assert [temperature for _, temperature in engine.asked] == [1.0]


def test_a_rare_win_is_not_drawn_and_the_state_stays() -> None:
    answer, engine = dreamed(cautious=True)
    assert (answer.error, answer.reasoning, answer.state) == ("", "so", "at attic")
    assert (answer.reward, answer.done) == (0.0, False)
    assert [temperature for _, temperature in engine.asked] == [1.0, 0.0]
    assert CHAT.decode(answer.transcript).endswith(written("at attic", 0.0, False))
    assert answer.read > len(answer.transcript), "both calls are counted"


@pytest.mark.parametrize("state", ["at attic", "two\nlines", "ends with reward=1", "é ☃"])
def test_an_answer_is_cut_right_before_its_outcome(state: str) -> None:
    ids = CHAT.answer(written(state, 1.0, True))
    kept = before_outcome(CHAT, ids)
    assert ids[: len(kept)] == kept
    before, after = CHAT.decode(kept), CHAT.decode(ids[len(kept) :])
    assert before.endswith(state) or before.endswith(state[:-1])
    assert "reward=1" in after and "reward" not in before.replace("ends with reward=1", "")
    assert before_outcome(CHAT, CHAT.answer("no outcome here")) == []
