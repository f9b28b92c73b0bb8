"""Settings of the two models: what they are, how they are tuned, served and sampled from."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from dreamgym.config.base import Operational, Section


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
    """Tokens of look-ups among random words that the experience model learns before its data (data/lookup_drill.py)."""
    tied: bool = True
    """Input and output embeddings share their weights."""
    context: int = Field(2048, ge=64)
    """The longest sequence, in tokens."""


Dtype = Literal["auto", "bfloat16", "float32"]
"""A precision; auto is bfloat16 where the hardware multiplies it natively, else float32."""


class ModelConfig(Section):
    """A causal language model."""

    source: str = "scratch"
    """`scratch`, a Hugging Face name or folder, a GGUF file, `package:NAME` (the GGUF file in an installed package), or
    (policy) `world`: the experience model."""
    scratch: ScratchModel = ScratchModel()
    """The shape, where `source` is scratch."""
    dtype: Dtype = "auto"
    """Precision of the checkpoint, of engines and of RL; auto follows the hardware. Master weights are float32."""
    chat_template_kwargs: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Variables of the chat template, such as {enable_thinking: true}. They are written into the checkpoint's template,
    so that whoever serves the model renders as it was trained."""


class TuningConfig(Section):
    """Training on a fixed set of sequences, packed, on a cosine schedule."""

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
    weight_decay: float = Field(0.0, ge=0)
    """Weight decay of either optimiser."""
    grad_clip: float = Field(1.0, gt=0)
    """Largest gradient norm; Muon in float32 takes every gradient as it is."""
    minutes: float = Field(0.0, ge=0)
    """Wall-clock bound, where above 0; the schedule follows whichever bound comes first."""
    dtype: Dtype = "auto"
    """Precision of the forward and backward pass, whatever the model's engines use; auto follows the hardware."""


class SFTConfig(TuningConfig):
    """Supervised fine-tuning: weights by kind of token."""

    reasoning_weight: float = Field(1.0, ge=0)
    """Loss weight of reasoning tokens."""
    state_weight: float = Field(1.0, ge=0)
    """Loss weight of next-state tokens."""
    outcome_weight: float = Field(1.0, ge=0)
    """Loss weight of the reward and done tokens."""


class DPOConfig(TuningConfig):
    """Direct preference optimisation on pairs of offline trajectories, from the warm start (`dreamgym dpo`)."""

    epochs: float = Field(1.0, ge=0)
    """Passes over the pairs; where above 0, it bounds the training together with `tokens`."""
    lr: float = Field(1e-5, gt=0)
    """Peak learning rate."""
    pairs: int = Field(2000, ge=1)
    """At most so many pairs of a better and a worse trajectory of one task."""
    beta: float = Field(0.1, gt=0)
    """How strongly the policy is held to the warm start: the scale of the implicit reward."""
    sft_weight: float = Field(1.0, ge=0)
    """Weight of the better episode's mean negative logprob in the loss; with 0 both may grow unlikely (plain DPO)."""


class LoRAConfig(Section):
    """Low-rank adapters (arXiv 2106.09685) in place of all weights, where RL or DPO trains the policy."""

    rank: int = Field(0, ge=0)
    """Rank of what the adapters add to a layer; 0 trains all weights."""
    alpha: int = Field(32, ge=1)
    """What they add is scaled by alpha / rank."""
    targets: list[str] = Field(default_factory=list)
    """Names of the linear layers that have adapters, such as q_proj; empty is all but the output head."""


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
    max_num_seqs: Operational[int | None] = Field(None, ge=1)
    """Sequences decoded at once; null is 64 on a CPU, and on a GPU as many as vLLM's own server takes there."""
    kv_cache_gib: Operational[float] = Field(0.5, gt=0)
    """KV cache on a CPU, in GiB."""
    gpu_memory_utilization: Operational[float] = Field(0.9, gt=0, le=1)
    """Share of a GPU's memory for the engine."""
    tensor_parallel: Operational[int] = Field(1, ge=1)
    """GPUs an engine."""
    timeout_s: Operational[float] = Field(120.0, gt=0)
    """Deadline of one request to the engine, in seconds."""
    export_stats: Operational[bool | None] = None
    """Export vLLM's own metrics through Ray; null does so where Ray has a dashboard."""
    enforce_eager: Operational[bool | None] = None
    """Skip graph compilation: faster to start, slower to decode on a GPU. Null compiles on a GPU, and not on a CPU."""


class RefreshConfig(Section):
    """While the policy trains, a copy of the experience model learns from seed data, the buffer's dreams, corrections.

    It takes the model's place where it is no less true on held-out real transitions. It needs GPUs beside those of the
    loop: first `learner.workers` to tune it on, then `world.engine.tensor_parallel` for its own engine.
    """

    every: int = Field(0, ge=0)
    """Iterations between two tries; 0 is never."""
    transitions: int = Field(0, ge=0)
    """Real transitions that it may learn from after an evaluation, of those on which won dreams are measured."""
    false_wins: int = Field(3, ge=1)
    """Times that it reads a real episode which the dream would have won."""
    sft: SFTConfig = SFTConfig(tokens=200_000, lr=2e-4, muon_lr=0.002)
    """How the copy is tuned, each time."""


class WorldConfig(Section):
    """The experience model, and the task generator that shares its weights."""

    model: ModelConfig = ModelConfig()
    """Which model."""
    sft: SFTConfig = SFTConfig()
    """How it is trained on annotated transitions."""
    refresh: RefreshConfig = RefreshConfig()
    """Online refresh."""
    sft_without_demos: float = Field(0.5, ge=0, le=1)
    """Share of training trajectories without demonstrations, so that it can also dream where there are none."""
    sft_renamed: int = Field(0, ge=0)
    """Further copies of each training trajectory, in which names (rare words) are others, the same one everywhere."""
    sft_judged: list[Path] = Field(default_factory=list)
    """Files of steps judged by hand (`judged.jsonl` of `dreamgym play`): those of the train fold whose right answer is
    known are learned from as well."""
    history: bool = True
    """It reads the whole dream so far; off, the task, the last state and what the first state alone tells."""
    sampling: SamplingConfig = SamplingConfig(temperature=0.3)
    """How it dreams."""
    engine: EngineConfig = EngineConfig()
    """Its vLLM engine."""
    replicas: Operational[int] = Field(1, ge=1)
    """Serve replicas at the start, and the least that autoscaling keeps."""
    max_replicas: Operational[int] = Field(1, ge=1)
    """The most replicas that autoscaling may start; how many it does start follows the load of their engines."""
    upscale_delay_s: Operational[float] = Field(15.0, gt=0)
    """Seconds for which the engines must be too full before replicas are added."""
    downscale_delay_s: Operational[float] = Field(600.0, gt=0)
    """Seconds for which fewer would do before replicas are ended; should outlast a learner step, which needs none."""
    attempts: int = Field(3, ge=1)
    """Tries for one dream step that cannot be parsed before the episode is env_failed."""
    outcome: Literal["model", "checker"] = "model"
    """Who says what a dreamed step comes to: the experience model, or the environment's rule `check()` over states."""
    votes: int = Field(0, ge=0)
    """Times that a dream step which solves the task is asked again, with other demonstrations beside the nearest; the
    majority counts."""
    probable_outcome: bool = False
    """Reward and end of a dream step are the most probable ones after its state, at whatever temperature that is."""
    memo: bool = True
    """Within a group, the same actions lead to the same states, dreamed once."""
    system_prompt: str = ""
    """Instructions at the head of every dream; a model trained on them may leave it empty."""


class PolicyConfig(Section):
    """The agent that is trained."""

    model: ModelConfig = ModelConfig()
    """Which model; `scratch` shares the experience model's tokenizer."""
    format: Literal["plain", "react", "tags", "native"] = "plain"
    """How it writes thought and action: the action alone, by words (react), by tags, or as its model itself thinks."""
    malformed: Literal["answer", "penalty", "end"] = "answer"
    """An answer that is no action is told so in a sentence; it may also cost `malformed_penalty` or end the episode."""
    malformed_penalty: float = Field(0.1, ge=0)
    """What such an answer takes from the reward, where `malformed` is penalty."""
    sft: SFTConfig = SFTConfig(tokens=300_000)
    """Its warm start on demonstrations."""
    dpo: DPOConfig = DPOConfig()
    """A baseline without rollouts."""
    lora: LoRAConfig = LoRAConfig()
    """Adapters in place of all weights."""
    context: Literal["grow", "window", "steps"] = "grow"
    """What it reads: all so far; the last turns whole and a line for each before; the state and a line a turn."""
    context_turns: int = Field(4, ge=1)
    """How many turns are read whole, where `context` is window."""
    demonstrations: int = Field(100, ge=0)
    """Trajectories of the expert and the noisy expert in the warm start; only the expert's actions carry loss."""
    sampling: SamplingConfig = SamplingConfig(max_tokens=12)
    """How it acts while it learns."""
    eval_temperature: float = Field(0.0, ge=0)
    """Temperature in evaluations; 0 is greedy."""
    engine: EngineConfig = EngineConfig()
    """Its vLLM engines."""
    engines: Operational[int] = Field(1, ge=1)
    """How many engines (Ray actors) serve rollouts."""
    system_prompt: str = ""
    """Instructions at the head of every episode."""


class ServeConfig(Section):
    """The HTTP endpoint of `dreamgym serve`."""

    host: Operational[str] = "127.0.0.1"
    """The address to serve at; one that others can reach needs a key."""
    port: Operational[int] = Field(8000, ge=0, lt=2**16)
    """The port; 0 takes a free one."""
    api_key_env: Operational[str] = "DREAMGYM_API_KEY"
    """The environment variable with the key that clients must bring (or, with _FILE behind it, with a file's path)."""
