"""Intervals against definitions: the score test's own roots, published examples, and exact coverage."""

from __future__ import annotations

from math import comb, factorial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import binomtest, norm

from dreamgym.telemetry.stats import newcombe, newcombe_paired, wilson

Z = float(norm.ppf(0.975))


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_what_scipy_computes(case: tuple[int, int]) -> None:
    low, high = wilson(*case)
    oracle = binomtest(*case).proportion_ci(0.95, method="wilson")
    assert (low, high) == pytest.approx((oracle.low, oracle.high), abs=1e-12)


@given(st.integers(2, 300).flatmap(lambda n: st.tuples(st.integers(1, n - 1), st.just(n))))
def test_wilson_ends_where_the_score_test_rejects(case: tuple[int, int]) -> None:
    k, n = case

    def score(p: float) -> float:
        return (k / n - p) ** 2 - Z**2 * p * (1 - p) / n

    roots = brentq(score, 1e-15, k / n), brentq(score, k / n, 1 - 1e-15)
    assert wilson(k, n) == pytest.approx(roots, abs=1e-9)


def test_the_corners_of_wilson() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(0, 50)[0] == 0.0
    assert wilson(50, 50)[1] == 1.0
    with pytest.raises(ValueError, match="between 0 and n"):
        wilson(5, 4)


def test_newcombe_gives_the_published_example() -> None:
    """Newcombe 1998a, table II, method 10: 56/70 against 48/80 is 0.0524 to 0.3339."""
    found = newcombe(56, 70, 48, 80)
    assert found == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)


def _paired(both: int, only: int, base_only: int, neither: int) -> tuple[list[int], list[int]]:
    results = [1] * both + [1] * only + [0] * base_only + [0] * neither
    base = [1] * both + [0] * only + [1] * base_only + [0] * neither
    return results, base


counts = st.integers(0, 40)


@given(counts, counts, counts, counts)
def test_swapping_the_players_mirrors_the_interval(a: int, b: int, c: int, d: int) -> None:
    if a + b + c + d == 0:
        return
    results, base = _paired(a, b, c, d)
    there, back = newcombe_paired(results, base), newcombe_paired(base, results)
    assert there == pytest.approx((-back.point, -back.high, -back.low), abs=1e-12)
    assert -1 <= there.low <= there.point <= there.high <= 1
    assert there.point == pytest.approx((b - c) / (a + b + c + d))


def test_pairing_without_correlation_is_the_independent_interval() -> None:
    results, base = _paired(16, 24, 24, 36)
    assert newcombe_paired(results, base) == pytest.approx(newcombe(40, 100, 40, 100))


def test_correlated_pairs_are_told_apart_better_than_independent_ones() -> None:
    results, base = _paired(90, 40, 5, 165)
    paired, independent = newcombe_paired(results, base), newcombe(130, 300, 95, 300)
    assert paired.high - paired.low < independent.high - independent.low
    assert paired.low > 0


@pytest.mark.parametrize(
    ("cells", "limits"),
    [
        ((36, 12, 2, 0), (0.0569, 0.3404)),
        ((20, 12, 2, 16), (0.0562, 0.3292)),
        ((36, 14, 0, 0), (0.1528, 0.4167)),
        ((18, 14, 0, 18), (0.1441, 0.3963)),
        ((2, 97, 1, 0), (0.8721, 0.9854)),
    ],
)
def test_the_paired_interval_gives_the_published_examples(
    cells: tuple[int, int, int, int], limits: tuple[float, float]
) -> None:
    """Newcombe 1998b, table III, method 10."""
    assert newcombe_paired(*_paired(*cells))[1:] == pytest.approx(limits, abs=5.1e-5)


@pytest.mark.parametrize("cells", [(0.3, 0.3, 0.1, 0.3), (0.1, 0.4, 0.1, 0.4), (0.35, 0.2, 0.15, 0.3)])
def test_the_paired_interval_covers_the_truth_as_often_as_it_says(cells: tuple[float, float, float, float]) -> None:
    """Exact coverage: every possible outcome of 24 pairs, weighted by its probability."""
    n, truth, covered = 24, cells[1] - cells[2], 0.0
    for a in range(n + 1):
        for b in range(n + 1 - a):
            for c in range(n + 1 - a - b):
                d = n - a - b - c
                weight = factorial(n) / (factorial(a) * factorial(b) * factorial(c) * factorial(d))
                weight *= cells[0] ** a * cells[1] ** b * cells[2] ** c * cells[3] ** d
                if weight > 1e-7:
                    found = newcombe_paired(*_paired(a, b, c, d))
                    covered += weight * (found.low <= truth <= found.high)
    assert 0.93 < covered < 0.995


def test_the_independent_interval_covers_the_truth_as_often_as_it_says() -> None:
    n, p, q, covered = 40, 0.6, 0.35, 0.0
    for x in range(n + 1):
        for y in range(n + 1):
            weight = comb(n, x) * p**x * (1 - p) ** (n - x) * comb(n, y) * q**y * (1 - q) ** (n - y)
            found = newcombe(x, n, y, n)
            covered += weight * (found.low <= p - q <= found.high)
    assert 0.935 < covered < 0.97


def test_nothing_played_or_unequal_numbers_of_games_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one game"):
        newcombe(0, 0, 1, 2)
    with pytest.raises(ValueError, match="at least one game"):
        newcombe_paired([], [])
    with pytest.raises(ValueError, match="equal lengths"):
        newcombe_paired([1], [1, 0])
