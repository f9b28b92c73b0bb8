"""What a dreamed step may come to: no reward that was never recorded, and the environment's own word where it has one.

The engine's answers are written here; all that reads and judges them is the experience model's own.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from dreamgym.actors.episode import EpisodeSpec, play
from dreamgym.commands.pipeline import make
from dreamgym.config import PolicyConfig, RunConfig, WorldConfig
from dreamgym.envs.checker import checker_of
from dreamgym.envs.mapreader import MapReader
from dreamgym.errors import ConfigError, EnvError
from dreamgym.inference.engine import ContextFull, Generation
from dreamgym.models.chat import ChatFormat
from dreamgym.models.tokenizer import train_tokenizer
from dreamgym.schema import write_parquet
from dreamgym.serve import app, experience
from dreamgym.serve.dream import DreamEnvironment, WorldClient
from dreamgym.serve.experience import DreamAnswer, DreamQuery, ExperienceModel
from dreamgym.serve.seen_outcomes import MOST, SeenOutcomes, read_outcomes
from dreamgym.types import Task, Trajectory, Transition

BINARY = SeenOutcomes.of([(0.0, False), (1.0, True)])
FIRST = (
    "map hall: nothing attic cellar ; attic: coin hall ; cellar: box hall\n"
    "moved at hall has nothing north attic east wall south cellar west wall holds nothing"
)
TASK = Task("t", "mapreader", "coin in attic to box in cellar", first_state=FIRST)
ATTIC = "moved at attic has coin north wall east wall south hall west wall holds nothing"
TAKEN = "taken at attic has nothing north wall east wall south hall west wall holds coin"
HALL = "moved at hall has nothing north attic east wall south cellar west wall holds coin"
CELLAR = "moved at cellar has box north hall east wall south wall west wall holds coin"
SOLVED = "solved at cellar has box north hall east wall south wall west wall holds nothing"
WAY = ["move north", "take coin", "move south", "move south", "put coin in box"]


def said(state: str, outcome: str = "reward=0 done=no") -> str:
    return f"so\nstate: {state}\n{outcome}"


class Answers:
    """An engine that gives these answers in turn, and keeps what it was asked."""

    def __init__(self, chat: ChatFormat, texts: Sequence[str]) -> None:
        self.chat, self.texts, self.prompts = chat, list(texts), []

    async def start(self) -> None:
        """It is ready."""

    async def generate(self, prompt: list[int], *_: Any, **__: Any) -> Generation:
        self.prompts.append(prompt)
        if not self.texts:
            raise ContextFull("no more was written")
        ids = self.chat.answer(self.texts.pop(0))
        return Generation(ids, [], [0] * len(ids), "stop", len(prompt), 0)


@pytest.fixture(scope="module")
def chat() -> ChatFormat:
    return ChatFormat(train_tokenizer([FIRST, ATTIC, TAKEN, HALL, CELLAR, SOLVED, said("go"), *WAY], 400, 2048))


class Dream:
    """What rollouts hold in place of a `WorldClient`: an experience model in this process."""

    def __init__(self, model: ExperienceModel, engine: Answers) -> None:
        self.model, self.engine = model, engine

    async def step(self, query: DreamQuery) -> DreamAnswer:
        async for answers in self.model.step_many([query]):
            return answers[0][1]
        raise AssertionError("no answer")

    def counts(self) -> dict[str, float]:
        return {name: n for name, n in self.model._tally.counts.items() if n and name.startswith("re")}


@pytest.fixture
def dreaming(chat: ChatFormat, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Dream]:
    def make(texts: Sequence[str], seen: SeenOutcomes | None = BINARY, env: str = "mapreader", **world: Any) -> Dream:
        config = RunConfig.model_validate({"env": {"name": env}, "world": world, "replay": {"top_k": 0}})
        engine = Answers(chat, texts)
        monkeypatch.setattr(experience, "TokenEngine", lambda *_, **__: engine)
        monkeypatch.setattr(experience, "load_chat", lambda *_, **__: chat)
        model = ExperienceModel.__new__(ExperienceModel)
        asyncio.run(model.__init__("model", config, None, None, seen))  # type: ignore[misc]
        return Dream(model, engine)

    return make


def played(dream: Dream, chat: ChatFormat, actions: Sequence[str]) -> Trajectory:
    async def act(prompt: list[int], seed: int) -> Generation:
        ids = chat.answer(left.pop(0))
        return Generation(ids, [0.0] * len(ids), [0] * len(ids), "stop", len(prompt), 0)

    left = list(actions)
    env = DreamEnvironment(dream, len(actions), 5)  # type: ignore[arg-type]
    return asyncio.run(play(EpisodeSpec("e", TASK, 0, 1.0), env, act, chat, PolicyConfig()))


# No reward that was never recorded ------------------------------------------------------------------


@pytest.mark.parametrize(
    "outcome", ["reward=1 done=no", "reward=0.5 done=yes", "reward=-1 done=no", "reward=0 done=yes"]
)
def test_a_reward_that_was_never_recorded_is_asked_again_and_counted_as_such(
    dreaming: Callable[..., Dream], chat: ChatFormat, outcome: str
) -> None:
    dream = dreaming([said(ATTIC, outcome), "no step at all", said(ATTIC)])
    t = played(dream, chat, WAY[:1])
    assert (t.status, t.total_reward, t.steps[0].next_state) == ("ok", 0.0, ATTIC)
    assert dream.counts() == {"reasked": 2, "reasked_outcome": 1, "reasked_format": 1}


def test_three_rewards_without_an_end_teach_nothing(dreaming: Callable[..., Dream], chat: ChatFormat) -> None:
    """They would be the best of the group that the true win is in."""
    greedy = played(dreaming([said(ATTIC, "reward=1 done=no")] * 3), chat, WAY[:3])
    assert (greedy.status, greedy.steps, greedy.total_reward) == ("env_failed", [], 0.0)
    assert "reward=1 done=no is in no recorded step; with that done there is 0" in greedy.error
    states = [ATTIC, TAKEN, HALL, CELLAR]
    won = played(dreaming([*map(said, states), said(SOLVED, "reward=1 done=yes")]), chat, WAY)
    assert (won.status, won.success, won.total_reward) == ("ok", True, 1.0)


def test_without_recorded_data_every_reward_may_be(dreaming: Callable[..., Dream], chat: ChatFormat) -> None:
    t = played(dreaming([said(ATTIC, "reward=7 done=no")], None), chat, WAY[:1])
    assert t.total_reward == 7.0


def test_few_different_rewards_are_a_set_and_many_are_a_range() -> None:
    few = SeenOutcomes.of([(r / 10, True) for r in range(MOST)])
    assert few.refusal(0.3, True) == ""
    assert few.refusal(0.35, True).endswith("there is 0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7")
    many = SeenOutcomes.of([(r / 10, True) for r in range(MOST + 1)])
    assert many.refusal(0.35, True) == many.refusal(0.8, True) == ""
    assert many.refusal(0.81, True).endswith("there is 0 to 0.8")
    assert many.refusal(0.3, False).endswith("there is none")


def test_what_was_recorded_is_read_from_the_data_as_a_dream_writes_it(tmp_path: Path) -> None:
    """Rewards of many digits too; not what an answer cost that was no action."""
    steps = [
        Transition("a", "go", "b", 1 / 3, False),
        Transition("b", "", "b", -0.1, False, malformed="no_action"),
        Transition("b", "go", "c", 1234567.0, True),
    ]
    path = tmp_path / "annotated.parquet"
    assert read_outcomes(path) is None
    write_parquet(path, [Trajectory("x", TASK, "expert", "real", steps), Trajectory("y", TASK, "expert", "real")])
    seen = read_outcomes(path)
    assert seen == SeenOutcomes((0.333333,), (1.23457e06,))
    assert seen.refusal(0.333333, False) == seen.refusal(1.23457e6, True) == ""
    assert seen.refusal(-0.1, False) and seen.refusal(1 / 3, True)


def test_the_replicas_of_a_dream_are_given_what_the_run_has_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = RunConfig.model_validate({"out": tmp_path})
    steps = [Transition("a", "go", "b", 0.0, False), Transition("b", "go", "c", 1.0, True)]
    write_parquet(config.run_dir / "data" / "annotated.parquet", [Trajectory("x", TASK, "expert", "real", steps)])
    deployed: list[Any] = []
    monkeypatch.setattr(app, "_start_serve", lambda: None)
    monkeypatch.setattr(app, "_deploy", lambda bound, name: deployed.append(bound))
    monkeypatch.setattr(app.serve, "get_deployment_handle", lambda *_, **__: MagicMock())
    app.deploy_dream(config, tmp_path / "world", None, threads=None)
    world = deployed[0]._bound_deployment.init_args[0]
    given = world._bound_deployment.init_args
    assert inspect.signature(ExperienceModel.__init__).bind(None, *given).arguments["seen"] == BINARY


# The environment's own word ---------------------------------------------------------------------------


def test_a_checker_decides_reward_and_end_whatever_the_experience_model_says(
    dreaming: Callable[..., Dream], chat: ChatFormat
) -> None:
    wrong = "reward=1 done=yes"
    texts = [said(SOLVED, wrong), *map(said, [ATTIC, TAKEN, HALL, CELLAR]), said(SOLVED, "reward=0.5 done=no")]
    dream = dreaming(texts, outcome="checker")
    t = played(dream, chat, ["put coin in box", *WAY])
    assert [(s.reward, s.done) for s in t.steps] == [(0.0, False)] * 5 + [(1.0, True)]
    assert (t.success, dream.counts()) == (True, {})
    told = chat.decode(dream.engine.prompts[1])
    assert "reward=0 done=no" in told and wrong not in told, "the dream goes on from the outcome that counts"
    assert not played(dreaming([said(SOLVED, wrong)], outcome="model"), chat, ["put coin in box"]).truncated


def test_a_dreamed_room_does_not_bring_the_agent_there(dreaming: Callable[..., Dream], chat: ChatFormat) -> None:
    """The states tell of a win, but the way to it leads through a wall, or past the coin."""
    through = ["move north", "take coin", "move east", "put coin in box"]
    t = played(dreaming(map(said, [ATTIC, TAKEN, CELLAR, SOLVED]), outcome="checker"), chat, through)
    assert t.total_reward == 0.0 and not t.success
    past = ["take coin", "move south", "put coin in box"]
    t = played(dreaming(map(said, [HALL, CELLAR, SOLVED]), outcome="checker"), chat, past)
    assert t.total_reward == 0.0 and not t.success


@pytest.mark.parametrize("state", ["nonsense", f"{FIRST.splitlines()[0]}\nnonsense", "map ;\n" + ATTIC, ""])
def test_a_state_that_is_none_of_the_game_is_no_win_and_no_fault(state: str) -> None:
    put = Transition(state, "put coin in box", SOLVED, 1.0, True)
    moved = Transition(state, "move north", ATTIC, 0.0, False)
    assert MapReader.check(Task("t", "mapreader", "x", first_state=state), [moved], put) == (0.0, False)
    assert MapReader.check(TASK, [moved], put) == (0.0, False)


class Moody(MapReader):
    """A class whose rule is wrong: it fails, or gives no outcome."""

    given: Any = None

    @staticmethod
    def check(task: Task, history: Sequence[Transition], transition: Transition) -> tuple[float, bool]:
        if Moody.given is None:
            raise KeyError("lamp")
        return Moody.given


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (None, r"failed \(KeyError: 'lamp'\); mend it"),
        (1.0, r"failed \(TypeError: "),
        (("much", True), r"failed \(ValueError: "),
        ((float("nan"), True), r"gave \(nan, True\)"),
        ((1.0, "yes"), r"gave \(1\.0, 'yes'\)"),
    ],
)
def test_a_rule_that_fails_costs_its_episode_and_says_so(
    dreaming: Callable[..., Dream], chat: ChatFormat, monkeypatch: pytest.MonkeyPatch, given: Any, told: str
) -> None:
    monkeypatch.setattr(Moody, "given", given)
    dream = dreaming([said(ATTIC)], env=f"{__name__}:Moody", outcome="checker")
    t = played(dream, chat, WAY[:1])
    assert t.status == "env_failed"
    with pytest.raises(EnvError, match=rf"check\(\) of '{__name__}:Moody' {told}"):
        raise EnvError(t.error)


def test_an_environment_without_a_rule_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    config = RunConfig.model_validate({"out": tmp_path, "env": {"name": "coin"}, "world": {"outcome": "checker"}})
    with pytest.raises(
        ConfigError, match=r"^world\.outcome: 'coin' has no rule check\(\); set world\.outcome to model"
    ):
        make(config, "policy", ExitStack())
    assert not list(tmp_path.iterdir())
    assert checker_of(config.model_copy(update={"world": WorldConfig()})) is None


@pytest.mark.parametrize(("outcome", "travels"), [("model", False), ("checker", True)])
def test_the_history_travels_only_where_a_checker_reads_it(outcome: str, travels: bool) -> None:
    asked: list[DreamQuery] = []

    class Handle:
        def options(self, stream: bool) -> Any:
            return self

        @property
        def step_many(self) -> Any:
            return self

        async def remote(self, queries: Sequence[DreamQuery]) -> Any:
            asked.extend(queries)
            yield [(n, DreamAnswer(state=ATTIC, transcript=[1])) for n in range(len(queries))]

        write_many = step_many

    async def story() -> None:
        env = DreamEnvironment(WorldClient(Handle(), WorldConfig(outcome=outcome)), 5, 0)  # type: ignore[arg-type]
        await env.reset(TASK)
        await env.step("move north")
        await env.skip()
        await env.step("take coin")

    asyncio.run(story())
    first = Transition(FIRST, "move north", ATTIC, 0.0, False)
    assert [query.history for query in asked] == [(), (first,) if travels else ()]
