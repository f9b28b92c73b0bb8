"""The engine samples from slightly other probabilities than the learner's: the correction, and what it costs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch import Tensor

GAP_THRESHOLD = 0.05


def truncated_weight(old: Tensor, engine: Tensor, cap: float) -> Tensor:
    """min(exp(old - engine), cap) of each token (https://fengyao.notion.site/off-policy-rl); no gradient."""
    return (old - engine).exp().clamp(max=cap).detach()


def mismatch(log_ratio: npt.NDArray[np.floating], cap: float) -> dict[str, float]:
    """How far engine and learner are apart, from log(learner / engine) of every sampled token of a batch, (N,).

    gap_*       absolute difference in nats: mean, 99.9% quantile, largest, share above 0.05
    engine_kl   k3 estimate of KL(engine || learner), nats a token
    tis_weight  mean weight after the cap; tis_capped the share of weights that it cut
    tis_ess     effective sample size (sum w)^2 / (N sum w^2) of the capped weights, 1 where all are equal
    """
    ratio_log = log_ratio.astype(np.float64) if log_ratio.size else np.zeros(1)
    gaps, ratio = np.abs(ratio_log), np.exp(ratio_log)
    weights = np.minimum(ratio, cap)
    return {
        "gap_mean": float(gaps.mean()),
        "gap_p999": float(np.quantile(gaps, 0.999)),
        "gap_max": float(gaps.max()),
        "gap_over": float((gaps > GAP_THRESHOLD).mean()),
        "engine_kl": float((ratio - 1 - ratio_log).mean()),
        "tis_weight": float(weights.mean()),
        "tis_capped": float((ratio > cap).mean()),
        "tis_ess": float(weights.mean() ** 2 / (weights**2).mean()),
    }
