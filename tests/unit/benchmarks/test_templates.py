"""Every chat template that TRL ships: rendered right, turn by turn or anew, or refused with one true sentence."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dreamgym.errors import ModelError
from dreamgym.models.chat import THOUGHTS, ChatFormat

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
from templates import judged, stand_in, text_templates

TEMPLATES = dict(text_templates())
REFUSED = {"glm4moe": "its chat template ends no turn with a special token."}


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_what_is_read_is_what_the_template_renders_and_each_sampled_token_is_learned_once(name: str) -> None:
    found = judged(name, TEMPLATES[name])
    assert (found["way"] == "refused") == (name in REFUSED)
    assert found["reason"] == REFUSED.get(name, found["reason"])
    assert found.get("calls") in (None, "as text", "as marked, grows", "as marked, forks")


def test_the_families_of_today_write_calls_as_their_template_marks_them() -> None:
    for name in (
        "qwen3",
        "qwen3_6",
        "deepseekv3",
        "llama3_1",
        "gemma4",
        "nemotron_3_nano",
        "glm4moe_training",
        "lfm2_v2",
    ):
        assert judged(name, TEMPLATES[name])["calls"].startswith("as marked"), name


@pytest.mark.parametrize("name", sorted(TEMPLATES.keys() - REFUSED.keys()))
def test_no_content_opens_or_ends_a_turn(name: str) -> None:
    chat = ChatFormat(stand_in(name, TEMPLATES[name]), forks=True)
    spelled = [token.content for token in chat.tokenizer.added_tokens_decoder.values() if token.content not in THOUGHTS]
    tokens = {*chat.tokenizer.all_special_ids, chat.end_id, *chat.stop_ids}

    def marks(content: str) -> list[int]:
        roles = ("user", "assistant", "user")
        ids = chat.start([{"role": role, "content": content} for role in roles]) + chat.answer(content)
        return [i for i in ids if i in tokens]

    assert marks(" and ".join(spelled)) == marks("a word")


def test_a_template_that_drops_thoughts_is_refused_where_a_conversation_must_grow() -> None:
    """The dream's conversation is one sample; the policy's may be several."""
    tokenizer = stand_in("qwen3_6", TEMPLATES["qwen3_6"])
    assert not ChatFormat(tokenizer, forks=True).grows_with("<think>\nA thought.\n</think>\n\nan action")
    with pytest.raises(ModelError, match="rewrites earlier turns"):
        ChatFormat(tokenizer)


def test_a_thought_that_the_template_has_begun_is_read_back_whole() -> None:
    """Templates of DeepSeek R1 and others end their prompt within a thought."""
    chat = ChatFormat(stand_in("deepseek_r1_distill", TEMPLATES["deepseek_r1_distill"]), forks=True)
    for text in ("<think>\nA thought.\n</think>\n\ngo", "go north", ""):
        ids = chat.answer(text)
        assert chat.decode(ids[:-1]) == text and ids[-1] == chat.end_id
        again, starts = chat.written(text)
        assert again == ids and len(starts) == len(ids) and max(starts) <= len(text)
