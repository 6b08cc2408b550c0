# SPDX-License-Identifier: Apache-2.0
"""Shares of CPUs for the calls of paused sessions, by hand-computed cases."""

import pytest

from agentcg.kv.policies import POLICIES
from agentcg.kv.simulation.cost import StepCost
from agentcg.kv.simulation.machine import Machine, Outcome
from agentcg.kv.simulation.script import Arrival, Script, ToolCall, Turn
from agentcg.kv.simulation.shares import CpuShares, Rule, by_cache, shortest_first
from agentcg.kv.simulation.simulator import simulate
from agentcg.predict.duration import Predictor

COST = StepCost(base_sec=1.0, prefill_sec=0.1, decode_sec=0.1)


def test_urgent_is_who_holds_much_and_is_soon_back() -> None:
    held = {"a": 0.4, "b": 0.4, "c": 0.2, "agent": 0.9}
    assert by_cache({"a": 2.0, "b": 4.0, "c": 1.0}, held, 1.0) == {"a": 1.0, "b": 0.5, "c": 1.0}
    assert by_cache({"a": 2.0}, held, 0.0) == {}


def test_without_caches_it_is_who_is_soon_back() -> None:
    assert shortest_first({"a": 2.0, "b": 4.0, "c": 100.0}, {"c": 1.0}, 0.0) == {"a": 1.0, "b": 0.5}


def test_what_a_call_still_needs_follows_what_it_has_done() -> None:
    predictor = Predictor()
    for _ in range(100):
        predictor.observe(("bash", "long", "s"), 90.0)
        predictor.observe(("bash", "short", "s"), 3.0)
    shares = CpuShares(shortest_first, predictor)
    for index, words in enumerate(("long", "short")):
        shares.began(f"s{index}", 0, ("bash", words, "s"))
    # A second factor comes in steps of a sixth: 3 s over 90 s is none of them.
    assert shares.factors([(("s0", 0), 0.0), (("s1", 0), 0.0)], {}, 0.0) == {"s0": 1.0, "s1": 4.0}
    later = shares.factors([(("s0", 0), 87.0), (("s1", 0), 0.0)], {}, 0.0)
    assert later["s0"] > 2.5
    shares.ended("s1", 0, ("bash", "short", "s"), 3.0)
    assert set(shares.factors([(("s0", 0), 0.0)], {}, 0.0)) == {"s0"}


def _scarce(rule: Rule | None, *, waits: bool) -> Outcome:
    """Two sessions on one CPU: the call of a needs 10 s of it, that of b 40 s. Both keep 6 tokens of 30. From 6 s on d
    runs for 12 s, and, if c ``waits``, that wants more room than there is beside it."""

    def session(name: str, at: float, cpu_sec: float) -> Arrival:
        turns = (Turn(5, 2, calls=(ToolCall(name, cpu_sec, cpu_sec),)), Turn(7, 1, prefix_tokens=6))
        return Arrival(at, name, Script(name, turns))

    predictor = Predictor()
    for name, sec in (("a", 10.0), ("b", 40.0)):
        for _ in range(100):
            predictor.observe((name, "", name), sec)
    last = [
        Arrival(6.0, "d", Script("d", (Turn(1, 10),))),
        Arrival(6.1, "c", Script("c", (Turn(9 if waits else 1, 1),))),
    ]
    shares = CpuShares(rule, predictor) if rule else None
    machine = Machine(30, COST, chunk_tokens=100, block_tokens=1, lag_sec=0.0, cpus=1.0)
    sessions = [session("b", 0.0, 40.0), session("a", 0.0, 10.0), *last]
    return simulate(sessions, machine, POLICIES["evict_latest"](), shares=shares)


@pytest.mark.parametrize("rule", [shortest_first, by_cache])
def test_who_is_soon_back_is_back_sooner_and_nobody_stands_still(rule: Rule) -> None:
    equal, weighed = _scarce(None, waits=True), _scarce(rule, waits=True)
    assert weighed.completion_sec["a"] < equal.completion_sec["a"] - 1
    assert weighed.completion_sec["b"] == pytest.approx(equal.completion_sec["b"], abs=3.0)
    assert weighed.turns == equal.turns == 6


def test_while_nobody_waits_caches_make_no_difference() -> None:
    assert _scarce(by_cache, waits=False).completion_sec == pytest.approx(_scarce(None, waits=False).completion_sec)
