"""TextWorld Common Sense: put every object where it belongs (its folds share no object: use a pre-trained model)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar

from dreamgym.envs.textworld import TextWorldGame
from dreamgym.types import Task, Transition

_FILLER = re.compile(r"(?:In (?:one|another) part of the room you see|There is also|You also see) (?:an? )?", re.I)
_ARTICLE = re.compile(r"(?<=contains )an? |(?<=has )an? |\ban? (?=open )", re.I)


class CommonSense(TextWorldGame):
    """The abstract state is one line: the room, each thing in sight with what it contains, and what is held."""

    game: ClassVar[str] = "twc"
    defaults: ClassVar[dict[str, int]] = {"numLocations": 1, "numItemsToPutAway": 2, "includeDoors": 0}

    def describe(self, info: dict[str, Any], *, changed: bool, first: bool) -> str:
        look = _ARTICLE.sub("", _FILLER.sub("", " ".join(info["look"].split())))
        look = look.removeprefix("You are in the ").replace(", that has nothing on it", " empty")
        look = re.sub(r",? that (is|has|contains)", r" \1", look)
        held = [
            line.strip() for line in info["inventory"].splitlines() if line.startswith("  ") and "empty" not in line
        ]
        line = f"{look} You hold {', '.join(held) or 'nothing'}."
        return line if changed else f"Refused. {line}"

    @staticmethod
    def think(task: Task, history: Sequence[Transition], action: str) -> str:
        """The rule for a thought: whether a thing is out of place, or where it belongs."""
        verb, _, rest = action.partition(" ")
        if verb == "put":
            thing, _, place = rest.partition(" in ")
            return f"The {thing} belongs in the {place}."
        told = {"take": f"The {rest} is out of place.", "open": f"Something may belong in the {rest}."}
        return told.get(verb, action)

    @staticmethod
    def reason(task: Task, history: Sequence[Transition], transition: Transition) -> str:
        """The rule for R*: whether the action was possible, and whether it was the last that was needed."""
        if transition.next_state.startswith("Refused."):
            return f"'{transition.action}' is not possible here, so nothing changes."
        if transition.done:
            return f"'{transition.action}' puts the last thing where it belongs: solved."
        return f"'{transition.action}' is possible here, so the state changes accordingly."
