"""Every setting of a run, typed and documented once; the recipes, the CLI help and the code read it here."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from dreamgym.config.base import (
    Operational,
    Section,
)
from dreamgym.config.data import (
    AnnotateConfig,
    CollectConfig,
    EnvConfig,
    TeacherConfig,
)
from dreamgym.config.loop import (
    ALGORITHM_PARTS,
    Aggregation,
    AlgorithmName,
    CurriculumConfig,
    EvalConfig,
    KLEstimator,
    LearnerConfig,
    QdrantConfig,
    RealConfig,
    ReplayConfig,
    TrackerName,
    TrainConfig,
)
from dreamgym.config.models import (
    DPOConfig,
    Dtype,
    EngineConfig,
    LoRAConfig,
    ModelConfig,
    PolicyConfig,
    RefreshConfig,
    SamplingConfig,
    ScratchModel,
    ServeConfig,
    SFTConfig,
    TuningConfig,
    WorldConfig,
)

__all__ = [
    "ALGORITHM_PARTS",
    "Aggregation",
    "AlgorithmName",
    "AnnotateConfig",
    "CollectConfig",
    "CurriculumConfig",
    "DPOConfig",
    "Device",
    "Dtype",
    "EngineConfig",
    "EnvConfig",
    "EvalConfig",
    "KLEstimator",
    "LearnerConfig",
    "LoRAConfig",
    "ModelConfig",
    "PolicyConfig",
    "QdrantConfig",
    "RealConfig",
    "RefreshConfig",
    "ReplayConfig",
    "RunConfig",
    "SFTConfig",
    "SamplingConfig",
    "ScratchModel",
    "Section",
    "ServeConfig",
    "TeacherConfig",
    "TrackerName",
    "TrainConfig",
    "TuningConfig",
    "WorldConfig",
]

Device = Literal["auto", "cpu", "gpu"]


class RunConfig(Section):
    """One experiment."""

    name: Operational[str] = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run; its folder is `out/name-seed<seed>`."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Drives everything that can be driven: data, initial weights, sampling, task order."""
    out: Operational[Path] = Path("runs")
    """Where runs are written."""
    log_level: Operational[Literal["debug", "info", "warning"]] = "info"
    """What the parts write to the logs of Ray's session; `debug` follows a trajectory through every dream step."""
    device: Operational[Device] = "auto"
    """auto: GPUs where the cluster has some by now; gpu: wait for those that it will add; cpu: none."""
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
    real: RealConfig = RealConfig()
    """Sim-to-real."""
    eval: EvalConfig = EvalConfig()
    """The final evaluation."""
    serve: ServeConfig = ServeConfig()
    """HTTP."""

    @model_validator(mode="after")
    def _fits_one_gpu(self) -> Self:
        """What `train.colocate` asks of other fields."""
        engines = (self.policy.engine, self.world.engine)
        asked = {
            "train.max_staleness=0": self.train.max_staleness == 0,
            "world.replicas=1 and world.max_replicas=1": self.world.replicas == self.world.max_replicas == 1,
            "a tensor_parallel of 1": all(engine.tensor_parallel == 1 for engine in engines),
            "a gpu_memory_utilization of policy.engine and world.engine that is below 0.9 together": (
                sum(engine.gpu_memory_utilization for engine in engines) < 0.9
            ),
        }
        missing = [what for what, there in asked.items() if not there]
        if self.train.colocate and missing:
            raise ValueError(f"train.colocate needs {', and '.join(missing)}")
        return self

    @model_validator(mode="after")
    def _can_refresh(self) -> Self:
        """What `world.refresh` asks of other fields."""
        refresh = self.world.refresh
        if refresh.every and not self.replay.top_k and not refresh.transitions:
            raise ValueError("world.refresh.every learns from the buffer, and replay.top_k=0 keeps none; set one to 0")
        if refresh.transitions and not (refresh.every and self.train.eval_every):
            raise ValueError(
                "world.refresh.transitions are taken at evaluations and learned from at refreshes; set "
                "train.eval_every and world.refresh.every, or world.refresh.transitions=0"
            )
        if self.refreshes and self.train.colocate:
            name = "world.refresh.every" if refresh.every else f"real.use={self.real.use}"
            raise ValueError(f"{name} needs a GPU of its own, and train.colocate has one for all; drop one")
        return self

    @model_validator(mode="after")
    def _fits_context(self) -> Self:
        """No engine reads more than a model that is made from nothing can."""
        for name, section in (("world", self.world), ("policy", self.policy)):
            of = "world" if section.model.source == "world" else name
            model, asked = getattr(self, of).model, section.engine.max_model_len
            if model.source == "scratch" and asked > model.scratch.context:
                raise ValueError(
                    f"{name}.engine.max_model_len={asked} is more than {of}.model.scratch.context="
                    f"{model.scratch.context}; raise the one or lower the other"
                )
        return self

    @model_validator(mode="after")
    def _has_groups(self) -> Self:
        """Whatever compares the episodes of a task needs several."""
        by = self.learner.advantage or self.learner.algorithm
        if self.train.group_size == 1 and by not in ("ppo", "reinforce_pp"):
            raise ValueError(f"train.group_size=1 leaves {by} nothing to compare; take more, or ppo or reinforce_pp")
        if self.train.group_size == 1 and self.train.resample:
            raise ValueError("train.resample needs groups; set it to 0, or take a train.group_size above 1")
        return self

    @model_validator(mode="after")
    def _has_whole_episodes(self) -> Self:
        """A critic needs an episode in one sample."""
        if self.policy.context != "grow" and (self.learner.advantage or self.learner.algorithm) == "ppo":
            raise ValueError(
                f"policy.context={self.policy.context} cuts an episode in samples, and ppo needs it whole; take "
                "policy.context=grow or another learner.algorithm"
            )
        return self

    @property
    def refreshes(self) -> bool:
        """Whether a copy of the experience model is ever tuned beside the loop."""
        return bool(self.world.refresh.every or (self.real.transitions and self.real.use != "updates"))

    @property
    def run_dir(self) -> Path:
        """The folder of this run, absolute."""
        return Path(os.path.abspath(self.out)) / f"{self.name}-seed{self.seed}"
