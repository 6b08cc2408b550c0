# SPDX-License-Identifier: Apache-2.0
"""Pins by hand: who is protected, until when, from whom."""

import pytest

from agentcg.kv.policies.pins import EvictLatest, FixedTtl, InferCept, SkiRental
from agentcg.kv.reload import Transfer


def test_the_latest_session_gives_way_to_an_earlier_one_and_to_no_later_one(new_server) -> None:
    server = new_server(EvictLatest())
    server.turns(*((name, number, 9.0, 100) for number, name in enumerate(("one", "two", "three"))))
    server.run("busy", 9.0)
    assert server.given_up(server.ask("four", 10.0), 1, 10.0) == []
    assert server.given_up(server.ask("two", 10.0), 100, 10.0) == [("three", 100)]
    assert server.given_up(server.ask("two", 10.0), 150, 10.0) == []
    assert server.given_up(server.ask("one", 10.0), 150, 10.0) == [("three", 100), ("two", 50)]


def test_a_fixed_time_to_live_ends_but_not_for_one_that_is_back(new_server) -> None:
    server = new_server(FixedTtl(8.0))
    server.turns(("one", 0.0, 10.0, 1000), ("two", 0.0, 10.0, 1000))
    server.ask("two", 17.0)
    assert server.protected("one", 18.0)
    assert not server.protected("one", 18.1)
    assert server.protected("two", 500.0)
    server.ask("one", 19.0)
    assert not server.protected("one", 19.0)


def test_ski_rental_keeps_for_as_long_as_the_reload_takes(new_server) -> None:
    server = new_server(SkiRental())
    server.turns(("small", 0.0, 10.0, 2000), ("large", 0.0, 10.0, 5000))
    assert server.protected("small", 11.9)
    assert not server.protected("small", 12.0)
    assert server.protected("large", 14.9)
    assert not server.protected("large", 15.0)
    server.ask("large", 30.0)
    assert server.protected("large", 99.0)


def test_ski_rental_keeps_longer_where_queues_are_long(new_server) -> None:
    server = new_server(SkiRental())
    server.turn("one", 0.0, 10.0, tokens=2000)
    server.state.delay.observe(6.0)
    for turns in (2, 3):  # η = 0.5
        server.state.turns.observe(turns)
    assert server.protected("one", 14.9)
    assert not server.protected("one", 15.1)


def test_of_what_ski_rental_gives_up_the_most_overdue_goes_first(new_server) -> None:
    server = new_server(SkiRental())
    server.turns(("a", 0.0, 10.0, 2000), ("b", 0.0, 11.0, 9000), ("c", 0.0, 12.0, 1000), ("d", 0.0, 13.0, 1000))
    server.ask("d", 13.0)
    # At 13: overdue by 1 s, 7 s left, due now, back. Nothing runs, so that all may be taken.
    request = server.ask("e", 13.0)
    assert [name for name, _ in server.given_up(request, 13_000, 13.0)] == ["a", "c", "d", "b"]


@pytest.mark.parametrize(
    ("policy", "until"),
    [
        # 1000 tokens take 1 s; 3000 more stand still with them: 1 x 4000 / 1000 s.
        (InferCept(), 4.0),
        # 0.1 s either way, in which 3000 tokens stand still: 2 x 0.1 x 3000 / 1000 s.
        (InferCept(Transfer(10, 100_000.0)), 0.6),
    ],
)
def test_infercept_keeps_while_that_wastes_least(policy: InferCept, until: float, new_server) -> None:
    server = new_server(policy)
    server.turn("one", 0.0, 10.0, tokens=1000)
    server.run("other", 10.0, tokens=3000)
    assert server.protected("one", 10.0 + until - 0.01)
    assert not server.protected("one", 10.0 + until + 0.01)
    server.ask("one", 50.0)
    assert server.protected("one", 50.0)
