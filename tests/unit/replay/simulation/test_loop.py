# SPDX-License-Identifier: Apache-2.0
"""The loop that freezes the others, over the simulated host."""

from collections.abc import Callable

import pytest

from agentcg.replay.arm_spec import parse_arm
from agentcg.replay.events import Event, Frozen, Thawed
from agentcg.replay.plan import PlannedCall, SessionPlan
from agentcg.replay.simulation import SimulatedHost, simulate

MIB = 1 << 20
LOOP = parse_arm("psi-loop")


def test_the_others_stand_still_while_the_protected_one_grows(
    plan: Callable[..., SessionPlan], call: Callable[..., PlannedCall], host: Callable[..., SimulatedHost]
) -> None:
    told: list[Event] = []
    high = plan("high", call("grow", 2, 4, mib=100), duration=6, reserve=100)
    other = plan("other", call("burn", 0, 5, cpu=5), duration=5)
    result = simulate([high, other], LOOP, host(growth_rate=200.0 * MIB), tell=told.append)
    frozen, thawed = (next(event for event in told if isinstance(event, kind)) for kind in (Frozen, Thawed))
    assert (frozen.session, frozen.why) == ("other", "by the loop")
    # Half a second of growth, seen by the next look of 10 ms.
    assert (frozen.t, thawed.t) == (pytest.approx(2.01, abs=0.011), pytest.approx(2.51, abs=0.021))
    assert [session.state for session in result.sessions] == ["finished", "finished"]
    assert result.sessions[1].completion_sec == pytest.approx(5.5, abs=0.05)


def test_near_the_limit_all_but_the_first_stand_still(
    plan: Callable[..., SessionPlan], call: Callable[..., PlannedCall], host: Callable[..., SimulatedHost]
) -> None:
    told: list[Event] = []
    first = plan("first", call("c1", 1, 8, mib=92), duration=10)
    second = plan("second", call("c2", 4, 6, mib=30), duration=10)
    result = simulate([first, second], LOOP, host(memory_max=100 * MIB), tell=told.append)
    frozen = [(event.session, type(event)) for event in told if isinstance(event, Frozen | Thawed)]
    assert frozen == [("second", Frozen), ("second", Thawed)]
    # It waits for the first to give its memory back, and then does what it had to.
    assert [session.state for session in result.sessions] == ["finished", "finished"]
    assert result.oom_kills == 0
