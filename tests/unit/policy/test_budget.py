# SPDX-License-Identifier: Apache-2.0
import pytest

from agentcg.errors import InvalidInput
from agentcg.model import Budget
from agentcg.policy.budget import budget_for
from agentcg.policy.schema import PolicyBudget, Share

GIB = 1 << 30


def test_shares_are_of_what_is_above():
    tenant, notes = budget_for(PolicyBudget(memory=Share(0.5), pids=100), None, 8 * GIB)
    assert (tenant.memory_max, tenant.swap_max, tenant.pids_max, notes) == (4 * GIB, 0, 100, [])
    session, _ = budget_for(PolicyBudget(memory=Share(0.25), swap=GIB, pids=200), None, tenant)
    assert (session.memory_max, session.swap_max, session.pids_max) == (GIB, 0, 100)


def test_a_share_of_the_unknown_is_no_limit_and_says_so():
    budget, notes = budget_for(PolicyBudget(memory=Share(0.5)), None, None)
    assert budget.memory_max is None
    assert "unknown" in notes[0]


def test_a_request_may_lower_but_not_raise():
    policy = PolicyBudget(memory=4 * GIB, pids=100, cpu_weight=200, cpu_cores=2)
    low = Budget(memory_max=GIB, pids_max=10, cpu_weight=50, cpu_cores=0.5)
    assert budget_for(policy, low, 8 * GIB) == (low, [])
    given, notes = budget_for(policy, Budget(None, 9 * GIB, GIB, 4_000_000, 10_000, 8), Budget(memory_max=2 * GIB))
    assert given == Budget(None, 2 * GIB, 0, 100, 200, 2)
    assert notes == [
        "memory: 9.0 GiB requested, 2.0 GiB given",
        "swap: 1.0 GiB requested, 0 B given",
        "processes: 4000000 requested, 100 given",
        "CPU weight: 10000 requested, 200 given",
        "CPU cores: 8 requested, 2 given",
    ]


def test_a_request_without_a_weight_gets_the_policys():
    assert budget_for(PolicyBudget(cpu_weight=50), Budget(memory_max=GIB), None)[0].cpu_weight == 50


def test_a_budget_in_which_nothing_can_run_is_refused():
    with pytest.raises(InvalidInput, match=r"^budget\.memoryMax: 1\.0 MiB is too small"):
        budget_for(PolicyBudget(), Budget(memory_max=1 << 20), GIB)
    with pytest.raises(InvalidInput, match=r"^budget\.pidsMax: "):
        budget_for(PolicyBudget(), Budget(pids_max=0), GIB)


def test_what_is_between_two_pages_is_no_shortfall():
    assert budget_for(PolicyBudget(), Budget(memory_max=GIB + 5), None) == (Budget(memory_max=GIB), [])


def test_what_is_expected_is_no_limit():
    given, notes = budget_for(PolicyBudget(), Budget(memory_expected=GIB), 4 * GIB)
    assert (given.memory_expected, given.memory_max, notes) == (GIB, 4 * GIB, [])
    with pytest.raises(InvalidInput, match=r"^budget\.memoryExpected: 0 is not between"):
        budget_for(PolicyBudget(), Budget(memory_expected=0), None)


def test_no_more_is_expected_than_is_given():
    given, _ = budget_for(PolicyBudget(memory=GIB), Budget(memory_expected=2 * GIB), 4 * GIB)
    assert given.memory_expected == GIB
