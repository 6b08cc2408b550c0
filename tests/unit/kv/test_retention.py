# SPDX-License-Identifier: Apache-2.0
"""The face to an engine: what it keeps of what it is told, and what it makes of nonsense."""

import pytest

from agentcg.kv import retention as module
from agentcg.kv.policies import POLICIES
from agentcg.kv.policies.base import Lru, ProgramLru
from agentcg.kv.policies.pins import EvictLatest, FixedTtl
from agentcg.kv.state import CallEvent, Load
from agentcg.predict.distribution import Distribution

TEN = Distribution((10.0,), (1.0,), 0.0, 1.0)


def test_a_pause_is_from_a_turns_end_to_the_next_request(new_server) -> None:
    server = new_server(Lru())
    server.turn("one", 0.0, 2.0, tool="bash")
    server.turn("one", 7.0, 9.0, tool="web")
    server.ask("one", 10.0)
    assert (server.state.pauses.mean("bash"), server.state.pauses.mean("web")) == (5, 1)


def test_a_turn_leaves_its_context_and_what_it_took(new_server) -> None:
    server = new_server(Lru())
    server.turn("one", 0.0, 2.0, tokens=100)
    session = server.turn("one", 5.0, 8.0, tokens=300)
    assert (session.tokens, session.resident, session.turns) == (300, 300, 2)
    assert (session.served_sec, session.used, session.arrived) == (5, 8, 0)
    assert session.paused


def test_the_delay_is_of_those_that_lost_something(new_server) -> None:
    server = new_server(Lru())
    server.turns(("one", 0.0, 1.0, 1000), ("two", 0.0, 1.0, 1000))
    server.retention.taken("one", 1, 2.0)
    requests = {session: server.ask(session, 10.0) for session in ("one", "two", "three")}
    for session, at in (("one", 16.0), ("two", 99.0), ("three", 99.0)):
        server.retention.start(requests[session], at)
    assert server.state.delay.sec == 6


def test_what_was_taken_and_found_all_the_same_is_no_delay(new_server) -> None:
    server = new_server(Lru())
    session = server.turn("one", 0.0, 1.0)
    server.retention.taken("one", 1000, 2.0)
    server.retention.start(server.ask("one", 10.0), 16.0, hit=True)
    assert (server.state.delay.sec, session.lost) == (0, 0)


def test_a_tool_that_is_named_late_is_the_one_of_the_pause(new_server) -> None:
    server = new_server(Lru())
    server.turn("one", 0.0, 1.0, tool="call")
    server.retention.arrive("again", "one", 1000, 5.0, tool="bash")
    assert (server.state.pauses.mean("call"), server.state.pauses.mean("bash")) == (None, 4)


def test_calls_are_forgotten_with_whoever_told_of_them(new_server) -> None:
    server = new_server(Lru())
    session = server.turn("one", 0.0, 1.0)
    server.call("one", "began", 2.0, TEN)
    server.retention.forget_calls()
    assert (session.left(3.0), session.over_from) == (None, None)
    server.call("one", "revised", 4.0, TEN)
    assert session.left(5.0) is not None


def test_a_session_that_is_over_counts_with_its_turns_and_is_gone(new_server) -> None:
    server = new_server(Lru())
    for _ in range(2):
        server.turns(("one", 1.0, 1.0, 1000), ("two", 1.0, 1.0, 1000))
    server.retention.end(server.run("one", 2.0), 50, 3.0, last=True)
    server.retention.close("two", 3.0)
    server.retention.close("two", 3.0)
    assert not server.state.sessions
    assert list(server.state.turns._programs) == [3, 2]


def test_what_is_taken_is_enough_or_nothing(new_server) -> None:
    server = new_server(Lru())
    for number, session in enumerate(("one", "two", "three")):
        server.turn(session, number, number + 0.5, tokens=100)
    request = server.ask("four", 5.0)
    assert server.given_up(request, 150, 5.0) == [("one", 100), ("two", 50)]
    assert server.given_up(request, 300, 5.0) == [("one", 100), ("two", 100), ("three", 100)]
    assert server.given_up(request, 301, 5.0) == []
    assert server.given_up(request, 0, 5.0) == []


def test_nobody_loses_what_runs_and_nobody_takes_from_itself(new_server) -> None:
    server = new_server(Lru())
    server.turns(("one", 0.0, 1.0, 100), ("two", 0.0, 1.0, 100))
    server.run("one", 2.0)
    assert server.given_up(server.ask("two", 3.0), 1, 3.0) == []


def test_what_was_taken_is_known(new_server) -> None:
    server = new_server(Lru())
    session = server.turn("one", 0.0, 1.0, tokens=100)
    server.retention.taken("one", 30, 2.0)
    assert (session.resident, session.lost, session.tokens) == (70, 30, 100)
    server.retention.taken("one", 500, 2.0)
    assert (session.resident, session.lost) == (0, 100)
    server.run("one", 3.0)
    assert session.lost == 0


def test_protected_caches_come_last_and_only_where_the_policy_allows(new_server) -> None:
    server = new_server(FixedTtl(10.0))
    server.turn("old", 0.0, 1.0, tokens=100)
    server.turn("new", 11.0, 12.0, tokens=100)
    runs, waits = server.run("busy", 12.0), server.ask("next", 12.0)
    assert server.given_up(waits, 100, 12.0) == [("old", 100)]
    assert server.given_up(waits, 150, 12.0) == []
    # Nothing runs any more: whatever is protected may be taken.
    server.retention.cancel(runs, 13.0)
    assert server.given_up(waits, 150, 13.0) == [("old", 100), ("new", 50)]


def test_a_preempted_turn_waits_again(new_server) -> None:
    server = new_server(ProgramLru())
    request = server.run("one", 0.0, tokens=100)
    server.retention.preempt(request, 20, 3.0)
    session = server.state.sessions["one"]
    assert (session.resident, session.served_sec, server.state.requests[request].preempted) == (20, 3, True)
    assert server.retention.order(4.0) == [request]
    server.retention.start(request, 5.0)
    assert server.state.running[0].id == request


# What is not as it should be


@pytest.mark.parametrize("name", POLICIES)
def test_nobody_is_known(name: str, new_server) -> None:
    server = new_server(POLICIES[name]())
    retention = server.retention
    retention.start("r", 0.0)
    retention.end("r", 1, 0.0)
    retention.preempt("r", 1, 0.0)
    retention.cancel("r", 0.0)
    retention.close("s", 0.0)
    retention.taken("s", 1, 0.0)
    retention.foretell("s", 1.0)
    retention.call("s", CallEvent("c", "ended"), 0.0)
    retention.call("s", CallEvent("c", "began", TEN), 0.0)
    assert retention.give_up("r", 1, 0.0) == []
    assert retention.order(0.0) == []
    assert not server.state.sessions
    assert not server.state.requests


@pytest.mark.parametrize("name", POLICIES)
def test_everything_is_said_twice(name: str, new_server) -> None:
    server = new_server(POLICIES[name]())
    retention = server.retention
    for _ in range(2):
        retention.arrive("r", "s", 10, 1.0)
    for _ in range(2):
        retention.start("r", 2.0)
    for _ in range(2):
        retention.end("r", 10, 3.0, tool="bash")
    for kind in ("began", "began", "frozen", "frozen", "thawed", "thawed", "ended", "ended"):
        server.call("s", kind, 4.0, TEN)
    session = server.state.sessions["s"]
    assert (session.turns, session.served_sec, session.paused) == (1, 1, True)
    assert not session.calls


@pytest.mark.parametrize("name", POLICIES)
def test_a_call_without_return_and_a_return_without_call(name: str, new_server) -> None:
    server = new_server(POLICIES[name]())
    server.turns(("lost", 0.0, 1.0, 100), ("back", 0.0, 1.0, 100), tool="")
    server.call("lost", "began", 1.0, TEN)
    request = server.ask("back", 5.0, tokens=150)
    # The one that never comes back does not stop the other.
    assert server.retention.order(1e9) == [request]
    assert sum(tokens for _, tokens in server.given_up(request, 100, 1e9)) == 100


@pytest.mark.parametrize("name", POLICIES)
def test_two_turns_of_one_session_at_once(name: str, new_server) -> None:
    server = new_server(POLICIES[name]())
    first, second = server.run("s", 0.0), server.run("s", 1.0)
    session = server.state.sessions["s"]
    server.retention.end(first, 100, 2.0)
    assert session.running == {second}
    assert server.given_up(server.ask("other", 3.0), 50, 3.0) == []  # It still runs.
    third = server.ask("s", 4.0)
    server.retention.end(second, 200, 5.0)
    assert (session.running, session.waiting, session.resident) == (set(), {third}, 200)
    assert server.state.pauses.mean("") is None  # There was no pause.
    server.retention.start(third, 6.0)
    server.retention.end(third, 300, 7.0, last=True)
    assert "s" not in server.state.sessions


@pytest.mark.parametrize("name", POLICIES)
def test_a_clock_that_jumps(name: str, new_server) -> None:
    server = new_server(POLICIES[name]())
    for begin, end in ((100.0, 50.0), (20.0, 10.0)):
        server.retention.end(server.run("one", begin), 1000, end, tool="bash")
    session = server.state.sessions["one"]
    assert (session.served_sec, session.used, session.arrived) == (0, 100, 100)
    assert server.state.pauses.mean("bash") == 0
    server.call("one", "began", 0.0, TEN)
    request = server.ask("two", 1e12)
    assert server.state.now == 1e12
    assert server.given_up(request, 10, 0.0) == [("one", 10)]


def test_an_old_call_says_nothing_of_a_session_that_is_back(new_server) -> None:
    server = new_server(Lru())
    session = server.turn("one", 0.0, 1.0)
    server.call("one", "began", 1.0, TEN)
    server.ask("one", 2.0)
    server.call("one", "revised", 3.0, TEN)
    assert not session.calls


def test_a_request_that_was_cancelled_is_no_second_pause(new_server) -> None:
    server = new_server(Lru())
    server.turn("one", 0.0, 1.0)
    server.retention.cancel(server.ask("one", 3.0), 4.0)
    server.ask("one", 9.0)
    assert server.state.pauses.mean("bash") == 2


def test_a_session_that_closes_takes_its_requests_along(new_server) -> None:
    server = new_server(Lru())
    server.run("one", 0.0)
    server.ask("one", 0.0)
    server.retention.close("one", 1.0)
    assert not server.state.requests
    assert server.state.contended_since is None


def test_sessions_without_cache_are_forgotten_the_oldest_first(new_server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SESSIONS", 3)
    server = new_server(Lru())
    server.turn("kept", 0.0, 1.0)
    server.ask("waits", 1.0)
    for number in range(5):
        server.turn(f"s{number}", 3.0, 3.0)
        server.retention.taken(f"s{number}", 10**6, 3.0)
    assert list(server.state.sessions) == ["kept", "waits", "s4"]
    # Where nobody can be forgotten, nobody is.
    for name in ("new", "newer"):
        server.ask(name, 4.0)
    assert list(server.state.sessions) == ["kept", "waits", "new", "newer"]


def test_load_reaches_the_policy(new_server) -> None:
    server = new_server(POLICIES["mars_admission"]())
    server.retention.loaded(Load(cpu_backlog=3.0), 0.0)
    assert server.policy.window == 21
    assert server.state.load.cpu_backlog == 3


def test_order_is_by_rank_and_then_by_arrival(new_server) -> None:
    server = new_server(EvictLatest())
    early, late = server.ask("a", 1.0), server.ask("b", 1.0)
    again = server.ask("a", 1.0)
    # Of two sessions that came at one time, one is still first.
    assert server.retention.order(2.0) == [early, again, late]


def test_of_sessions_that_came_at_one_time_the_later_one_can_be_taken_from(new_server) -> None:
    server = new_server(EvictLatest())
    server.turns(("a", 0.0, 5.0, 1000), ("b", 0.0, 5.0, 1000), ("c", 0.0, 9.0, 1000))
    running, back = server.run("c", 9.0), server.ask("a", 9.0, 1500)
    assert server.given_up(back, 500, 9.0) == [("b", 500)]
    assert running in server.state.requests
