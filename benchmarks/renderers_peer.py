"""Prime Intellect's `renderers` against our own rendering: tokens of conversations, their loss, and the time they take.

    .venv/bin/python -m pip install --no-deps --target /tmp/renderers \
        renderers==0.1.12 prime-pydantic-config==0.4.3
    PYTHONPATH=/tmp/renderers .venv/bin/python benchmarks/renderers_peer.py

Each family that has a renderer of its own there, and a template in TRL 1.16, plays six turns with thoughts, and six
with tools as well. Its tokenizer is the stand-in of templates.py. gpt-oss's renderer is left out: it downloads its
vocabulary. renderers is no dependency of dreamgym.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from statistics import median
from typing import Any

import renderers
from record import ROOT, record
from renderers import configs
from renderers.base import build_training_sample
from templates import ACTIONS, CALLS, STATES, THOUGHTS, TOOLS, stand_in, text_templates
from transformers import PreTrainedTokenizerBase

from dreamgym.config import PolicyConfig
from dreamgym.errors import ModelError
from dreamgym.models.answers import FORMATS
from dreamgym.models.answers.call_messages import SHAPES
from dreamgym.models.chat import DAY, ChatFormat, Message
from dreamgym.models.conversation import Conversation
from dreamgym.types import Task, Transition

RENDERERS: dict[str, Any] = {
    "deepseek_r1_distill": configs.DeepSeekR1RendererConfig(),
    "deepseekv3": configs.DeepSeekV3RendererConfig(),
    **dict.fromkeys(("gemma4", "gemma4_v2", "gemma4_v3", "gemma4_v4", "gemma4_v5"), configs.Gemma4RendererConfig()),
    "glm4moe": configs.GLM45RendererConfig(),
    "llama3_2": configs.Llama3RendererConfig(),
    "nemotron_3_nano": configs.Nemotron3RendererConfig(),
    "nemotron_3_super": configs.Nemotron3RendererConfig(),
    "nemotron_3_ultra": configs.Nemotron3UltraRendererConfig(),
    "nemotron_3_5_lightning": configs.Nemotron35RendererConfig(),
    "qwen3": configs.Qwen3RendererConfig(),
    "qwen3_instruct_2507": configs.Qwen3RendererConfig(),
    "qwen3_vl": configs.Qwen3VLRendererConfig(),
    "qwen3_5_nothink": configs.Qwen35RendererConfig(enable_thinking=False),
    "qwen3_5_think": configs.Qwen35RendererConfig(enable_thinking=True),
    "qwen3_6": configs.Qwen36RendererConfig(),
    "qwen3_8": configs.Qwen38RendererConfig(),
}
UNTHINKING = ("qwen3_5_nothink",)
"""Templates whose generation prompt says that nothing is thought."""
BEGINS = {"llama3_2": "<|begin_of_text|>", "deepseekv3": "<｜begin▁of▁sentence｜>"}
BEGINS["deepseek_r1_distill"] = BEGINS["deepseekv3"]
"""The first tokens that the renderers know by their text, where the stand-in has another."""
OFFERED = [{"type": "function", "function": tool} for tool in TOOLS]
ROUNDS = 9
Ids = list[int]


def renderer_of(tokenizer: PreTrainedTokenizerBase, config: Any) -> Any:
    """The renderer, once the tokenizer has every token that it asks for."""
    while True:
        try:
            return renderers.create_renderer(tokenizer, config)
        except AssertionError as error:
            token = str(error).split("'")[1]
            before = len(tokenizer)
            tokenizer.add_tokens([token], special_tokens=True)
            if len(tokenizer) == before:
                raise


def talk(inline: bool = False) -> list[Message]:
    """Six turns; each thought in a field of its own, or before the action."""
    messages: list[Message] = []
    for state, thought, action in zip(STATES, THOUGHTS, ACTIONS, strict=True):
        said: Message = {"content": action, "reasoning_content": thought}
        told = {"content": FORMATS["native"].write(thought, action)} if inline else said
        messages += [{"role": "user", "content": state}, {"role": "assistant", **told}]
    return messages


def talk_with_calls(as_text: bool, several: bool) -> list[Message]:
    """Six turns of calls, with what came of each."""
    shape = next(shape for shape in SHAPES if shape.as_text is as_text)
    messages: list[Message] = [{"role": "user", "content": "find the way"}]
    for state, thought, calls in zip(STATES, THOUGHTS, CALLS, strict=True):
        made = calls if several else calls[:1]
        messages += [shape.message("", made) | {"reasoning_content": thought}]
        messages += shape.results(made, [f"{state} {n}" if n else state for n in range(len(made))])
    return messages


def turns_of(messages: Sequence[Message]) -> list[int]:
    return [i for i, message in enumerate(messages) if message["role"] == "assistant"]


class Family:
    """One template, its tokenizer and its renderer."""

    def __init__(self, name: str, template: str) -> None:
        self.name = name
        self.tokenizer = stand_in(name, template)
        self.tokenizer.add_special_tokens({"bos_token": BEGINS.get(name, "<bos>")})
        self.renderer = renderer_of(self.tokenizer, RENDERERS[name])

    def template(self, messages: Sequence[Message], tools: bool, prompt: bool) -> Ids:
        """What the template renders, as ids."""
        text = self.tokenizer.apply_chat_template(
            list(messages),
            tools=OFFERED if tools else None,
            tokenize=False,
            add_generation_prompt=prompt,
            strftime_now=DAY.strftime,
        )
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def prompts_alike(self, messages: Sequence[Message], tools: bool = False) -> str:
        """Before how many turns the renderer gives what the template does."""
        found = [
            tried(lambda end=i: self.renderer.render_ids(
                list(messages[:end]), tools=OFFERED if tools else None, add_generation_prompt=True
            ) == self.template(messages[:end], tools, prompt=True))
            for i in turns_of(messages)
        ]  # fmt: skip
        return f"{sum(found)} of {len(found)}"

    def sampled(self, messages: Sequence[Message], tools: bool) -> list[Ids]:
        """What a model writes in each turn: the template's last turn behind its generation prompt, with its end."""
        written: list[Ids] = []
        for i in turns_of(messages):
            prompt = self.template(messages[:i], tools, prompt=True)
            whole = self.template(messages[: i + 1], tools, prompt=False)
            stops = set(self.renderer.get_stop_token_ids())
            body = whole[len(prompt) :] if whole[: len(prompt)] == prompt else []
            while body and body[-1] not in stops and stops & set(body):
                body.pop()
            written.append(body)
        return written

    def loss(self, messages: Sequence[Message], tools: bool = False) -> dict[str, str] | None:
        """How many tokens carry loss in one sample, of how many sampled; and in how many turns exactly the sampled.

        None where the template writes no last turn behind its own generation prompt.
        """
        written, offered = self.sampled(messages, tools), OFFERED if tools else None
        if not all(written):
            return None
        ends = turns_of(messages)
        whole = build_training_sample(self.renderer, list(messages[: ends[-1] + 1]), tools=offered)
        exact = 0
        for i, body in zip(ends, written, strict=True):
            mask = [k == i for k in range(i + 1)]
            one = build_training_sample(
                self.renderer, list(messages[: i + 1]), tools=offered, message_loss_mask=mask, ensure_final_stop=True
            )
            carried = [t for t, m in zip(one.token_ids, one.loss_mask, strict=True) if m]
            exact += carried in (body, [*body, self.renderer.get_stop_token_ids()[0]])
        return {
            "one_sample": f"{sum(whole.loss_mask)} of {sum(map(len, written))}",
            "sample_a_turn": f"{exact} of {len(ends)}",
        }

    def bridged(self, messages: Sequence[Message], tools: bool = False) -> str:
        """How many turns go on behind the very tokens that were read and sampled before."""
        offered = OFFERED if tools else None
        ends, written = turns_of(messages), self.sampled(messages, tools)
        grown = 0
        prompt = self.renderer.render_ids(list(messages[: ends[0]]), tools=offered, add_generation_prompt=True)
        for i, following, body in zip(ends, ends[1:], written, strict=False):
            new = list(messages[i + 1 : following])
            found = self.renderer.bridge_to_next_turn(prompt, body, new, tools=offered)
            if found is None:
                prompt = self.renderer.render_ids(list(messages[:following]), tools=offered, add_generation_prompt=True)
            else:
                grown += found.token_ids[: len(prompt) + len(body)] == prompt + body
                prompt = found.token_ids
        return f"{grown} of {len(ends) - 1}"

    def opens(self, role: str) -> bool:
        """Whether a special token that a message spells becomes that token."""
        end = self.tokenizer.convert_ids_to_tokens(self.renderer.get_stop_token_ids()[0])

        def count(said: str) -> int:
            other = {"role": "assistant", "content": "go"} if role == "user" else {"role": "user", "content": "hi"}
            spelled = {"role": role, "content": f"a {said} b"}
            messages = [spelled, other] if role == "user" else [other, spelled]
            ids = self.renderer.render_ids([*messages, {"role": "user", "content": "c"}], add_generation_prompt=True)
            return ids.count(self.tokenizer.convert_tokens_to_ids(end))

        return count(end) > count("x")

    def their_time(self, messages: Sequence[Message]) -> Callable[[], None]:
        """Every prompt of a conversation, and what is trained on."""
        ends, written = turns_of(messages), self.sampled(messages, False)

        def play() -> None:
            prompt = self.renderer.render_ids(list(messages[:1]), add_generation_prompt=True)
            for i, following, body in zip(ends, ends[1:], written, strict=False):
                found = self.renderer.bridge_to_next_turn(prompt, body, list(messages[i + 1 : following]))
                prompt = found.token_ids if found else self.renderer.render_ids(
                    list(messages[:following]), add_generation_prompt=True
                )  # fmt: skip

        return play

    def our_time(self) -> Callable[[], None] | None:
        """The same by a `Conversation`; None where the template is refused."""
        try:
            chat = ChatFormat(self.tokenizer, forks=True)
        except ModelError:
            return None
        policy = PolicyConfig.model_validate({"format": "native", "engine": {"max_model_len": 2048}})
        written = [FORMATS["native"].write(t, a) for t, a in zip(THOUGHTS, ACTIONS, strict=True)]
        ids = [chat.answer(answer) for answer in written]

        def play() -> None:
            grows = Conversation(chat, policy, Task("t", "e", ""), STATES[0])
            for n, following in enumerate(STATES[1:]):
                grows.sampled(ids[n], [0.0] * len(ids[n]), [0] * len(ids[n]), ended=True)
                step = Transition(STATES[n], ACTIONS[n], following, 0.0, False, thought=THOUGHTS[n], answer=written[n])
                grows.observed([step])

        play()  # what a template writes is learned once a run
        return play


def tried(question: Callable[[], bool]) -> bool:
    """The answer; False where the template or the renderer refuses the messages."""
    try:
        return question()
    except Exception as error:  # noqa: BLE001 - whatever a peer raises is an answer that it does not give
        print(f"  {type(error).__name__}: {str(error)[:100]}")
        return False


def milliseconds(*plays: Callable[[], None] | None) -> list[float | None]:
    """The median of some rounds of each, by turns."""
    taken: list[list[float]] = [[] for _ in plays]
    for _ in range(ROUNDS):
        for play, times in zip(plays, taken, strict=True):
            if play:
                begun = time.process_time()
                play()
                times.append(1000 * (time.process_time() - begun))
    return [round(median(times), 2) if times else None for times in taken]


def judged(name: str, template: str) -> dict[str, Any]:
    """One family held against its template."""
    family = Family(name, template)
    ours = our_calls(family.tokenizer)
    spoken, called = talk(), talk_with_calls(*ours) if ours else None
    for message in [*spoken, *(called or [])] if name in UNTHINKING else []:
        message.pop("reasoning_content", None)
    theirs_ms, ours_ms = milliseconds(family.their_time(spoken), family.our_time())
    return {
        "renderer": RENDERERS[name].name,
        "prompts": family.prompts_alike(spoken),
        "prompts_inline": family.prompts_alike(talk(inline=True)),
        "prompts_with_calls": family.prompts_alike(called, tools=True) if called else None,
        "loss": family.loss(spoken),
        "loss_with_calls": family.loss(called, tools=True) if called else None,
        "bridged": family.bridged(spoken),
        "bridged_with_calls": family.bridged(called, tools=True) if called else None,
        "content_opens_a_turn": [role for role in ("user", "assistant") if family.opens(role)],
        "ms_a_conversation": {"renderers": theirs_ms, "ours": ours_ms},
    }


def our_calls(tokenizer: PreTrainedTokenizerBase) -> tuple[bool, bool] | None:
    """Whether the template takes arguments as text, and several calls; None where it takes no calls."""
    try:
        calls = ChatFormat(tokenizer, forks=True, tools=TOOLS).calls
    except ModelError:
        return False, True
    return (calls.shape.as_text, calls.several) if calls else None


def main() -> None:
    found = {}
    for name, template in text_templates():
        if name in RENDERERS:
            print(name)
            found[name] = judged(name, template)
    alike = [one["prompts"] == "6 of 6" for one in found.values()]
    called = [one["prompts_with_calls"] for one in found.values() if one["prompts_with_calls"]]
    times = [one["ms_a_conversation"] for one in found.values() if one["ms_a_conversation"]["ours"]]
    metrics = {
        "renderers": version("renderers"),
        "templates": len(found),
        "prompts_alike": sum(alike),
        "with_calls": len(called),
        "prompts_alike_with_calls": called.count("6 of 6"),
        "content_opens_a_turn": sum("user" in one["content_opens_a_turn"] for one in found.values()),
        "ms_a_conversation_renderers": median(one["renderers"] for one in times),
        "ms_a_conversation_ours": median(one["ours"] for one in times),
    }
    record(ROOT / "benchmarks" / "results" / "renderers.json", "benchmarks/renderers_peer.py", metrics, templates=found)


if __name__ == "__main__":
    main()
