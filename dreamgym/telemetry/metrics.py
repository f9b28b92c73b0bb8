"""What the loop measures: where records go (sinks), under which name each metric is exported, and what it means."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from dreamgym.telemetry.rollouts import Rollouts

UNREADABLE = 0.25
"""Share of dreams that could not be read above which a person is told."""

MALFORMED = 0.05
"""Share of answers that are no action above which a person is told."""


class Sink(Protocol):
    """Takes the records of a run: its log, Ray's metrics, a tracker."""

    def write(self, kind: str, iteration: int, metrics: Mapping[str, Any]) -> None:
        """Take a record; `kind` is `iteration`, `eval` or `refresh`, `metrics` maps `section/name` to a number."""

    def close(self) -> None:
        """Let go of what is open; nothing is written afterwards."""


@runtime_checkable
class RolloutSink(Protocol):
    """A sink that takes episodes too."""

    def rollouts(self, iteration: int, rows: Rollouts) -> None:
        """Take some episodes that an iteration has played, before its record."""


def exported_name(key: str) -> str:
    """The name of `section/name` outside the run log: `dreamgym_section_name`."""
    return "dreamgym_" + re.sub(r"[^a-zA-Z0-9_]", "_", key)


def numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Those of a record's values that are finite numbers, as floats; arrays of one element count as such."""
    plain = {key: value.item() if hasattr(value, "item") else value for key, value in metrics.items()}
    return {key: float(v) for key, v in plain.items() if isinstance(v, (int, float)) and math.isfinite(v)}


def is_counter(key: str) -> bool:
    """Whether a metric only grows, so that its rate and not its level is what tells; it may begin at 0 again."""
    return key in COUNTERS or key.startswith(("replay/refused_", "time/"))


GAUGES = {
    "loop/iteration": "iterations done",
    "dream/success": "share of the iteration's rollouts that were won (of real ones with train.world=real)",
    "dream/reward": "mean sum of rewards of a rollout: what is learned from, a success or not",
    "dream/env_failed": "episodes of the iteration that failed for good and left every statistic",
    "dream/steps": "mean steps of an episode",
    "dream/truncated": "share of episodes that ran out of steps",
    "dream/overruled": "dream steps that solved the task, had not the answers of world.votes been against it",
    "dream/dev_success": "success in the dream on the games of the dev fold",
    "dream/dev_reward": "mean sum of rewards in the dream on the games of the dev fold",
    "real/success": "success in the real environment on the dev fold",
    "real/low": "lower end of its 95% interval",
    "real/high": "upper end of its 95% interval",
    "real/reward": "mean sum of rewards in the real environment on the dev fold",
    "again/wins": "won dreams that were played again in the real environment",
    "again/kept": "share of them that the same actions win there too",
    "again/obeyed": "share of them that were won because the dream let happen what the environment refuses",
    "rollout/episodes": "episodes of the iteration",
    "rollout/seconds": "seconds that the loop waited for the iteration's rollouts",
    "rollout/tokens": "tokens of the iteration's episodes, read and sampled",
    "rollout/staleness": "mean age of a sampled token, in updates",
    "rollout/staleness_max": "greatest age of a sampled token, in updates",
    "rollout/entropy": "mean surprise of a sampled token, in nats",
    "rollout/policy_cache_hit": "share of the policy's prompt tokens from the prefix cache",
    "rollout/dream_cache_hit": "share of the dream's prompt tokens from the prefix cache",
    "rollout/dream_shared": "share of dream steps that another episode of the group had dreamed",
    "rollout/dream_computed": "tokens that the dream's engines read or wrote",
    "rollout/context_full": "episodes that were cut, for what is read next did not fit the context window",
    "rollout/groups_all_won": "groups whose every episode was won",
    "rollout/groups_all_lost": "groups of which no episode was won",
    "rollout/malformed": "share of steps whose answer was no action",
    "learner/gap_mean": "mean difference between the logprobs of engine and learner, in nats",
    "learner/gap_p999": "99.9% quantile of that difference, in nats",
    "learner/grad_norm": "gradient norm",
    "learner/loss": "loss of a step",
    "learner/clip_frac": "share of tokens whose ratio the clipping holds, and with it their gradient",
    "learner/clip_low_frac": "of all tokens, those held where their ratio was too low",
    "learner/clip_high_frac": "of all tokens, those held where their ratio was too high",
    "learner/ratio_max": "greatest ratio of a token's probability to that before the update",
    "learner/old_kl": "KL from the policy before the update to that of each step (k3), in nats a token",
    "learner/seconds": "seconds of the update",
    "learner/trained_tokens": "tokens that carried loss",
    "learner/rows": "sequences learned from",
    "learner/groups_left_out": "groups without a signal that were left out",
    "learner/rows_left_out": "sequences longer than learner.token_budget that were left out",
    "learner/skipped": "1 where an iteration had nothing to learn from",
    "sync/seconds": "seconds of a weight transfer",
    "sync/standstill_seconds": "longest time for which an engine stood still for new weights",
    "curriculum/value_mean": "mean value V_tau of the iteration's tasks",
    "curriculum/flat_groups": "share of groups whose episodes all ended alike",
    "curriculum/generated_share": "share of tasks that were invented",
    "curriculum/branched_groups": "groups that began late in a recorded episode",
    "replay/real": "real transitions in the buffer",
    "replay/dream": "dreamed transitions in the buffer",
    "refresh/dreams": "dreams of the buffer from which a copy of the experience model learned",
    "refresh/corrections": "real episodes of the policy from which it learned",
    "refresh/promoted": "1 where the copy took over, 0 where it was less true",
    "refresh/tokens": "tokens that it was tuned on",
    "refresh/state_exact_before": "next states of held-out real steps that the model gets right to the letter",
    "refresh/state_exact_after": "those that the copy does",
    "refresh/outcome_accuracy_before": "outcomes of held-out real steps that the model gets right",
    "refresh/outcome_accuracy_after": "those that the copy does",
    "refresh/own_precision_before": "of the steps of held-back episodes that the model calls won, the share that is",
    "refresh/own_precision_after": "the same of the copy",
    "correct/episodes": "real episodes of the policy that the experience model newly learns from",
    "correct/transitions": "their transitions",
    "correct/false_wins": "of these episodes, those that the dream would have won and reality did not",
    "correct/judges": "held-back episodes that judge a copy",
    "fleet/healthy": "rollout actors that answer",
}
"""Levels, and values of one iteration."""

COUNTERS = {
    "fleet/played": "episodes played, evaluations included",
    "fleet/env_failed": "episodes that failed in every attempt",
    "fleet/retried": "attempts at an episode that failed and were made again",
    "fleet/late": "attempts that met train.episode_timeout_s",
    "fleet/replayed": "episodes played again because their actor died",
    "fleet/restarts": "times that a dead rollout actor came back",
    "replay/pruned": "transitions that left the buffer",
    "real/transitions": "real transitions that nothing was learned from: measuring, and attempts that failed",
    "policy/requests": "requests to the policy's engines",
    "policy/prompt_tokens": "tokens of their prompts",
    "policy/cached_prompt_tokens": "of those, from the prefix cache",
    "policy/generated_tokens": "tokens that they sampled",
    "world/steps": "dream steps asked of a replica",
    "world/reasked": "answers of the dream that could not be read or did not come, and were asked again",
    "world/reasked_format": "of those, answers that are no step",
    "world/reasked_outcome": "of those, answers with a reward that the recorded data never holds with such an end",
    "world/reasked_cut": "of those, answers that the context window cut",
    "world/reasked_engine": "of those, answers that did not come",
    "world/unparsed": "dream steps given up after world.attempts",
    "world/demos": "demonstrations shown to the dream",
}
"""What is counted from the start of the parts, beside `replay/refused_REASON` (candidates that the write gate turned
away) and `time/PART` (seconds that the loop spent in a part, or waited for it)."""
