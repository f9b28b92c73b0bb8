"""Tokens that the experience model computed in a finished quick start, and would have without memo and prompt order.

    .venv/bin/python benchmarks/world_tokens_saved.py [field=value …]      (after `make quickstart`, same overrides)

Counts, no clock and no engine. What was computed is what the engine told during the run: tokens read past its prefix
cache, and written. Every step of every episode is then counted again as if it were dreamed for that episode alone
(no memo), and as if its prompt also had its demonstrations before the task and the history (no order), by the rule of
vLLM's prefix cache: whole blocks of 32 tokens, all that precede equal. That cache forgets nothing, so nothing is
counted that an engine could avoid. With the memo, the rule must come to what the engine told (`rule_over_engine`).
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from record import ROOT, record

from dreamgym.config import RunConfig
from dreamgym.config.loading import load_config
from dreamgym.models.chat import ChatFormat, load_chat
from dreamgym.models.prompts import answer_parts, ask, begin, first_message, query
from dreamgym.replay.bulk import exact_top_k
from dreamgym.replay.embed import make_embedder, query_text
from dreamgym.replay.records import Demo, from_trajectory
from dreamgym.schema import read_parquet
from dreamgym.types import Trajectory

BLOCK, EVERY = 32, 4
"""Tokens of a block of the prefix cache; every fourth iteration is counted."""
TOLD = ("read", "cached", "written", "dreamed")


@dataclass(frozen=True, slots=True)
class Turn:
    """A dreamed step: its group and the actions so far, its prompt as it was and with its demonstrations first, and
    what was written.
    """

    actions: tuple[str, ...]
    prompt: list[int]
    demos_first: list[int]
    written: list[int]


def main() -> None:
    config = load_config(ROOT / "recipes" / "quickstart.yaml", sys.argv[1:])
    chat = load_chat(config.run_dir / "world")
    retrieve = retriever(config)
    counts: Counter[str] = Counter()
    files = sorted((config.run_dir / "train" / "trajectories").glob("*.parquet"))[::EVERY]
    for file in files:
        episodes = [t for t in read_parquet(file) if t.world == "dream" and t.status == "ok"]
        counts += counted(episodes, [turns_of(config, t, chat, retrieve(t)) for t in episodes])
    saved = {
        "world_tokens_saved": 1 - counts["engine"] / counts["demonstrations first, no memo"],
        "world_tokens_saved_by_memo": 1 - counts["engine"] / counts["history first, no memo"],
        "world_tokens_saved_by_order": 1 - counts["history first, no memo"] / counts["demonstrations first, no memo"],
    }
    record(
        ROOT / "benchmarks" / "results" / "world_tokens_saved.json",
        "python benchmarks/world_tokens_saved.py",
        {name: round(share, 3) for name, share in saved.items()},
        how=f"share of tokens computed, over every {EVERY}th of the run's iterations ({len(files)} of them)",
        rule_over_engine=round(counts["history first, memo"] / counts["engine"], 3),
        tokens=counts,
    )


def counted(episodes: Sequence[Trajectory], turns: Sequence[Sequence[Turn]]) -> Counter[str]:
    """Tokens computed in an iteration, by the engine and by the rule, and its steps."""
    told = {name: int(sum(t.info.get(f"dream_{name}", 0.0) for t in episodes)) for name in TOLD}
    ordered = list(in_order(turns))
    first = {turn.actions: turn for turn in reversed(ordered)}
    return Counter(
        {
            "engine": told["read"] - told["cached"] + told["written"],
            "history first, memo": computed((t.prompt, t.written) for t in ordered if first[t.actions] is t),
            "history first, no memo": computed((t.prompt, t.written) for t in ordered),
            "demonstrations first, no memo": computed((t.demos_first, t.written) for t in ordered),
            "steps": len(ordered),
            "steps dreamed": told["dreamed"],
        }
    )


def retriever(config: RunConfig) -> Callable[[Trajectory], list[list[Demo]]]:
    """The demonstrations of each step of a trajectory, from the seed data that a run's buffer begins with."""
    seed_data = read_parquet(config.run_dir / "data" / "annotated.parquet")
    items = list({(i.state, i.action, i.next_state): i for t in seed_data for i in from_trajectory(t)}.values())
    embed = make_embedder(config.replay).embed
    vectors = embed([query_text(item.state, item.action) for item in items])

    def retrieve(trajectory: Trajectory) -> list[list[Demo]]:
        asked = embed([query_text(step.state, step.action) for step in trajectory.steps])
        rows, scores = exact_top_k(asked, vectors, config.replay.top_k)
        return [
            [
                Demo.of(items[row], float(score))
                for row, score in zip(near, cosines, strict=True)
                if score >= config.replay.min_similarity
            ]
            for near, cosines in zip(rows, scores, strict=True)
        ]

    return retrieve


def turns_of(config: RunConfig, t: Trajectory, chat: ChatFormat, demos: Sequence[Sequence[Demo]]) -> list[Turn]:
    """The requests that dreaming an episode takes."""
    turns: list[Turn] = []
    transcript: list[int] = []
    bare = ""
    history: list[int] = []
    actions: tuple[str, ...] = (t.group,)
    for step, shown in zip(t.steps, demos, strict=True):
        prompt = ask(config.world, chat, transcript, t.task, step.state, step.action, shown)
        written = chat.answer("".join(answer_parts(step)))
        transcript = prompt + written
        head = query("", shown).removesuffix("> ")
        if not turns:
            bare = first_message(t.task, step.state, step.action, [])
        else:
            history = history + chat.turn(query(step.action, []))
        actions += (step.action,)
        turns.append(Turn(actions, prompt, begin(config.world, chat, head + bare) + history, written))
        history = history + written
    return turns


def in_order(episodes: Sequence[Sequence[Turn]]) -> Iterator[Turn]:
    """First the first turns of all episodes, then their second ones, and so on, as a fleet plays them."""
    for number in range(max(map(len, episodes))):
        yield from (turns[number] for turns in episodes if number < len(turns))


def computed(requests: Iterable[tuple[list[int], list[int]]]) -> int:
    """Tokens computed for (prompt, written) one after another.

    The last token of a prompt is always computed, and the last one written has no keys and values yet.
    """
    known: set[int] = set()
    total = 0
    for prompt, written in requests:
        chain = blocks(prompt + written[:-1])
        hits = 0
        while hits < min(len(chain), (len(prompt) - 1) // BLOCK) and chain[hits] in known:
            hits += 1
        known.update(chain)
        total += len(prompt) - hits * BLOCK + len(written)
    return total


def blocks(ids: Sequence[int]) -> list[int]:
    """A hash of every whole block and all before it."""
    chain: list[int] = []
    parent = 0
    for end in range(BLOCK, len(ids) + 1, BLOCK):
        parent = hash((parent, *ids[end - BLOCK : end]))
        chain.append(parent)
    return chain


if __name__ == "__main__":
    main()
