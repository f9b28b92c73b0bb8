"""From annotated trajectories to the token examples that the experience model and the policy are tuned on."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby

import pyarrow as pa

from dreamgym.config import RunConfig, SFTConfig
from dreamgym.data.renaming import Names
from dreamgym.envs.base import VariationRule, env_tools, line_rule, variation_rule
from dreamgym.errors import ConfigError, DataError, EnvError
from dreamgym.learner.batches import SFT_SCHEMA
from dreamgym.models.answers import FORMATS
from dreamgym.models.answers.calls import Tool
from dreamgym.models.chat import ChatFormat
from dreamgym.models.conversation import Conversation
from dreamgym.models.prompts import (
    answer_parts,
    ask,
    edited,
    edits,
    opening,
    query,
    vary_message,
    whole,
)
from dreamgym.models.turns import Turns
from dreamgym.replay.bulk import exact_top_k, leave_one_out
from dreamgym.replay.embed import Embedder, make_embedder
from dreamgym.replay.facts import shown
from dreamgym.replay.records import Demo
from dreamgym.types import Task, Trajectory, Transition, stable_id, turns_of

NEIGHBOURS = 16
READ = ("", "misfit_call")
"""What may be wrong with a turn whose calls were read all the same."""

Example = tuple[list[int], list[float]]


def tokenizer_texts(
    trajectories: Sequence[Trajectory], tools: Sequence[Tool] = (), outcomes: bool = False
) -> Iterator[str]:
    """All that a model made from scratch will ever read or write, for its tokenizer; `outcomes` as for `query`."""
    for t in trajectories:
        yield opening(t.task, t.task.first_state, tools)
        yield vary_message(t.task)
        yield edits([(t.task.instruction, t.task.instruction)])
        for step in t.steps:
            yield step.action  # as the policy writes it, at the start of its answer
            if step.thought:
                yield from (known.write(step.thought, step.action) for known in FORMATS.values())
            yield query(step.action, [step], outcomes)
            yield "".join(answer_parts(step))


def world_examples(
    config: RunConfig, trajectories: Sequence[Trajectory], chat: ChatFormat, others: Sequence[Trajectory] = ()
) -> pa.Table:
    """Examples for the experience model: a dream a trajectory, and a variation a real task.

    `others` are only there to be found as demonstrations.

    A dream is one example or, with `world.history=false`, as many as it has steps.

    Objective (paper, equation 5): every step's reasoning, then its next state and outcome, given the task, the
    history and the retrieved demonstrations, chosen as a dream's are, but none from the same trajectory.

    Raises:
        EnvError: the environment's rule for variations fails.

    Returns:
        ids, and weights (loss weight of each token; 0 for what the model only reads).
    """
    embedder, tools = make_embedder(config.replay), env_tools(config.env.name)
    draw = random.Random(stable_id(config.seed, "alone"))
    asking = [draw.random() >= config.world.sft_without_demos for _ in trajectories]
    pool, quiet, replay = [*trajectories, *others], [False] * len(others), config.replay
    demos = [
        [shown(near, replay.top_k, replay.min_similarity) for near in steps]
        for steps in leave_one_out(pool, embedder, replay.top_k, [*asking, *quiet], replay.by_task)[: len(trajectories)]
    ]
    examples = [
        e for t, d in zip(trajectories, demos, strict=True) if t.steps for e in _dream(config, t, d, chat, tools)
    ]
    examples += [
        e
        for t in _renamed(config, trajectories)
        if t.steps
        for e in _dream(config, t, [[]] * len(t.steps), chat, tools)
    ]
    tasks = {t.task.id: t.task for t in trajectories if t.task.first_state and t.task.origin == "real"}
    examples += list(_variations(config, list(tasks.values()), embedder, chat))
    return _table(examples, config.world.engine.max_model_len)


def policy_examples(config: RunConfig, trajectories: Iterable[Trajectory], chat: ChatFormat) -> pa.Table:
    """Examples for the policy's warm start: `policy.demonstrations` trajectories of the expert and the noisy expert.

    Only the expert's own answers carry loss, thought and action. In a noisy trajectory they are those that get back on
    the path, so the policy also learns what to do after a mistake (as in DAgger, Ross et al. 2011).
    A trajectory that cannot be written in `policy.format` is left out (see `writable`).
    """
    shown = [t for t in trajectories if t.source in ("expert", "noisy") and any(step.by_expert for step in t.steps)]
    turns = Turns(chat, config.policy.format)
    shown = [t for t in shown if writable(turns, t)]
    shown.sort(key=lambda t: stable_id(config.seed, t.id))
    chosen = shown[: config.policy.demonstrations]
    examples = [example for t in chosen for example in _episode(config, t, chat, lambda turn: turn[0].by_expert)]
    return _table(examples, config.policy.engine.max_model_len)


def taught_lengths(examples: pa.Table) -> list[int]:
    """Tokens of each answer that carries loss."""
    rows = examples.column("weights").to_pylist()
    return [len(list(run)) for weights in rows for taught, run in groupby(weights, key=bool) if taught]


def writable(turns: Turns, t: Trajectory) -> bool:
    """Whether what the expert did can be written as these turns are, and is read back as it was."""
    return all(turns.holds(turn) for turn in turns_of(t.steps) if turn[0].by_expert)


def preference_examples(
    config: RunConfig, pairs: Iterable[tuple[Trajectory, Trajectory]], chat: ChatFormat
) -> pa.Table:
    """Two rows a pair, the better episode first; all that the agent did has weight 1, and what it read 0.

    A pair with an answer whose calls cannot be read is left out: its marks are no text.

    Raises:
        ConfigError: an episode is several samples, which DPO cannot compare.
        DataError: all pairs were left out.
    """
    pairs = list(pairs)
    if chat.calls and pairs:
        pairs = [pair for pair in pairs if all(step.malformed in READ for t in pair for step in t.steps)]
        if not pairs:
            raise DataError("policy.dpo: each pair has an answer without a call that can be read; choose other data.")
    episodes = [list(_episode(config, t, chat, lambda _: True)) for pair in pairs for t in pair]
    if any(len(samples) != 1 for samples in episodes):
        raise ConfigError(
            "policy.dpo: policy.context, or a chat template that rewrites earlier turns, cuts an episode in several "
            "samples, which DPO cannot compare; set policy.context=grow and policy.format=plain, or take another model."
        )
    return _table([example for (example,) in episodes], config.policy.engine.max_model_len)


def _renamed(config: RunConfig, trajectories: Sequence[Trajectory]) -> Iterator[Trajectory]:
    """As many copies with other names as `world.sft_renamed` asks for."""
    if config.world.sft_renamed:
        names, rng = Names(trajectories), random.Random(stable_id(config.seed, "names"))
        for t in list(trajectories) * config.world.sft_renamed:
            yield names.renamed(t, rng)


def _dream(
    config: RunConfig, t: Trajectory, demos: Sequence[Sequence[Demo]], chat: ChatFormat, tools: Sequence[Tool]
) -> Iterator[Example]:
    ids: list[int] = []
    weights: list[float] = []
    for step, told in zip(t.steps, demos, strict=True):
        if step.malformed:  # the world was not asked
            continue
        if ids and not config.world.history:
            yield ids, weights
            ids, weights = [], []
        asked = (t.task, step.state, step.action, told, tools, config.replay.by_task is not None)
        prompt = ask(config.world, chat, ids, *asked)
        unexplained = config.annotate.by == "teacher" and not step.reasoning
        answer, kinds = _weighted(answer_parts(step), config.world.sft, chat)
        weights += [0.0] * (len(prompt) - len(ids)) + ([0.0] * len(kinds) if unexplained else kinds)
        ids = prompt + answer
    if ids:
        yield ids, weights


def _weighted(parts: tuple[str, str, str], sft: SFTConfig, chat: ChatFormat) -> Example:
    """Token ids of an answer and the weight of each, by the part in which the token begins."""
    reasoning, state, _ = parts
    bounds = (len(reasoning), len(reasoning) + len(state))
    ids, starts = chat.written("".join(parts))
    return ids, [
        sft.reasoning_weight if start < bounds[0] else sft.state_weight if start < bounds[1] else sft.outcome_weight
        for start in starts
    ]


def _variations(config: RunConfig, tasks: Sequence[Task], embedder: Embedder, chat: ChatFormat) -> Iterator[Example]:
    """Each real task with a variation of it: by the environment's rule, or another one that is near."""
    rng = random.Random(stable_id(config.seed, "variations"))
    rule = variation_rule(config.env.name)
    varied = _by_rule(config.env.name, rule, tasks, rng) if rule else _neighbours(tasks, embedder, rng)
    for task, answer in zip(tasks, varied, strict=True):
        if answer:
            yield _written(vary_message(task), answer, config.world.sft.state_weight, chat)


def _by_rule(name: str, rule: VariationRule, tasks: Sequence[Task], rng: random.Random) -> Iterator[str]:
    """For each task the edits that the environment's rule makes; "" where there are none."""
    for task in tasks:
        try:
            changes = rule(task, rng)
            edited(task, changes)
            if any(" => " in old or "\n" in old + new for old, new in changes):
                raise ValueError("an edit that holds ' => ' or a line break would be read as another one")
        except Exception as error:
            where = f"env.name: vary() of '{name}' at task {task.id}"
            raise EnvError(f"{where} failed ({type(error).__name__}: {error}); mend it.") from error
        yield edits(changes)


def _neighbours(tasks: Sequence[Task], embedder: Embedder, rng: random.Random) -> Iterator[str]:
    """For each task one of its nearest, as a whole; "" where all have its instruction."""
    if not tasks:
        return
    vectors = embedder.embed([t.instruction for t in tasks])
    near, _ = exact_top_k(vectors, vectors, min(NEIGHBOURS + 1, len(tasks)))
    for task, row in zip(tasks, near, strict=True):
        others = [tasks[i] for i in row.tolist() if i >= 0 and tasks[i].instruction != task.instruction]
        other = others[rng.randrange(len(others))] if others else None
        yield whole(other.instruction, other.first_state) if other else ""


def _written(message: str, answer: str, weight: float, chat: ChatFormat) -> Example:
    prompt, ids = chat.start([{"role": "user", "content": message}]), chat.answer(answer)
    return prompt + ids, [0.0] * len(prompt) + [weight] * len(ids)


def _episode(
    config: RunConfig, t: Trajectory, chat: ChatFormat, taught: Callable[[list[Transition]], bool]
) -> Iterator[Example]:
    """An episode as the policy sees it, an example a sample; the answers that are taught have weight 1."""
    talk = Conversation(chat, config.policy, t.task, t.steps[0].state, line_rule(config.env.name))
    turns = turns_of(t.steps)
    for index, turn in enumerate(turns):
        if not any(step.malformed for step in turn):
            turn = [replace(turn[0], answer=""), *turn[1:]]  # as the policy's format writes it
        talk.written(turn, taught(turn))
        if index + 1 < len(turns):
            talk.observed(turn)
    yield from ((sample.ids, [float(m) for m in sample.mask]) for sample in talk.samples if any(sample.mask))


def _table(examples: Sequence[Example], limit: int) -> pa.Table:
    """Examples as Arrow; one that is longer than the model's context is cut at its end (how many: metadata `cut`)."""
    cut = sum(len(ids) > limit for ids, _ in examples)
    rows = {"ids": [ids[:limit] for ids, _ in examples], "weights": [w[:limit] for _, w in examples]}
    return pa.Table.from_pydict(rows, schema=SFT_SCHEMA.with_metadata({"cut": str(cut)}))
