# SPDX-License-Identifier: Apache-2.0
"""Whose calls should end soon, and what is worth telling: by hand-computed cases, and what holds of all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentcg.kv.coordinate import FACTOR_MAX, Forecast, cpu_factor, differs, forecast, urgencies
from agentcg.kv.reports import Engine, Queue, SessionReport
from agentcg.model import SessionRef
from agentcg.predict.distribution import Distribution

A, B, C = (SessionRef("u0", name) for name in "abc")
KNOWN = {A, B, C}


def engine(*held: tuple[SessionRef, int], waiting: int = 1, free: int = 0) -> Engine:
    """Of 1000 bytes; all that is held is pinned."""
    made = Engine("e", 10, 100)
    made.report([SessionReport(ref, 1, size, pinned_sec=60.0) for ref, size in held], Queue(waiting, free), KNOWN, 0.0)
    return made


def test_urgent_is_who_holds_much_and_is_soon_back() -> None:
    made = engine((A, 400), (B, 400), (C, 200))
    # 0.4 / 2, 0.4 / 4, 0.2 / 1 of the cache per second.
    assert urgencies([made], {A: 2.0, B: 4.0, C: 1.0}, 0.0) == {A: 1.0, B: 0.5, C: 1.0}


def test_a_call_that_is_nearly_over_gets_no_more_for_being_nearer() -> None:
    assert urgencies([engine((A, 400), (B, 400))], {A: 1.0, B: 0.001}, 0.0) == {A: 1.0, B: 1.0}


def test_next_to_nothing_is_no_reason() -> None:
    assert urgencies([engine((A, 400))], {A: 1000.0}, 0.0) == {}
    assert urgencies([engine((A, 400))], {A: 80.0}, 0.0) == {A: 0.5}  # 0.005 of the cache per second.
    assert urgencies([engine((A, 400))], {A: 40.0}, 0.0) == {A: 1.0}


def test_a_session_without_calls_has_none() -> None:
    assert urgencies([engine((A, 400), (B, 400))], {A: 1.0}, 0.0) == {A: 1.0}


def test_without_pressure_nobody_is_urgent() -> None:
    assert urgencies([engine((A, 400), waiting=0)], {A: 1.0}, 0.0) == {}
    assert urgencies([engine((A, 400), free=10)], {A: 1.0}, 0.0) == {}
    assert urgencies([engine((A, 400))], {A: 1.0}, 10.1) == {}  # It has said nothing since.
    assert urgencies([], {A: 1.0}, 0.0) == {}


def test_what_several_engines_hold_adds_up() -> None:
    one, two = engine((A, 300), (B, 300)), engine((A, 300))
    assert urgencies([one, two], {A: 1.0, B: 1.0}, 0.0) == {A: 1.0, B: 0.5}
    relaxed = engine((A, 300), waiting=0)
    assert urgencies([one, relaxed], {A: 1.0, B: 1.0}, 0.0) == {A: 1.0, B: 1.0}


@given(
    held=st.lists(st.integers(0, 1000), min_size=3, max_size=3),
    remaining=st.lists(st.floats(0, 1e9), min_size=3, max_size=3),
    waiting=st.integers(0, 5),
    free=st.integers(0, 10),
)
def test_whatever_is_said_nobody_falls_behind_by_more_than_four_times(
    held: list[int], remaining: list[float], waiting: int, free: int
) -> None:
    sessions = [A, B, C]
    made = engine(*zip(sessions, held, strict=True), waiting=waiting, free=free)
    found = urgencies([made], dict(zip(sessions, remaining, strict=True)), 0.0)
    assert all(0 < urgency <= 1 for urgency in found.values())
    assert all(1 < cpu_factor(urgency) <= FACTOR_MAX == 4 for urgency in found.values())
    if not waiting or free == 10:
        assert not found


def test_no_urgency_is_the_share_of_the_policy() -> None:
    assert (cpu_factor(0.0), cpu_factor(0.5), cpu_factor(1.0)) == (1.0, 2.5, 4.0)


CERTAIN = Distribution((10.0,), (1.0,), 0.0, 1.0)


def test_a_call_that_gets_on_slowly_is_back_later() -> None:
    assert forecast(CERTAIN, 1.0) == Forecast(10.0, 10.0, 10.0, 10.0)
    assert forecast(CERTAIN, 0.5) == Forecast(20.0, 20.0, 20.0, 20.0)
    assert forecast(CERTAIN, 0.0) == forecast(CERTAIN, 0.05)


def test_a_forecast_is_finite() -> None:
    endless = Distribution((1e9,), (0.5,), 0.5, 1e9)
    assert max(forecast(endless, 0.1)) == 86_400


@pytest.mark.parametrize(
    ("new", "elapsed", "worth_it"),
    [
        (Forecast(9, 9, 9, 9), 1.0, False),  # As it was told.
        (Forecast(9, 9, 17, 9), 1.0, False),  # 9 instead of 17.
        (Forecast(9, 9, 18.1, 9), 1.0, True),
        (Forecast(9, 5.9, 9, 9), 1.0, True),
        (Forecast(9, 6.1, 9, 9), 1.0, False),
        (Forecast(0, 0.4, 0.4, 0), 10.0, False),  # Not for half a second.
        (Forecast(1, 1, 1, 1), 20.0, True),  # It is overdue.
    ],
)
def test_what_is_wrong_by_half_is_told(new: Forecast, elapsed: float, worth_it: bool) -> None:
    assert differs(new, Forecast(10, 10, 10, 10), elapsed) is worth_it
