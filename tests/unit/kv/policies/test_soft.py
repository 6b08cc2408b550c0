# SPDX-License-Identifier: Apache-2.0
"""Soft pins by hand. Whatever counts as time here passes while somebody waits."""

import pytest

from agentcg.kv.policies.soft import Clairvoyant, SoftPins
from agentcg.predict.distribution import Distribution


def certain(sec: float) -> Distribution:
    return Distribution((sec,), (1.0,), 0.0, 1.0)


@pytest.fixture
def server(new_server):
    """Two sessions pause at 10, B = 4 s and 8 s, one runs, and a new one waits from then on."""
    found = new_server(SoftPins())
    found.turns(("one", 0.0, 10.0, 4000), ("two", 1.0, 10.0, 8000))
    found.runs = found.run("busy", 10.0, tokens=100)
    found.waits = found.ask("new", 10.0)
    return found


def value(server, session: str, at: float) -> float:
    return server.policy.value(server.state, server.state.sessions[session], at)


def test_of_what_nothing_is_known_it_is_ski_rental(server) -> None:
    assert (value(server, "one", 10.0), value(server, "one", 13.0), value(server, "one", 14.0)) == (4, 1, 0)
    assert not server.protected("one", 14.0)
    assert server.given_up(server.waits, 100, 13.0) == []
    assert server.given_up(server.waits, 100, 14.0) == [("one", 100)]


def test_keeping_costs_nothing_while_nobody_waits(server) -> None:
    server.retention.cancel(server.waits, 11.0)
    assert value(server, "one", 1000.0) == 3
    server.ask("newer", 2000.0)
    assert value(server, "one", 2001.0) == 2


def test_a_short_call_is_kept_beyond_the_price_and_a_long_one_is_not(server) -> None:
    # One of two calls takes a second, the other 40: 4 x 0.5 - 1 = 1.
    server.call("one", "began", 10.0, Distribution((1.0, 40.0), (0.5, 0.5), 0.0, 1.0))
    assert value(server, "one", 10.0) == 2  # As long as it has not cost half of B, at least B / 2 less that.
    # After two seconds it is the long one, and half of B is spent.
    assert not server.protected("one", 12.0)
    # The other's is expected to end at any moment, and is kept for longer than B.
    server.call("two", "began", 10.0, certain(11.0))
    assert value(server, "two", 20.0) == 7


def test_no_prediction_keeps_it_beyond_twice_the_price(server) -> None:
    server.call("one", "began", 10.0, certain(100.0))
    for second in range(100):
        server.call("one", "revised", 10.0 + second, certain(0.1))
        assert server.protected("one", 10.0 + second) == (second < 8)


def test_the_value_is_asked_again_while_the_call_runs(server) -> None:
    server.call("one", "began", 10.0, certain(30.0))
    assert not server.protected("one", 12.5)
    server.call("one", "revised", 12.5, certain(1.0))
    assert value(server, "one", 12.5) == 3


def test_a_frozen_call_gets_no_nearer_to_its_end(server) -> None:
    server.call("one", "began", 10.0, certain(3.9))
    server.call("one", "frozen", 11.0)
    assert value(server, "one", 13.0) == pytest.approx(1.1)
    server.call("one", "thawed", 13.0)
    assert value(server, "one", 14.0) == pytest.approx(2.1)


def test_when_the_call_is_over_it_is_about_to_be_back(server) -> None:
    server.call("one", "began", 10.0, certain(30.0))
    server.call("one", "ended", 13.0)
    assert value(server, "one", 13.0) == 4
    assert value(server, "one", 16.0) == 1
    # Once in a pause: an agent that begins and ends calls for ever does not hold it for ever.
    server.call("one", "began", 16.0, certain(0.1))
    server.call("one", "ended", 16.1)
    assert not server.protected("one", 17.0)


def test_the_least_loss_goes_first(server) -> None:
    server.call("one", "began", 10.0, certain(1.0))  # 4 - 1 = 3
    server.call("two", "began", 10.0, certain(6.0))  # 8 - 6 = 2, but not less than half of 8
    server.retention.cancel(server.runs, 10.0)
    assert server.given_up(server.waits, 12_000, 10.0) == [("one", 4000), ("two", 8000)]
    assert server.given_up(server.waits, 12_000, 13.0) == [("one", 4000), ("two", 8000)]
    server.call("one", "revised", 13.0, certain(0.1))  # 4 - 0.1, against 8 - 3
    assert server.given_up(server.waits, 5000, 13.0)[0] == ("one", 4000)
    server.call("two", "revised", 13.0, certain(7.0))  # 8 - 7
    assert server.given_up(server.waits, 5000, 13.0)[0] == ("two", 5000)


def test_of_what_is_not_worth_keeping_the_longest_goes_first(server) -> None:
    server.call("one", "began", 10.0, certain(90.0))
    server.call("two", "began", 10.0, certain(60.0))
    assert (value(server, "one", 15.0), value(server, "two", 15.0)) == (4 - 85, 8 - 55)
    assert server.given_up(server.waits, 5000, 15.0) == [("one", 4000), ("two", 1000)]
    # Beyond twice its price not even a promise is worth anything.
    server.call("one", "revised", 19.0, certain(1.0))
    assert value(server, "one", 19.0) == 0


def test_one_that_is_back_takes_from_later_ones_and_a_new_one_from_nobody(server) -> None:
    back = server.ask("one", 10.5, tokens=9000)
    assert server.given_up(server.waits, 100, 10.5) == []
    assert server.given_up(back, 5000, 10.5) == [("two", 5000)]
    later = server.ask("two", 10.5, tokens=9000)
    assert server.given_up(later, 1000, 10.5) == []


def test_one_that_runs_takes_from_all(server) -> None:
    assert server.given_up(server.runs, 12_000, 10.5) == [("one", 4000), ("two", 8000)]


def test_who_has_most_of_its_cache_left_goes_first(server) -> None:
    server.retention.taken("one", 3000, 11.0)
    one, two = server.ask("one", 11.0, tokens=4000), server.ask("two", 11.0, tokens=9000)
    assert server.retention.order(11.0) == [two, one, server.waits]


def test_the_clairvoyant_by_hand(new_server) -> None:
    server = new_server(Clairvoyant())
    returns = {"soon": 12.0, "late": 13.9, "too late": 15.0, "never": None}
    server.turns(*((name, number, 10.0, 4000) for number, name in enumerate(returns)))
    for name, back in returns.items():
        if back is not None:
            server.retention.foretell(name, back)
    server.run("busy", 10.0)
    waits = server.ask("new", 10.0)
    assert [server.protected(name, 10.0) for name in ("soon", "late", "too late", "never")] == [
        True,
        True,
        False,
        False,
    ]
    assert server.given_up(waits, 8000, 10.0) == [("too late", 4000), ("never", 4000)]
    # A second later the third one is worth keeping too.
    assert server.given_up(waits, 8000, 11.5) == []
    patient = new_server(Clairvoyant(patience=3.0))
    patient.turn("one", 0.0, 10.0, tokens=4000)
    patient.retention.foretell("one", 21.9)
    assert patient.protected("one", 10.0)
