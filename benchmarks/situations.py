"""Transitions like those of the quick start, as many as wanted: what the benchmarks of retrieval store and ask."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice

from dreamgym.replay.records import StoredTransition

PLACES = ("kitchen", "pantry", "hall", "study", "attic", "cellar", "garage", "library", "sauna", "office")
ROOMS = [f"{which}{place}" for which in ("", "spare-", "old-") for place in PLACES]
OPPOSITE = {"north": "south", "east": "west", "south": "north", "west": "east"}
ACTIONS = [*(f"move {way}" for way in OPPOSITE), "take coin", "put coin in box"]
EPISODES, STEPS = 4, 10


def transitions(seed: int) -> Iterator[StoredTransition]:
    """Episodes of 10 random actions, 4 to a task; a task is a house of 4 rooms with a coin and a box."""
    rng, task = random.Random(seed), 0
    while True:
        exits, has = house(rng)
        for episode in range(EPISODES):
            yield from walk(rng, exits, has, f"task-{seed}-{task}", f"episode-{seed}-{task}-{episode}")
        task += 1


def some(stream: Iterator[StoredTransition], number: int) -> list[StoredTransition]:
    """The next `number` of them."""
    return list(islice(stream, number))


def house(rng: random.Random) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """(the rooms next to each room by direction, what the rooms have)."""
    rooms = rng.sample(ROOMS, 4)
    exits: dict[str, dict[str, str]] = {rooms[0]: {}}
    for room in rooms[1:]:
        doors = [(other, way) for other in exits for way in OPPOSITE if way not in exits[other]]
        other, way = rng.choice(doors)
        exits[other][way] = room
        exits[room] = {OPPOSITE[way]: other}
    coin, box = rng.sample(rooms, 2)
    return exits, {coin: "coin", box: "box"}


def walk(
    rng: random.Random, exits: dict[str, dict[str, str]], has: dict[str, str], task: str, episode: str
) -> Iterator[StoredTransition]:
    has, holds, room = dict(has), "nothing", rng.choice(list(exits))
    rooms = (f"{name}: {has.get(name, 'nothing')} {' '.join(joins.values())}" for name, joins in exits.items())
    state = f"map {' ; '.join(rooms)}\n{line('moved', room, exits, has, holds)}"
    for step in range(STEPS):
        action, what = rng.choice(ACTIONS), "refused"
        target = exits[room].get(action.removeprefix("move "))
        if target:
            what, room = "moved", target
        elif action == "take coin" and has.get(room) == "coin":
            what, holds = "taken", "coin"
            del has[room]
        after = line(what, room, exits, has, holds)
        yield StoredTransition(task, episode, step, state, action, after, 0.0, False, "", "real", "", -1)
        state = after


def line(what: str, room: str, exits: dict[str, dict[str, str]], has: dict[str, str], holds: str) -> str:
    """A state, as mapreader writes it."""
    ways = " ".join(f"{way} {exits[room].get(way, 'wall')}" for way in OPPOSITE)
    return f"{what} at {room} has {has.get(room, 'nothing')} {ways} holds {holds}"
