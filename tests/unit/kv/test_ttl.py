# SPDX-License-Identifier: Apache-2.0
"""Continuum's time-to-live and the value of going on, against cases worked out by hand and against brute force."""

from math import e, log

import pytest
from hypothesis import given
from hypothesis import strategies as some

from agentcg.kv import ttl
from agentcg.kv.ttl import Pauses, best_ttl, default_ttl, hold_value
from agentcg.predict.distribution import Distribution


@pytest.mark.parametrize(
    ("pauses", "benefit", "expected"),
    [
        # 10 x (1/4, 2/4, 3/4, 1) less 1, 2, 3, 10: 1.5, 3, 4.5, 0.
        ([1, 2, 3, 10], 10, 3),
        # 40 x the same: 9, 18, 27, 30.
        ([1, 2, 3, 10], 40, 10),
        # 2 x the same: nothing is above 0.
        ([1, 2, 3, 10], 2, 0),
        # 4 x the same: 0, 0, 0, -6. Of equals it is the least, and 0 is one of them.
        ([1, 2, 3, 10], 4, 0),
        # 8 / 4 - 1 = 1 and 16 / 4 - 2 = 2 and 24 / 4 - 4 = 2: the least of the two best.
        ([1, 2, 4, 99], 8, 2),
        # Equal pauses are over together: 3 x 2/3 - 1 = 1, 3 - 9 = -6.
        ([1, 1, 9], 3, 1),
        ([0, 0, 5], 3, 0),
        ([5], 4.9, 0),
        ([5], 5.1, 5),
        ([1, 2], -3, 0),
        ([], 100, 0),
    ],
)
def test_equation_2_by_hand(pauses: list[float], benefit: float, expected: float) -> None:
    assert best_ttl(pauses, benefit) == expected


@given(some.lists(some.integers(0, 50), min_size=1, max_size=12), some.floats(-5, 100))
def test_equation_2_is_not_beaten_by_any_time(pauses: list[int], benefit: float) -> None:
    pauses.sort()

    def value(tau: float) -> float:
        return sum(pause <= tau for pause in pauses) / len(pauses) * benefit - tau

    best = best_ttl(pauses, benefit)
    assert best == 0 or best in pauses
    assert all(value(quarter / 4) <= value(best) + 1e-9 for quarter in range(4 * 51))


def test_the_cold_start_by_hand() -> None:
    assert default_ttl(e) == pytest.approx(1)
    assert default_ttl(1.0) == default_ttl(0.2) == default_ttl(-4.0) == 0


@given(some.floats(0.01, 1000), some.floats(0, 100))
def test_the_cold_start_is_not_beaten_by_any_time(benefit: float, other: float) -> None:
    def value(tau: float) -> float:
        return (1 - e**-tau) * benefit - tau

    assert value(other) <= value(default_ttl(benefit)) + 1e-9


def test_a_hundred_pauses_are_the_cold_start_and_one_more_is_not() -> None:
    pauses = Pauses()
    rule = {"delay_sec": 4.0, "eta": 0.5, "reload_sec": 6.0}
    for _ in range(100):
        pauses.observe("bash", 3.0)
    # η is 1 in the cold start: B = 10.
    assert pauses.ttl("bash", **rule) == pauses.ttl("web", **rule) == pytest.approx(log(10))
    pauses.observe("bash", 3.0)
    assert pauses.ttl("bash", **rule) == 3
    # Of a tool that is not known well, all pauses are looked at.
    assert pauses.ttl("web", **rule) == 3
    # Now B = 4 x 0.5 + 0.5 = 2.5: 3 s are too long.
    assert pauses.ttl("bash", delay_sec=4.0, eta=0.5, reload_sec=0.5) == 0


def test_a_tool_has_its_own_pauses_when_there_are_more_than_a_hundred() -> None:
    pauses = Pauses()
    for _ in range(150):
        pauses.observe("bash", 3.0)
    for _ in range(100):
        pauses.observe("web", 1.0)
    rule = {"delay_sec": 0.0, "eta": 1.0, "reload_sec": 6.0}
    # All together: 6 x 0.4 - 1 = 1.4 and 6 - 3 = 3.
    assert pauses.ttl("web", **rule) == 3
    pauses.observe("web", 1.0)
    assert pauses.ttl("web", **rule) == 1
    assert (pauses.mean("bash"), pauses.mean("web"), pauses.mean("never")) == (3, 1, None)


def test_what_is_kept_of_pauses_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ttl, "_KEPT", 4)
    monkeypatch.setattr(ttl, "_TOOLS", 3)
    pauses = Pauses()
    for number in range(10):
        pauses.observe("bash", 10.0 - number)
        pauses.observe(f"other-{number}", 1.0)
    assert list(pauses._tools) == ["other-8", "bash", "other-9"]
    assert pauses._tools["bash"].ascending == [1, 2, 3, 4]
    assert pauses._all.ascending == [1, 1, 1, 2]


NO_TAIL = {"tail_share": 0.0, "tail_scale": 1.0}


def test_the_value_of_going_on_by_hand() -> None:
    # Until 2: 10 x 0.5 - 2 = 3. Until 20: 10 - (1 + 10) = -1.
    assert hold_value(Distribution((2.0, 20.0), (0.5, 0.5), **NO_TAIL), 10.0) == 3
    # Equation 2 charges all of τ: with 8 it gives up, this does not.
    later = Distribution((1.0, 8.0), (0.9, 0.1), **NO_TAIL)
    assert hold_value(later, 10.0) == pytest.approx(max(9 - 1, 10 - (0.9 + 0.8)))
    assert best_ttl([1.0] * 9 + [8.0], 10.0) == 1


def test_what_is_certain_is_worth_the_difference() -> None:
    assert hold_value(Distribution((3.0,), (1.0,), **NO_TAIL), 10.0) == 7
    assert hold_value(Distribution((30.0,), (1.0,), **NO_TAIL), 10.0) == 0


def test_of_the_tail_alone_two_B_are_held_less_its_scale() -> None:
    # B = 5, s = 4: until 6 it is back with 1 - (4/10)² = 0.84, and 4 x 6 / 10 = 2.4 s are paid.
    assert hold_value(Distribution((), (), 1.0, 4.0), 5.0) == pytest.approx(0.84 * 5 - 2.4)
    assert hold_value(Distribution((), (), 1.0, 10.0), 5.0) == 0


def test_a_benefit_that_is_none_is_worth_nothing() -> None:
    assert hold_value(Distribution((1.0,), (0.5,), 0.5, 1.0), 0.0) == 0
    assert hold_value(Distribution((1.0,), (0.5,), 0.5, 1.0), -3.0) == 0


@given(
    some.lists(some.floats(0.1, 50), min_size=1, max_size=6, unique=True),
    some.floats(0, 0.9),
    some.floats(0.1, 20),
    some.floats(0, 60),
)
def test_the_value_is_reached_and_hardly_beaten(values: list[float], tail: float, scale: float, benefit: float) -> None:
    share = (1 - tail) / len(values)
    found = Distribution(tuple(sorted(values)), (share,) * len(values), tail, scale)

    def value(tau: float) -> float:
        steps = 2000
        held = sum(found.survival(tau * (step + 0.5) / steps) for step in range(steps)) * tau / steps
        return (1 - found.survival(tau)) * benefit - held

    worth = hold_value(found, benefit)
    tried = [*values, max(0.0, 2 * benefit - scale)]
    assert worth == pytest.approx(max(0.0, *(value(tau) for tau in tried)), abs=0.1)
    if not tail:
        assert all(value(tau) <= worth + 0.1 for tau in (0.05, 1.0, 5.0, 20.0, 60.0))
