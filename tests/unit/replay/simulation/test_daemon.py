# SPDX-License-Identifier: Apache-2.0
"""The daemon's own decisions over the simulated host."""

from collections.abc import Callable
from math import inf
from pathlib import Path

import pytest

from agentcg.control.decide import LEAST
from agentcg.control.reserve import margin
from agentcg.policy.load import load
from agentcg.replay.arm_spec import ArmSpec, parse_arm
from agentcg.replay.events import CallEnded, Event, Frozen, Held, Limits, Thawed, Yielded
from agentcg.replay.plan import PlannedCall, SessionPlan
from agentcg.replay.result import ArmResult
from agentcg.replay.simulation import SimulatedHost, simulate
from agentcg.replay.simulation.daemon import AgentcgArm
from agentcg.replay.simulation.group import Group
from agentcg.replay.simulation.machine import Machine
from agentcg.replay.simulation.process import Process

MIB = 1 << 20
AGENTCG = parse_arm("agentcg")


@pytest.fixture
def open_policy(tmp_path: Path) -> ArmSpec:
    """One that gives each session all there is."""
    path = tmp_path / "open.toml"
    path.write_text('version = 1\nextends = "default"\n[tenant]\nmemory = "100%"\n[session]\nmemory = "100%"\n')
    return parse_arm(f"agentcg={path}")


def states(result: ArmResult) -> dict[str, str]:
    return {session.name: session.state for session in result.sessions}


def of(told: list[Event], kind: type[Event]) -> list[Event]:
    return [event for event in told if isinstance(event, kind)]


def test_what_a_protected_session_declares_is_set_aside_and_the_rest_is_the_wall(
    plan: Callable[..., SessionPlan], host: Callable[..., SimulatedHost], open_policy: ArmSpec
) -> None:
    told: list[Event] = []
    plans = [plan("high", duration=2, reserve=300), plan("other", duration=5)]
    simulate(plans, open_policy, host(memory_max=1000 * MIB), tell=told.append)
    limits = [event for event in told if isinstance(event, Limits)]
    assert any((event.wall, event.reserved) == (700 * MIB, 300 * MIB) for event in limits if event.t < 2)
    assert (limits[-1].wall, limits[-1].reserved) == (1000 * MIB, 0)
    assert set(limits[-1].max) <= {"other"}


def test_what_cannot_be_set_aside_is_refused(
    plan: Callable[..., SessionPlan], host: Callable[..., SimulatedHost]
) -> None:
    result = simulate([plan("high", duration=2, reserve=2000), plan("other", duration=5)], AGENTCG, host())
    assert states(result) == {"high": "refused", "other": "finished"}
    assert "cannot be reserved" in result.sessions[0].reason


def test_a_call_that_does_not_fit_is_held_before_it_has_run_and_nobody_is_lost(
    plan: Callable[..., SessionPlan],
    call: Callable[..., PlannedCall],
    host: Callable[..., SimulatedHost],
    open_policy: ArmSpec,
) -> None:
    told: list[Event] = []
    first = plan("first", call("c1", 1, 8, mib=600), duration=10)
    second = plan("second", call("c2", 3, 4, mib=600), duration=5)
    result = simulate([first, second], open_policy, host(memory_max=1000 * MIB), tell=told.append)
    assert states(result) == {"first": "finished", "second": "finished"}
    assert [session.failed for session in result.sessions] == [[], []]
    (held,) = of(told, Held)
    (thawed,) = of(told, Thawed)
    assert isinstance(held, Held)
    assert isinstance(thawed, Thawed)
    assert (held.session, held.call, held.t) == ("second", "c2", pytest.approx(3.0))
    # The first needs 6 s for 600 MiB and stays 7 more; its session then takes some 2 s to its end.
    assert thawed.t == pytest.approx(14.0, abs=2.2)
    assert result.oom_kills == 0


def test_a_call_that_needs_more_than_its_class_may_have_ends_alone_and_is_told_why(
    plan: Callable[..., SessionPlan],
    call: Callable[..., PlannedCall],
    host: Callable[..., SimulatedHost],
    tmp_path: Path,
) -> None:
    path = tmp_path / "small.toml"
    path.write_text('version = 1\n[defaults]\nmemory_max = "50M"\nmemory_cap = "50M"\n')
    session = plan("a", call("c1", 1, 3, mib=80), call("c2", 4, 5, mib=10), agent=10, duration=8)
    (found,) = simulate([session], parse_arm(f"agentcg={path}"), host()).sessions
    assert found.state == "finished"
    assert [(failed.id, failed.outcome) for failed in found.failed] == [("c1", "memory_limit")]
    assert "its memory limit of 50.0 MiB after being slowed down" in found.failed[0].advice
    assert (found.calls_started, found.oom_kills_call, found.oom_kills_agent) == (2, 1, 0)
    # 5 MiB above its memory.high of 45 MiB, in batches, is slow.
    assert found.completion_sec > 8.5


def test_while_a_protected_session_grows_the_others_stop_for_a_moment(
    plan: Callable[..., SessionPlan], call: Callable[..., PlannedCall], host: Callable[..., SimulatedHost]
) -> None:
    told: list[Event] = []
    high = plan("high", call("grow", 2, 4, mib=200), duration=6, reserve=300)
    other = plan("other", call("burn", 0, 5, cpu=5), duration=5)
    result = simulate([high, other], AGENTCG, host(), tell=told.append)
    yielded = of(told, Yielded)
    assert [event.session for event in yielded if isinstance(event, Yielded)][:1] == ["other"]
    # 2 s of growth: half a second at first, half of what is left from then on.
    assert result.sessions[1].completion_sec == pytest.approx(5.0 + 1.25, abs=0.3)
    stopped = {event.call: event.frozen_sec for event in of(told, CallEnded) if isinstance(event, CallEnded)}
    assert stopped == {"grow": None, "burn": pytest.approx(1.25, abs=0.3)}
    assert result.sessions[0].growth.max_ms == pytest.approx(2000.0, abs=1)


def test_on_one_cpu_the_protected_session_goes_first(
    plan: Callable[..., SessionPlan], call: Callable[..., PlannedCall], host: Callable[..., SimulatedHost]
) -> None:
    plans = [plan("high", call("c1", 1, 3, cpu=2), duration=4, reserve=50)]
    plans += [plan(f"other-{number}", call(f"o{number}", 0, 4, cpu=4), duration=4) for number in range(3)]
    fair = simulate(plans, parse_arm("none"), host(cpus=1.0)).sessions[0]
    first = simulate(plans, AGENTCG, host(cpus=1.0)).sessions[0]
    assert fair.completion_sec > 8.0
    assert first.completion_sec == pytest.approx(4.0, abs=0.1)


def test_one_that_comes_to_its_tripwire_is_stopped_and_goes_on_when_there_is_room(
    plan: Callable[..., SessionPlan],
    host: Callable[..., SimulatedHost],
    open_policy: ArmSpec,
) -> None:
    """Agents grow without a word: nothing can be held before."""
    told: list[Event] = []
    plans = [plan("first", agent=300, duration=30), plan("second", agent=300, duration=10)]
    # What they declare is too little by far.
    plans = [
        SessionPlan(one.name, one.name, one.calls, one.agent, one.duration_sec, 100 * MIB, one.reserve) for one in plans
    ]
    result = simulate(plans, open_policy, host(memory_max=500 * MIB), tell=told.append, starts=[0.0, 5.0])
    frozen = of(told, Frozen)
    assert [event.session for event in frozen if isinstance(event, Frozen)][:1] == ["second"]
    assert states(result) == {"first": "finished", "second": "finished"}
    assert result.oom_kills == 0


def test_it_does_not_look_while_nothing_can_be_seen(
    plan: Callable[..., SessionPlan], host: Callable[..., SimulatedHost]
) -> None:
    machine = Machine(host())
    arm = AgentcgArm(machine, load("default"), lambda event: None)
    for name, reserve in (("high", 100.0), ("other", None)):
        arm.open(plan(name, duration=1, reserve=reserve), lambda place: _hold(machine, place.agent, 50))
    machine.run(2.0)
    before = arm.controller.looks
    machine.run(10_000.0)
    assert arm.controller.looks - before <= 1
    assert machine.next_sec == machine.clock.next_sec == inf
    _hold(machine, next(iter(arm.node.all_processes())).group, 1)
    machine.run(10_001.0)
    assert arm.controller.looks - before < 30


def _hold(machine: Machine, group: Group, mib: int) -> None:
    Process(machine, group).follow([(0.0, mib * MIB, 0.0)])


def test_tripwires_leave_a_margin_and_never_less_than_a_task_needs(
    plan: Callable[..., SessionPlan], host: Callable[..., SimulatedHost], open_policy: ArmSpec
) -> None:
    told: list[Event] = []
    plans = [plan("first", agent=100, duration=5), plan("second", agent=100, duration=5)]
    simulate(plans, open_policy, host(memory_max=500 * MIB), tell=told.append)
    highs = [event.high["second"] for event in told if isinstance(event, Limits) and event.high.get("second")]
    assert highs
    assert all(LEAST <= high <= 500 * MIB - margin(500 * MIB) for high in highs if high is not None)
