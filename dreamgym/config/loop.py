"""Settings of the RL stage: replay buffer, curriculum, learner, loop and final measurement."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from dreamgym.config.base import Operational, Section, Url

AlgorithmName = Literal[  # the registry: each is the file of this name in dreamgym/learner/algorithms
    "grpo",
    "dr_grpo",
    "dapo",
    "gspo",
    "cispo",
    "rloo",
    "reinforce_pp",
    "reinforce_pp_baseline",
    "gigpo",
    "gigpo_mean",
    "ppo",
]
TrackerName = Literal["tensorboard", "wandb", "mlflow", "trackio"]
Aggregation = Literal["token_mean", "sequence_mean", "constant"]
KLEstimator = Literal["k1", "k2", "k3"]
ALGORITHM_PARTS = ("advantage", "aggregation", "clip_low", "clip_high", "kl_estimator", "kl_in_reward")
"""Settings of the learner that replace a part of its algorithm, and so are for that one alone; None is its own."""


class QdrantConfig(Section):
    """Where the vectors live."""

    url: Operational[Url] = ""
    """A Qdrant service; empty is the embedded one."""
    api_key_env: Operational[str] = "QDRANT_API_KEY"
    """The environment variable with the service's key."""


class ReplayConfig(Section):
    """The semantic replay buffer and what may enter it."""

    qdrant: QdrantConfig = QdrantConfig()
    """Embedded, or a service."""
    embedder: str = "hashing"
    """`hashing` (word n-grams, no model), or a Hugging Face encoder by name or folder."""
    dim: int = Field(256, ge=8)
    """Vector size of the hashing embedder."""
    top_k: int = Field(1, ge=0)
    """Demonstrations retrieved for a dream step; 0 dreams without."""
    min_similarity: float = Field(0.0, ge=-1, le=1)
    """A retrieved demonstration below this cosine is not shown: it would cost tokens and tell little."""
    by_task: float | None = Field(None, ge=-1, le=1)
    """Look first at what is stored of the same task (of an invented one: of those it was made from), by the action and
    from this cosine on; a demonstration then tells reward and end too. For facts that no context holds; null is off."""
    capacity: int = Field(50_000, ge=1)
    """Transitions kept; the least useful dreamed ones go first."""
    novelty: float = Field(0.98, ge=0, le=1)
    """A dreamed transition at least this similar (cosine) to a stored one with the same outcome is refused, and one
    that contradicts a real one of its task so near."""
    consistency: bool = True
    """Ask the dream again from the state alone, the nearest demonstration kept and the next one left out; refuse a
    transition whose reward or done differs."""
    consistency_share: float = Field(0.1, ge=0, le=1)
    """Share of an iteration's trajectories offered to the buffer (each offer costs a second dream step)."""
    real_share: float = Field(0.5, ge=0, le=1)
    """At least this share of the stored transitions is real."""
    timeout_s: Operational[float] = Field(30.0, gt=0)
    """Deadline of one retrieval, in seconds."""


class CurriculumConfig(Section):
    """Which tasks are dreamed next, and how many of them are invented."""

    generated_share: float = Field(0.25, ge=0, le=1)
    """lambda: at most this share of an iteration's tasks is generated."""
    seeds: int = Field(8, ge=1)
    """How many of the tasks with the highest value V_tau seed new ones."""
    focus: float = Field(0.5, ge=0, le=1)
    """Share of the real tasks drawn by value rather than uniformly."""
    neighbours: int = Field(0, ge=0)
    """V_tau also counts the last episodes of so many visited tasks that are most like the task (for PPO)."""
    progress: float = Field(0.0, ge=0)
    """V_tau also counts, with this weight, the variance of how far along a known solution the episodes came."""
    similarity: float = Field(0.999, ge=0, le=1)
    """A generated task this similar (cosine) to a known one is a duplicate."""
    feasibility_steps: int = Field(2, ge=0)
    """Dream steps that a new task must survive; 0 trusts its first state."""


class LearnerConfig(Section):
    """DeepSpeed, the loss and the optimiser of the RL stage."""

    workers: Operational[int] = Field(1, ge=1)
    """Data-parallel learner processes."""
    algorithm: AlgorithmName = "grpo"
    """How advantages are made, the loss and what it is averaged over; `null` below is the algorithm's own form.

    What a recipe puts in place of a part of its algorithm is left out where the command line takes another one.
    """
    advantage: AlgorithmName | None = None
    """Take the advantages of this other algorithm."""
    aggregation: Aggregation | None = None
    """Average the loss over tokens, over sequences (token samples), or divide by sequences times a constant."""
    constant_length: int = Field(256, ge=1)
    """Tokens of that constant: about the most that the policy samples in an episode."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """AdamW, or Muon for the matrices inside the model with AdamW for the rest."""
    muon_lr: float = Field(0.002, gt=0)
    """Learning rate of Muon."""
    lr: float = Field(1e-4, gt=0)
    """Learning rate, constant after the warm-up."""
    warmup_steps: int = Field(2, ge=0)
    """Optimiser steps in which the rate rises from 0."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW weight decay."""
    grad_clip: float = Field(1.0, gt=0)
    """Largest gradient norm."""
    token_budget: Operational[int] = Field(8192, ge=64)
    """Tokens in one packed micro-batch; memory is bounded by it."""
    minibatches: int = Field(2, ge=1)
    """Optimiser steps in a pass over an iteration's batch; fewer where fewer than `train.groups` are kept in it."""
    epochs: int = Field(1, ge=1)
    """Passes over an iteration's batch: more learning from the same rollouts, further from their policy."""
    clip_low: float | None = Field(None, gt=0)
    """The ratio is clipped at 1 - clip_low."""
    clip_high: float | None = Field(None, gt=0)
    """The ratio is clipped at 1 + clip_high."""
    echo: float = Field(0.0, ge=0)
    """Weight of the cross-entropy of what the world answered (arXiv 2605.24517), beside the policy's loss; 0 is off."""
    kl_coef: float = Field(0.0, ge=0)
    """Weight of the KL to the warm start; 0 keeps no reference model."""
    kl_estimator: KLEstimator | None = None
    """The KL from sampled tokens: k1 (log ratio; it has no effect in the loss), k2 (half its square) or k3."""
    kl_in_reward: bool | None = None
    """The KL lowers the reward of every token, and is no term of the loss."""
    gae: Literal["token", "turn"] = "token"
    """PPO: a step of generalised advantage estimation is a sampled token, or a whole turn."""
    gamma: float = Field(1.0, gt=0, le=1)
    """PPO: discount a step."""
    gae_lambda: float = Field(1.0, ge=0, le=1)
    """PPO: 1 takes the rewards as they came, 0 the critic's word for all beyond the next step."""
    bootstrap_truncated: bool = False
    """PPO: a truncated episode goes on as the critic expects; off, the step limit is the task's own end."""
    critic_lr: float = Field(3e-4, gt=0)
    """PPO: learning rate of the critic (AdamW), with the policy's warm-up; it takes the place of a loss weight."""
    value_clip: float = Field(0.2, gt=0)
    """PPO: a value may move this far from what it was before the update."""
    entropy_coef: float = Field(0.0, ge=0)
    """Weight of the entropy bonus."""
    tis_cap: float = Field(2.0, gt=0)
    """Truncated importance sampling: cap on learner/engine probability of a token."""
    zero_stage: Operational[int] = Field(1, ge=0, le=3)
    """DeepSpeed ZeRO stage."""
    gradient_checkpointing: Operational[bool] = False
    """Recompute activations in the backward pass."""
    offload: Operational[bool] = False
    """Keep the optimiser's state in CPU memory."""
    old_logprobs: Literal["learner", "engine"] = "learner"
    """Those of the policy before the update: recomputed, or as the engine told them (fewer passes; for float32)."""
    max_logprob_gap: Operational[float] = Field(0.5, gt=0)
    """Stop when the mean gap between engine and learner logprobs of a batch exceeds this, in nats."""
    timeout_s: Operational[float] = Field(600.0, gt=0)
    """Deadline of one learner step, in seconds; reading and writing the model has longer, as its size asks for."""


class TrainConfig(Section):
    """The loop: rollouts in the dream, updates, evaluations."""

    iterations: int = Field(30, ge=1)
    """Updates of the policy."""
    minutes: float = Field(0.0, ge=0)
    """Wall-clock bound of the loop, where above 0; it ends after the iteration that passes it."""
    branched: float = Field(0.0, ge=0, le=1)
    """Share of dreamed groups that begin late in a recorded won episode: at first near its end, then ever earlier."""
    groups: int = Field(16, ge=1)
    """Tasks an iteration."""
    group_size: int = Field(8, ge=1)
    """Episodes a task; 1 is for algorithms that compare nothing within groups (ppo, reinforce_pp)."""
    resample: int = Field(0, ge=0)
    """Rounds of further tasks in place of groups whose rewards are all equal (DAPO's dynamic sampling)."""
    max_staleness: int = Field(0, ge=0)
    """Updates by which a rollout may begin before the policy that learns from it; 0 plays and learns by turns."""
    rollout_actors: Operational[int] = Field(1, ge=1)
    """Rollout actors (CPU, asyncio); on a cluster each asks for half a CPU, and those with none yet come later."""
    colocate: Operational[bool] = False
    """Engines and learner share one GPU: the engines sleep while the learner steps."""
    episode_timeout_s: Operational[float] = Field(120.0, gt=0)
    """Deadline of one attempt at an episode, in seconds; waiting for a place at the policy's engines is not counted."""
    max_failures: Operational[int] = Field(64, ge=1)
    """The circuit breaker: env_failed episodes in a row that stop the run."""
    max_restarts: Operational[int] = Field(3, ge=0)
    """Times that a run may start everything again from one checkpoint because an engine, learner or node died."""
    world: Literal["dream", "real"] = "dream"
    """Where the policy learns."""
    eval_every: int = Field(5, ge=0)
    """Iterations between evaluations on the real dev fold; 0 is never."""
    eval_games: int = Field(64, ge=1)
    """Games of such an evaluation."""
    min_kept: float = Field(0.0, ge=0, le=1)
    """Training in the dream ends early where clearly less than this share of won dreams is won for real; 0 is never."""
    kept_window: int = Field(2, ge=1)
    """That share is taken over so many evaluations together."""
    keep_checkpoints: Operational[int] = Field(2, ge=1)
    """Checkpoints kept on disk."""
    checkpoint_every: Operational[int] = Field(10, ge=1)
    """Iterations between checkpoints."""
    checkpoint_uri: Operational[Url] = ""
    """A second place for checkpoints (`s3://bucket/folder`; `gs`, `abfs`, `hdfs`, `file`, or one of fsspec's); training
    goes on from there where the run folder has none."""
    trackers: Operational[list[TrackerName]] = Field(default_factory=list)
    """Where the metrics go beside `metrics.jsonl`; each needs the extra of its name, and stays offline by default."""


class RealConfig(Section):
    """Real rollouts to learn from: after the dream (`dreamgym real`), or in place of it (`train.world=real`)."""

    transitions: int = Field(0, ge=0)
    """Budget of real transitions that are learned from; 0 is no stage `real`, and no bound with `train.world=real`."""
    use: Literal["updates", "dream", "both"] = "updates"
    """After the dream: the policy learns from them, the dream is corrected by them and dreamed on in, or both."""
    rounds: int = Field(3, ge=1)
    """Times that the dream is corrected and dreamed on in, each with an equal part of the budget."""
    dream_iterations: int = Field(5, ge=1)
    """Iterations in the dream after each correction."""
    groups: int = Field(4, ge=1)
    """Tasks an iteration after the dream. A step is of as many episodes as there, so fewer groups make fewer steps."""


class EvalConfig(Section):
    """The final measurement."""

    fold: Literal["train", "dev", "test"] = "test"
    """Which fold is played."""
    games: int = Field(300, ge=1)
    """Games; the interval is Wilson's at 95%."""
