# SPDX-License-Identifier: Apache-2.0
"""T and η."""

from math import sqrt
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as some

from agentcg.kv.statistics import Delay, Turns


def turns(*programs: int) -> float:
    found = Turns()
    for program in programs:
        found.observe(program)
    return found.eta


def correlation(programs: list[int]) -> float | None:
    pairs = [(k, n - k) for n in programs for k in range(1, n)]
    if not pairs:
        return None
    x, y = (sum(column) / len(pairs) for column in zip(*pairs, strict=True))
    above = sum((k - x) * (rest - y) for k, rest in pairs)
    below = sqrt(sum((k - x) ** 2 for k, _ in pairs) * sum((rest - y) ** 2 for _, rest in pairs))
    return above / below if below else None


def test_the_delay_is_the_mean_of_the_last() -> None:
    delay = Delay()
    assert delay.sec == 0
    for sec in (1.0, 2.0, 6.0):
        delay.observe(sec)
    assert delay.sec == 3
    for _ in range(200):
        delay.observe(7.0)
    assert delay.sec == 7


def test_programs_of_one_length_say_how_far_each_is() -> None:
    assert turns(10, 10, 10) == 1


def test_eta_by_hand() -> None:
    # Of 2 and 3 turns: (1, 1), (1, 2), (2, 1); means 4/3, covariance -1/9, variances 2/9.
    assert turns(2, 3) == pytest.approx(0.5)


def test_where_turns_say_nothing_it_is_that_of_the_cold_start() -> None:
    assert turns() == turns(1, 1) == turns(2) == 1


def test_programs_without_memory_have_almost_no_eta_and_a_long_tail_has_a_negative_one() -> None:
    draw = Random(3)

    def geometric() -> int:
        return 1 if draw.random() < 0.1 else 1 + geometric()

    assert abs(turns(*(geometric() for _ in range(256)))) < 0.2
    assert turns(*([3] * 200), 300, 300) == pytest.approx(-0.0852, abs=1e-4)


@given(some.lists(some.integers(1, 60), max_size=20))
def test_eta_is_the_correlation_of_the_pairs(programs: list[int]) -> None:
    expected = correlation(programs)
    assert turns(*programs) == pytest.approx(1.0 if expected is None else -expected)


def test_only_the_last_programs_count() -> None:
    assert turns(*range(1, 100), *([10] * 256)) == 1
