# SPDX-License-Identifier: Apache-2.0
"""The plainest policies, by hand."""

from agentcg.kv.policies.base import Lru, ProgramLru


def test_lru_takes_what_was_used_least_recently_and_serves_who_came_first(new_server) -> None:
    server = new_server(Lru())
    server.turns(("one", 0.0, 9.0, 1000), ("two", 1.0, 2.0, 1000), ("three", 2.0, 5.0, 1000))
    four, one = server.ask("four", 10.0), server.ask("one", 11.0)
    assert server.retention.order(11.0) == [four, one]
    assert [name for name, _ in server.given_up(four, 3000, 11.0)] == ["two", "three", "one"]


def test_by_program_the_session_that_came_first_is_served_first(new_server) -> None:
    server = new_server(ProgramLru())
    server.turns(("older", 0.0, 5.0, 1000), ("old", 1.0, 2.0, 1000))
    new, old, older = (server.ask(name, 10.0 + number) for number, name in enumerate(("new", "old", "older")))
    assert server.retention.order(20.0) == [older, old, new]
