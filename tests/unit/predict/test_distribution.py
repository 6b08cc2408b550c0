# SPDX-License-Identifier: Apache-2.0
"""Distributions: by hand, and what holds for every one of them."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as some

from agentcg.predict.distribution import Distribution

TWO = Distribution((1.0, 4.0), (0.5, 0.25), 0.25, 2.0)
"""Above t the tail has 0.25 x (2 / (2 + t))²: a ninth of 1 at t = 1, a thirty-sixth at t = 4."""
TAIL = Distribution((), (), 1.0, 1.0)


def test_survival_by_hand() -> None:
    assert TWO.survival(-1) == TWO.survival(0) == 1
    assert TWO.survival(0.999) == pytest.approx(0.75 + 0.25 * (2 / 2.999) ** 2)
    assert TWO.survival(1) == pytest.approx(0.25 + 1 / 9)
    assert TWO.survival(4) == pytest.approx(1 / 36)
    assert TAIL.survival(1) == 0.25


def test_quantiles_by_hand() -> None:
    assert TWO.quantile(0) == 0
    # Before the first value there is only the tail, which comes to 0.1 at 2 x (sqrt(0.25 / 0.15) - 1) = 0.58.
    assert TWO.quantile(0.1) == pytest.approx(0.5819889)
    assert [TWO.quantile(q) for q in (0.2, 0.5, 0.6)] == [1, 1, 1]
    assert TWO.quantile(0.9) == 4
    assert TWO.quantile(1 - 1 / 64) == pytest.approx(6)
    assert TWO.quantile(1) == inf
    assert TAIL.quantile(0.75) == pytest.approx(1)


def test_the_mean_by_hand() -> None:
    assert TWO.mean() == 0.5 * 1 + 0.25 * 4 + 0.25 * 2
    assert TAIL.mean() == 1


def test_what_is_left_after_some_time() -> None:
    left = TWO.after(1)
    assert left.values == (3.0,)
    assert left.shares == pytest.approx((0.25 / (0.25 + 1 / 9),))
    assert left.tail_scale == 3
    assert TWO.after(0) is TWO
    assert TWO.after(-5) is TWO


def test_beyond_the_largest_value_the_tail_expects_as_much_as_there_was() -> None:
    left = TWO.after(100)
    assert (left.values, left.tail_share, left.mean()) == ((), 1.0, 102.0)


def test_what_was_certain_to_be_over_and_is_not_is_left_to_the_tail() -> None:
    certain = Distribution((3.0,), (1.0,), 0.0, 3.0)
    assert (certain.mean(), certain.quantile(0.01), certain.quantile(1)) == (3, 3, 3)
    assert certain.after(2).mean() == 1
    assert certain.after(3).mean() == 6


@some.composite
def distributions(draw: some.DrawFn) -> Distribution:
    values = sorted(draw(some.lists(some.floats(0.001, 1e4), max_size=6, unique=True)))
    weights = [draw(some.floats(0.01, 1)) for _ in range(len(values) + 1)]
    shares = [weight / sum(weights) for weight in weights]
    return Distribution(tuple(values), tuple(shares[1:]), shares[0], draw(some.floats(0.01, 1e3)))


@given(distributions(), some.floats(0, 1e5), some.floats(0, 1e5))
def test_survival_never_rises(found: Distribution, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert 0 <= found.survival(high) <= found.survival(low) <= 1


@given(distributions(), some.floats(0.001, 0.999))
def test_a_quantile_is_the_least_that_is_not_exceeded_more_often(found: Distribution, q: float) -> None:
    t = found.quantile(q)
    assert found.survival(t * (1 + 1e-6)) <= 1 - q + 1e-6
    assert found.survival(t * (1 - 1e-6) - 1e-9) >= 1 - q - 1e-6


@given(distributions(), some.floats(0, 1e4), some.floats(0, 1e4))
def test_what_is_left_is_the_conditional_distribution(found: Distribution, first: float, then: float) -> None:
    left = found.after(first)
    assert sum(left.shares) + left.tail_share == pytest.approx(1)
    # A value at the border may fall on either side of it by rounding.
    if all(abs(first + then - value) > 1e-6 for value in found.values):
        assert left.survival(then) * found.survival(first) == pytest.approx(found.survival(first + then), abs=1e-9)
