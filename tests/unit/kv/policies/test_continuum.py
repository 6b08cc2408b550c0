# SPDX-License-Identifier: Apache-2.0
"""Continuum by hand: the paper in both readings, and the code."""

from math import log

import pytest

from agentcg.kv.policies.continuum import Continuum, ContinuumCode


def deadline(server, session: str) -> float:
    return server.state.sessions[session].deadline


def test_the_cold_start_is_that_of_the_paper(new_server) -> None:
    server = new_server(Continuum())
    server.turns(("one", 0.0, 10.0, 4000), ("two", 0.0, 10.0, 900))
    assert deadline(server, "one") == pytest.approx(10 + log(4))
    assert not server.protected("two", 10.0)


def test_equation_2_decides_once_there_are_more_than_a_hundred_pauses(new_server) -> None:
    server = new_server(Continuum())
    for number in range(101):
        server.state.pauses.observe("bash", 1.0 if number < 51 else 4.0)
    # At B = 5: 5 x 51/101 - 1 = 1.52, 5 - 4 = 1; at B = 9: 3.54, 5.
    server.turns(("one", 0.0, 10.0, 5000), ("two", 0.0, 10.0, 9000))
    assert (deadline(server, "one"), deadline(server, "two")) == (11, 14)
    assert server.protected("one", 11.0)
    assert not server.protected("one", 11.01)


def test_the_deadline_is_of_when_the_turn_ended(new_server) -> None:
    server = new_server(Continuum())
    server.turn("one", 0.0, 10.0, tokens=4000)
    server.state.delay.observe(1000.0)
    server.call("one", "began", 10.5)
    assert deadline(server, "one") == pytest.approx(10 + log(4))


def test_a_turn_that_calls_nothing_is_not_pinned(new_server) -> None:
    for policy in (Continuum(), ContinuumCode()):
        server = new_server(policy)
        server.turn("one", 0.0, 10.0, tokens=4000, tool="")
        assert not server.protected("one", 10.0)


def test_a_pin_does_not_end_for_a_session_that_came_back_in_time(new_server) -> None:
    server = new_server(Continuum())
    server.turn("one", 0.0, 10.0, tokens=4000)
    server.ask("one", 11.0)
    assert server.protected("one", 99.0)


def test_the_queue_is_preempted_then_pinned_then_by_program(new_server) -> None:
    server = new_server(Continuum())
    server.turns(("first", 0.0, 1.0, 4000), ("second", 1.0, 20.0, 4000))  # The first one's pin will be over.
    third = server.run("third", 20.0)
    server.retention.preempt(third, 0, 20.5)
    requests = [server.ask(name, 21.0) for name in ("fourth", "first", "second")]
    assert server.retention.order(21.0) == [third, requests[2], requests[1], requests[0]]


@pytest.mark.parametrize("literal", [False, True])
def test_the_two_readings_of_the_deadlock_rule(literal: bool, new_server) -> None:
    server = new_server(Continuum(literal=literal))
    server.turns(("one", 0.0, 10.0, 4000), ("two", 1.0, 10.0, 4000), ("over", 2.0, 3.0, 500))
    runs, waits = server.run("busy", 10.0), server.ask("new", 10.1)
    assert server.given_up(waits, 500, 10.1) == [("over", 500)]
    taken = [("over", 500), ("two", 4000), ("one", 1)]
    assert server.given_up(waits, 4501, 10.1) == (taken if literal else [])
    # One that runs already takes from pins before it is put back.
    assert server.given_up(runs, 4501, 10.1) == taken
    server.retention.cancel(runs, 10.2)
    assert server.given_up(waits, 4501, 10.2) == taken


def test_the_code_pins_for_two_seconds_or_not_at_all(new_server) -> None:
    server = new_server(ContinuumCode())
    server.turn("one", 0.0, 10.0, tokens=100)  # A tool that was never seen.
    assert deadline(server, "one") == 12
    server.state.pauses.observe("bash", 1.0)
    server.state.pauses.observe("bash", 3.0)
    server.turn("two", 10.0, 10.0, tokens=100)
    assert deadline(server, "two") == 12
    server.state.pauses.observe("bash", 2.3)
    server.turn("three", 10.0, 10.0, tokens=100)
    assert not server.protected("three", 10.0)


def test_in_the_code_the_pin_that_ends_last_goes_first_when_one_request_runs(new_server) -> None:
    server = new_server(ContinuumCode())
    server.turns(*((name, 0.0, 10.0 + number / 10, 100) for number, name in enumerate(("one", "two", "three"))))
    server.run("a", 11.0)
    b, waits = server.run("b", 11.0), server.ask("new", 11.0)
    assert server.given_up(waits, 150, 11.0) == []
    server.retention.cancel(b, 11.0)
    assert server.given_up(waits, 150, 11.0) == [("three", 100), ("two", 50)]
    assert server.retention.order(11.0) == [waits]
    back = server.ask("three", 11.5)
    assert server.retention.order(11.5) == [back, waits]
