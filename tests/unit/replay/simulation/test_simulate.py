# SPDX-License-Identifier: Apache-2.0
"""Whole replays in simulation."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentcg.cgroup.delegate import SUPERVISOR_MEMORY_MIN
from agentcg.replay.arm_spec import ArmSpec, parse_arm
from agentcg.replay.events import CallBegan, CallEnded, Event, Killed, Sample, SessionBegan, SessionEnded
from agentcg.replay.plan import Piece, PlannedCall, SessionPlan
from agentcg.replay.result import ArmResult
from agentcg.replay.simulation import SimulatedHost, simulate
from agentcg.trace.profile import Profile

MIB = 1 << 20
NONE = parse_arm("none")


def states(result: ArmResult) -> dict[str, str]:
    return {session.name: session.state for session in result.sessions}


def test_a_session_alone_takes_the_recorded_time(
    plan: Callable[..., SessionPlan], call: Callable[..., PlannedCall], host: Callable[..., SimulatedHost]
) -> None:
    session = plan("a", call("c1", 1, 3, mib=50, cpu=1), call("c2", 2, 5), agent=10, duration=10)
    (found,) = simulate([session], NONE, host()).sessions
    assert (found.state, found.calls_started, found.failed) == ("finished", 2, [])
    # The agent's 10 MiB and the call's 50, at 100 MiB a second. The session waits for its agent, and c1 is late by
    # half a second, but c2 ends no later for that.
    assert (found.growth.n, found.growth.total_ms) == (2, pytest.approx(600.0))
    assert found.completion_sec == pytest.approx(10.1)
    assert found.ratio == pytest.approx(1.01)
    # Five times as fast, c1 ends a tenth of a second after c2 has.
    (fast,) = simulate([session], NONE, host(), speed=5).sessions
    assert fast.completion_sec == pytest.approx(2.0 + 0.1 + 0.1)


def test_starting_a_process_takes_time_that_shifts_what_follows(
    plan: Callable[..., SessionPlan], call: Callable[..., PlannedCall], host: Callable[..., SimulatedHost]
) -> None:
    session = plan("a", call("c1", 1, 3), call("c2", 4, 5), duration=10)
    (found,) = simulate([session], NONE, host(start_sec=0.5)).sessions
    assert found.completion_sec == pytest.approx(11.5)


def test_where_two_do_not_fit_the_larger_agent_dies_and_the_other_finishes(
    plan: Callable[..., SessionPlan], call: Callable[..., PlannedCall], host: Callable[..., SimulatedHost]
) -> None:
    told: list[Event] = []
    large = plan("large", call("c1", 0, 8), agent=60, duration=10)
    small = plan("small", call("c2", 2, 5, mib=60), agent=20, duration=10)
    result = simulate([large, small], NONE, host(memory_max=100 * MIB), tell=told.append)
    assert states(result) == {"large": "died", "small": "finished"}
    lost, kept = result.sessions
    # The small agent has grown by 0.2 s. Its call has 20 of 60 MiB at 2.4 s, and the rest half a second later.
    assert lost.completion_sec == pytest.approx(2.9, abs=0.01)
    assert [failed.outcome for failed in lost.failed] == ["lost"]
    assert kept.growth.max_ms == pytest.approx(1100.0, abs=1)
    assert (result.oom_kills, lost.oom_kills_agent, kept.failed) == (1, 1, [])
    assert next(event for event in told if isinstance(event, Killed)).session == "large"
    ends = {event.session: event.state for event in told if isinstance(event, SessionEnded)}
    assert ends == states(result)


def test_a_call_that_is_killed_has_failed_and_its_session_goes_on(
    plan: Callable[..., SessionPlan], call: Callable[..., PlannedCall], host: Callable[..., SimulatedHost]
) -> None:
    session = plan("a", call("c1", 1, 9, mib=120), agent=20, duration=10)
    (found,) = simulate([session], NONE, host(memory_max=100 * MIB)).sessions
    assert found.state == "finished"
    assert [(failed.id, failed.outcome) for failed in found.failed] == [("c1", "oom_killed")]
    assert found.oom_kills_call == 1
    # Killed at 0.2 + 1 + 0.8 s and gone at 2.5; the rest of its 8 s is not waited for.
    assert found.completion_sec == pytest.approx(3.5, abs=0.01)


def test_static_holds_each_to_an_equal_part(
    plan: Callable[..., SessionPlan], call: Callable[..., PlannedCall], host: Callable[..., SimulatedHost]
) -> None:
    greedy = plan("greedy", call("c1", 1, 3, mib=70), duration=5)
    modest = plan("modest", call("c2", 1, 3, mib=40), duration=5)
    result = simulate([greedy, modest], parse_arm("static"), host(memory_max=100 * MIB))
    assert {session.name: len(session.failed) for session in result.sessions} == {"greedy": 1, "modest": 0}


def test_high_only_slows_the_others_down_at_what_is_not_reserved(
    plan: Callable[..., SessionPlan], call: Callable[..., PlannedCall], host: Callable[..., SimulatedHost]
) -> None:
    protected = plan("high", call("c1", 1, 3, mib=50), duration=5, reserve=60)
    other = plan("other", call("c2", 1, 3, mib=45), duration=5)
    result = simulate([protected, other], parse_arm("high-only"), host(memory_max=100 * MIB))
    high, low = result.sessions
    assert high.growth.max_ms == pytest.approx(500.0)
    assert low.growth.max_ms is not None
    assert low.growth.max_ms > 5000.0  # 5 MiB above 40, in batches of 256 KiB.
    assert states(result) == {"high": "finished", "other": "finished"}


def test_what_has_not_ended_when_time_is_up_has_timed_out(
    plan: Callable[..., SessionPlan], host: Callable[..., SimulatedHost]
) -> None:
    result = simulate([plan("a", duration=10), plan("b", duration=2)], NONE, host(), timeout_sec=5.0)
    assert states(result) == {"a": "timed_out", "b": "finished"}
    assert result.sessions[0].completion_sec == pytest.approx(5.0)


def test_sessions_begin_when_they_are_said_to(
    plan: Callable[..., SessionPlan], host: Callable[..., SimulatedHost]
) -> None:
    told: list[Event] = []
    simulate([plan("a", duration=1), plan("b", duration=1)], NONE, host(), starts=[0.0, 3.0], tell=told.append)
    assert [(event.t, event.session) for event in told if isinstance(event, SessionBegan)] == [(0.0, "a"), (3.0, "b")]


def test_events_come_in_order_and_say_what_a_call_came_to(
    plan: Callable[..., SessionPlan], call: Callable[..., PlannedCall], host: Callable[..., SimulatedHost]
) -> None:
    told: list[Event] = []
    session = plan("a", call("c1", 1, 3, mib=50, cpu=1), agent=10, duration=4)
    simulate([session], NONE, host(), tell=told.append)
    assert [event.t for event in told] == sorted(event.t for event in told)
    (began,) = (event for event in told if isinstance(event, CallBegan))
    (ended,) = (event for event in told if isinstance(event, CallEnded))
    assert (began.call, began.command, began.t) == ("c1", "run c1", pytest.approx(1.1))
    assert (ended.outcome, ended.peak_bytes) == ("ok", 50 * MIB)
    assert ended.cpu_sec == pytest.approx(1.0)
    samples = [event for event in told if isinstance(event, Sample)]
    assert max(sample.total for sample in samples) == 60 * MIB
    assert samples[-1].t == pytest.approx(4.6, abs=0.2)


PROFILE = st.lists(st.integers(0, 80), min_size=1, max_size=4)


@st.composite
def some_plan(draw: Any, name: str) -> SessionPlan:
    calls, at = [], 0.0
    for number in range(draw(st.integers(0, 4))):
        start = at + draw(st.floats(0, 2))
        sizes = draw(PROFILE)
        end = start + draw(st.floats(0.1, 4))
        step = (end - start) / len(sizes)
        memory = Profile(tuple((start + index * step, size * MIB) for index, size in enumerate(sizes)))
        cpu = Profile(((start, 0.0), (end, draw(st.floats(0, 1)) * (end - start))))
        calls.append(PlannedCall(f"{name}-{number}", "Bash", "x", start, end, memory, cpu))
        at = draw(st.floats(start, end))
    duration = max([1.0, *(one.end_sec for one in calls)])
    sizes = draw(PROFILE)
    step = duration / len(sizes)
    pieces = tuple(
        Piece(index * step, (index + 1) * step, size * MIB, index * draw(st.floats(0, 0.2)))
        for index, size in enumerate(sizes)
    )
    reserve = draw(st.none() | st.integers(20, 100).map(lambda size: size * MIB))
    peak = max(sizes) * MIB + round(sum(one.memory.peak for one in calls))
    return SessionPlan(name, name, tuple(sorted(calls, key=lambda one: one.start_sec)), pieces, duration, peak, reserve)


ARMS = st.sampled_from(["none", "static", "high-only", "psi-loop", "agentcg"])


@settings(max_examples=60, deadline=None)
@given(st.tuples(*(some_plan(name) for name in "abc")), ARMS.map(parse_arm), st.integers(100, 400), st.integers(0, 9))
def test_whatever_is_replayed_it_ends_within_its_memory_and_the_same_twice(
    plans: tuple[SessionPlan, ...], arm: ArmSpec, mib: int, seed: int
) -> None:
    host = SimulatedHost(memory_max=mib * MIB, start_sec=0.01, growth_rate=300.0 * MIB)
    told: list[Event] = []
    result = simulate(plans, arm, host, seed=seed, tell=told.append)
    # The daemon's own memory comes on top, and what is reserved may be exceeded as far as that.
    limit = mib * MIB + (SUPERVISOR_MEMORY_MIN if arm.kind == "agentcg" else 0)
    assert result.memory_peak is not None
    assert result.memory_peak <= limit
    assert set(states(result).values()) <= {"finished", "died", "refused"}
    assert all(event.total <= limit for event in told if isinstance(event, Sample))
    assert [event.t for event in told] == sorted(event.t for event in told)
    for session in result.sessions:
        assert session.calls_started <= session.calls_recorded
        assert session.state != "finished" or session.calls_started == session.calls_recorded
    again = simulate(plans, arm, host, seed=seed, tell=told.append)
    assert dataclasses.asdict(again) == dataclasses.asdict(result)
