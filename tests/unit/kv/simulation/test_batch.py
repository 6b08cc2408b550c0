# SPDX-License-Identifier: Apache-2.0
"""Many steps at once are what they are one by one."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from agentcg.kv.simulation.batch import Batch, Sequence
from agentcg.kv.simulation.cost import A100_LLAMA_8B, StepCost, Steps

COST = StepCost(1.0, 0.01, 0.02, 0.0001, 0.0002)


def test_equal_steps_are_summed() -> None:
    steps = Steps(2.0, 0.5)
    assert [steps.sec(count) for count in (0, 1, 2, 3)] == [0, 2, 4.5, 7.5]
    assert [steps.count_until(sec) for sec in (0.0, 2.0, 2.1, 4.5, 4.6, 7.5)] == [1, 1, 2, 2, 3, 3]
    assert Steps(2.0).count_until(5.0) == 3
    assert steps.count_until(math.inf) == math.inf


def test_the_budget_is_shared_by_the_first_who_started() -> None:
    batch = Batch(StepCost(1.0, 0.0, 0.0), chunk_tokens=10)
    first, second, third = (Sequence(name, 0, 6, 2) for name in "abc")
    for each in (first, second, third):
        batch.add(each)
    assert batch.advance(math.inf) == (1.0, [])
    assert [each.prefill_tokens for each in (first, second, third)] == [0, 2, 6]
    # Of nine tokens beside the first one's second, eight are needed.
    assert batch.advance(math.inf) == (1.0, [first])
    assert [each.prefill_tokens for each in (second, third)] == [0, 0]


def test_prompts_in_lower_slots_go_first() -> None:
    batch = Batch(StepCost(1.0, 0.0, 0.0), chunk_tokens=10)
    second, first = Sequence("b", 0, 12, 2, slot=1), Sequence("a", 0, 12, 2, slot=0)
    batch.add(second)
    batch.advance(math.inf)
    batch.add(first)
    batch.advance(math.inf)
    assert (first.prefill_tokens, second.prefill_tokens) == (2, 2)


SIZES = some.tuples(some.integers(0, 500), some.integers(1, 300), some.integers(1, 40))


@settings(max_examples=200, deadline=None)
@given(sizes=some.lists(SIZES, min_size=1, max_size=5), chunk=some.integers(1, 64))
def test_steps_at_once_are_the_steps_one_by_one(sizes: list[tuple[int, int, int]], chunk: int) -> None:
    def serve(limit_sec: float) -> tuple[list[tuple[str, float]], int]:
        batch, now, ends = Batch(COST, chunk), 0.0, []
        for number, size in enumerate(sizes):
            batch.add(Sequence(str(number), *size))
        while batch:
            took, done = batch.advance(limit_sec)
            now += took
            ends += [(each.request, pytest.approx(now)) for each in done]
        return ends, batch.prefilled_tokens

    assert serve(math.inf) == serve(0.0)
    assert serve(0.0)[1] == sum(prefill for _, prefill, _ in sizes)


def test_a_context_alone_takes_what_its_reload_says() -> None:
    batch, tokens = Batch(A100_LLAMA_8B, 2048), 20 * 2048
    batch.add(Sequence("a", 12_000, tokens, 1))
    took = 0.0
    while batch:
        took += batch.advance(math.inf)[0]
    assert took == pytest.approx(A100_LLAMA_8B.reload(2048, before_tokens=12_000).sec(tokens))
