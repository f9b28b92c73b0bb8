"""A policy and a dream that say what a test has written, and keep what they were asked."""

from __future__ import annotations

import asyncio

from dreamgym.config import PolicyConfig
from dreamgym.inference.engine import ContextFull, Generation
from dreamgym.models.chat import ChatFormat
from dreamgym.serve.experience import DreamAnswer, DreamQuery


class Script:
    """A policy that plays given actions; it records every prompt that it was given."""

    def __init__(self, chat: ChatFormat, actions: list[str], finish: str = "stop") -> None:
        self.chat, self.actions, self.finish = chat, actions, finish
        self.prompts: list[list[int]] = []

    async def __call__(self, prompt: list[int], seed: int) -> Generation:
        self.prompts.append(list(prompt))
        if len(self.prompts) > len(self.actions):
            raise ContextFull("the context is full")
        ids = self.chat.answer(self.actions[len(self.prompts) - 1])
        ids = ids if self.finish == "stop" else ids[:-1]
        return Generation(ids, [-0.5] * len(ids), [7] * len(ids), self.finish, len(prompt), 0)  # type: ignore[arg-type]


PLAIN = PolicyConfig()


class Dreamer:
    """A dream that answers every step alike, at a known price, and counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    async def step(self, query: DreamQuery) -> DreamAnswer:
        self.asked += 1
        await asyncio.sleep(0.001)
        return DreamAnswer(state="seen", transcript=[1], read=10, cached=8, written=3)
