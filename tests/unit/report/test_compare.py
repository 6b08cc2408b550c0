# SPDX-License-Identifier: Apache-2.0
"""Two arms, round by round."""

import pytest

from agentcg.report.compare import ROUNDS_LEAST, compare, drawn, labels, slowdown


def rounds_of(arm, n, *, slow=1.0, died=()):
    return [
        {"x": arm("x", 10 + at, [20 + at]), "y": arm("y", (10 + at) * slow, [20 + at], died=died)} for at in range(n)
    ]


def test_times_are_compared_as_a_quotient(arm):
    time = {each.measure: each for each in compare(rounds_of(arm, 8, slow=2.0), "x", "y")}["protected time"]
    assert tuple(time.estimate) == pytest.approx((0.5, 0.5, 0.5))
    assert time.clear
    assert time.ahead
    assert time.rounds == 8


def test_the_other_way_round_is_behind(arm):
    time = {each.measure: each for each in compare(rounds_of(arm, 8, slow=2.0), "y", "x")}["protected time"]
    assert time.clear
    assert not time.ahead


def test_losses_come_first(arm):
    found = compare(rounds_of(arm, 8, died=("b",)), "x", "y")
    assert [each.measure for each in found] == ["protected finished", "others finished", "protected time"]
    assert found[1].estimate.value == 1.0
    assert found[1].clear
    assert found[1].ahead


def test_arms_that_are_alike_do_not_differ(arm):
    found = compare(rounds_of(arm, 8), "x", "y")
    assert len(found) == 4
    assert not any(each.clear or each.differs for each in found)


def test_times_that_are_next_to_alike_do_not_differ(arm):
    found = compare(rounds_of(arm, 8, slow=1.005), "x", "y")
    assert not any(each.clear or each.differs or each.ahead for each in found)


@pytest.mark.parametrize(("n", "clear"), [(ROUNDS_LEAST - 1, False), (ROUNDS_LEAST, True)])
def test_few_rounds_are_not_clear_however_they_agree(arm, n, clear):
    time = {each.measure: each for each in compare(rounds_of(arm, n, slow=2.0), "x", "y")}["protected time"]
    assert time.clear is clear
    assert time.ahead


def test_only_sessions_that_finished_in_both_are_timed(arm):
    # b died early under y: its time there is short, and says nothing.
    rounds = [{"x": arm("x", 10, [20, 30]), "y": arm("y", 10, [20, 60], died=("b",))} for _ in range(6)]
    times = {each.measure: each for each in compare(rounds, "x", "y")}["others time"]
    assert times.estimate.value == pytest.approx(0.5)


def test_rounds_that_one_has_not_finished_do_not_count(arm):
    rounds = [*rounds_of(arm, 3), {"x": arm("x", 99, [99])}]
    assert {each.rounds for each in compare(rounds, "x", "y")} == {3}
    assert compare([{"x": arm("x", 1, [1])}, {"y": arm("y", 1, [1])}], "x", "y") == []


def test_slowdown_is_of_those_that_finished(arm):
    results = [arm("x", 20, [10, 40]), arm("x", 30, [10, 40], died=("b",)), arm("x", 5, [5, 5], died=("a", "b", "c"))]
    assert slowdown(results, protected=True) == pytest.approx([2.0, 3.0])
    assert slowdown(results, protected=False) == pytest.approx([2.0, 4.0])


def test_sessions_are_named_unless_rounds_draw_their_own(arm):
    one, other = arm("x", 1, [1]), arm("x", 1, [1])
    one.sessions.reverse()
    assert not drawn([{"x": one}, {"x": other}])
    assert list(labels(one, drawn=False).items()) == [("a", "a"), ("b", "b")]
    other.sessions[1].name = "c"
    assert drawn([{"x": one}, {"x": other}])
    assert labels(other, drawn=True) == {"a": "protected", "c": "others"}
