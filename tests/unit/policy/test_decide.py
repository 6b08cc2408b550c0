# SPDX-License-Identifier: Apache-2.0
import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentcg.errors import InvalidInput
from agentcg.model import Budget, History, Intent, Limits
from agentcg.policy.decide import decide
from agentcg.policy.intent import merge
from agentcg.policy.load import load, presets
from agentcg.policy.schema import LIMIT_FLOOR, CallClass, Policy

MIB = 1 << 20
GIB = 1 << 30

CLASS = CallClass(
    memory_expected=256 * MIB, memory_max=GIB, pids_max=100, duration_max=60, duration_cap=600, headroom=0.9
)


def call(intent=None, call_class=CLASS, history=None, budget=None, capacity=None, **more):
    policy = Policy("p", "p.toml", classes={"default": call_class})
    return decide(
        policy,
        tool="Bash",
        command="pytest",
        intent=intent or Intent(),
        history=history,
        budget=budget or Budget(),
        capacity=capacity,
        **more,
    )


def test_nothing_declared_is_the_class():
    decision = call()
    assert decision.call_class == "default"
    assert decision.limits == Limits(
        memory_high=int(0.9 * GIB) // 4096 * 4096,
        memory_max=GIB,
        swap_max=0,
        pids_max=100,
        cpu_weight=100,
        io_weight=100,
        duration_max_sec=60,
    )
    assert decision.notes == []
    assert decision.reasons.keys() == {field.name for field in dataclasses.fields(Limits)}
    assert decision.reasons["memory_max"] == "the default of class 'default'"


def test_what_is_declared_is_given():
    decision = call(
        Intent(memory_max=2 * GIB, pids_max=5, cpu_class="interactive", cpu_cores=1.5, duration_max_sec=300)
    )
    assert decision.limits.memory_max == 2 * GIB
    assert (decision.limits.pids_max, decision.limits.cpu_cores, decision.limits.duration_max_sec) == (5, 1.5, 300)
    assert (decision.limits.cpu_weight, decision.limits.io_weight) == (400, 100)
    assert decision.notes == []
    assert decision.reasons["memory_max"] == "declared by the intent"


def test_an_expectation_gets_half_as_much_again():
    decision = call(Intent(memory_expected=100 * MIB))
    assert decision.limits.memory_max == 150 * MIB
    assert decision.reasons["memory_max"] == "1.5 times the 100 MiB that the intent expects"


def test_the_intent_wins_over_the_hint_and_each_is_named():
    decision = call(Intent(memory_max=GIB), hint=Intent(memory_max=2 * GIB, pids_max=5))
    assert (decision.limits.memory_max, decision.limits.pids_max) == (GIB, 5)
    assert decision.reasons["memory_max"] == "declared by the intent"
    assert decision.reasons["pids_max"] == "declared by the hint"


def test_what_cannot_be_given_is_noted_with_who_allows_no_more():
    asked = Intent(memory_max=8 * GIB, swap_max=GIB, pids_max=4_000_000, cpu_cores=8, duration_max_sec=3600)
    decision = call(asked, budget=Budget(memory_max=2 * GIB, pids_max=50, cpu_cores=2), capacity=16 * GIB)
    assert decision.limits.memory_max == 2 * GIB
    assert decision.notes == [
        "memory: 8.0 GiB declared, 2.0 GiB given: the session's budget allows no more",
        "swap: 1.0 GiB declared, 0 B given: class 'default' allows no more",
        "processes: 4000000 declared, 50 given: the session's budget allows no more",
        "CPU cores: 8 declared, 2 given: the session's budget allows no more",
        "time: 1 h declared, 10 min given: class 'default' allows no more",
    ]
    assert decision.reasons["memory_max"] == "declared by the intent, limited to what the session's budget allows"


@pytest.mark.parametrize(
    ("declared", "of_class", "given", "note"),
    [
        (None, None, None, []),
        (None, 0, 0, []),
        (0, None, 0, []),
        (0, 5 * MIB, 0, []),
        (MIB, 5 * MIB, MIB, []),
        (9 * MIB, 5 * MIB, 5 * MIB, ["network: 9.0 MiB/s declared, 5.0 MiB/s given: class 'default' allows no more"]),
        (MIB, 0, 0, ["network: 1.0 MiB/s declared, none given: class 'default' allows no more"]),
    ],
)
def test_the_policy_makes_less_of_the_network_that_is_declared_and_never_more(declared, of_class, given, note):
    decision = call(Intent(network_rate=declared), dataclasses.replace(CLASS, network=of_class))
    assert (decision.limits.network_rate, decision.notes) == (given, note)


def test_a_default_that_the_budget_cuts_is_no_note():
    decision = call(budget=Budget(memory_max=512 * MIB))
    assert decision.limits.memory_max == 512 * MIB
    assert decision.notes == []


def test_memory_is_limited_by_the_cap_of_the_class_and_by_the_machine():
    capped = dataclasses.replace(CLASS, memory_cap=2 * GIB)
    assert call(Intent(memory_max=8 * GIB), capped).limits.memory_max == 2 * GIB
    assert call(Intent(memory_max=8 * GIB), capacity=4 * GIB).limits.memory_max == 4 * GIB


def test_too_little_to_run_anything_is_raised_and_noted():
    decision = call(Intent(memory_max=4096))
    assert decision.limits.memory_max == LIMIT_FLOOR
    assert decision.notes == ["memory: 4 KiB declared, 4.0 MiB given: nothing can run in less"]


def test_a_budget_too_small_for_anything_is_refused():
    with pytest.raises(InvalidInput, match=r"give the session at least 4\.0 MiB"):
        call(budget=Budget(memory_max=MIB))


def test_small_history_narrows_nothing():
    # The first full test suite after many runs of one file must not be slowed for being larger than usual.
    small = History(n=50, memory_peak_p95=30 * MIB, memory_peak_max=32 * MIB)
    assert call(history=small).limits == call().limits


def test_large_history_raises_memory_max():
    assert call(history=History(n=5, memory_peak_p95=GIB)).limits.memory_max == 1536 * MIB


def test_one_call_killed_at_its_limit_is_enough_to_ask_for_more():
    decision = call(history=History(n=1, memory_peak_p95=GIB, memory_peak_max=GIB, memory_limit_hits=1))
    assert decision.limits.memory_max == 1536 * MIB
    assert "killed by its limit" in decision.reasons["memory_max"]


def test_a_protected_call_has_what_it_expects_reserved():
    history = History(n=9, memory_peak_p95=100 * MIB)
    assert call(Intent(memory_expected=300 * MIB)).limits.memory_low is None
    assert call(Intent(memory_expected=300 * MIB), history=history, protected=True).limits.memory_low == 300 * MIB
    assert call(history=history, protected=True).limits.memory_low == 100 * MIB
    assert call(protected=True).limits.memory_low == 256 * MIB
    assert call(Intent(memory_expected=MIB + 5), protected=True).limits.memory_low == MIB
    assert call(Intent(memory_expected=1), protected=True).limits.memory_low is None


def test_memory_high_stays_below_memory_max_without_headroom():
    assert call(call_class=dataclasses.replace(CLASS, headroom=1.0)).limits.memory_high == GIB - 4096


@pytest.mark.parametrize(("priority", "weight"), [(0, 80), (10, 80), (50, 400), (75, 600), (100, 800)])
def test_priority_scales_the_weights(priority, weight):
    limits = call(Intent(priority=priority, cpu_class="interactive", io_class="interactive")).limits
    assert (limits.cpu_weight, limits.io_weight) == (weight, weight)


def maybe(strategy):
    return st.none() | strategy


SIZES = st.one_of(st.integers(1, 2**63 - 1), st.integers(1, 64 * MIB), st.integers(1, 63).map(lambda bits: 1 << bits))
KINDS = st.sampled_from(["interactive", "normal", "batch"])
INTENTS = st.builds(
    Intent,
    memory_expected=maybe(SIZES),
    memory_max=maybe(SIZES),
    swap_max=maybe(st.integers(0, 2**63 - 1)),
    cpu_class=maybe(KINDS),
    cpu_cores=maybe(st.floats(0.01, 8192)),
    pids_max=maybe(st.integers(1, 4_194_304)),
    io_class=maybe(KINDS),
    duration_max_sec=maybe(st.floats(0.001, 31_536_000)),
    network_rate=maybe(st.integers(0, 2**63 - 1)),
    priority=maybe(st.integers(0, 100)),
)
BUDGETS = st.builds(
    Budget,
    memory_max=maybe(st.integers(LIMIT_FLOOR, 2**40)),
    swap_max=maybe(st.integers(0, 2**40)),
    pids_max=maybe(st.integers(1, 10_000)),
    cpu_cores=maybe(st.floats(0.01, 64)),
)
HISTORIES = st.builds(
    History,
    n=st.integers(0, 20),
    memory_peak_p95=maybe(SIZES),
    memory_peak_max=maybe(SIZES),
    memory_limit_hits=st.integers(0, 3),
)
OFFLINE = Policy("offline", "offline.toml", classes={"default": CallClass(network=0)})
POLICIES = [load(name) for name in presets()] + [Policy("bare", "bare.toml"), OFFLINE]


@given(
    st.sampled_from(POLICIES), INTENTS, INTENTS, maybe(HISTORIES), BUDGETS, maybe(st.integers(GIB, 2**42)),
    st.booleans(), st.sampled_from(["pytest", "git log", "make", "x", ""]),
)  # fmt: skip
def test_limits_always_hold_together(policy, intent, hint, history, budget, capacity, protected, command):
    decision = decide(
        policy, tool="Bash", command=command, intent=intent, hint=hint, history=history, budget=budget,
        capacity=capacity, protected=protected,
    )  # fmt: skip
    limits, call_class = decision.limits, policy.classes[decision.call_class]
    if limits.memory_max is None:
        assert budget.memory_max is None
        assert limits.memory_high is None
    else:
        assert limits.memory_high is not None
        assert 0 < limits.memory_high < limits.memory_max
        assert LIMIT_FLOOR <= limits.memory_max <= min(budget.memory_max or 2**63, capacity or 2**63)
        assert limits.memory_max % 4096 == limits.memory_high % 4096 == 0
    if limits.memory_low is not None:
        assert protected
        assert 0 < limits.memory_low <= (limits.memory_high or 2**63)
    assert limits.swap_max is not None
    assert 0 <= limits.swap_max <= call_class.swap_max
    assert limits.pids_max is not None
    assert 1 <= limits.pids_max <= (budget.pids_max or 4_194_304)
    assert 1 <= limits.cpu_weight <= 10_000
    assert 1 <= limits.io_weight <= 10_000
    assert budget.cpu_cores is None or limits.cpu_cores is None or limits.cpu_cores <= budget.cpu_cores
    assert call_class.duration_max is None or limits.duration_max_sec > 0
    assert call_class.network is None or limits.network_rate <= call_class.network
    assert all(decision.reasons[field.name] for field in dataclasses.fields(Limits))
    # What an amendment starts from, the declaration as it was kept, comes to the same limits.
    assert limits == decide(
        policy, tool="Bash", command=command, intent=merge(intent, hint), history=history, budget=budget,
        capacity=capacity, protected=protected,
    ).limits  # fmt: skip
