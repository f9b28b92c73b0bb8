"""Turns chat messages into token ids one turn at a time, so that an episode's tokens only ever grow."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from dreamgym.config import PolicyConfig
from dreamgym.errors import ModelError
from dreamgym.models.answers import FORMATS
from dreamgym.types import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, str]
DATE = "26 Jul 2024"
"""The day of all conversations: templates such as Llama's ask the clock if they are not told one."""
SAID = "b\ue000b"
"""An answer that no template has in it."""
THINK, UNTHOUGHT = "<think>", "\n</think>\n\n"
"""What opens a thought in the templates of most families, and what closes one in which nothing is thought."""
THOUGHTS = (THINK, "</think>")


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint.

    Raises:
        ModelError: there is none that can be loaded.
    """
    try:
        tokenizer: PreTrainedTokenizerBase = _loader(Path(path)).from_pretrained(str(path))
        return tokenizer
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ModelError(f"{path}: no tokenizer can be loaded ({reason}).") from error


def _loader(folder: Path) -> Any:
    """The generic class where a checkpoint names it: `AutoTokenizer`, which finds the same, imports PyTorch first.

    That is 400 MB and some seconds in each process that reads and writes text alone.
    """
    import transformers

    try:
        named = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("tokenizer_class")
    except FileNotFoundError:
        named = None
    generic = named in ("TokenizersBackend", "PreTrainedTokenizerFast") and (folder / "tokenizer.json").is_file()
    return transformers.PreTrainedTokenizerFast if generic else transformers.AutoTokenizer


def load_chat(path: str | Path, forks: bool = False) -> ChatFormat:
    """The chat format of a checkpoint's folder, with every token at which its model ends an answer.

    Raises:
        ModelError: see `load_tokenizer` and `ChatFormat`.
    """
    return ChatFormat(load_tokenizer(path), end_ids(Path(path)), forks=forks)


def end_ids(folder: Path) -> list[int]:
    """The end tokens that `generation_config.json` names: none, one or several (Llama 3.1 has three)."""
    try:
        named = json.loads((folder / "generation_config.json").read_text()).get("eos_token_id")
    except FileNotFoundError:
        return []
    return [named] if isinstance(named, int) else list(named or [])


class ChatFormat:
    """Incremental rendering of any Hugging Face chat template (token-in, token-out).

    An episode is `start(messages)`, then the sampled ids of a turn up to and with the stop token, then
    `turn(observation)`, the next sampled ids, and so on. No id is ever rewritten, so what the engine
    sampled is what the learner sees.

    What a message or an answer says is text, whoever wrote it: where it spells a special token, or another one that
    the template marks turns with, it is encoded as the characters it consists of. Only the template opens a turn.

    Some templates rewrite earlier turns, such as those that drop old thoughts. With `forks` they are taken: whoever
    asks `grows_with` renders such conversations whole at each turn.

    Raises:
        ModelError: the tokenizer has no chat template, or one that ends no turn by a token of its own; without `forks`,
            one that rewrites earlier turns.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, ends: Iterable[int] = (), forks: bool = False) -> None:
        """`ends` are further tokens at which the model ends an answer; see `end_ids`."""
        if not tokenizer.chat_template:
            raise ModelError(f"{tokenizer.name_or_path}: the tokenizer has no chat template; use an instruct model.")
        self.tokenizer = tokenizer
        self._opening = [{"role": "user", "content": "a"}, {"role": "assistant", "content": SAID}]
        last = self._render(self._opening, prompt=False)
        tail = self._encode(last[last.rfind(SAID) + len(SAID) :])
        if not tail or tail[0] not in set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder):
            raise ModelError(f"{tokenizer.name_or_path}: its chat template ends no turn with a special token.")
        self.end_id: int = tail[0]
        eos = self.end_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id
        self.stop_ids: list[int] = sorted({self.end_id, eos, *ends})
        rendered = self._render([*self._opening, {"role": "user", "content": "c"}], prompt=True)
        ended = rendered.rfind(SAID) + len(SAID) + len(tokenizer.convert_ids_to_tokens(self.end_id))
        self._closed = rendered[:ended]
        self._opened = rendered[rendered.rfind(THINK) :] if rendered.rstrip().endswith(THINK) else ""
        """What the generation prompt has begun of the answer already."""
        self._grown: dict[str, bool] = {}
        special, marks = set(tokenizer.all_special_ids), set(self._encode(rendered))
        added = {i: t for i, t in tokenizer.added_tokens_decoder.items() if len(t.content.strip()) > 1}
        self._control = {t.content: i for i, t in added.items() if t.special or i in special | marks}
        """Tokens that no content may become, by their text."""
        self._spelled = _any_of(self._control)
        self._thinks = _any_of(t.content for t in added.values() if t.content in THOUGHTS)
        """Tokens that a written answer may have: its thought is the model's own, and opens no turn."""
        self._misspelled = _any_of(set(self._control) - set(THOUGHTS))
        self._stubborn = _any_of(t.content for i, t in added.items() if i in marks and not t.special)
        if not forks and not self.grows_with("Yes."):
            raise ModelError(f"{tokenizer.name_or_path}: its chat template rewrites earlier turns.")

    def start(self, messages: Sequence[Message]) -> list[int]:
        """Ids of a conversation's opening, up to and with the generation prompt."""
        return self._render_ids(messages, after="")

    def answer(self, text: str) -> list[int]:
        """Ids of an assistant turn that was written rather than sampled, with its end token."""
        return self.written(text)[0]

    def _begun(self, text: str) -> str:
        """An answer without what the generation prompt has begun of it: a thought, which is empty where it has none."""
        if not self._opened:
            return text
        opened = self._opened if text.startswith(self._opened) else THINK
        return text.removeprefix(opened) if text.startswith(THINK) else UNTHOUGHT + text

    def written(self, text: str) -> tuple[list[int], list[int]]:
        """Ids of `answer`, and the character at which each begins (the end token after the last one)."""
        ids: list[int] = []
        starts: list[int] = []
        body = self._begun(text)
        before = len(body) - len(text)
        for tokenizer, at, piece in self._said(body):
            encoded = tokenizer(piece, add_special_tokens=False, return_offsets_mapping=True)
            ids += encoded["input_ids"]
            starts += [max(0, at + start - before) for start, _ in encoded["offset_mapping"]]
        return [*ids, self.end_id], [*starts, len(text)]

    def turn(self, content: str, role: str = "user") -> list[int]:
        """Ids that follow an ended assistant turn: a message, then the next generation prompt."""
        return self._render_ids([*self._opening, {"role": role, "content": content}], after=self._closed)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of sampled ids, without special tokens, and with what the generation prompt has begun of it."""
        text = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        empty = self._opened and text.startswith(UNTHOUGHT)
        return text.removeprefix(UNTHOUGHT) if empty else self._opened + text

    def grows_with(self, answer: str) -> bool:
        """Whether a conversation in which the model answers like this is rendered turn by turn as it is as a whole."""
        if answer not in self._grown:
            one, two, three = ({"role": "user", "content": f"Message {n}."} for n in range(3))
            said = {"role": "assistant", "content": answer}
            try:
                grown = self.start([one]) + self.answer(answer) + self.turn("Message 1.") + self.answer(answer)
                self._grown[answer] = grown + self.turn("Message 2.") == self.start([one, said, two, said, three])
            except ModelError:
                self._grown[answer] = False
        return self._grown[answer]

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _render_ids(self, messages: Sequence[Message], after: str) -> list[int]:
        """Ids of a rendered conversation with its generation prompt, from the end of `after` on.

        Raises:
            ModelError: it does not begin with `after`.
        """
        mark = ""
        if any(self._spelled.search(message["content"]) for message in messages):
            mark = _unused(message["content"] for message in messages)
            messages = [{**m, "content": self._broken(m, mark)} for m in messages]
        rendered = self._render(messages, prompt=True)
        if not rendered.startswith(after):
            raise ModelError(f"{self.tokenizer.name_or_path}: its chat template rewrites earlier turns.")
        rest = rendered[len(after) :]
        return self._between(rest, mark) if mark else self._encode(rest)

    def _broken(self, message: Message, mark: str) -> str:
        """Content in which no control token is spelled any more, for `mark` stands behind its first character."""
        content, spelled = message["content"], self._misspelled if message["role"] == "assistant" else self._spelled
        while spelled.search(content):
            content = spelled.sub(lambda found: found[0][0] + mark + found[0][1:], content)
        return content

    def _between(self, rendered: str, mark: str) -> list[int]:
        """Ids of a rendering whose control tokens are all the template's, and all else is text once `mark` is out."""
        ids: list[int] = []
        at, strips = 0, False
        for found in [*self._spelled.finditer(rendered), None]:
            token = None if found is None else self.tokenizer.added_tokens_decoder[self._control[found[0]]]
            text = rendered[at : found.start() if found else None]
            text = text.lstrip() if strips else text
            text = text.rstrip() if token is not None and token.lstrip else text
            ids += self._literal_ids(text.replace(mark, ""))
            if found is not None and token is not None:
                ids.append(self._control[found[0]])
                at, strips = found.end(), token.rstrip
        return ids

    def _literal_ids(self, text: str) -> list[int]:
        return [i for tok, _, piece in self._pieces(text) for i in tok(piece, add_special_tokens=False)["input_ids"]]

    def _pieces(self, text: str) -> Iterator[tuple[PreTrainedTokenizerBase, int, str]]:
        """Pieces of a text, where each begins, and the tokenizer that makes no control token of it."""
        if not self._spelled.search(text):
            yield self.tokenizer, 0, text
            return
        at, found = 0, self._stubborn.search(text)
        while found:
            yield self._literal, at, text[at : found.start() + 1]
            at = found.start() + 1
            found = self._stubborn.search(text, at)
        yield self._literal, at, text[at:]

    def _said(self, text: str) -> Iterator[tuple[PreTrainedTokenizerBase, int, str]]:
        """`_pieces` of an answer, in which the tokens of a thought are tokens."""
        if not self._misspelled.search(text):
            yield self.tokenizer, 0, text
            return
        at = 0
        for found in [*self._thinks.finditer(text), None]:
            end = found.start() if found else len(text)
            yield from ((tokenizer, at + start, piece) for tokenizer, start, piece in self._pieces(text[at:end]))
            if found:
                yield self.tokenizer, found.start(), found[0]
                at = found.end()

    @cached_property
    def _literal(self) -> PreTrainedTokenizerBase:
        """A tokenizer that takes special tokens for text. Other added ones it does not: `_pieces` cuts them."""
        tokenizer = copy.deepcopy(self.tokenizer)
        tokenizer.split_special_tokens = True
        return tokenizer

    def _render(self, messages: Sequence[Message], prompt: bool) -> str:
        try:
            text = self.tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=prompt, date_string=DATE
            )
        except TemplateError as error:  # such as one that knows no system role
            roles = ", ".join(dict.fromkeys(m["role"] for m in messages))
            raise ModelError(
                f"{self.tokenizer.name_or_path}: its chat template refuses messages of {roles} ({error}); "
                "leave system_prompt empty, or take another model."
            ) from error
        assert isinstance(text, str)
        return text


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """Matches any of some texts, the longest first, and nothing where there are none."""
    longest_first = sorted(texts, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def _unused(texts: Iterable[str]) -> str:
    """A character for private use that stands in none of the texts."""
    used = set().union(*texts)
    return next(mark for mark in map(chr, range(0xF0000, 0xFFFFE)) if mark not in used)


def opening(task: Task, first_state: str, policy: PolicyConfig) -> list[Message]:
    """The messages that open an episode: the goal, how to answer where a format is asked for, and the first state."""
    head = [{"role": "system", "content": policy.system_prompt}] if policy.system_prompt else []
    lines = (task.instruction, FORMATS[policy.format].asks, first_state)
    return [*head, {"role": "user", "content": "\n".join(line for line in lines if line)}]
