# SPDX-License-Identifier: Apache-2.0
"""For how long a call stood still, however its stops and its group's pauses lie to each other."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentcg.control.standstill import Pauses, Standstill

Span = tuple[int, int]


def follow(pauses: list[Span], stops: list[Span], started: int, now: int) -> float:
    """Return what a call that began at ``started`` has counted at ``now``, told of all that happens before it."""
    clock, still = Pauses(), None
    told = {at for span in (*pauses, *stops) for at in span} | {started, now}
    for at in sorted(time for time in told if time <= now):
        if at in [end for _, end in pauses]:
            clock.end(at)
        if at in [begin for begin, _ in pauses]:
            clock.begin(at)
        if at == started:
            still = Standstill(clock, at)
        if still is not None and at in [end for _, end in stops]:
            still.end(at)
        if still is not None and at in [begin for begin, _ in stops]:
            still.begin(at)
    assert still is not None
    return still.sec(now)


@pytest.mark.parametrize(
    ("pauses", "stops", "expected"),
    [
        ([], [], 0),
        ([], [(10, 15), (20, 22)], 7),
        ([(10, 15), (20, 22)], [], 7),
        ([(10, 15)], [(12, 20)], 10),
        ([(12, 20)], [(10, 15)], 10),
        ([(12, 14)], [(10, 20)], 10),
        ([(10, 20)], [(12, 14)], 10),
        ([(10, 20)], [(10, 20)], 10),
        ([(28, 40)], [], 2),
        ([], [(28, 40)], 2),
        ([(0, 7)], [], 2),
        ([(0, 4)], [], 0),
    ],
)
def test_time_in_which_it_is_stopped_in_two_ways_counts_once(
    pauses: list[Span], stops: list[Span], expected: int
) -> None:
    assert follow(pauses, stops, started=5, now=30) == expected


@st.composite
def spans(draw: st.DrawFn, least: int) -> list[Span]:
    """Draw spans that follow each other."""
    ends = sorted(draw(st.sets(st.integers(least, 60), max_size=12)))
    return list(zip(ends[::2], ends[1::2], strict=False))


@given(spans(0), spans(5), st.integers(5, 60))
def test_it_is_every_second_in_which_something_stopped_it(pauses: list[Span], stops: list[Span], now: int) -> None:
    seconds = {at for begin, end in (*pauses, *stops) for at in range(max(begin, 5), min(end, now))}
    assert follow(pauses, stops, started=5, now=now) == len(seconds)


def test_being_stopped_twice_is_being_stopped_once() -> None:
    still = Standstill(Pauses(), 0.0)
    still.begin(1.0)
    still.begin(2.0)
    assert (still.since, still.sec(4.0)) == (1.0, 3.0)
    still.end(4.0)
    still.end(5.0)
    assert (still.since, still.sec(9.0)) == (None, 3.0)


def test_a_pause_that_began_after_a_time_is_none_of_it() -> None:
    """A call that a daemon adopts began long before that daemon's first pause."""
    pauses = Pauses()
    pauses.begin(100.0)
    assert Standstill(pauses, 7.0).sec(103.0) == 3.0
