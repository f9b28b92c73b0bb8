"""Episodes told again with other names: a model learns which words have to be alike, not which words there were."""

from __future__ import annotations

import random
import re
import string
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from dreamgym.types import Trajectory

_WORD = re.compile(r"\b[^\W\d_]\w*")
COMMON = 0.04
"""A word that stands in a larger share of tasks belongs to what an environment always says, and keeps its name."""
INVENTED = 0.5
"""Chance that a new name is made of random letters; else it is another name of the same length."""


class Names:
    """The words of an environment that are only names: rare ones that begin with a letter, unlike `2nd` or `14`."""

    def __init__(self, trajectories: Sequence[Trajectory]) -> None:
        words = {t.task.id: set[str]() for t in trajectories}
        for t in trajectories:
            words[t.task.id] |= _words(_texts(t))
        tasks = Counter(word for found in words.values() for word in found)
        self.rare = {word for word, count in tasks.items() if len(word) > 1 and count <= COMMON * len(words)}
        self._alike: dict[str, list[str]] = defaultdict(list)
        for word in sorted(self.rare):
            self._alike[_shape(word)].append(word)

    def renamed(self, t: Trajectory, rng: random.Random) -> Trajectory:
        """The same episode, each name replaced by another of its length, the same one everywhere.

        A name that is a part of another one keeps its own, as does that one: their likeness may be what counts.
        """
        said = _words(_texts(t))
        names = sorted(said & self.rare)
        lowered = [name.lower() for name in names]
        taken = set(said)
        new: dict[str, str] = {}
        for name in names:
            if sum(name.lower() in other or other in name.lower() for other in lowered) == 1:
                new[name] = self._other(name, taken, rng)
                taken.add(new[name])

        def told(text: str) -> str:
            return _WORD.sub(lambda word: new.get(word[0], word[0]), text)

        task = replace(t.task, instruction=told(t.task.instruction), first_state=told(t.task.first_state))
        steps = [
            replace(
                step,
                state=told(step.state),
                action=told(step.action),
                next_state=told(step.next_state),
                reasoning=told(step.reasoning),
                expert_action=told(step.expert_action),
                thought=told(step.thought),
                answer=told(step.answer),
            )
            for step in t.steps
        ]
        return replace(t, task=task, steps=steps)

    def _other(self, name: str, taken: set[str], rng: random.Random) -> str:
        """A name of the same length and letter case that the episode has not; the old one if none is found."""
        for _ in range(10):
            alike = self._alike[_shape(name)]
            other = rng.choice(alike) if rng.random() >= INVENTED else "".join(_random(c, rng) for c in name)
            if other not in taken:
                return other
        return name


def _texts(t: Trajectory) -> Iterable[str]:
    yield from (t.task.instruction, t.task.first_state)
    for step in t.steps:
        yield from (step.state, step.action, step.next_state)


def _words(texts: Iterable[str]) -> set[str]:
    return {word for text in texts for word in _WORD.findall(text)}


def _shape(word: str) -> str:
    return "".join("a" if c.islower() else "A" if c.isupper() else "0" for c in word)


def _random(letter: str, rng: random.Random) -> str:
    if letter.isdigit():
        return rng.choice(string.digits)
    if letter.isupper():
        return rng.choice(string.ascii_uppercase)
    return rng.choice(string.ascii_lowercase) if letter.islower() else letter
