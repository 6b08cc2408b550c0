# SPDX-License-Identifier: Apache-2.0
import pytest

from agentcg.control.pace import LOOK_SEC, TICK_SEC, Credit, is_due, moves, next_tick_sec, stage_of
from agentcg.control.reserve import Stage, margin

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


def test_a_tripwire_moves_by_a_step_or_not_at_all() -> None:
    assert moves(None, 5 * M)
    assert moves(5 * M, None)
    assert moves(5 * M, 7 * M)
    assert not moves(5 * M, 6 * M)
    assert not moves(None, None)


def test_credit_is_earned_while_they_run_spent_while_they_are_stopped_and_bounded() -> None:
    credit = Credit(0.5, 10.0)
    assert credit.earn(10.2, yielding=False) == pytest.approx(0.2)
    assert credit.earn(10.3, yielding=True) == pytest.approx(0.1)
    assert credit.earn(11.0, yielding=True) == 0.0
    assert credit.earn(20.0, yielding=False) == 0.5
