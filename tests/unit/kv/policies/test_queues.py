# SPDX-License-Identifier: Apache-2.0
"""Attained service and admission by hand."""

import pytest

from agentcg.kv.policies.queues import MarsAdmission, Plas
from agentcg.kv.state import Load


def test_whoever_was_served_least_is_next(new_server) -> None:
    server = new_server(Plas())
    server.turn("much", 0.0, 9.0)
    server.turn("little", 9.0, 10.0)
    requests = [server.ask(name, 20.0 + number) for number, name in enumerate(("much", "little", "new"))]
    assert server.retention.order(30.0) == [requests[2], requests[1], requests[0]]


def test_a_new_session_waits_while_the_window_is_full(new_server) -> None:
    server = new_server(MarsAdmission(window=2.0, least=1.0))
    server.turn("one", 0.0, 1.0)
    runs = server.run("two", 1.0)
    new, back = server.ask("three", 2.0), server.ask("one", 3.0)
    assert server.retention.order(3.0) == [back]
    server.retention.end(runs, 100, 4.0, last=True)
    assert server.retention.order(4.0) == [back, new]


def test_a_full_window_lets_somebody_in_where_nothing_runs(new_server) -> None:
    server = new_server(MarsAdmission(window=1.0, least=1.0))
    server.turn("never back", 0.0, 1.0)
    first, _ = server.ask("new", 2.0), server.ask("newer", 2.0)
    assert server.retention.order(2.0) == [first]


def test_the_window_by_hand(new_server) -> None:
    server = new_server(MarsAdmission())
    seen = []
    for step, load in enumerate(
        [
            Load(),
            Load(cpu_backlog=2.0),
            Load(cpu_backlog=1.5),  # Between the marks: overloaded still.
            Load(cpu_backlog=1.0, cpu_wait_sec=3.0),  # The wait is between its marks.
            Load(cpu_backlog=1.0, cpu_wait_sec=2.0),
            Load(cpu_backlog=1.5),  # Well still.
            Load(cpu_wait_sec=5.0),
            Load(cache_used=0.9),  # The waiting is over, but the cache is full: down to the least.
        ]
    ):
        server.retention.loaded(load, float(step))
        seen.append(server.policy.window)
    assert seen == pytest.approx([31, 21.7, 15.19, 10.633, 11.633, 12.633, 8.8431, 4])


def test_a_cache_that_fills_draws_the_window_to_its_least(new_server) -> None:
    server = new_server(MarsAdmission(window=23.0))
    server.retention.loaded(Load(cache_used=0.875), 0.0)
    # One more is 24, and halfway from there to 4 is 14.
    assert server.policy.window == pytest.approx(14)


def test_steps_are_at_least_a_fifth_of_a_second_apart(new_server) -> None:
    server = new_server(MarsAdmission())
    for hundredth in range(100):
        server.retention.loaded(Load(), hundredth / 100)
    assert server.policy.window == 35
