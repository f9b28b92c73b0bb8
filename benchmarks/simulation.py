"""A training run as discrete events: episodes, engines, retrieval, learner and weight transfer, on one clock.

Engines are shared by the requests that they decode, as continuous batching has it: up to `knee` requests each goes at
its full speed, beyond that they share what `knee` of them would get. Everything else is a queue with some servers.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

Resume = Callable[[], None]
Use = Callable[[Resume], None]
"""Begins something, and calls back when it is over."""
Process = Generator[Use, None, None]


class Clock:
    """Simulated seconds, and what is to happen when."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Resume]] = []
        self._numbers = itertools.count()

    def after(self, seconds: float, call: Resume) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._numbers), call))

    def start(self, process: Process, then: Resume = lambda: None) -> None:
        """Let a process go on whenever what it yielded is over; `then` is called at its end."""

        def advance() -> None:
            try:
                use = next(process)
            except StopIteration:
                then()
            else:
                use(advance)

        advance()

    def run(self) -> None:
        """Until nothing is left to happen."""
        while self._events:
            self.now, _, call = heapq.heappop(self._events)
            call()


class Queue:
    """Servers that take one request each, first come, first served; `spent` is in server seconds."""

    def __init__(self, clock: Clock, servers: int) -> None:
        self._clock = clock
        self._free = self.servers = servers
        self._waiting: deque[tuple[float, Resume]] = deque()
        self.spent = 0.0

    def use(self, seconds: float) -> Use:
        def begin(resume: Resume) -> None:
            self._waiting.append((seconds, resume))
            self._admit()

        return begin

    def share(self, seconds: float) -> float:
        """How busy it was, given the seconds that have passed."""
        return self.spent / (self.servers * seconds)

    def _admit(self) -> None:
        while self._free and self._waiting:
            self._free -= 1
            seconds, resume = self._waiting.popleft()
            self.spent += seconds
            self._clock.after(seconds, partial(self._leave, resume))

    def _leave(self, resume: Resume) -> None:
        self._free += 1
        self._admit()
        resume()


class Shared:
    """An engine. Work is in seconds alone; b requests go at min(1, knee / b) each, and more than `most` wait."""

    def __init__(self, clock: Clock, knee: float, most: int) -> None:
        self._clock = clock
        self._knee = knee
        self._most = most
        self._done = 0.0
        """Seconds of work that a request has got that was there from the beginning."""
        self._at = 0.0
        self._ends: list[tuple[float, int, Resume]] = []
        self._waiting: deque[tuple[float, Resume]] = deque()
        self._numbers = itertools.count()
        self._plan = 0
        self._pauses = 0
        self.spent = 0.0

    def use(self, work: float) -> Use:
        def begin(resume: Resume) -> None:
            self.catch_up()
            self._waiting.append((work, resume))
            self._admit()

        return begin

    def pause(self, seconds: float) -> None:
        """Nothing goes on meanwhile, and nothing is lost."""
        self.catch_up()
        self._pauses += 1
        self._plan += 1
        self._clock.after(seconds, self._go_on)

    def share(self, seconds: float) -> float:
        """How busy it was: of the most that it could have done."""
        return self.spent / (self._knee * seconds)

    def _go_on(self) -> None:
        self.catch_up()
        self._pauses -= 1
        self._admit()

    def _speed(self) -> float:
        return 0.0 if self._pauses else min(1.0, self._knee / max(len(self._ends), 1))

    def catch_up(self) -> None:
        """Account for what was done until now."""
        got = (self._clock.now - self._at) * self._speed()
        self._done += got
        self.spent += got * len(self._ends)
        self._at = self._clock.now

    def _admit(self) -> None:
        while self._waiting and len(self._ends) < self._most:
            work, resume = self._waiting.popleft()
            heapq.heappush(self._ends, (self._done + work, next(self._numbers), resume))
        self._plan += 1
        if self._ends and not self._pauses:
            left = max(0.0, self._ends[0][0] - self._done) / self._speed()
            self._clock.after(left, partial(self._end_one, self._plan))

    def _end_one(self, plan: int) -> None:
        if plan != self._plan:
            return
        self.catch_up()
        end, _, resume = heapq.heappop(self._ends)
        self._done = max(self._done, end)
        self._admit()
        resume()


class Pool:
    """Several engines; a request goes to one with the fewest requests."""

    def __init__(self, clock: Clock, engines: Engines) -> None:
        self.engines = [Shared(clock, engines.knee, engines.most) for _ in range(engines.count)]
        self._requests = [0] * engines.count

    def use(self, work: float) -> Use:
        def begin(resume: Resume) -> None:
            index = self._requests.index(min(self._requests))
            self._requests[index] += 1
            self.engines[index].use(work)(partial(self._leave, index, resume))

        return begin

    def pause(self, seconds: float) -> None:
        """All of them."""
        for engine in self.engines:
            engine.pause(seconds)

    def share(self, seconds: float) -> float:
        """How busy they were on average."""
        for engine in self.engines:
            engine.catch_up()
        return sum(engine.share(seconds) for engine in self.engines) / len(self.engines)

    def _leave(self, index: int, resume: Resume) -> None:
        self._requests[index] -= 1
        resume()


@dataclass(frozen=True)
class Engines:
    """`count` engines that requests spread over; a request takes `alone_s` where it is alone; see `Shared`."""

    count: int
    alone_s: float
    knee: float
    most: int = 256

    def faster(self) -> Engines:
        """Each request in half the time, and as many a second at most."""
        return replace(self, alone_s=self.alone_s / 2, knee=self.knee / 2)


@dataclass(frozen=True)
class Workload:
    """Episodes of an iteration; `turns` are drawn for each; at most `in_flight` at once (0: all).

    `dreamed` is the share of turns that the experience model is asked for: the memo answers the others, and a real
    environment all.
    """

    episodes: int
    turns: Sequence[int]
    dreamed: float = 1.0
    in_flight: int = 0


@dataclass(frozen=True)
class Cluster:
    """What a run has, in seconds of work for each visit of a turn, and for an iteration where that is said.

    actor_s, retrieval_s         a turn's, of an actor (one event loop), and of the replay buffer
    driver_s, learner_s          an iteration's
    transfer_s, standstill_s     an update's, and how long of that the engines stand still
    """

    policy: Engines
    dream: Engines
    actors: int
    actor_s: float
    retrieval_s: float
    driver_s: float
    learner_s: float
    transfer_s: float
    standstill_s: float = 0.0
    replays: int = 1


@dataclass(frozen=True)
class Outcome:
    """Seconds of an iteration after the warm-up, how busy each part was, and the largest age of a batch in updates."""

    seconds: float
    busy: dict[str, float]
    oldest: int
    total_s: float


class Run:
    """The loop of dreamgym/training/trainer.py on a cluster."""

    def __init__(self, cluster: Cluster, workload: Workload, staleness: int, seed: int = 0) -> None:
        self._cluster, self._load, self._staleness, self._seed = cluster, workload, staleness, seed
        self._clock = clock = Clock()
        self._policy, self._dream = Pool(clock, cluster.policy), Pool(clock, cluster.dream)
        self._actors = [Queue(clock, 1) for _ in range(cluster.actors)]
        self._replay = Queue(clock, cluster.replays)
        self._serial = {name: Queue(clock, 1) for name in ("driver", "learner", "weight transfer")}
        self._ends: list[float] = []
        self._spent: list[dict[str, float]] = []
        self._oldest = 0

    def outcome(self, iterations: int, warm_ups: int = 0) -> Outcome:
        """Of the iterations after the first `warm_ups`."""
        self._clock.start(self._loop(iterations))
        self._clock.run()
        first, last = (self._ends[warm_ups - 1] if warm_ups else 0.0), self._ends[-1]
        before = self._spent[warm_ups - 1] if warm_ups else dict.fromkeys(self._spent[-1], 0.0)
        busy = {part: (spent - before[part]) / (last - first) for part, spent in self._spent[-1].items()}
        return Outcome((last - first) / (iterations - warm_ups), busy, self._oldest, last)

    def _loop(self, iterations: int) -> Process:
        under_way: deque[tuple[_Signal, int]] = deque()
        begun = itertools.count()
        for iteration in range(iterations):
            while len(under_way) <= self._staleness and (batch := next(begun)) < iterations:
                under_way.append((self._begin(batch), iteration))
            finished, version = under_way.popleft()
            yield finished.wait
            self._oldest = max(self._oldest, iteration - version)
            yield self._serial["driver"].use(self._cluster.driver_s)
            yield self._serial["learner"].use(self._cluster.learner_s)
            self._policy.pause(self._cluster.standstill_s)
            yield self._serial["weight transfer"].use(self._cluster.transfer_s)
            self._ends.append(self._clock.now)
            self._spent.append(self._capacity_used())

    def _begin(self, batch: int) -> _Signal:
        """Send out an iteration's episodes; the signal comes with the end of the last one."""
        signal = _Signal(self._load.episodes)
        episodes = iter(range(self._load.episodes))
        for _ in range(self._load.in_flight or self._load.episodes):
            self._clock.start(self._player(batch, episodes, signal))
        return signal

    def _player(self, batch: int, episodes: Iterator[int], signal: _Signal) -> Process:
        """One episode after the other, as long as there are some; each is the same on every cluster."""
        for number in episodes:
            rng = random.Random(f"{self._seed} {batch} {number}")
            actor = self._actors[number * len(self._actors) // self._load.episodes]
            for _ in range(rng.choice(self._load.turns)):
                yield actor.use(self._cluster.actor_s)
                yield self._policy.use(self._cluster.policy.alone_s)
                if rng.random() < self._load.dreamed:
                    yield self._replay.use(self._cluster.retrieval_s)
                    yield self._dream.use(self._cluster.dream.alone_s)
            signal.count_down()

    def _capacity_used(self) -> dict[str, float]:
        """Seconds so far, of each part, as if all of it had been busy."""
        parts: dict[str, Pool | Queue] = {"policy engines": self._policy, "experience model": self._dream}
        parts |= {"replay": self._replay, **self._serial}
        shares = {name: part.share(1.0) for name, part in parts.items()}
        return shares | {"rollout actors": sum(actor.share(1.0) for actor in self._actors) / len(self._actors)}


class _Signal:
    """Comes after so many have counted down."""

    def __init__(self, count: int) -> None:
        self._left = count
        self._resume: Resume = lambda: None

    def count_down(self) -> None:
        self._left -= 1
        if not self._left:
            self._resume()

    def wait(self, resume: Resume) -> None:
        if self._left:
            self._resume = resume
        else:
            resume()
