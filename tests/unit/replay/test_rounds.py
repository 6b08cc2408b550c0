# SPDX-License-Identifier: Apache-2.0
"""The order of the arms."""

from agentcg.replay.arm_spec import parse_arm
from agentcg.replay.rounds import turns

ARMS = [parse_arm(name) for name in ("none", "static", "agentcg")]


def test_one_round_keeps_the_order_that_was_given():
    assert turns(ARMS, 1, 5) == [(0, arm) for arm in ARMS]


def test_every_round_has_every_arm_once_in_an_order_that_the_seed_draws():
    found = turns(ARMS, 50, 5)
    rounds = [[arm.name for number, arm in found if number == wanted] for wanted in range(50)]
    assert [number for number, _ in found] == sorted(number for number, _ in found)
    assert all(sorted(names) == ["agentcg", "none", "static"] for names in rounds)
    assert len({tuple(names) for names in rounds}) == 6
    assert found == turns(ARMS, 50, 5) != turns(ARMS, 50, 6)
    # More rounds begin like fewer.
    assert turns(ARMS, 60, 5)[:150] == found
