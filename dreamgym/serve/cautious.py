"""Cautious outcomes: whether a dreamed step wins is not left to chance, however freely its state was sampled.

At the temperature at which states vary enough, a rare win is drawn now and then, and a policy finds out where.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from dreamgym.inference.engine import Generation
from dreamgym.models.chat import ChatFormat


def before_outcome(chat: ChatFormat, ids: list[int]) -> list[int]:
    """The ids of an answer before its outcome; none where it has no outcome."""
    end = chat.decode(ids).rfind("\nreward=")
    kept = len(ids) if end >= 0 else 0
    while kept and len(chat.decode(ids[:kept])) > end:
        kept -= 1
    return ids[:kept]


async def with_probable_outcome(
    chat: ChatFormat, prompt: list[int], answer: Generation, greedy: Callable[[list[int]], Awaitable[Generation]]
) -> Generation:
    """The answer with the outcome that is most probable after its reasoning and state; its counts are of both calls.

    Args:
        greedy: writes on from a prompt at temperature 0.
    """
    kept = before_outcome(chat, answer.ids)
    if not kept:
        return answer
    again = await greedy(prompt + kept)
    return replace(
        again,
        ids=kept + again.ids,
        prompt_tokens=answer.prompt_tokens + again.prompt_tokens,
        cached_tokens=answer.cached_tokens + again.cached_tokens,
    )
