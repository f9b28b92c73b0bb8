"""Turns chat messages into token ids one turn at a time, so that an episode's tokens only ever grow."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from dreamgym.errors import ModelError
from dreamgym.models.answers.call_messages import Message
from dreamgym.models.answers.calls import Call, Tool
from dreamgym.models.answers.template_calls import CALLS, TemplateCalls, kinds_in, learn
from dreamgym.models.channels import Channels, Piece, channels_of, field_of, set_apart
from dreamgym.models.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DAY = date(2024, 7, 26)
"""The day of all conversations: templates such as Llama's and gpt-oss's ask the clock for one."""
SAID = "b\ue000b"
"""An answer that no template has in it."""
THINK, UNTHOUGHT = "<think>", "\n</think>\n\n"
"""What opens a thought in the templates of most families, and what closes one in which nothing is thought."""
THOUGHTS = (THINK, "</think>")
_UNTHOUGHT = re.compile(r"<think>\s*</think>\s*\Z")


def load_chat(path: str | Path, forks: bool = False, tools: Sequence[Tool] = ()) -> ChatFormat:
    """The chat format of a checkpoint's folder, with every token at which its model ends an answer.

    Raises:
        ModelError: see `load_tokenizer` and `ChatFormat`.
    """
    return ChatFormat(load_tokenizer(path), end_ids(Path(path)), forks=forks, tools=tools)


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

    `tools` go into the template's own place for them, where it has one (`lists_tools`). `calls` is how it writes calls
    of them, None where it does not.

    Raises:
        ModelError: the tokenizer has no chat template, or one that ends no turn by a token of its own; without `forks`,
            one that rewrites earlier turns.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        ends: Iterable[int] = (),
        forks: bool = False,
        tools: Sequence[Tool] = (),
    ) -> None:
        """`ends` are further tokens at which the model ends an answer; see `end_ids`."""
        if not tokenizer.chat_template:
            raise ModelError(f"{tokenizer.name_or_path}: the tokenizer has no chat template; use an instruct model.")
        self.tokenizer, self.tools = tokenizer, tuple(tools)
        self._channels: Channels | None = channels_of(str(tokenizer.chat_template))
        self._apart = self._channels.field if self._channels else ""  # where messages hold thoughts; "": in the content
        self.lists_tools = bool(tools) and self._lists()
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
        self._apart = self._apart or field_of(self._render, self._opened)
        self._grown: dict[str, bool] = {}
        added = {i: t for i, t in tokenizer.added_tokens_decoder.items() if len(t.content.strip()) > 1}
        self._added = _any_of(t.content for t in added.values())
        self.calls: TemplateCalls | None = learn(self._told, thinks=self._channels is not None) if tools else None
        self._call_end = self.end_id
        if self.calls:
            called = self._probe()
            rendered += self._render(called, prompt=True)
            self._call_end = self._encode(self._turn_of(called[1])[1])[0]
            self.stop_ids = sorted({*self.stop_ids, self._call_end})
        if self._channels:
            rendered += self._channels.opens + self._channels.closes + self._channels.says
        special, marks = set(tokenizer.all_special_ids), set(self._encode(rendered))
        self._control = {t.content: i for i, t in added.items() if t.special or i in special | marks}
        """Tokens that no content may become, by their text."""
        self._spelled = _any_of(self._control)
        self._thinks = _any_of(t.content for t in added.values() if t.content in THOUGHTS)
        """Tokens that a written answer may have: its thought is the model's own, and opens no turn."""
        self._misspelled = _any_of(set(self._control) - set(THOUGHTS))
        self._stubborn = _any_of(t.content for i, t in added.items() if i in marks and not t.special)
        if not forks and not self.grows_with("Yes."):
            raise ModelError(
                f"{tokenizer.name_or_path}: its chat template rewrites earlier turns, so a dream cannot grow; set "
                "world.history=false, or take another model."
            )

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
        whole = Piece(len(text) - len(body), body, mark=False)
        for begin, said, mark in self._channels.pieces(text) if self._channels else [whole]:
            for tokenizer, at, piece in [(self.tokenizer, 0, said)] if mark else self._said(said):
                encoded = tokenizer(piece, add_special_tokens=False, return_offsets_mapping=True)
                ids += encoded["input_ids"]
                starts += [begin if mark else max(0, begin + at + start) for start, _ in encoded["offset_mapping"]]
        return [*ids, self.end_id], [*starts, len(text)]

    def turn(self, content: str, role: str = "user") -> list[int]:
        """Ids that follow an ended assistant turn: a message, then the next generation prompt."""
        return self._render_ids([*self._opening, {"role": role, "content": content}], after=self._closed)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of sampled ids, without special tokens, and with what the generation prompt has begun of it.

        Where the template marks calls or thoughts, only the end token is left out: special tokens may be such marks.
        """
        ids, skip = list(ids), self.calls is None and self._channels is None
        if not skip and ids and ids[-1] in self.stop_ids:
            ids.pop()
        text = self.tokenizer.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        if self._channels:
            return self._channels.told(text, self.calls is not None)
        empty = self._opened and text.startswith(UNTHOUGHT)
        return text.removeprefix(UNTHOUGHT) if empty else self._opened + text

    def called(self, head: str, calls: Sequence[Call]) -> list[int]:
        """Ids of an assistant turn that was written: what it says before its calls, and these, with its end token."""
        assert self.calls is not None
        shown = head if self.calls.headed else ""
        (message,), mark = self._plain([self.calls.shape.message(shown, calls)])
        body = self._turn_of(message)[0]
        body = self._begun(body) if self.calls.headed or not head else body
        ids = self._between(body, mark) if mark else self._encode(body)
        return [*([] if shown or not head else self.answer(head)[:-1]), *ids, self._call_end]

    def results(self, called: Message, results: Sequence[Message]) -> list[int]:
        """Ids that follow an ended turn with calls: what came of them, then the next generation prompt."""
        (user, said, first, *more), mark = self._plain([self._opening[0], called, *results])
        end = self.tokenizer.convert_ids_to_tokens(self._call_end)
        shown = self._render([user, said, {**first, "content": SAID}, *more], prompt=True)
        ended = shown.rfind(end, 0, max(shown.rfind(SAID), 0))
        if ended < 0:
            raise ModelError(f"{self.tokenizer.name_or_path}: its chat template leaves out what came of a call.")
        rendered = self._render([user, said, first, *more], prompt=True)
        return self._after(rendered, shown[: ended + len(end)], mark)

    @cached_property
    def grows_with_calls(self) -> bool:
        """Whether a conversation with thoughts and calls is rendered turn by turn as it is as a whole."""
        assert self.calls is not None
        head, calls = f"{THINK}\nA thought.\n</think>\n\n", CALLS[:1]
        called = self.calls.shape.message(head if self.calls.headed else "", calls)
        results = self.calls.shape.results(calls, ["A result."])
        try:
            turn = self.called(head, calls) + self.results(called, results)
            grown = self.start(self._opening[:1]) + turn + turn
            return grown == self.start([self._opening[0], called, *results, called, *results])
        except ModelError:
            return False

    def check_nested(self) -> None:
        """Raise ModelError where a tool takes what the template writes in a way that is not read back."""
        assert self.calls is not None
        for tool in () if self.calls.nests else self.tools:
            for key, schema in tool["parameters"].get("properties", {}).items():
                if kinds_in(schema, tool["parameters"]) & {"object", "array"}:
                    raise ModelError(
                        f"{self.tokenizer.name_or_path}: its chat template writes objects and lists among arguments in "
                        f"a way that cannot be read back; make {tool['name']}.{key} a text or a number, or set "
                        "policy.format=react."
                    )

    def _probe(self) -> list[Message]:
        """A conversation with a call and its result."""
        assert self.calls is not None
        shape, calls = self.calls.shape, CALLS[:1]
        return [self._opening[0], shape.message("", calls), *shape.results(calls, ["A result."])]

    def _lists(self) -> bool:
        """Whether the template has a place for tools."""
        user = [{"role": "user", "content": "a"}]
        try:
            return self._render(user, prompt=True, tools=False) != self._render(user, prompt=True, tools=True)
        except ModelError:
            return False

    def _told(self, message: Message) -> str:
        """An assistant message as it is rendered, and its thought as it is told."""
        text = self._turn_of(message)[0]
        return self._channels.told(text, calls=True) if self._channels else text

    def _turn_of(self, message: Message) -> tuple[str, str]:
        """How an assistant message is rendered: its text from where the generation prompt begins it, and its end.

        Raises:
            ModelError: it is not rendered behind the generation prompt, or has no end.
        """
        prompt = self._render(self._opening[:1], prompt=True).removesuffix(self._opened)
        rendered = self._render([self._opening[0], message], prompt=False)
        if not rendered.startswith(prompt):
            prompt = _UNTHOUGHT.sub("", prompt)
        ends = list(self._added.finditer(rendered, len(prompt)))
        if not rendered.startswith(prompt) or not ends or rendered[ends[-1].end() :].strip():
            raise ModelError(f"{self.tokenizer.name_or_path}: its chat template ends no turn with a special token.")
        return rendered[len(prompt) : ends[-1].start()], ends[-1][0]

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
        messages, mark = self._plain(messages)
        return self._after(self._render(messages, prompt=True), after, mark)

    def _after(self, rendered: str, before: str, mark: str) -> list[int]:
        """Ids of what follows in a rendering; raises ModelError where it does not begin so."""
        if not rendered.startswith(before):
            raise ModelError(f"{self.tokenizer.name_or_path}: its chat template rewrites earlier turns.")
        rest = rendered[len(before) :]
        return self._between(rest, mark) if mark else self._encode(rest)

    def _plain(self, messages: Sequence[Message]) -> tuple[Sequence[Message], str]:
        """Messages in which no control token is spelled, and the mark that breaks those which were; "" for none."""
        texts = [text for message in messages for text in _texts(message)]
        if not any(self._spelled.search(text) for text in texts):
            return messages, ""
        mark = _unused(texts)
        return [self._broken(m, mark, self._spelled) for m in messages], mark

    def _broken(self, said: Any, mark: str, spelled: re.Pattern[str]) -> Any:
        """All texts of a message without a control token, for `mark` stands behind its first character."""
        if isinstance(said, dict):
            content = self._misspelled if said.get("role") == "assistant" else spelled
            return {
                self._broken(k, mark, spelled): self._broken(v, mark, content if k == "content" else spelled)
                for k, v in said.items()
            }
        if isinstance(said, list):
            return [self._broken(one, mark, spelled) for one in said]
        while isinstance(said, str) and spelled.search(said):
            said = spelled.sub(lambda found: found[0][0] + mark + found[0][1:], said)
        return said

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

    def _render(self, messages: Sequence[Message], prompt: bool, tools: bool | None = None) -> str:
        listed = self.lists_tools if tools is None else tools
        offered = [{"type": "function", "function": tool} for tool in self.tools] if listed else None
        shown = [set_apart(message, self._apart) if self._apart else message for message in messages]
        try:
            text = self.tokenizer.apply_chat_template(
                shown, tools=offered, tokenize=False, add_generation_prompt=prompt, strftime_now=DAY.strftime
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


def _texts(said: Any) -> Iterator[str]:
    """All texts of a message, at any depth."""
    if isinstance(said, str):
        yield said
    elif isinstance(said, dict | list):
        for one in [*said, *said.values()] if isinstance(said, dict) else said:
            yield from _texts(one)
