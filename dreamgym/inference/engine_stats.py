"""The load of an engine as numbers, told by vLLM's scheduler after every step, and vLLM's own metrics through Ray."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm.v1.metrics.loggers import StatLoggerBase

if TYPE_CHECKING:
    from vllm.v1.metrics.loggers import StatLoggerFactory
    from vllm.v1.metrics.stats import SchedulerStats


class LoadLogger(StatLoggerBase):
    """Keeps what the scheduler told last; needed where the scheduler is in another process (on a GPU)."""

    def __init__(self) -> None:
        self._last: SchedulerStats | None = None

    def record(
        self,
        scheduler_stats: SchedulerStats | None,
        iteration_stats: Any,
        mm_cache_stats: Any = None,
        engine_idx: int = 0,
    ) -> None:
        """Called by vLLM after every step."""
        self._last = scheduler_stats or self._last

    def load(self) -> dict[str, float]:
        """`running` and `waiting` requests, and `kv_usage`, the share of the KV cache in use, after the last step."""
        if self._last is None:
            return {"running": 0.0, "waiting": 0.0, "kv_usage": 0.0}
        waiting = self._last.num_waiting_reqs + self._last.num_skipped_waiting_reqs
        return {
            "running": float(self._last.num_running_reqs),
            "waiting": float(waiting),
            "kv_usage": self._last.kv_cache_usage,
        }

    def log_engine_initialized(self) -> None:
        """Nothing to say."""


def stat_loggers(told: LoadLogger | None, export: bool) -> list[StatLoggerFactory]:
    """Who hears an engine's statistics: `told`, and where asked for Ray's metrics; vLLM collects none for nobody."""
    loggers: list[StatLoggerFactory] = [] if told is None else [lambda _config, _index: told]
    if export:
        from vllm.v1.metrics.ray_wrappers import RayPrometheusStatLogger

        loggers.append(RayPrometheusStatLogger)
    return loggers
