"""Intervals and p values against values from elsewhere and against counting by hand."""

from fractions import Fraction
from itertools import product
from math import comb, prod

import pytest

from trainer.evaluation.statistics import Accuracy, Difference, at_least, wilson


@pytest.mark.parametrize(
    ("right", "items", "low", "high"),
    # Newcombe 1998 (Statistics in Medicine 17, 857), table I, method 3: the score interval
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_interval_is_wilsons(right: int, items: int, low: float, high: float) -> None:
    assert wilson(right, items) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("right", "items", "chance"), [(0, 7, 4), (7, 7, 4), (3, 10, 2), (90, 245, 4), (65, 245, 4)])
def test_the_p_value_is_the_exact_binomial_one(right: int, items: int, chance: int) -> None:
    share = Fraction(1, chance)
    exact = sum(comb(items, k) * share**k * (1 - share) ** (items - k) for k in range(right, items + 1))
    assert at_least(right, [1 / chance] * items) == pytest.approx(float(exact), rel=1e-9)


def test_items_with_different_chances_are_counted_out() -> None:
    chances = [1 / 2, 1 / 4, 1 / 3, 1 / 5, 1 / 2]
    for right in range(6):
        exact = sum(
            prod(chance if hit else 1 - chance for hit, chance in zip(hits, chances, strict=True))
            for hits in product((True, False), repeat=5)
            if sum(hits) >= right
        )
        assert at_least(right, chances) == pytest.approx(exact, rel=1e-12)


def test_a_large_task_neither_overflows_nor_rounds_to_nothing() -> None:
    assert at_least(2500, [0.25] * 10_000) == pytest.approx(0.505, abs=0.01)
    assert 0 < at_least(2900, [0.25] * 10_000) < 1e-15


def test_accuracy_puts_them_together() -> None:
    accuracy = Accuracy.of([True, False, True, True], [0.5] * 4)
    assert accuracy.accuracy == 0.75
    assert accuracy.low < 0.75 < accuracy.high
    assert accuracy.p_value == pytest.approx(5 / 16)


@pytest.mark.parametrize(
    ("only_first", "only_second", "p_value"),
    # scipy.stats.binomtest(min, n).pvalue; 6 and 16 are the discordant pairs of Fagerland, Lydersen and Laake 2013, table 1
    [(6, 16, 0.0525), (0, 6, 0.03125), (0, 0, 1.0), (5, 5, 1.0), (12, 5, 0.1435), (1, 7, 0.0703)],
)
def test_two_models_are_compared_by_mcnemars_exact_test(only_first: int, only_second: int, p_value: float) -> None:
    first = [True] * only_first + [False] * only_second + [True, False, True]
    second = [False] * only_first + [True] * only_second + [True, False, True]
    found = Difference.of(first, second)
    assert (found.only_first, found.only_second) == (only_first, only_second)
    assert found.p_value == pytest.approx(p_value, abs=5e-5)
