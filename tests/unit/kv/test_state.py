# SPDX-License-Identifier: Apache-2.0
"""What is known of calls and sessions: progress, what is left, and when keeping has a price."""

import pytest

from agentcg.kv.policies.base import Lru
from agentcg.kv.state import Call, CallEvent, Session
from agentcg.predict.distribution import Distribution

TEN = Distribution((10.0,), (1.0,), 0.0, 1.0)


def mean(call: Call, now: float) -> float:
    left = call.left(now)
    assert left is not None
    return left.mean()


def test_what_is_left_falls_as_time_goes_by() -> None:
    call = Call(100.0)
    assert call.left(101.0) is None
    call.heard(CallEvent("c", "began", TEN), 100.0)
    assert mean(call, 100.0) == 10
    assert mean(call, 104.0) == 6


def test_a_frozen_call_makes_no_progress() -> None:
    call = Call(0.0)
    call.heard(CallEvent("c", "began", TEN), 0.0)
    call.heard(CallEvent("c", "frozen"), 3.0)
    assert mean(call, 50.0) == 7
    call.heard(CallEvent("c", "thawed"), 60.0)
    assert mean(call, 62.0) == 5


def test_a_new_prediction_counts_from_when_it_was_made() -> None:
    call = Call(0.0)
    call.heard(CallEvent("c", "began", TEN), 0.0)
    call.heard(CallEvent("c", "revised", TEN), 9.0)
    assert mean(call, 11.0) == 8
    call.heard(CallEvent("c", "frozen"), 11.0)
    call.heard(CallEvent("c", "revised", TEN), 12.0)
    assert mean(call, 99.0) == 10  # It is frozen still.


def test_of_several_calls_the_longest_counts() -> None:
    session = Session("s", 0.0)
    assert session.left(0.0) is None
    for name, remaining in (("a", TEN), ("b", TEN.after(8.0)), ("c", None)):
        session.calls[name] = Call(0.0, remaining)
    left = session.left(1.0)
    assert left is not None
    assert left.mean() == 9


def test_keeping_has_a_price_only_while_somebody_waits(new_server) -> None:
    server = new_server(Lru())
    one = server.turn("one", 0.0, 1.0)
    assert server.state.rent_sec(one, 100.0) == 0
    request = server.ask("two", 100.0)
    other = server.ask("three", 102.0)
    assert server.state.rent_sec(one, 103.0) == 3
    server.retention.start(request, 104.0)
    server.retention.cancel(other, 106.0)
    assert server.state.rent_sec(one, 500.0) == 6
    server.ask("four", 500.0)
    assert server.state.rent_sec(one, 501.5) == 7.5
    server.turn("one", 502.0, 503.0)  # Another pause, another rent.
    assert server.state.rent_sec(one, 505.0) == 2


def test_the_benefit_is_delay_by_eta_and_reload(new_server) -> None:
    server = new_server(Lru())
    session = server.turn("one", 0.0, 1.0, tokens=3000)
    assert server.state.benefit_sec(session) == 3
    server.state.delay.observe(4.0)
    for turns in (2, 3):
        server.state.turns.observe(turns)
    assert server.state.benefit_sec(session) == pytest.approx(4 * 0.5 + 3)
