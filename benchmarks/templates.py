"""Which chat templates of today can be trained with: those that TRL ships, each held against its own rendering.

    .venv/bin/python benchmarks/templates.py

Each template gets a stand-in tokenizer: bytes, and the tokens that the template spells. A conversation of six turns
with thoughts is played as an episode is. What is read before each turn must be, token for token, what the template
renders there, or what was sampled; and each sampled token must carry loss once. The same is held with tools: thoughts,
one or two calls a turn, and what came of each.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

from record import ROOT, record
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from dreamgym.config import PolicyConfig
from dreamgym.errors import ModelError
from dreamgym.models.answers import FORMATS
from dreamgym.models.answers.calls import Call, told
from dreamgym.models.chat import DAY, ChatFormat, Message
from dreamgym.models.conversation import Conversation
from dreamgym.types import Task, Transition

SEES = re.compile(r"idefics|llava|smolvlm|qwen2_5_vl")
"""Templates of models that are for images."""
TOKEN = re.compile(
    r"<[|｜]?[^<>'\"{}|｜ \n]{1,40}?[|｜]>|<[|｜][^<>'\"{}|｜ \n]{1,40}?>|</?[a-z_]{3,24}>|\[/?[A-Z_]{3,20}\]"
)
STATES = ["at hall", "at attic\nholds a key", "done: <b>1 < 2</b>", "", "at cellar", "at yard"]
THOUGHTS = ["The key is up.", "I take it.\nThen I go.", "Nothing here.", "Back.", "Down.", "Out."]
CALLS = [
    [Call("go", {"to": "attic"})],
    [Call("take", {"thing": 'the "old" key', "hands": 2}), Call("look", {})],
    [Call("look", {})],
    [Call("go", {"to": "cellar"}), Call("go", {"to": "yard"})],
    [Call("take", {"thing": "1"})],
    [Call("go", {"to": "out\nand on"})],
]
TOOLS = [
    {"name": "go", "description": "", "parameters": {"type": "object", "properties": {"to": {"type": "string"}}}},
    {
        "name": "take",
        "description": "Take what is here.",
        "parameters": {"type": "object", "properties": {"thing": {"type": "string"}, "hands": {"type": "integer"}}},
    },
    {"name": "look", "description": "", "parameters": {"type": "object", "properties": {}}},
]
APART = {"gptoss": "thinking"} | dict.fromkeys(("muse", "gemma4", "diffusion", "qwen3_8"), "reasoning_content")
"""Where a message holds its thought, by how the names of templates begin that do not look for it in the content."""
ACTIONS = ["go up", "take key", 'look {"a":  [1]}', "go back", "go down\nand on", "go out"]


def text_templates() -> Iterator[tuple[str, str]]:
    """(name, template) of each that needs no image."""
    for file in sorted(files("trl").joinpath("chat_templates").iterdir(), key=lambda f: f.name):
        if file.name.endswith(".jinja") and not SEES.search(file.name.removesuffix(".jinja")):
            yield file.name.removesuffix(".jinja"), file.read_text(encoding="utf-8")


def stand_in(name: str, template: str) -> PreTrainedTokenizerFast:
    """A tokenizer of bytes that knows the tokens which a template spells."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator([], trainers.BpeTrainer(vocab_size=256, initial_alphabet=alphabet))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<bos>", eos_token="<eos>", name_or_path=name)
    spelled = sorted(set(TOKEN.findall(template)) | {"<|im_end|>"})
    thinks = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
    tokenizer.add_tokens([AddedToken(text, special=text not in thinks) for text in spelled])
    tokenizer.chat_template = template
    return tokenizer


def judged(name: str, template: str) -> dict[str, str]:
    """How a template is rendered: it grows, forks, or is refused, and why; a fault raises AssertionError."""
    try:
        chat = ChatFormat(stand_in(name, template), forks=True)
        samples = played(chat)
    except ModelError as error:
        return {"way": "refused", "reason": str(error).removeprefix(f"{name}: ")}
    way = {"way": "grows" if samples == 1 else "forks", "reason": f"{samples} samples of {len(STATES)} turns"}
    return way | {"calls": called(name, template)}


def called(name: str, template: str) -> str:
    """How calls of tools are written: as text, or as the template marks them, and then whether that grows."""
    chat = ChatFormat(stand_in(name, template), forks=True, tools=TOOLS)
    if chat.calls is None:
        return "as text"
    return "as marked, grows" if played_by_calls(chat) == 1 else "as marked, forks"


def played_by_calls(chat: ChatFormat) -> int:
    """Play a conversation with calls and hold it against the template; returns the number of samples."""
    assert chat.calls is not None
    policy = PolicyConfig.model_validate({"format": "native", "engine": {"max_model_len": 4096}})
    talk = Conversation(chat, policy, Task("t", "e", "find the way"), STATES[0])
    listed = "" if chat.lists_tools else f"{told(TOOLS)}\n"
    messages: list[Message] = [{"role": "user", "content": f"find the way\n{listed}{STATES[0]}"}]
    asked: list[list[int]] = []
    said: list[list[int]] = []
    for state, following, thought, calls in zip(STATES, [*STATES[1:], "the end"], THOUGHTS, CALLS, strict=True):
        asked.append(list(talk.prompt))
        check_read(chat, messages, asked, said)
        made = calls if chat.calls.several else calls[:1]
        head = f"<think>\n{thought}\n</think>\n\n"
        said.append(chat.called(head, made))
        talk.sampled(said[-1], [0.0] * len(said[-1]), [0] * len(said[-1]), ended=True)
        answer = talk.read(said[-1], True)
        assert (list(answer.calls), answer.thought) == (made, thought), f"{chat.tokenizer.name_or_path}: read otherwise"
        results = [f"{following} {n}".strip() if n else following for n in range(len(made))]
        turn = [
            Transition(state, call.text, result, 0.0, False, answer="" if n else answer.text, same_turn=n > 0)
            for n, (call, result) in enumerate(zip(made, results, strict=True))
        ]
        talk.observed(turn)
        shape = chat.calls.shape
        called = spoken(chat, head, thought, "") if chat.calls.headed else {}
        messages += [shape.message("", made) | called, *shape.results(made, results)]
    check_loss(talk, said)
    return sum(any(sample.mask) for sample in talk.samples)


def played(chat: ChatFormat) -> int:
    """Play the conversation and hold it against the template; returns the number of samples."""
    policy = PolicyConfig.model_validate({"format": "native", "engine": {"max_model_len": 2048}})
    talk = Conversation(chat, policy, Task("t", "e", "find the way"), STATES[0])
    messages: list[Message] = [{"role": "user", "content": f"find the way\n{STATES[0]}"}]
    asked: list[list[int]] = []
    said: list[list[int]] = []
    for state, following, thought, action in zip(STATES, [*STATES[1:], "the end"], THOUGHTS, ACTIONS, strict=True):
        asked.append(list(talk.prompt))
        check_read(chat, messages, asked, said)
        answer = FORMATS["native"].write(thought, action)
        said.append(chat.answer(answer))
        talk.sampled(said[-1], [0.0] * len(said[-1]), [0] * len(said[-1]), ended=True)
        talk.observed([Transition(state, action, following, 0.0, False, thought=thought, answer=answer)])
        messages += [spoken(chat, answer, thought, action), {"role": "user", "content": following}]
    check_loss(talk, said)
    return sum(any(sample.mask) for sample in talk.samples)


def spoken(chat: ChatFormat, answer: str, thought: str, action: str) -> Message:
    """The message of an answer, with its thought where the template has a place for it."""
    field = next((key for name, key in APART.items() if chat.tokenizer.name_or_path.startswith(name)), None)
    told = {"content": action, field: thought} if field else {"content": answer}
    return {"role": "assistant", **told}


def check_read(chat: ChatFormat, messages: list[Message], asked: list[list[int]], said: list[list[int]]) -> None:
    """What is read is what the template renders, or goes on behind what was read and sampled before."""
    offered = [{"type": "function", "function": tool} for tool in chat.tools] if chat.lists_tools else None
    text = chat.tokenizer.apply_chat_template(
        messages, tools=offered, tokenize=False, add_generation_prompt=True, strftime_now=DAY.strftime
    )
    rendered = chat.tokenizer(text, add_special_tokens=False)["input_ids"]
    grown = len(asked) > 1 and asked[-1][: len(asked[-2]) + len(said[-1])] == asked[-2] + said[-1]
    assert asked[-1] == rendered or grown, f"{chat.tokenizer.name_or_path}: turn {len(asked)} reads something else"
    if grown:  # then what follows the answer is what the template writes there
        ending = asked[-1][len(asked[-2]) + len(said[-1]) :]
        assert rendered[-len(ending) :] == ending, f"{chat.tokenizer.name_or_path}: turn {len(asked)} goes on otherwise"


def check_loss(talk: Conversation, said: list[list[int]]) -> None:
    """All that was sampled carries loss, once and in its order."""
    carried = [i for sample in talk.samples for i, m in zip(sample.ids, sample.mask, strict=True) if m]
    assert carried == [i for ids in said for i in ids]


def main() -> None:
    found = {name: judged(name, template) for name, template in text_templates()}
    ways = Counter(one["way"] for one in found.values())
    metrics: dict[str, Any] = {
        "text_templates": len(found),
        "rendered": ways["grows"] + ways["forks"],
        "grows": ways["grows"],
        "forks": ways["forks"],
        "refused_truly": ways["refused"],
        "calls_as_marked": sum(one.get("calls", "").startswith("as marked") for one in found.values()),
    }
    record(ROOT / "docs" / "results" / "templates.json", "benchmarks/templates.py", metrics, templates=found)
    for name, one in found.items():
        print(f"{one['way']:8} {name}: {one['reason']}")


if __name__ == "__main__":
    main()
