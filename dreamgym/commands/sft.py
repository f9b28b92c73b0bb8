"""The stage `sft`: trains the experience model on annotated transitions, and warm-starts the policy."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from dreamgym.config import ModelConfig, RunConfig, SFTConfig
from dreamgym.data import judged
from dreamgym.data.examples import policy_examples, taught_lengths, tokenizer_texts, world_examples, writable
from dreamgym.data.lookup_drill import drill
from dreamgym.envs.base import env_tools
from dreamgym.errors import DataError
from dreamgym.learner.learner import Learner
from dreamgym.models.chat import ChatFormat, load_chat
from dreamgym.models.checkpoint import prepare_model
from dreamgym.models.turns import Turns
from dreamgym.runs.stage import Stage, stage
from dreamgym.runtime.cluster import ensure_ray
from dreamgym.schema import read_parquet
from dreamgym.telemetry.console import Bar, console, progress
from dreamgym.training.tuning import tuner
from dreamgym.types import Trajectory

ANSWER_TOKENS = "answer_tokens_p90"
"""In the record of `sft-policy`: nine tenths of the demonstrated answers have at most so many tokens."""


def sft(config: RunConfig) -> None:
    """`world/` and `warm_start/`: Hugging Face checkpoints of the experience model and of the policy.

    Raises:
        DataError: there is no data, or no demonstration, to learn from.
        ModelError: a model cannot be loaded.
    """
    sft_world(config)
    sft_policy(config)


def sft_world(config: RunConfig) -> None:
    """The experience model (`world/`)."""
    world = ["model", "sft", "sft_without_demos", "sft_renamed", "sft_judged", "history", "system_prompt", "engine"]
    demos = ["embedder", "dim", "top_k", "min_similarity", "by_task"]
    depends = [*(f"world.{name}" for name in world), *(f"replay.{name}" for name in demos)]
    with stage(config, "sft-world", depends, ["annotate"], ["world"]) as current:
        if current.done:
            return
        by_hand = judged_by_hand(config)
        base = current.run_dir / "world.base"
        with tuner(config, base, config.world.sft) as learner:
            trajectories = [*_read(current.run_dir), *by_hand]
            model = _on_this_machine(config, config.world.model)
            texts = tokenizer_texts(trajectories, env_tools(config.env.name), config.replay.by_task is not None)
            prepare_model(model, base, texts, config.seed)
            chat = load_chat(base, forks=not config.world.history)
            examples = world_examples(config, trajectories, chat)
            if by_hand:
                current.summary["judged_steps"] = sum(len(t.steps) for t in by_hand)
            learner.ready()
            _drill(config, current, learner, chat)
            _tune(config, current, "experience model", learner, config.world.sft, examples, "world")


def sft_policy(config: RunConfig) -> None:
    """The policy's warm start (`warm_start/`)."""
    read = ["model", "sft", "demonstrations", "format", "context", "context_turns", "system_prompt", "engine"]
    if config.policy.context != "grow":
        read.append("sampling.max_tokens")
    depends = [f"policy.{name}" for name in read]
    with stage(config, "sft-policy", depends, ["sft-world"], ["warm_start"]) as current:
        if current.done:
            return
        base = current.run_dir / "warm_start.base"
        with tuner(config, base, config.policy.sft) as learner:
            trajectories = _read(current.run_dir)
            _prepare_policy(config, current.run_dir, base, trajectories)
            chat = load_chat(base, forks=True, tools=env_tools(config.env.name))
            examples = policy_examples(config, trajectories, chat)
            if lengths := sorted(taught_lengths(examples)):
                current.summary[ANSWER_TOKENS] = lengths[int(0.9 * (len(lengths) - 1))]
            turns = Turns(chat, config.policy.format)
            if left_out := sum(not writable(turns, t) for t in trajectories):
                current.summary["not_writable"] = left_out
                console.print(
                    f"[yellow]{left_out} trajectories are no demonstrations, for what the expert did in them would be "
                    f"read as something else in policy.format={config.policy.format}[/]"
                )
            if examples.num_rows == 0 and config.policy.sft.tokens > 0:
                raise DataError(
                    "policy.demonstrations: the seed data holds no action of an expert; "
                    "set policy.sft.tokens=0 to start without a warm start."
                )
            learner.ready()
            _tune(config, current, "warm start", learner, config.policy.sft, examples, "warm_start")


def _prepare_policy(config: RunConfig, run_dir: Path, base: Path, trajectories: list[Trajectory]) -> None:
    """The model that the warm start begins from; one made from scratch shares the experience model's tokenizer."""
    model = _on_this_machine(config, config.policy.model)
    if model.source == "world":
        model = model.model_copy(update={"source": str(run_dir / "world")})
    shared = run_dir / "world" if config.world.model.source == "scratch" else None
    texts = tokenizer_texts(trajectories, env_tools(config.env.name))
    prepare_model(model, base, texts, config.seed + 1, tokenizer_from=shared)


def _on_this_machine(config: RunConfig, model: ModelConfig) -> ModelConfig:
    """The model in the precision that its engines will use here."""
    return model.model_copy(update={"dtype": ensure_ray(config.device).precision.dtype(model.dtype)})


def _read(run_dir: Path) -> list[Trajectory]:
    return read_parquet(run_dir / "data" / "annotated.parquet")


def judged_by_hand(config: RunConfig) -> list[Trajectory]:
    """What people have said is right; raises DataError where a file says nothing that can be learned."""
    found: list[Trajectory] = []
    for file in config.world.sft_judged:
        learned = judged.taught(judged.read(file), explained=config.annotate.by != "none")
        if not learned:
            raise DataError(
                f"world.sft_judged: {file} has no step of the train fold that is right or put right, with a reason."
            )
        found += learned
    return found


def _drill(config: RunConfig, current: Stage, learner: Learner, chat: ChatFormat) -> None:
    """Teach a model that knows nothing yet to look things up."""
    shape, tuning = config.world.model.scratch, config.world.sft
    if config.world.model.source != "scratch" or not shape.drill_tokens or not tuning.tokens:
        return
    words = sorted(set(range(len(chat.tokenizer))) - set(chat.tokenizer.all_special_ids))
    rows = drill(words, shape.drill_tokens, config.seed)
    budget = tuning.model_copy(update={"tokens": shape.drill_tokens, "epochs": 0.0, "minutes": 0.0})
    result = _fit("drill in looking things up", learner, rows, budget, config.seed)
    current.summary["drill_loss"] = round(result["loss"], 4)


def _tune(
    config: RunConfig, current: Stage, label: str, learner: Learner, tuning: SFTConfig, examples: pa.Table, name: str
) -> None:
    """Tune on examples, and save the result as the run's `name`."""
    if cut := int((examples.schema.metadata or {}).get(b"cut", 0)):
        current.summary["cut"] = cut
        console.print(
            f"[yellow]{label}: {cut} of {examples.num_rows} examples are longer than the engine's max_model_len and "
            "lose their ends[/]"
        )
    result = {"tokens": 0.0}
    if tuning.tokens > 0:
        result = _fit(f"sft {label}", learner, examples, tuning, config.seed)
    learner.save(current.run_dir / name)
    current.tokens = int(result["tokens"])
    current.summary |= {"examples": examples.num_rows} | {
        key: round(result[key], 4) for key in ("loss", "epochs", "steps", "tokens_per_s") if key in result
    }


def _fit(label: str, learner: Learner, rows: pa.Table, tuning: SFTConfig, seed: int) -> dict[str, float]:
    """`Learner.sft` behind a progress bar."""
    with progress(label, tuning.tokens) as bar:
        return learner.sft(rows, tuning, seed, lambda step: show(bar, step))


def show(bar: Bar, step: dict[str, float]) -> None:
    """Say how a step of a tuning went."""
    bar.advance(step["tokens"], f"loss {step['loss']:.3f} · {step['tokens_per_s']:,.0f} tokens/s")
