"""Intervals for success rates: what a share of won games says, alone, against another, and paired."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from statistics import NormalDist, mean, stdev
from typing import NamedTuple

from scipy.special import stdtrit

Z95 = NormalDist().inv_cdf(0.975)


class Interval(NamedTuple):
    """A point estimate with the lower and upper end of its 95% interval."""

    point: float
    low: float
    high: float


def wilson(successes: int, n: int) -> tuple[float, float]:
    """95% score interval of a proportion (Wilson 1927); (0, 1) where nothing was played.

    Raises:
        ValueError: `successes` is not between 0 and `n`.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"successes must be between 0 and n, not {successes} of {n}")
    if n == 0:
        return 0.0, 1.0
    p = successes / n
    scale = 1 + Z95**2 / n
    centre = (p + Z95**2 / (2 * n)) / scale
    half = Z95 * sqrt(p * (1 - p) / n + Z95**2 / (4 * n * n)) / scale
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return low, high


def newcombe(successes: int, n: int, base_successes: int, base_n: int) -> Interval:
    """p - p_base of two independent samples, 95% hybrid score interval (Newcombe 1998a, method 10).

    Newcombe, "Interval estimation for the difference between independent proportions", Stat. Med. 17:873-890.

    Raises:
        ValueError: a sample is empty.
    """
    _need(n, base_n)
    return _hybrid(successes / n, wilson(successes, n), base_successes / base_n, wilson(base_successes, base_n), 0.0)


def newcombe_paired(results: Sequence[int], base_results: Sequence[int]) -> Interval:
    """p - p_base where both played the same games in the same order, 95% (Newcombe 1998b, method 10).

    Newcombe, "Improved confidence intervals for the difference between binomial proportions based on
    paired data", Stat. Med. 17:2635-2650: the hybrid score interval with the continuity-corrected
    correlation phi of the 2x2 table of outcomes. Results are 0 or 1 a game.

    Raises:
        ValueError: no game, or a different number of games.
    """
    n = len(results)
    if n != len(base_results):
        raise ValueError(f"paired results must have equal lengths, not {n} and {len(base_results)}")
    _need(n)
    both = sum(1 for x, y in zip(results, base_results, strict=True) if x and y)
    won, base_won = sum(map(bool, results)), sum(map(bool, base_results))
    only, base_only = won - both, base_won - both
    neither = n - both - only - base_only
    product = won * (n - won) * base_won * (n - base_won)
    cross = both * neither - only * base_only
    corrected = max(cross - n / 2, 0.0) if cross > 0 else float(cross)
    phi = corrected / sqrt(product) if product else 0.0
    return _hybrid(won / n, wilson(won, n), base_won / n, wilson(base_won, n), phi)


def t_interval(values: Sequence[float]) -> Interval:
    """The mean of independent runs with Student's 95% interval, which assumes that they are about normal.

    Raises:
        ValueError: fewer than two values.
    """
    if len(values) < 2:
        raise ValueError("an interval over runs needs at least two of them")
    half = float(stdtrit(len(values) - 1, 0.975)) * stdev(values) / sqrt(len(values))
    return Interval(mean(values), mean(values) - half, mean(values) + half)


def _hybrid(p: float, ci: tuple[float, float], base: float, base_ci: tuple[float, float], phi: float) -> Interval:
    def reach(mine: float, other: float) -> float:
        return sqrt(max(mine**2 - 2 * phi * mine * other + other**2, 0.0))

    difference = p - base
    return Interval(
        difference, difference - reach(p - ci[0], base_ci[1] - base), difference + reach(ci[1] - p, base - base_ci[0])
    )


def _need(*sizes: int) -> None:
    if min(sizes) < 1:
        raise ValueError("an interval needs at least one game on each side")
