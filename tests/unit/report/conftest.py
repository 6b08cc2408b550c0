# SPDX-License-Identifier: Apache-2.0
"""Results to write tests with."""

import pytest

from agentcg.replay.result import ArmResult, CallResult, Latency, SessionResult


def make_session(name, sec, *, protected=False, state="finished", failed=(), oom_kills=0):
    return SessionResult(
        name=name,
        recording=name,
        protected=protected,
        reserve=100 << 20 if protected else None,
        state=state,
        completion_sec=sec,
        recorded_sec=10.0,
        calls_recorded=3,
        calls_started=3,
        failed=[CallResult(f"c{at}", command, "memory_limit", "less") for at, command in enumerate(failed)],
        growth=Latency(3, 1.0, 2.0, 3.0, 6.0),
        boundaries=Latency(3, 0.1, 0.2, 0.3, 0.6),
        oom_kills_agent=oom_kills,
        oom_kills_call=0,
    )


def make_arm(name, protected_sec, others_sec, *, died=(), timed_out=()):
    """Sessions a (protected), b, c, …: those in ``died`` did, after half of their time."""
    sessions = [make_session("a", protected_sec, protected=True)]
    sessions += [make_session(chr(ord("b") + at), sec) for at, sec in enumerate(others_sec)]
    for each in sessions:
        if each.name in died:
            each.state, each.completion_sec, each.oom_kills_agent = "died", each.completion_sec / 2, 1
        if each.name in timed_out:
            each.state = "timed_out"
    return ArmResult(name, 800 << 20, 10.0, max(each.completion_sec for each in sessions), sessions)


@pytest.fixture
def arm():
    """How one arm went in one round: arm(NAME, protected's seconds, others' seconds, died=(NAME, …))."""
    return make_arm
