# SPDX-License-Identifier: Apache-2.0
"""Tiny servers whose times are computed by hand: a step takes 1 s, and 0.1 s a token, prefilled or decoded."""

import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from agentcg.errors import InvalidInput
from agentcg.kv.policies import POLICIES
from agentcg.kv.policies.pins import FixedTtl
from agentcg.kv.reload import Transfer
from agentcg.kv.simulation.cost import StepCost
from agentcg.kv.simulation.machine import Machine
from agentcg.kv.simulation.pool import Host
from agentcg.kv.simulation.script import Arrival, Script, ToolCall, Turn, arrivals
from agentcg.kv.simulation.simulator import simulate
from agentcg.predict.duration import Predictor

COST = StepCost(base_sec=1.0, prefill_sec=0.1, decode_sec=0.1)


def machine(tokens: int = 10, **options: object) -> Machine:
    return Machine(tokens, COST, **({"chunk_tokens": 100, "block_tokens": 1, "lag_sec": 0.0} | options))  # type: ignore[arg-type]


def once(at: float, name: str, prompt: int, output: int = 1) -> Arrival:
    return Arrival(at, name, Script(name, (Turn(prompt, output),)))


def twice(at: float = 0.0, calls: tuple[ToolCall, ...] = (ToolCall("bash", 10.0),), weight: float = 1.0) -> Arrival:
    """A session that has computed 6 tokens after 2.6 s, and comes back with one more."""
    return Arrival(at, "a", Script("a", (Turn(5, 2, calls=calls), Turn(7, 1, prefix_tokens=6)), weight))


def test_a_prompt_goes_in_chunks_and_its_last_step_gives_the_first_token() -> None:
    outcome = simulate([once(5.0, "a", prompt=10, output=3)], machine(20, chunk_tokens=4), POLICIES["lru"]())
    # Chunks of 4, 4 and 2; two tokens more.
    assert outcome.completion_sec == {"a": pytest.approx(1.4 + 1.4 + 1.2 + 1.1 + 1.1)}
    assert outcome.end_sec == pytest.approx(5 + outcome.busy_sec)


def test_what_is_taken_is_prefilled_again() -> None:
    sessions = [twice(), once(3.0, "b", prompt=6)]
    # b needs 6 of 10 blocks, so a loses 2 of its 6: it has 3 to compute when it is back at 12.6 s, and not 1.
    outcome = simulate(sessions, machine(10), POLICIES["lru"]())
    assert outcome.completion_sec == {"a": pytest.approx(13.9), "b": pytest.approx(1.6)}
    assert (outcome.prefilled_tokens, outcome.ideal_tokens) == (14, 12)
    roomy = simulate(sessions, machine(100), POLICIES["lru"]())
    assert roomy.completion_sec == {"a": pytest.approx(13.7), "b": pytest.approx(1.6)}
    assert (roomy.prefilled_tokens, roomy.ideal_tokens) == (12, 12)


def test_the_last_token_of_an_answer_is_computed_with_what_follows_it() -> None:
    script = Script("a", (Turn(5, 2), Turn(8, 2, prefix_tokens=7)))
    # Of 7 tokens that were sent and answered 6 are computed; the second turn needs 9 with the first token it answers.
    outcome = simulate([Arrival(0.0, "a", script)], machine(9), POLICIES["lru"]())
    assert (outcome.prefilled_tokens, outcome.ideal_tokens) == (7, 7)


def test_only_full_blocks_are_found_again() -> None:
    # Of 6 tokens, 4 are in a full block of four.
    assert simulate([twice()], machine(100, block_tokens=4), POLICIES["lru"]()).prefilled_tokens == 5 + 3


def test_what_is_taken_comes_back_from_the_host() -> None:
    outcome = simulate([twice(), once(3.0, "b", 6)], machine(host=Host(100, Transfer(1, 1.0))), POLICIES["lru"]())
    # Two tokens in two seconds, then one to compute.
    assert outcome.completion_sec["a"] == pytest.approx(12.6 + 2 + 1.1)
    assert (outcome.prefilled_tokens, outcome.loaded_tokens) == (12, 2)


def test_every_turn_is_told_of_as_it_was_served() -> None:
    outcome = simulate([twice(), once(3.0, "b", prompt=6)], machine(10), POLICIES["lru"]())
    assert outcome.turns == len(outcome.served) == 3
    assert [(each.session, each.turn, each.cached_tokens) for each in outcome.served] == [
        ("a", 0, 0),
        ("b", 0, 0),
        ("a", 1, 4),
    ]
    times = [(each.arrived_sec, each.ended_sec) for each in outcome.served]
    assert times == [pytest.approx(both) for both in ((0.0, 2.6), (3.0, 4.6), (12.6, 13.9))]


def test_who_does_not_fit_waits_for_who_runs() -> None:
    outcome = simulate([once(0.0, "a", 6, 2), once(1.0, "b", 5)], machine(), POLICIES["lru"]())
    assert outcome.completion_sec == {"a": pytest.approx(2.7), "b": pytest.approx(2.7 + 1.5 - 1.0)}


def test_who_does_not_fit_is_asked_about_again_as_time_passes() -> None:
    sessions = [twice(), once(3.0, "b", 1, 3), once(3.5, "c", 3)]
    # a is kept until 4.6 s; b runs from 3 s on in steps of 1.1 s. So c begins at 5.2 s, beside the last step of b.
    outcome = simulate(sessions, machine(), FixedTtl(2.0))
    assert outcome.completion_sec["c"] == pytest.approx(5.2 + 1.4 - 3.5)
    # With a longer pin it waits until b is over, and may then take it: nobody runs.
    assert simulate(sessions, machine(), FixedTtl(9.0)).completion_sec["c"] == pytest.approx(6.3 + 1.3 - 3.5)


def test_calls_of_two_sessions_share_the_cpus_by_weight() -> None:
    calls = (ToolCall("bash", 10.0, cpu_sec=10.0),)
    heavy, light = twice(0.0, calls, weight=3.0), twice(0.0, calls)
    both = [heavy, Arrival(0.0, "b", light.script)]
    outcome = simulate(both, machine(100, cpus=1.0), POLICIES["lru"]())
    # One step for both prompts, 2 s, and one for both second tokens, 1.2 s. Then three quarters of a CPU and one.
    back = 2.0 + 1.2
    assert outcome.completion_sec["a"] == pytest.approx(back + 10 / 0.75 + 1.1)
    assert outcome.completion_sec["b"] == pytest.approx(back + 20 + 1.1)


def test_a_summary_shares_nothing_with_what_was_there() -> None:
    script = Script("a", (Turn(8, 1), Turn(3, 1, prefix_tokens=0)))
    assert simulate([Arrival(0.0, "a", script)], machine(), POLICIES["lru"]()).prefilled_tokens == 11


def test_what_all_prompts_begin_with_is_neither_computed_nor_held() -> None:
    outcome = simulate([once(0.0, "a", prompt=1004)], machine(10, shared_tokens=1000), POLICIES["lru"]())
    assert outcome.prefilled_tokens == 4


def test_a_session_that_does_not_fit_alone_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"b: its context takes 11 tokens, the pool has 10"):
        simulate([once(0.0, "b", 11)], machine(10), POLICIES["lru"]())


def test_what_an_engine_is_not_told_is_over_stays_until_it_is_taken() -> None:
    sessions = [once(0.0, "b", 5), twice(2.0), once(6.0, "c", 3)]
    told = simulate(sessions, machine(13), POLICIES["lru"]())
    assert told.prefilled_tokens == told.ideal_tokens
    # b's 5 are the least recently used: they go for c and for a's second turn, and a keeps its own.
    untold = simulate(sessions, machine(13), POLICIES["lru"](), knows_last=False)
    assert untold.prefilled_tokens == untold.ideal_tokens
    crowded = simulate([twice(), once(3.0, "b", 3), once(6.0, "c", 3)], machine(), POLICIES["lru"](), knows_last=False)
    assert crowded.prefilled_tokens > crowded.ideal_tokens


def test_a_slot_is_taken_whole() -> None:
    sessions = [twice(), once(3.0, "b", prompt=6), once(5.0, "c", prompt=3)]
    pool = simulate(sessions, machine(20), POLICIES["lru"](), knows_last=False)
    assert (pool.prefilled_tokens, pool.ideal_tokens) == (15, 15)
    # a's slot was used before b's: c gets it, and a has all 7 to compute when it is back at 12.6 s.
    slots = simulate(sessions, machine(20, slots=2), POLICIES["lru"](), knows_last=False)
    assert (slots.prefilled_tokens, slots.ideal_tokens) == (21, 15)
    assert slots.completion_sec == {"a": pytest.approx(14.3), "b": pytest.approx(1.6), "c": pytest.approx(1.3)}
    # Whoever is told that b is over has its slot for c.
    assert simulate(sessions, machine(20, slots=2), POLICIES["lru"]()).prefilled_tokens == 15


def test_a_slot_that_is_worth_something_is_taken_after_what_it_costs_to_have_it_back() -> None:
    outcome = simulate([twice(), once(3.0, "b", 6)], machine(10, slots=1), POLICIES["soft_pins"]())
    # Of a 6 tokens are there, each 0.11 s; nothing runs.
    assert outcome.completion_sec["b"] == pytest.approx(6 * 0.11 + 1.6)
    assert [each.cached_tokens for each in outcome.served] == [0, 0, 0]


def test_slots_and_what_they_cannot_have_are_refused() -> None:
    with pytest.raises(InvalidInput, match=r"b: its context takes 6 tokens, the slot has 5"):
        simulate([once(0.0, "b", 6)], machine(10, slots=2), POLICIES["lru"]())
    with pytest.raises(InvalidInput, match=r"slots: they have blocks of one token"):
        simulate([once(0.0, "b", 3)], machine(16, slots=2, block_tokens=4), POLICIES["lru"]())


CALL = some.builds(
    ToolCall, some.sampled_from(["bash", "web"]), some.floats(0.0, 30.0), some.floats(0.0, 30.0), some.just("x")
)


@some.composite
def scripts(draw: some.DrawFn) -> Script:
    turns: list[Turn] = []
    for _ in range(draw(some.integers(1, 4))):
        before = turns[-1].prompt_tokens + turns[-1].output_tokens if turns else 0
        prompt = min(30, before + draw(some.integers(1, 6)))
        prefix = draw(some.sampled_from([0, min(before, prompt)]))
        turns.append(Turn(prompt, draw(some.integers(1, 4)), prefix, tuple(draw(some.lists(CALL, max_size=2)))))
    return Script("s", tuple(turns))


SCRIPTS = some.lists(scripts(), min_size=1, max_size=6)


@pytest.mark.parametrize("name", POLICIES)
@settings(max_examples=10, deadline=None)
@given(drawn=SCRIPTS, tokens=some.sampled_from([40, 60, 10_000]), predicted=some.booleans())
def test_nothing_is_lost(name: str, drawn: Sequence[Script], tokens: int, predicted: bool) -> None:
    sessions = arrivals(drawn, len(drawn), 0.5, seed=1)
    outcome = simulate(sessions, machine(tokens, cpus=2.0), POLICIES[name](), Predictor() if predicted else None)
    assert outcome.completion_sec.keys() == {each.session for each in sessions}
    assert outcome.turns == sum(len(each.turns) for each in drawn)
    assert outcome.busy_sec <= outcome.end_sec
    # Every token is computed once, and more than that only where something was taken.
    if tokens == 10_000:
        assert outcome.prefilled_tokens == outcome.ideal_tokens
    else:
        assert outcome.prefilled_tokens >= outcome.ideal_tokens
    # So too where it has three slots.
    slots = simulate(sessions, machine(120, slots=3, cpus=2.0), POLICIES[name]())
    assert slots.completion_sec.keys() == {each.session for each in sessions}
    assert slots.prefilled_tokens >= slots.ideal_tokens


@settings(max_examples=10, deadline=None)
@given(script=scripts())
def test_a_session_alone_takes_what_its_steps_and_calls_take(script: Script) -> None:
    outcome = simulate([Arrival(3.0, "a", script)], machine(100, cpus=math.inf), POLICIES["lru"]())
    calls = sum(max((call.wall_sec for call in turn.calls), default=0.0) for turn in script.turns[:-1])
    assert outcome.completion_sec["a"] == pytest.approx(outcome.busy_sec + calls)
    steps = sum(turn.output_tokens for turn in script.turns)
    tokens = outcome.ideal_tokens + sum(turn.output_tokens - 1 for turn in script.turns)
    assert outcome.busy_sec == pytest.approx(steps + 0.1 * tokens)


def long(turns: int) -> Script:
    return Script(
        "s", tuple(Turn(10 + 5 * k, 4, 9 + 5 * k if k else 0, (ToolCall("bash", 3.0),)) for k in range(turns))
    )


@pytest.mark.parametrize("name", POLICIES)
def test_the_same_seed_gives_the_same_outcome(name: str) -> None:
    def run(seed: int) -> object:
        return simulate(arrivals([long(5), long(8)], 12, 0.05, seed), machine(120), POLICIES[name](), Predictor())

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_the_work_grows_as_the_turns_do() -> None:
    def events(sessions: int, tokens: int) -> int:
        big = Script(
            "s", tuple(Turn(turn.prompt_tokens * tokens, turn.output_tokens * tokens) for turn in long(10).turns)
        )
        return simulate(arrivals([big], sessions, 1e-4, 1), machine(10**9), POLICIES["soft_pins"]()).events

    assert events(80, 1) == pytest.approx(2 * events(40, 1), rel=0.1)
    # A turn of a thousand times as many tokens is one or two looks at a formula more.
    assert events(40, 1000) < 4 * events(40, 1)
