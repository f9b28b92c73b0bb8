"""The whole method in one file: an agent learns in a dream of a toy world, and is measured in the real one.

python examples/loop.py                      seed data of expert, noisy and random play
python examples/loop.py --seed-data expert   a dream that has only seen what works

It needs torch, a CPU and a few seconds. The package does the same with language models: a state is text, the experience
model is an LLM that reasons before it answers, and a demonstration stands in its prompt.
"""

import argparse
import random
from collections.abc import Callable, Sequence
from itertools import permutations
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

ROOMS, LIMIT, GROUPS, GROUP_SIZE, ITERATIONS = 5, 12, 12, 8, 30
REFUSED, WEST, EAST, TAKEN, OPENED = range(5)  # what an action does: the "reasoning", from which the next state follows
GO_WEST, GO_EAST, TAKE, OPEN = range(4)


class State(NamedTuple):
    """Rooms in a row: where the agent, the key and the chest are. A task is the state that it begins with."""

    room: int
    key: int
    chest: int
    holds: bool = False


class Step(NamedTuple):
    state: State
    action: int
    effect: int


Player = Callable[[list[State]], Sequence[int]]
World = Callable[[list[State], Sequence[int]], Sequence[int]]


def reality(states: list[State], actions: Sequence[int]) -> list[int]:
    """The real environment, elsewhere slow and costly: the effect of each action."""
    can = [(at > 0, at < ROOMS - 1, at == key and not has, at == chest and has) for at, key, chest, has in states]
    return [action + 1 if can[i][action] else REFUSED for i, action in enumerate(actions)]


def follow(s: State, effect: int) -> State:
    """The state after an effect, whichever world told it."""
    room = s.room + (effect == EAST) - (effect == WEST)
    return s._replace(room=min(max(room, 0), ROOMS - 1), holds=s.holds or effect == TAKEN)


def play(tasks: Sequence[State], player: Player, world: World) -> list[list[Step]]:
    """Episodes side by side, each until the chest is open or `LIMIT` actions are done."""
    episodes: list[list[Step]] = [[] for _ in tasks]
    states = dict(enumerate(tasks))
    for _ in range(LIMIT):
        if not (here := list(states.values())):
            break
        actions = player(here)
        for i, step in zip(list(states), map(Step, here, actions, world(here, actions)), strict=True):
            episodes[i].append(step)
            states[i] = follow(step.state, step.effect)
            if step.effect == OPENED:
                del states[i]
    return episodes


def won(episode: list[Step]) -> bool:
    return episode[-1].effect == OPENED


def won_for_real(episode: list[Step]) -> bool:
    """Whether the actions of a dream win in the real environment."""
    actions = iter([step.action for step in episode])
    (replayed,) = play([episode[0].state], lambda states: [next(actions, TAKE) for _ in states], reality)
    return won(replayed)


def expert(noise: float) -> Player:
    """A player that knows the way, and acts at random with the chance `noise`."""

    def best(s: State) -> int:
        goal = s.chest if s.holds else s.key
        return (OPEN if s.holds else TAKE) if s.room == goal else GO_EAST if goal > s.room else GO_WEST

    return lambda states: [random.randrange(4) if random.random() < noise else best(s) for s in states]


def reads(states: Sequence[State], actions: Sequence[int] = ()) -> Tensor:
    """What a model reads, 1 for yes and -1 for no; the experience model reads the action too."""
    room, key, chest, holds = torch.tensor(states).T
    seen = [key == room, key > room, chest == room, chest > room, holds == 1, room == 0, room == ROOMS - 1]
    return torch.stack([*seen, *(torch.tensor(actions) == deed for deed in range(4) if len(actions))], 1) * 2.0 - 1


def mlp(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, outputs))


def tune(model: nn.Module, inputs: Tensor, targets: Tensor, steps: int) -> None:
    """Supervised fine-tuning."""
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(steps):
        rows = torch.randint(len(inputs), (128,))
        optimizer.zero_grad()
        cross_entropy(model(inputs[rows]), targets[rows]).backward()
        optimizer.step()


class Dream:
    """The experience model and its replay buffer: a world that answers from what it has learned."""

    def __init__(self, seed_data: list[Step]) -> None:
        self.stored: dict[tuple[State, int], int] = {}
        self.store(seed_data)
        self.model = mlp(7 + 4 + 5, 5)
        shown = self.retrieve(self.keys) * (torch.rand(len(self.keys), 1) < 0.5)  # so that it can dream without as well
        tune(self.model, torch.cat([self.keys, shown], 1), self.effects, 800)

    def store(self, steps: list[Step]) -> None:
        for step in steps:
            self.stored.setdefault((step.state, step.action), step.effect)  # what is real comes first, and stays
        self.keys = reads(*zip(*self.stored, strict=True))
        self.effects = torch.tensor(list(self.stored.values()))

    def retrieve(self, asked: Tensor) -> Tensor:
        """A demonstration a step: the effect of a stored one that differs in one thing; zeros where none does."""
        found, which = (asked @ self.keys.T == asked.shape[1] - 2).max(1)
        return one_hot(self.effects[which], 5) * found[:, None]

    @torch.no_grad()
    def __call__(self, states: list[State], actions: Sequence[int], demonstrations: int = 1) -> list[int]:
        asked = reads(states, actions)
        return self.model(torch.cat([asked, self.retrieve(asked) * demonstrations], 1)).argmax(1).tolist()

    def offer(self, steps: list[Step]) -> None:
        """The write gate: a dreamed step that is new enters if the dream, asked without demonstrations, agrees."""
        again = self([step.state for step in steps], [step.action for step in steps], demonstrations=0)
        self.store([step for step, effect in zip(steps, again, strict=True) if step.effect == effect])


def grpo(policy: nn.Module, optimizer: torch.optim.Optimizer, episodes: list[list[Step]]) -> None:
    """The group's mean and std make the advantage, the ratio to the old policy is clipped, episodes weigh the same."""
    rewards = torch.tensor([float(won(e)) for e in episodes]).view(-1, GROUP_SIZE)
    advantage = ((rewards - rewards.mean(1, True)) / (rewards.std(1, correction=0, keepdim=True) + 1e-6)).flatten()
    owner = torch.tensor([i for i, e in enumerate(episodes) for _ in e])
    weight = advantage[owner] / torch.bincount(owner)[owner] / len(episodes)
    inputs = reads([step.state for e in episodes for step in e])
    actions = torch.tensor([[step.action] for e in episodes for step in e])
    old = policy(inputs).log_softmax(1).gather(1, actions).detach()
    for _ in range(4):
        ratio = (policy(inputs).log_softmax(1).gather(1, actions) - old).exp()[:, 0]
        optimizer.zero_grad()
        (-torch.minimum(ratio * weight, ratio.clamp(0.8, 1.28) * weight).sum()).backward()
        optimizer.step()


def draw(tasks: list[State], value: dict[State, float]) -> list[State]:
    """The curriculum: half by V_tau, one invented from the task of the highest value, the rest uniformly."""
    best = max(tasks, key=lambda task: value.get(task, 0.0))
    weights = [value.get(task, 0.25) + 1e-3 for task in tasks]  # 0.25: a task never visited counts as the best can
    focus, uniform = random.choices(tasks, weights, k=GROUPS // 2), random.sample(tasks, GROUPS // 2 - 1)
    return [*focus, *uniform, best._replace(room=random.randrange(ROOMS))]


def main(seed_data: str = "mixed", seed: int = 0) -> list[tuple[float, float, float]]:
    """Returns, by turns, success in the dream and for real, and the share of won dreams that are won for real."""
    torch.manual_seed(seed), random.seed(seed), torch.set_num_threads(1)
    houses = random.sample(list(permutations(range(ROOMS), 2)), 20)  # folds share no house
    train = [State(room, *house) for house in houses[:10] for room in random.sample(range(ROOMS), 3)]
    test = [State(room, *house) for house in houses[10:] for room in range(ROOMS)]
    agent = lambda states: torch.multinomial(policy(reads(states)).softmax(1), 1)[:, 0].tolist()  # noqa: E731
    noises = (0.0,) if seed_data == "expert" else (0.0, 0.5, 0.5, 1.0)
    dream = Dream([step for noise in noises for e in play(train, expert(noise), reality) for step in e])
    policy, few = mlp(7, 4), [step for e in play(train[:8], expert(0.0), reality) for step in e]
    tune(policy, reads([s.state for s in few]), torch.tensor([s.action for s in few]), 10)  # the warm start
    optimizer, value, told = torch.optim.Adam(policy.parameters(), 3e-3), dict[State, float](), []
    for iteration in range(ITERATIONS + 1):
        drawn = draw(train, value)
        episodes = play([task for task in drawn for _ in range(GROUP_SIZE)], agent, dream)
        if iteration % 10 == 0:  # the real measure; nothing is learned from it
            dreamed, real = (sum(map(won, play(test, agent, world))) / len(test) for world in (dream, reality))
            kept = [won_for_real(e) for e in episodes if won(e)]
            told.append((dreamed, real, sum(kept) / max(len(kept), 1)))
            print("iteration {:2d}   won: dream {:4.0%}, real {:4.0%}   kept {:4.0%}".format(iteration, *told[-1]))
        shares = torch.tensor([float(won(e)) for e in episodes]).view(-1, GROUP_SIZE).mean(1).tolist()
        value |= {task: share * (1 - share) for task, share in zip(drawn, shares, strict=True)}  # the rewards' variance
        grpo(policy, optimizer, episodes)
        dream.offer([step for episode in random.sample(episodes, 8) for step in episode])
    return told


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed-data", choices=("mixed", "expert"), default="mixed")
    main(**vars(parser.parse_args()))
