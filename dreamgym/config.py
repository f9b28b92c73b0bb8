"""Every setting of a run, typed and documented once; the recipes, the CLI help and the code read it here."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

AlgorithmName = Literal[  # the registry: each is the file of this name in dreamgym/learner/algorithms
    "grpo", "dr_grpo", "dapo", "gspo", "cispo", "rloo", "reinforce_pp", "reinforce_pp_baseline", "gigpo"
]
Aggregation = Literal["token_mean", "sequence_mean", "constant"]
KLEstimator = Literal["k1", "k2", "k3"]


class Section(BaseModel):
    """A group of settings: unknown fields are refused, and docstrings become the help."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, validate_assignment=True)


class EnvConfig(Section):
    """The real environment: what is collected from, measured in, and dreamed of."""

    name: str = "mapreader"
    """A registered name (mapreader, twc), or `module:Class` of your own environment."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments for the environment, such as {num_rooms: 4}."""
    max_steps: int = Field(15, ge=1)
    """An episode is truncated after this many actions, in the real environment and in the dream."""
    workers: int = Field(2, ge=1)
    """How many environments run side by side."""
    timeout_s: float = Field(30.0, gt=0)
    """Deadline of one reset or step of a real environment, in seconds."""


class CollectConfig(Section):
    """Offline seed data: who acts in the real environment, and how often."""

    tasks: int = Field(600, ge=1)
    """How many tasks of the train fold are visited."""
    expert: float = Field(1.0, ge=0)
    """Expert episodes a task (a fraction visits that share of the tasks)."""
    noisy: float = Field(2.0, ge=0)
    """Noisy-expert episodes a task."""
    noise: float = Field(0.5, ge=0, le=1)
    """Chance that a noisy expert leaves the path for one step."""
    random: float = Field(1.0, ge=0)
    """Random episodes a task."""
    slips: float = Field(0.2, ge=0, le=1)
    """Chance that an off-path action is the expert's own with one word wrong; a dream must not let that pass."""
    invalid: float = Field(0.3, ge=0, le=1)
    """Chance that another off-path action is drawn from what is mostly not possible here; a dream must know it too."""
    untimely: float = Field(0.4, ge=0, le=1)
    """Chance that such an action is one that the expert takes elsewhere in this task, as a greedy policy would."""
    garbled: float = Field(0.3, ge=0, le=1)
    """Chance that it is else not one of all commands, but garbled from two, as an exploring policy misspells."""
    heldout_tasks: int = Field(60, ge=1)
    """Tasks of the dev fold, collected the same way, that measure the fidelity of the dream."""
    files: list[Path] = Field(default_factory=list)
    """Your own trajectories (JSONL or Parquet) to use in place of collecting."""


class TeacherConfig(Section):
    """A teacher LLM behind an OpenAI-compatible endpoint that explains transitions."""

    base_url: str = ""
    """Such as http://127.0.0.1:8000/v1."""
    model: str = ""
    """The model's name at that endpoint."""
    api_key_env: str = "OPENAI_API_KEY"
    """The environment variable that holds the key; it may be unset for a local endpoint."""
    concurrency: int = Field(16, ge=1)
    """Requests in flight at once."""
    max_tokens: int = Field(256, ge=1)
    """The longest explanation, in tokens."""
    temperature: float = Field(0.3, ge=0)
    """Sampling temperature of the teacher."""
    attempts: int = Field(5, ge=1)
    """Tries for one transition before it is left out and counted."""
    timeout_s: float = Field(60.0, gt=0)
    """Deadline of one request, in seconds."""


class AnnotateConfig(Section):
    """Who writes the reasoning R* of every transition."""

    by: Literal["rule", "teacher", "none"] = "rule"
    """rule: the environment's own rule; teacher: an LLM endpoint; none: no reasoning."""
    teacher: TeacherConfig = TeacherConfig()
    """The endpoint, where `by` is teacher."""


class ScratchModel(Section):
    """A small Llama made from nothing, with a tokenizer trained on the collected text."""

    layers: int = Field(4, ge=1)
    """Transformer layers."""
    hidden: int = Field(256, ge=32)
    """Width of the model."""
    intermediate: int = Field(688, ge=32)
    """Width of the MLP."""
    heads: int = Field(4, ge=1)
    """Attention heads."""
    head_dim: int = Field(64, ge=32, le=256, multiple_of=16)
    """Width of a head, whatever the model's; one that vLLM's attention knows. Wide heads tell more words apart."""
    vocab: int = Field(512, ge=300)
    """Size of the BPE vocabulary."""
    drill_tokens: int = Field(400_000, ge=0)
    """Tokens of look-ups among random words that the experience model learns before its data (see learner/drill.py)."""
    tied: bool = True
    """Input and output embeddings share their weights."""
    context: int = Field(2048, ge=64)
    """The longest sequence, in tokens."""


class ModelConfig(Section):
    """A causal language model."""

    source: str = "scratch"
    """`scratch`, a Hugging Face name or folder, a GGUF file, or (policy) `world`: the experience model."""
    scratch: ScratchModel = ScratchModel()
    """The shape, where `source` is scratch."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Precision of engines and of RL's forward pass (fine-tuning computes in bfloat16); master weights are float32."""


class SFTConfig(Section):
    """Supervised fine-tuning: packed sequences, a cosine schedule, weights by kind of token."""

    tokens: int = Field(2_000_000, ge=0)
    """Training budget, in tokens of the packed sequences; 0 skips the training."""
    epochs: float = Field(0.0, ge=0)
    """Passes over the data; where above 0, it bounds the training together with `tokens`."""
    stop_loss: float = Field(0.0, ge=0)
    """Where above 0: end once the mean loss of the last 8 steps is below it, so that a warm start still explores."""
    batch_tokens: int = Field(8192, ge=64)
    """Tokens of one optimiser step, over all workers."""
    lr: float = Field(1e-3, gt=0)
    """Peak learning rate."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """AdamW, or Muon for the matrices inside the model (its rate is `muon_lr`) with AdamW for the rest."""
    muon_lr: float = Field(0.02, gt=0)
    """Peak learning rate of Muon."""
    warmup: float = Field(0.05, ge=0, le=1)
    """Share of the steps in which the rate rises from 0."""
    minutes: float = Field(0.0, ge=0)
    """Wall-clock bound, where above 0; the schedule follows whichever bound comes first."""
    reasoning_weight: float = Field(1.0, ge=0)
    """Loss weight of reasoning tokens."""
    state_weight: float = Field(1.0, ge=0)
    """Loss weight of next-state tokens."""
    outcome_weight: float = Field(1.0, ge=0)
    """Loss weight of the reward and done tokens."""


class SamplingConfig(Section):
    """How an engine samples."""

    temperature: float = Field(1.0, ge=0)
    """0 is greedy."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Nucleus sampling."""
    max_tokens: int = Field(96, ge=1)
    """The longest answer, in tokens."""


class EngineConfig(Section):
    """One vLLM engine."""

    max_model_len: int = Field(2048, ge=64)
    """Context window, in tokens."""
    max_num_seqs: int = Field(64, ge=1)
    """Sequences decoded at once."""
    kv_cache_gib: float = Field(0.5, gt=0)
    """KV cache on a CPU, in GiB."""
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1)
    """Share of a GPU's memory for the engine."""
    tensor_parallel: int = Field(1, ge=1)
    """GPUs an engine."""
    timeout_s: float = Field(120.0, gt=0)
    """Deadline of one request to the engine, in seconds."""
    enforce_eager: bool = True
    """Skip graph compilation: faster to start, slower to decode on a GPU."""


class WorldConfig(Section):
    """The experience model, and the task generator that shares its weights."""

    model: ModelConfig = ModelConfig()
    """Which model."""
    sft: SFTConfig = SFTConfig()
    """How it is trained on annotated transitions."""
    sft_without_demos: float = Field(0.5, ge=0, le=1)
    """Share of training trajectories without demonstrations, so that it can also dream where there are none."""
    sampling: SamplingConfig = SamplingConfig(temperature=0.3)
    """How it dreams."""
    engine: EngineConfig = EngineConfig()
    """Its vLLM engine."""
    replicas: int = Field(1, ge=1)
    """Serve replicas at the start, and the least that autoscaling keeps."""
    max_replicas: int = Field(1, ge=1)
    """The most replicas that autoscaling may start."""
    attempts: int = Field(3, ge=1)
    """Tries for one dream step that cannot be parsed before the episode is env_failed."""
    memo: bool = True
    """Within a group, the same actions lead to the same states, dreamed once."""
    system_prompt: str = ""
    """Instructions at the head of every dream; a model trained on them may leave it empty."""


class PolicyConfig(Section):
    """The agent that is trained."""

    model: ModelConfig = ModelConfig()
    """Which model; `scratch` shares the experience model's tokenizer."""
    sft: SFTConfig = SFTConfig(tokens=300_000)
    """Its warm start on demonstrations."""
    demonstrations: int = Field(100, ge=0)
    """Trajectories of the expert and the noisy expert in the warm start; only the expert's actions carry loss."""
    sampling: SamplingConfig = SamplingConfig(max_tokens=12)
    """How it acts while it learns."""
    eval_temperature: float = Field(0.0, ge=0)
    """Temperature in evaluations; 0 is greedy."""
    engine: EngineConfig = EngineConfig()
    """Its vLLM engines."""
    engines: int = Field(1, ge=1)
    """How many engines (Ray actors) serve rollouts."""
    system_prompt: str = ""
    """Instructions at the head of every episode."""


class QdrantConfig(Section):
    """Where the vectors live."""

    url: str = ""
    """A Qdrant service; empty is the embedded one."""
    api_key_env: str = "QDRANT_API_KEY"
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
    capacity: int = Field(50_000, ge=1)
    """Transitions kept; the least useful dreamed ones go first."""
    novelty: float = Field(0.98, ge=0, le=1)
    """A dreamed transition at least this similar (cosine) to a stored one with the same outcome is refused."""
    consistency: bool = True
    """Ask the dream again with other demonstrations; refuse a transition whose reward or done differs."""
    consistency_share: float = Field(0.1, ge=0, le=1)
    """Share of an iteration's trajectories offered to the buffer (each offer costs a second dream step)."""
    real_share: float = Field(0.5, ge=0, le=1)
    """At least this share of the stored transitions is real."""
    timeout_s: float = Field(30.0, gt=0)
    """Deadline of one retrieval, in seconds."""


class CurriculumConfig(Section):
    """Which tasks are dreamed next, and how many of them are invented."""

    generated_share: float = Field(0.25, ge=0, le=1)
    """lambda: at most this share of an iteration's tasks is generated."""
    seeds: int = Field(8, ge=1)
    """How many of the tasks with the highest value V_tau seed new ones."""
    focus: float = Field(0.5, ge=0, le=1)
    """Share of the real tasks drawn by value rather than uniformly."""
    similarity: float = Field(0.999, ge=0, le=1)
    """A generated task this similar (cosine) to a known one is a duplicate."""
    feasibility_steps: int = Field(2, ge=0)
    """Dream steps that a new task must survive; 0 trusts its first state."""


class LearnerConfig(Section):
    """DeepSpeed, the loss and the optimiser of the RL stage."""

    workers: int = Field(1, ge=1)
    """Data-parallel learner processes."""
    algorithm: AlgorithmName = "grpo"
    """How advantages are made, the loss and what it is averaged over; `null` below is the algorithm's own form."""
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
    token_budget: int = Field(8192, ge=64)
    """Tokens in one packed micro-batch; memory is bounded by it."""
    minibatches: int = Field(2, ge=1)
    """Optimiser steps in a pass over an iteration's batch."""
    epochs: int = Field(1, ge=1)
    """Passes over an iteration's batch: more learning from the same rollouts, further from their policy."""
    clip_low: float | None = Field(None, gt=0)
    """The ratio is clipped at 1 - clip_low."""
    clip_high: float | None = Field(None, gt=0)
    """The ratio is clipped at 1 + clip_high."""
    kl_coef: float = Field(0.0, ge=0)
    """Weight of the KL to the warm start; 0 keeps no reference model."""
    kl_estimator: KLEstimator | None = None
    """The KL from sampled tokens: k1 (log ratio; it has no effect in the loss), k2 (half its square) or k3."""
    kl_in_reward: bool | None = None
    """The KL lowers the reward of every token, and is no term of the loss."""
    entropy_coef: float = Field(0.0, ge=0)
    """Weight of the entropy bonus."""
    tis_cap: float = Field(2.0, gt=0)
    """Truncated importance sampling: cap on learner/engine probability of a token."""
    zero_stage: int = Field(1, ge=0, le=3)
    """DeepSpeed ZeRO stage."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass."""
    offload: bool = False
    """Keep the optimiser's state in CPU memory."""
    old_logprobs: Literal["learner", "engine"] = "learner"
    """Those of the policy before the update: recomputed, or as the engine told them (fewer passes; for float32)."""
    max_logprob_gap: float = Field(0.5, gt=0)
    """Stop when the mean gap between engine and learner logprobs of a batch exceeds this, in nats."""
    timeout_s: float = Field(600.0, gt=0)
    """Deadline of one learner step, in seconds."""


class TrainConfig(Section):
    """The loop: rollouts in the dream, updates, evaluations."""

    iterations: int = Field(30, ge=1)
    """Updates of the policy."""
    minutes: float = Field(0.0, ge=0)
    """Wall-clock bound of the loop, where above 0; it ends after the iteration that passes it."""
    groups: int = Field(16, ge=1)
    """Tasks an iteration."""
    group_size: int = Field(8, ge=2)
    """Episodes a task."""
    max_staleness: int = Field(0, ge=0)
    """Updates by which a rollout may begin before the policy that learns from it; 0 plays and learns by turns."""
    rollout_actors: int = Field(1, ge=1)
    """Rollout actors (CPU, asyncio)."""
    episode_timeout_s: float = Field(120.0, gt=0)
    """Deadline of one episode, in seconds."""
    max_failures: int = Field(64, ge=1)
    """The circuit breaker: env_failed episodes in a row that stop the run."""
    world: Literal["dream", "real"] = "dream"
    """Where the policy learns."""
    eval_every: int = Field(5, ge=0)
    """Iterations between evaluations on the real dev fold; 0 is never."""
    eval_games: int = Field(64, ge=1)
    """Games of such an evaluation."""
    keep_checkpoints: int = Field(2, ge=1)
    """Checkpoints kept on disk."""
    checkpoint_every: int = Field(10, ge=1)
    """Iterations between checkpoints."""


class EvalConfig(Section):
    """The final measurement."""

    fold: Literal["train", "dev", "test"] = "test"
    """Which fold is played."""
    games: int = Field(300, ge=1)
    """Games; the interval is Wilson's at 95%."""


class RunConfig(Section):
    """One experiment."""

    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run; its folder is `out/name-seed<seed>`."""
    seed: int = Field(0, ge=0)
    """Drives everything that can be driven: data, initial weights, sampling, task order."""
    out: Path = Path("runs")
    """Where runs are written."""
    env: EnvConfig = EnvConfig()
    """The real environment."""
    collect: CollectConfig = CollectConfig()
    """Seed data."""
    annotate: AnnotateConfig = AnnotateConfig()
    """Reasoning."""
    world: WorldConfig = WorldConfig()
    """The experience model."""
    policy: PolicyConfig = PolicyConfig()
    """The agent."""
    replay: ReplayConfig = ReplayConfig()
    """The replay buffer."""
    curriculum: CurriculumConfig = CurriculumConfig()
    """Tasks."""
    learner: LearnerConfig = LearnerConfig()
    """The learner."""
    train: TrainConfig = TrainConfig()
    """The RL loop."""
    eval: EvalConfig = EvalConfig()
    """The final evaluation."""

    @property
    def run_dir(self) -> Path:
        """The folder of this run, absolute."""
        return Path(os.path.abspath(self.out)) / f"{self.name}-seed{self.seed}"
