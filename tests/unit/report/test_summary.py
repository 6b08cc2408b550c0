# SPDX-License-Identifier: Apache-2.0
"""Which arm is ahead, and what is said when nobody knows."""

from agentcg.report.compare import Comparison
from agentcg.report.summary import describe, summarise
from agentcg.statistics import Estimate


def test_the_winner_is_ahead_of_each_other_and_it_is_said_of_the_closest(arm):
    rounds = [
        {
            "none": arm("none", 8 + at, [20, 20], died=("b", "c")),
            "static": arm("static", 30 + at, [20 + at, 20]),
            "agentcg": arm("agentcg", 11 + at, [20 + at, 20]),
        }
        for at in range(8)
    ]
    summary = summarise(rounds, ["none", "static", "agentcg"])
    assert summary.winner == "agentcg"
    assert summary.sentence.startswith(
        "“agentcg” is ahead of every other arm: against “none” 2.00 [2.00, 2.00] more of the other sessions finish per"
        " round, though protected sessions take 1.26 ["
    )
    assert "; against “static”, the closest, protected sessions take 0.43 [" in summary.sentence
    assert summary.sentence.endswith("(n = 8).")
    none, _, best = summary.arms
    assert (none.finished, none.sessions, none.lost, none.oom_kills) == (8, 24, {"b (died)": 8, "c (died)": 8}, 16)
    assert none.others is None
    assert [each.measure for each in none.against] == ["others finished", "protected time"]
    assert {each.first for each in none.against} == {"agentcg"}
    assert best.against == ()
    assert best.lost == {}
    assert best.protected is not None
    assert best.protected.value == 1.45


def test_few_rounds_tell_nothing_yet(arm):
    rounds = [{"x": arm("x", 10, [20]), "y": arm("y", 20, [20])}] * 3
    summary = summarise(rounds, ["x", "y"])
    assert summary.winner is None
    assert summary.sentence == (
        "Nothing can be told yet: 3 rounds are too few, since below 6 even rounds that all agree may do so by chance."
        " So far “x” is in front."
    )
    assert summarise(rounds[:1], ["x", "y"]).sentence.startswith("Nothing can be told yet: 1 round is too few")


def test_intervals_that_hold_no_difference_tell_nothing(arm):
    rounds = [
        {"none": arm("none", 10, [20], died=("a",)), "x": arm("x", 10 + at, [20]), "y": arm("y", 17 - at, [20])}
        for at in range(8)
    ]
    summary = summarise(rounds, ["none", "x", "y"])
    assert summary.winner is None
    assert summary.sentence == (
        "Nothing can be told between “x” and “y”: no measure tells them apart clearly, or a weightier one leans the"
        " other way. Each of them is clearly ahead of “none”."
    )


def test_time_does_not_decide_for_an_arm_that_may_lose_more(arm):
    # Two of eight rounds lose a session under x: not clear, but not for being quicker to make good.
    rounds = [
        {"x": arm("x", 10 + at / 10, [20], died=("b",) if at < 2 else ()), "y": arm("y", 20 + at / 10, [20])}
        for at in range(8)
    ]
    summary = summarise(rounds, ["x", "y"])
    assert summary.winner is None
    assert summary.best == "y"
    assert [each.measure for each in summary.arms[0].against] == ["others finished", "protected time"]
    assert not summary.arms[0].against[0].clear


def test_equal_arms_tell_nothing(arm):
    rounds = [{"x": arm("x", 10, [20]), "y": arm("y", 10, [20])}] * 10
    assert summarise(rounds, ["x", "y"]).winner is None


def test_one_arm_has_nothing_to_be_compared_with(arm):
    summary = summarise([{"x": arm("x", 10, [20])}] * 9, ["x", "never-ran"])
    assert summary.winner is None
    assert summary.sentence == "There is nothing to compare: no other arm than “x” has finished a round."
    assert [each.name for each in summary.arms] == ["x"]


def test_each_arm_may_be_behind_another(arm):
    # Without a round in common each beats the next: x y, y z, z x.
    pairs = [("x", "y"), ("y", "z"), ("z", "x")]
    rounds = [{one: arm(one, 10, [20]), two: arm(two, 20, [20])} for one, two in pairs for _ in range(6)]
    assert summarise(rounds, "xyz").sentence == (
        "No arm is ahead of all others: each of “x”, “y” and “z” is clearly behind another."
    )


def test_sessions_that_were_too_late_are_lost_too(arm):
    rounds = [{"x": arm("x", 10, [20], timed_out=("b",)), "y": arm("y", 10, [20])}] * 6
    summary = summarise(rounds, ["x", "y"])
    assert summary.arms[0].lost == {"b (timed out)": 6}
    assert summary.winner == "y"


def test_fewer_is_said_of_less():
    none_less = Comparison("x", "y", "others finished", 9, Estimate(-0.5, -1.0, 0.0))
    assert describe(none_less) == "0.50 [0.00, 1.00] fewer of the other sessions finish per round"
    less = Comparison("x", "y", "others finished", 9, Estimate(-1.5, -2.0, -1.0))
    assert describe(less) == "1.50 [1.00, 2.00] fewer of the other sessions finish per round"
    slower = Comparison("x", "y", "others time", 9, Estimate(1.5, 1.2, 2.0))
    assert describe(slower) == "the other sessions take 1.50 [1.20, 2.00] times as long"
