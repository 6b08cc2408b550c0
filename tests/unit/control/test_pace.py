# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentcg.control.decide import decide
from agentcg.control.pace import LOOK_SEC, TICK_SEC, Credit, changes_at, is_due, moves, next_tick_sec, stage_of
from agentcg.control.reserve import Stage, margin
from agentcg.control.view import CallView, SessionView, Settings, Snapshot
from agentcg.model import CallRef, SessionRef

M = 1 << 20
WALL = 1000 * M


@pytest.mark.parametrize(
    ("before", "held", "tripped", "expected"),
    [
        (Stage.CALM, 739, False, Stage.CALM),
        (Stage.CALM, 741, False, Stage.ALERT),
        (Stage.ALERT, 701, False, Stage.ALERT),
        (Stage.ALERT, 700, False, Stage.CALM),
        (Stage.ALERT, 990, False, Stage.ALERT),
        (Stage.ALERT, 990, True, Stage.PRESSED),
        (Stage.PRESSED, 990, False, Stage.PRESSED),
        (Stage.PRESSED, 960, True, Stage.ALERT),
    ],
)
def test_the_stage(before: Stage, held: int, tripped: bool, expected: Stage) -> None:
    assert 2 * margin(WALL) > 20 * M
    assert stage_of(before, held * M, WALL, tripped=tripped) is expected


def test_everybody_is_looked_at_after_growth_at_once_and_after_a_change_by_and_by() -> None:
    assert is_due(0.0, 12 * M, 10 * M, stopped=False)
    assert not is_due(LOOK_SEC / 2, 11 * M, 10 * M, stopped=True)
    assert is_due(LOOK_SEC, 11 * M, 10 * M, stopped=False)
    assert is_due(LOOK_SEC, 10 * M, 10 * M, stopped=True)
    assert not is_due(LOOK_SEC, 10 * M, 10 * M, stopped=False)


def test_how_often_it_looks() -> None:
    nobody = dict.fromkeys(("protected", "others", "walled", "alert", "stopped", "yielding"), False)
    assert next_tick_sec(**nobody) is None
    assert next_tick_sec(**nobody | {"others": True}) is None
    assert next_tick_sec(**nobody | {"others": True, "walled": True}) == LOOK_SEC
    assert next_tick_sec(**nobody | {"others": True, "walled": True, "alert": True}) == TICK_SEC
    assert next_tick_sec(**nobody | {"others": True, "protected": True}) == TICK_SEC
    assert next_tick_sec(**nobody | {"protected": True}) == next_tick_sec(**nobody | {"stopped": True}) == LOOK_SEC
    assert next_tick_sec(**nobody | {"yielding": True}) == TICK_SEC
    told = {"others": True, "protected": True, "told": True}
    assert next_tick_sec(**nobody | told) == LOOK_SEC
    assert next_tick_sec(**nobody | told | {"yielding": True}) == TICK_SEC
    assert next_tick_sec(**nobody | told | {"walled": True, "alert": True}) == TICK_SEC


def test_a_tripwire_moves_by_a_step_or_not_at_all() -> None:
    assert moves(None, 5 * M)
    assert moves(5 * M, None)
    assert moves(5 * M, 7 * M)
    assert not moves(5 * M, 6 * M)
    assert not moves(None, None)


def test_credit_is_earned_while_they_run_spent_while_they_are_stopped_and_bounded() -> None:
    credit = Credit(0.5, 10.0)
    assert credit.earn(10.2, yielding=False) == pytest.approx(0.5)
    assert credit.earn(10.6, yielding=True) == pytest.approx(0.1)
    assert credit.earn(11.0, yielding=True) == 0.0
    assert credit.earn(20.0, yielding=False) == 0.5


NOW = 2000.0
SINCE = st.none() | st.floats(NOW - 700, NOW)
SIZE = st.integers(0, 400).map(lambda size: size * M)


@st.composite
def some_session(draw: Any, name: str) -> SessionView:
    ref = SessionRef("t", name)
    claims = st.none() | SIZE
    calls = tuple(
        CallView(
            CallRef(ref, f"c{number}"),
            started=draw(st.floats(0, NOW)),
            current=draw(SIZE) // 4,
            claim=draw(claims),
            grew=draw(st.sampled_from([0, 2 * M])),
            cpu_sec=draw(st.floats(0, 9)),
            waiting=draw(st.booleans()),
            stopped=draw(SINCE),
        )
        for number in range(draw(st.integers(0, 2)))
    )
    return SessionView(
        ref,
        opened=draw(st.floats(0, NOW)),
        protected=draw(st.booleans()),
        current=sum(call.current for call in calls) + draw(SIZE) // 4,
        claim=draw(claims),
        grew=draw(st.sampled_from([0, 2 * M])),
        tripped=draw(st.booleans()),
        stopped=draw(SINCE),
        turn_until=draw(st.floats(0, NOW + 20)),
        cache=draw(SIZE) // 4,
        calls=calls,
    )


@given(
    st.tuples(*(some_session(name) for name in "abcd")),
    st.none() | SIZE,
    st.none() | SIZE,
    st.tuples(*[st.none() | st.floats(NOW - 2, NOW)] * 3),
    st.tuples(st.booleans(), st.booleans()),
    st.floats(0, 0.999),
)
def test_until_then_the_same_is_decided(
    sessions: tuple[SessionView, ...],
    wall: int | None,
    tenant_wall: int | None,
    since: tuple[float | None, ...],
    tripped: tuple[bool, bool],
    share: float,
) -> None:
    grew, reclaimed, killed = since
    view = Snapshot(NOW, wall, tripped[0], tenant_wall, sessions, grew, False, 0.5, reclaimed, killed)
    settings = Settings()
    change = changes_at(view, settings)
    later = NOW + 10_000 if change is None else NOW + (change - NOW) * share
    assert decide(replace(view, now=later), settings) == decide(view, settings)
