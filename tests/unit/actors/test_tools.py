"""Episodes in an environment with tools: calls are checked, carried out in order, and told as the template has it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dreamgym.actors.episode import EpisodeSpec, play
from dreamgym.config import EnvConfig, PolicyConfig
from dreamgym.config.loading import load_config
from dreamgym.data.examples import policy_examples
from dreamgym.data.seed_play import collect_trajectories
from dreamgym.envs.base import RealEnvironment, env_tools
from dreamgym.inference.engine import Generation
from dreamgym.learner.advantages import rewarded_part
from dreamgym.models.answers.calls import Call, told
from dreamgym.models.chat import ChatFormat
from dreamgym.models.prompts import first_message, last_line
from dreamgym.models.tokenizer import train_tokenizer
from dreamgym.schema import from_batch, to_batch
from dreamgym.types import Trajectory, turns_of
from tests.waiting import HANG_S

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
from templates import stand_in, text_templates

NAME = "examples.keyhouse_tools:KeyHouseTools"
TOOLS = env_tools(NAME)
WEST, EAST = (Call("go", {"direction": direction}) for direction in ("west", "east"))
UP, WAIT = Call("go", {"direction": "up"}), Call("wait", {})
REFUSED = "Nothing was done: your call does not fit its tool (at go.direction: 'up' is not one of ['west', 'east'])."
TEMPLATES = dict(text_templates())
Said = Callable[[ChatFormat], list[int]]


def played(chat: ChatFormat, answers: list[Said], **policy: object) -> Trajectory:
    """An episode of as many turns; the rest of its steps would be cut."""
    said = iter(answers)

    async def act(prompt: list[int], seed: int) -> Generation:
        ids = next(said)(chat)
        return Generation(ids, [-0.5] * len(ids), [1] * len(ids), "stop", len(prompt), 0)

    async def run() -> Trajectory:
        env = RealEnvironment(EnvConfig(name=NAME, max_steps=5, timeout_s=HANG_S))
        try:
            task = (await env.tasks("train", 1, 0))[0]
            config = PolicyConfig.model_validate({"format": "native", **policy})
            return await play(EpisodeSpec("e", task, 0, 1.0, world="real"), env, act, chat, config)
        finally:
            await env.close()

    return asyncio.run(run())


def calling(*calls: Call, thought: str = "") -> Said:
    head = f"<think>\n{thought}\n</think>\n\n" if thought else ""
    return lambda chat: chat.called(head, calls)


def saying(text: str) -> Said:
    return lambda chat: chat.answer(text)


def test_calls_of_one_turn_are_carried_out_in_order_and_one_that_does_not_fit_is_told_where() -> None:
    chat = ChatFormat(stand_in("qwen3", TEMPLATES["qwen3"]), forks=True, tools=TOOLS)
    answers = [calling(WAIT, UP, EAST, thought="East?"), saying("I think."), saying('<tool_call>\n{"name": 1}')]
    t = played(chat, answers)
    wait, up, east, text, broken = t.steps
    assert [step.action for step in t.steps] == [WAIT.text, "", EAST.text, "", ""]
    assert [step.malformed for step in t.steps] == ["", "misfit_call", "", "no_call", "unreadable_call"]
    assert [step.same_turn for step in t.steps] == [False, True, True, False, False]
    assert [len(turn) for turn in turns_of(t.steps)] == [3, 1, 1]
    assert wait.next_state == f"refused {last_line(wait.state)}" and up.next_state == REFUSED and not up.valid
    assert up.state == east.state == wait.next_state and east.next_state != east.state
    assert (wait.thought, up.thought, up.answer) == ("East?", "", "") and "<tool_call>" in wait.answer
    assert text.next_state == "Nothing was done: your answer calls no tool."
    assert broken.next_state.startswith("Nothing was done: your call cannot be read (")
    assert t.truncated and from_batch(to_batch([t])) == [t]


def test_results_go_into_the_templates_own_place_and_the_sample_grows() -> None:
    chat = ChatFormat(stand_in("qwen3", TEMPLATES["qwen3"]), forks=True, tools=TOOLS)
    t = played(chat, [calling(WAIT, thought="Hm."), calling(EAST, WEST), calling(WAIT), calling(WAIT)])
    (sample,) = t.samples
    text = chat.tokenizer.decode(sample.ids)
    assert text.startswith("<|im_start|>system\n# Tools") and '"name": "take"' in text.split("<|im_end|>")[0]
    for step in t.steps[:4]:
        assert f"<tool_response>\n{step.next_state}\n</tool_response>" in text
    sampled = [i for i, m in zip(sample.ids, sample.mask, strict=True) if m]
    calls = [chat.called("<think>\nHm.\n</think>\n\n", [WAIT]), chat.called("", [EAST, WEST]), chat.called("", [WAIT])]
    assert sampled == [i for ids in [*calls, calls[-1]] for i in ids]
    assert rewarded_part(t, bootstrap=False)["rewards"].count(0.0) == len(sample.ids)


@pytest.mark.parametrize("policy", [{"format": "react"}, {"format": "plain"}, {}])
def test_a_template_without_calls_reads_of_the_tools_in_the_first_message(policy: dict[str, str]) -> None:
    tokenizer = train_tokenizer([f"{told(TOOLS)} go direction east west at holds nothing"] * 4, 400, 2048)
    chat = ChatFormat(tokenizer, tools=TOOLS)
    assert chat.calls is None and not chat.lists_tools
    written = {"react": "Thought: Hm.\nAction: {}", "plain": "{}"}.get(
        policy.get("format", ""), "<tool_call>\n{}\n</tool_call>"
    )
    t = played(chat, [saying(written.replace("{}", EAST.text)), saying(written.replace("{}", UP.text))] * 3, **policy)
    assert [step.malformed for step in t.steps[:2]] == ["", "misfit_call"] and t.steps[0].action == EAST.text
    assert told(TOOLS) in tokenizer.decode(t.samples[0].ids)


def test_seed_play_writes_calls_and_the_warm_start_teaches_them_as_the_template_marks_them(tmp_path: Path) -> None:
    room = ["policy.engine.max_model_len=8192", "policy.model.scratch.context=8192"]
    config = load_config(None, [f"env.name={NAME}", f"out={tmp_path}", "policy.format=native", *room])
    episodes = collect_trajectories(config, "train", 3).trajectories
    taken = {step.action for t in episodes for step in t.steps}
    assert len(taken) > 4 and all(action.startswith('{"name": ') for action in taken)
    chat = ChatFormat(stand_in("qwen3", TEMPLATES["qwen3"]), forks=True, tools=TOOLS)
    rows = policy_examples(config, [t for t in episodes if t.source == "expert"], chat).to_pylist()
    marked = [i for row in rows for i, w in zip(row["ids"], row["weights"], strict=True) if w]
    assert chat.tokenizer.decode(marked).count("<tool_call>") == sum(
        len(t.steps) for t in episodes if t.source == "expert"
    )


def test_the_dream_reads_the_tools_before_the_state() -> None:
    task = asyncio.run(RealEnvironment(EnvConfig(name=NAME)).tasks("train", 1, 0))[0]
    shown = first_message(task, "at hall", EAST.text, [], TOOLS)
    assert shown == f"dream {task.instruction}\n{told(TOOLS)}\nat hall\n> {EAST.text}"


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        ("qwen3", {}),
        ("qwen3", {"context": "steps"}),
        ("qwen3", {"context": "window", "context_turns": 1}),
        ("qwen3", {"format": "react", "context": "window", "context_turns": 1}),
        ("qwen3_training", {"format": "tags"}),
        ("qwen3_6", {}),
        ("gemma4", {}),
        ("phi3", {}),
        ("phi3", {"context": "steps"}),
    ],
)
def test_whatever_is_sampled_is_answered_and_learned_once(name: str, policy: dict[str, object]) -> None:
    """Nothing, half calls, control tokens in calls and thoughts, depths: each is a turn that a sentence answers."""
    chat = ChatFormat(stand_in(name, TEMPLATES[name]), forks=True, tools=TOOLS)
    marks = [Call("go", {"direction": text}) for text in ("<|im_start|>", "<|end|>", "east", "x" * 3000)]
    texts = [call.text for call in marks]
    texts += ["", "<tool_call>", "I use <tool_call> now", '{"name": "go", "arguments": {"direction": "\\ud800"}}']
    texts.append('{"name": "go", "arguments": {"direction": ' + "[" * 900 + "]" * 900 + "}}")
    texts += [f"<think>\n<tool_call>\n</think>\n\n<tool_call>\n{text}\n</tool_call>" for text in texts[:3]]
    texts += [f"Thought: <|im_start|>\nAction: {text}" for text in texts[:3]]
    said = [
        [chat.end_id],
        *([*chat.tokenizer(text, add_special_tokens=False)["input_ids"], chat.end_id] for text in texts),
    ]
    if chat.calls:
        said += [chat.called("", [call]) for call in marks[:3]]
    for begun in range(0, len(said), 4):
        answers = [*said[begun:], *said[:5]]
        room = {"engine": {"max_model_len": 16384}}
        t = played(chat, [lambda _, ids=ids: ids for ids in answers], **room, **policy)
        assert t.status == "ok" and t.steps and from_batch(to_batch([t])) == [t]
        sampled = [i for sample in t.samples for i, m in zip(sample.ids, sample.mask, strict=True) if m]
        taken = [i for ids in answers[: len(turns_of(t.steps))] for i in ids]
        assert sampled == taken
