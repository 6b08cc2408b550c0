# SPDX-License-Identifier: Apache-2.0
"""How engines are compared with simulated ones: on simulated ones that differ by what is known, and on a real one."""

from dataclasses import replace
from math import inf
from pathlib import Path

import pytest
from benches import kv_engines, kv_engines_llamacpp, kv_engines_work
from benches.harness import Stage
from benches.kv_engines import METRICS, compare
from benches.kv_engines_work import FEW, TURNS, Group, Scale, fit

from agentcg.kv.policies import POLICIES
from agentcg.kv.simulation.cost import StepCost
from agentcg.kv.simulation.machine import Machine, Served
from agentcg.kv.simulation.script import Arrival, Script, ToolCall, Turn
from agentcg.kv.simulation.simulator import simulate

COST = StepCost(base_sec=2e-3, prefill_sec=1e-3, decode_sec=5e-4, attention_sec=1e-7, read_sec=2e-7)
MACHINE = Machine(2560, COST, 256, 32, cpus=inf, lag_sec=0.0, ask_sec=0.01)


def session(number: int, at: float) -> Arrival:
    turns: list[Turn] = []
    left = 0
    for turn in range(TURNS):
        prompt = left + 150 + 13 * number
        turns.append(Turn(prompt, 5 + turn, left, (ToolCall("Bash", 0.4 + 0.1 * number),)))
        left = prompt + 5 + turn
    return Arrival(at, f"{number}", Script(f"{number}", tuple(turns)))


SESSIONS = [session(number, 0.3 * number) for number in range(4)]


def served(machine: Machine = MACHINE) -> list[Served]:
    return simulate(SESSIONS, machine, POLICIES["lru"](), knows_last=False, signals=False).served


def test_what_is_the_same_is_found_to_be_the_same() -> None:
    found = compare(SESSIONS, served(), served(), 32)
    assert found.metrics.keys() == METRICS.keys()
    assert found.metrics["turns"] == 4 * TURNS
    assert found.metrics["lost_turns"] == 3
    assert found.metrics["cached_equal_share"] == found.metrics["within_15_percent_share"] == 1
    assert found.metrics["latency_over_simulated"] == found.metrics["prefilled_over_simulated"] == 1
    assert found.differences == []


def test_an_engine_that_is_slower_is_found_to_be_slower() -> None:
    found = compare(SESSIONS, served(replace(MACHINE, cost=replace(COST, prefill_sec=1.1e-3))), served(), 32)
    assert 1.02 < found.metrics["latency_over_simulated"] < 1.15


def test_a_turn_that_has_found_something_else_is_told_of() -> None:
    real = served()
    real[7] = replace(real[7], cached_tokens=real[7].cached_tokens + 32)
    found = compare(SESSIONS, real, served(), 32)
    assert found.metrics["cached_equal_share"] == pytest.approx(1 - 1 / (4 * TURNS))
    (told,) = found.differences
    assert told.startswith(f"turn {real[7].turn} of {real[7].session}: {real[7].cached_tokens} tokens cached, ")
    assert told.endswith("simulated: not explained")


def test_turns_that_changed_places_are_named() -> None:
    found = compare(SESSIONS, served(replace(MACHINE, cost=replace(COST, prefill_sec=3e-3))), served(), 32)
    assert found.metrics["cached_equal_share"] < 1
    assert "turns had changed places, at last: the " in found.differences[0]


def test_costs_are_what_the_groups_took() -> None:
    groups = [
        Group(requests, kv_engines_work._sec(COST, Group(requests, 0.0), 256))
        for requests in (
            ((0, 500, 1),),
            ((0, 100, 12),),
            ((320, 60, 20),),
            ((900, 30, 4), (200, 90, 15)),
            ((600, 40, 9), (300, 200, 20), (1000, 20, 12)),
            ((0, 1000, 1),),
        )
    ]
    found = fit(groups, 256)
    for name in ("base_sec", "prefill_sec", "decode_sec", "attention_sec", "read_sec"):
        assert getattr(found, name) == pytest.approx(getattr(COST, name), rel=1e-3)
    # What would be below 0 is nothing.
    assert min(vars_of(fit([*groups, Group(((0, 2000, 1),), 0.01)], 256))) >= 0


def vars_of(cost: StepCost) -> list[float]:
    return [cost.base_sec, cost.prefill_sec, cost.decode_sec, cost.attention_sec, cost.read_sec]


def test_recordings_are_made_small() -> None:
    call = ToolCall("Bash", 50.0)
    turns = [Turn(13_000 + 1000 * k, 400, 12_400 + 1000 * k if k else 0, (call,)) for k in range(9)]
    scale = Scale(tokens=1 / 100, answers=1 / 40, sec=0.1, context=300, many=2)
    small = kv_engines_work._small("a", Script("a", tuple(turns)), scale)
    assert small is not None
    assert [turn.prompt_tokens for turn in small.turns] == [130, 150, 170, 190, 210]
    assert [turn.prefix_tokens for turn in small.turns] == [0, 140, 160, 180, 200]
    # At most 20 s, and a second for the agent.
    assert [turn.calls[0].wall_sec for turn in small.turns] == [pytest.approx(2.1)] * TURNS
    assert kv_engines_work._small("a", Script("a", tuple(turns)), replace(scale, context=200)) is None
    summarised = [*turns[:6], Turn(14_000, 400), *turns[7:]]
    summarised[7] = replace(summarised[7], prefix_tokens=14_400)
    assert kv_engines_work._small("a", Script("a", tuple(summarised)), scale) is None


@pytest.mark.parametrize("policy", kv_engines.KEPT)
def test_a_round_on_a_real_server(policy: str, random_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = [replace(each, at_sec=each.at_sec + (each is not SESSIONS[0]) * FEW) for each in SESSIONS]
    scale = Scale(tokens=1, answers=1, sec=1, context=2048, many=2)
    monkeypatch.setattr(kv_engines_llamacpp, "find_model", lambda: random_model)
    monkeypatch.setattr(kv_engines_llamacpp, "SCALE", scale)
    monkeypatch.setattr(kv_engines_work, "TOKENS", range(3, 250))  # It knows no others.
    monkeypatch.setattr(kv_engines, "work", lambda seed, scale: sessions)
    with Stage() as stage:
        found = kv_engines._repeat("llamacpp", policy, 1, stage)
    assert found.keys() == METRICS.keys()
    assert found["turns"] == 4 * TURNS
    assert found["cached_equal_share"] > 0.5
    assert 0.2 < found["latency_over_simulated"] < 5
