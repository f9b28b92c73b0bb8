"""Turns chat messages into token ids one turn at a time, so that an episode's tokens only ever grow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dreamgym.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, str]


class ChatFormat:
    """Incremental rendering of any Hugging Face chat template (token-in, token-out).

    An episode is `start(messages)`, then the sampled ids of a turn up to and with the stop token, then
    `turn(observation)`, the next sampled ids, and so on. No id is ever rewritten, so what the engine
    sampled is what the learner sees.

    Raises:
        ModelError: the tokenizer has no chat template, or one that rewrites earlier turns.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not tokenizer.chat_template:
            raise ModelError(f"{tokenizer.name_or_path}: the tokenizer has no chat template; use an instruct model.")
        self.tokenizer = tokenizer
        self._opening = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        rendered = self._render(self._opening, prompt=False)
        content_end = len(self._render(self._opening[:1], prompt=True)) + len("b")
        tail = self._encode(rendered[content_end:])
        if not tail or tail[0] not in set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder):
            raise ModelError(f"{tokenizer.name_or_path}: its chat template ends no turn with a special token.")
        self.end_id: int = tail[0]
        self.stop_ids: list[int] = sorted({self.end_id, tokenizer.eos_token_id or self.end_id})
        self._closed = rendered[: content_end + len(tokenizer.convert_ids_to_tokens(self.end_id))]
        self._check()

    def start(self, messages: Sequence[Message]) -> list[int]:
        """Ids of a conversation's opening, up to and with the generation prompt."""
        return self._encode(self._render(messages, prompt=True))

    def answer(self, text: str) -> list[int]:
        """Ids of an assistant turn that was written rather than sampled, with its end token."""
        return [*self._encode(text), self.end_id]

    def turn(self, content: str, role: str = "user") -> list[int]:
        """Ids that follow an ended assistant turn: a message, then the next generation prompt."""
        rendered = self._render([*self._opening, {"role": role, "content": content}], prompt=True)
        if not rendered.startswith(self._closed):
            raise ModelError(f"{self.tokenizer.name_or_path}: its chat template rewrites earlier turns.")
        return self._encode(rendered[len(self._closed) :])

    def decode(self, ids: Sequence[int]) -> str:
        """The text of sampled ids, without special tokens."""
        text = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _render(self, messages: Sequence[Message], prompt: bool) -> str:
        text = self.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=prompt)
        assert isinstance(text, str)
        return text

    def _check(self) -> None:
        """The incremental ids of a small conversation are those of the whole, or the template is refused."""
        one, two, three = ({"role": "user", "content": f"Message {n}."} for n in range(3))
        yes, no = ({"role": "assistant", "content": word} for word in ("Yes.", "No."))
        grown = self.start([one]) + self.answer("Yes.") + self.turn("Message 1.") + self.answer("No.")
        if grown + self.turn("Message 2.") != self.start([one, yes, two, no, three]):
            raise ModelError(f"{self.tokenizer.name_or_path}: its chat template cannot be rendered turn by turn.")
