# SPDX-License-Identifier: Apache-2.0
"""The simulator of docs/kv.md held against real engines: the same turns on both, one by one.

A round is a seed: some sessions on an engine that has just started. Before them and after them the engine serves other
requests, and on these alone the simulator's costs are fitted. Then it is compared, for each turn, how much of its
prompt was cached, and how long it took from when it was asked for until it was answered.

Turns that find something else than in the simulator are told of in the notes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from math import inf
from statistics import fmean, quantiles
from typing import Literal

from agentcg.kv.policies import POLICIES
from agentcg.kv.simulation.cost import StepCost
from agentcg.kv.simulation.machine import Machine, Served
from agentcg.kv.simulation.script import Arrival, Turn
from agentcg.kv.simulation.simulator import simulate
from benches import kv_engines_llamacpp as llamacpp
from benches import kv_engines_vllm as vllm
from benches.harness import Arm, Bench, Part, Ratio, Repetition, Stage
from benches.kv_engines_work import Scale, calibrate, fit, play, work

__all__ = ["BENCH", "compare"]

KEPT = ("lru", "soft_pins")
"""The policies."""
WITHIN = 0.15
LIMIT_SEC, EXPECTED_SEC = 600.0, 80.0


@dataclass(frozen=True)
class _Round:
    """A round on a real engine, and the machine that is simulated."""

    served: Sequence[Served]
    machine: Machine


def _llamacpp(stage: Stage, policy: str, sessions: Sequence[Arrival], seed: int) -> _Round:
    engine = llamacpp.LlamaEngine(stage, policy)
    chunk_tokens, scale = llamacpp.BATCH_TOKENS, llamacpp.SCALE
    groups = calibrate(engine, scale, f"{seed}, before")
    # The gateway learns it from the server's own times, which are not of this clock.
    reload = fit(groups, chunk_tokens).reload(chunk_tokens)
    engine.begin_anew(reload)
    served = play(engine, sessions, knows_last=policy != "lru")
    engine.begin_anew(reload)
    cost = fit([*groups, *calibrate(engine, scale, f"{seed}, after")], chunk_tokens)
    machine = _machine(llamacpp.SLOTS * scale.context, cost, chunk_tokens)
    return _Round(served, replace(machine, block_tokens=1, slots=llamacpp.SLOTS, ask_sec=0.05))


def _vllm(stage: Stage, policy: str, sessions: Sequence[Arrival], seed: int) -> _Round:
    result = vllm.run(stage, policy, list(sessions), seed)
    cost = fit(result.groups, vllm.STEP_TOKENS)
    # One of its blocks is nobody's.
    machine = _machine((vllm.BLOCKS - 1) * vllm.BLOCK_TOKENS, cost, vllm.STEP_TOKENS)
    return _Round(result.served, replace(machine, block_tokens=vllm.BLOCK_TOKENS, ask_sec=0.01))


def _machine(pool_tokens: int, cost: StepCost, chunk_tokens: int) -> Machine:
    return Machine(pool_tokens, cost, chunk_tokens, cpus=inf, lag_sec=0.0)


ENGINES: dict[str, tuple[Scale, Callable[[Stage, str, Sequence[Arrival], int], _Round]]] = {
    "llamacpp": (llamacpp.SCALE, _llamacpp),
    "vllm": (vllm.SCALE, _vllm),
}
METRICS = {
    "turns": "",
    "lost_turns": "",
    "cached_equal_share": "",
    "prefilled_over_simulated": "",
    "turn_sec": "s",
    "simulated_turn_sec": "s",
    "latency_over_simulated": "",
    "within_15_percent_share": "",
    "turn_ratio_p10": "",
    "turn_ratio_p50": "",
    "turn_ratio_p90": "",
}


def _repeat(engine: str, policy: str, seed: int, stage: Stage) -> Mapping[str, float]:
    scale, run = ENGINES[engine]
    sessions = work(seed, scale)
    with Stage() as own:
        done = run(own, policy, sessions, seed)
    simulated = simulate(sessions, done.machine, POLICIES[policy](), knows_last=policy != "lru", signals=False)
    found = compare(sessions, done.served, simulated.served, done.machine.block_tokens)
    where = f"{policy}.{engine}, round {seed}"
    stage.notes += [f"{where}: {line}" for line in found.differences]
    cost = done.machine.cost
    stage.notes.append(
        f"{where}: a step takes {cost.base_sec * 1e3:.3g} ms, {cost.prefill_sec * 1e3:.3g} ms a token, "
        f"{cost.decode_sec * 1e3:.3g} ms a sequence, {cost.attention_sec * 1e9:.3g} ns a pair of tokens, "
        f"{cost.read_sec * 1e9:.3g} ns a token that is read"
    )
    return found.metrics


@dataclass(frozen=True)
class Comparison:
    """What came of it. ``differences``: a line for each turn that has found something else than was simulated."""

    metrics: Mapping[str, float]
    differences: Sequence[str]


def compare(
    sessions: Sequence[Arrival],
    real: Sequence[Served],
    simulated: Sequence[Served],
    block_tokens: int,
) -> Comparison:
    """Hold what a real engine did against what a simulated one did of the same sessions."""
    turns = {(one.session, number): turn for one in sessions for number, turn in enumerate(one.script.turns)}
    there, here = _by_turn(real), _by_turn(simulated)
    prefilled, expected = (
        sum(turns[turn].prompt_tokens - each.cached_tokens for turn, each in some.items()) for some in (there, here)
    )
    ratios = [_sec(there[turn]) / _sec(here[turn]) for turn in turns]
    tenths = quantiles(ratios, n=10, method="inclusive")
    mean_sec, simulated_sec = (fmean(map(_sec, some)) for some in (real, simulated))
    metrics = {
        "turns": len(turns),
        "lost_turns": sum(
            there[turn].cached_tokens < (each.prefix_tokens - 1) // block_tokens * block_tokens
            for turn, each in turns.items()
        ),
        "cached_equal_share": fmean(there[turn].cached_tokens == here[turn].cached_tokens for turn in turns),
        "prefilled_over_simulated": prefilled / expected,
        "turn_sec": mean_sec,
        "simulated_turn_sec": simulated_sec,
        "latency_over_simulated": mean_sec / simulated_sec,
        "within_15_percent_share": fmean(abs(ratio - 1) <= WITHIN for ratio in ratios),
        "turn_ratio_p10": tenths[0],
        "turn_ratio_p50": tenths[4],
        "turn_ratio_p90": tenths[8],
    }
    return Comparison(metrics, _differences(real, simulated, turns, block_tokens))


def _by_turn(served: Sequence[Served]) -> dict[tuple[str, int], Served]:
    return {(each.session, each.turn): each for each in served}


def _sec(served: Served) -> float:
    return served.ended_sec - served.arrived_sec


def _differences(
    real: Sequence[Served], simulated: Sequence[Served], turns: Mapping[tuple[str, int], Turn], block_tokens: int
) -> list[str]:
    """Return a line for each turn that has found something else, and what is known of why."""
    there, here = _events(real), _events(simulated)
    swapped = [(*one, other[1]) for one, other in zip(there, here, strict=True) if one[1] != other[1]]
    lines: list[str] = []
    expected = _by_turn(simulated)
    for each in sorted(real, key=lambda each: each.arrived_sec):
        other = expected[each.session, each.turn]
        if each.cached_tokens != other.cached_tokens:
            others = [one for one in real if one.arrived_sec < each.arrived_sec < one.ended_sec]
            early = sum(_answer_room(turns[one.session, one.turn], block_tokens) for one in others)
            if before := [(one, another) for at, one, another in swapped if at <= each.arrived_sec]:
                why = "turns had changed places, at last: {} came before {}".format(*before[-1])
            elif 0 < each.cached_tokens - other.cached_tokens <= early:
                why = "the simulator had taken room for others' answers before they were written"
            else:
                why = "it follows from those before, or is not explained" if lines else "not explained"
            found = f"{each.cached_tokens} tokens cached, {other.cached_tokens} simulated"
            lines.append(f"turn {each.turn} of {each.session}: {found}: {why}")
    return lines


def _answer_room(turn: Turn, block_tokens: int) -> int:
    """What a turn takes beyond its prompt, in whole blocks."""
    prompt, all_of_it = (-(-tokens // block_tokens) for tokens in (turn.prompt_tokens, turn.computed_tokens))
    return (all_of_it - prompt) * block_tokens


def _events(served: Sequence[Served]) -> list[tuple[float, str]]:
    """Return when each turn was asked for and answered, in this order."""
    asked = [(each.arrived_sec, f"the question {each.turn} of {each.session}") for each in served]
    return sorted(asked + [(each.ended_sec, f"the answer {each.turn} of {each.session}") for each in served])


def _prepare(engine: str, policy: str, stage: Stage) -> Repetition:
    rounds = count(1)
    return lambda: _repeat(engine, policy, next(rounds), stage)


def _arms(engine: str) -> Sequence[Arm]:
    return [
        Arm(f"{policy}.{engine}", partial(_prepare, engine, policy), limit_sec=LIMIT_SEC, expected_sec=EXPECTED_SEC)
        for policy in KEPT
    ]


def _ratios(arm: str) -> list[Ratio]:
    def of(name: str, metric: str, goal: float | None, *, higher: bool = False) -> Ratio:
        better: Literal["lower", "higher"] = "higher" if higher else "lower"
        return Ratio(f"{name}.{arm}", arm, metric=metric, goal=goal, better=better, summary="mean")

    return [
        of("cached_tokens_equal", "cached_equal_share", 1.0, higher=True),
        of("latency_over_simulated", "latency_over_simulated", 1 + WITHIN),
        of("latency_over_simulated_least", "latency_over_simulated", 1 - WITHIN, higher=True),
        of("turns_within_15_percent", "within_15_percent_share", None, higher=True),
    ]


BENCH = Bench(
    name="kv_engines",
    summary="the simulator of kv held against llama.cpp's server and vLLM (docs/kv.md says what it needs)",
    parts=tuple(Part(engine, partial(_arms, engine), vm=None, quick_sec=25, full_sec=3000) for engine in ENGINES),
    units=METRICS,
    ratios=tuple(ratio for engine in ENGINES for policy in KEPT for ratio in _ratios(f"{policy}.{engine}")),
    n=5,
    quick_n=1,
    warm_up=0,
)
