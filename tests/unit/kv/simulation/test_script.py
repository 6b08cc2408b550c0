# SPDX-License-Identifier: Apache-2.0
import math

import pytest

from agentcg.errors import InvalidInput
from agentcg.kv.simulation.script import Script, Turn, arrivals

SCRIPTS = [Script(name, (Turn(10, 1),)) for name in "abc"]


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ((), "s: the session has no turns"),
        ((Turn(1, 0),), r"s: turns\[0\]: a turn has a token"),
        ((Turn(5, 1, prefix_tokens=1),), r"s: turns\[0\]\.prefix_tokens: it is not in the last context"),
        ((Turn(5, 1), Turn(9, 1, prefix_tokens=7)), r"turns\[1\]\.prefix_tokens"),
    ],
)
def test_turns_that_cannot_be_are_refused(turns: tuple[Turn, ...], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Script("s", turns)


def test_the_longest_context_is_not_always_the_last() -> None:
    assert Script("s", (Turn(20, 5), Turn(10, 1))).context_tokens == 25


def test_arrivals_are_the_same_at_every_rate_but_for_the_scale() -> None:
    slow, fast = arrivals(SCRIPTS, 30, 0.1, seed=7), arrivals(SCRIPTS, 30, 0.2, seed=7)
    assert [each.session for each in slow] == [each.session for each in fast]
    assert [each.at_sec for each in slow] == pytest.approx([2 * each.at_sec for each in fast])
    assert arrivals(SCRIPTS, 30, 0.1, seed=8) != slow
    # Each comes once before one comes again.
    assert all({each.script.name for each in slow[k : k + 3]} == set("abc") for k in range(0, 30, 3))


def test_arrivals_have_the_rate_that_was_asked_for() -> None:
    assert arrivals(SCRIPTS, 4000, 0.1, seed=1)[-1].at_sec == pytest.approx(40_000, rel=0.05)
    assert {each.at_sec for each in arrivals(SCRIPTS, 5, math.inf, seed=1)} == {0.0}
