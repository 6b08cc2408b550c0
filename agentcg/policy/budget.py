# SPDX-License-Identifier: Apache-2.0
"""What a tenant or a session may use in all: the policy's word, what was requested, and what is above."""

from __future__ import annotations

from typing import TypeVar

from agentcg.errors import InvalidInput
from agentcg.model import Budget
from agentcg.policy.schema import LIMIT_FLOOR, PolicyBudget, Share
from agentcg.units import format_size

__all__ = ["PAGE", "budget_for"]

PAGE = 4096  # The kernel counts memory in pages; what is written between two of them is rounded down.

_Number = TypeVar("_Number", int, float)


def budget_for(
    policy_budget: PolicyBudget, requested: Budget | None, above: Budget | int | None
) -> tuple[Budget, list[str]]:
    """Return a budget, and a note for everything in which it falls short of what was requested.

    :param policy_budget: what the policy gives, and the most a request may come to
    :param requested: ``None`` in a field of it, or in all: what the policy gives
    :param above: the budget of the cgroup above, or the memory of the machine in bytes, or ``None`` if unknown;
        a share in the policy is of its memory
    :raises InvalidInput: if less memory is requested, or is left, than anything can run in
    """
    if not isinstance(above, Budget):
        above = Budget(memory_max=above, swap_max=None)
    if requested is None:
        requested = Budget(swap_max=None)
    requested.validate()
    # A weight cannot be left out of a Budget: the ordinary one is no request.
    weight = None if requested.cpu_weight == Budget().cpu_weight else requested.cpu_weight

    memory, notes = policy_budget.memory, []
    if isinstance(memory, Share):
        if above.memory_max is None:
            notes.append("memory: the policy gives a share of what is above, which is unknown: it is not limited")
            memory = None
        else:
            memory = int(above.memory_max * memory.fraction)
    memory = _least(requested.memory_max, memory, above.memory_max)
    if memory is not None:
        memory -= memory % PAGE
        if memory < LIMIT_FLOOR:
            raise InvalidInput(
                "budget.memoryMax",
                f"{format_size(memory)} is too small for anything to run",
                hint=f"it takes at least {format_size(LIMIT_FLOOR)}; ask for more, or give what is above more",
            )
    budget = Budget(
        memory_expected=None if requested.memory_expected is None else _least(requested.memory_expected, memory),
        memory_max=memory,
        swap_max=_least(requested.swap_max, policy_budget.swap, above.swap_max),
        pids_max=_least(requested.pids_max, policy_budget.pids, above.pids_max),
        # A share against siblings, so it has nothing to do with the weight above.
        cpu_weight=policy_budget.cpu_weight if weight is None else min(weight, policy_budget.cpu_weight),
        cpu_cores=_least(requested.cpu_cores, policy_budget.cpu_cores, above.cpu_cores),
    )
    if requested.memory_max is not None and memory is not None and memory <= requested.memory_max - PAGE:
        notes.append(f"memory: {format_size(requested.memory_max)} requested, {format_size(memory)} given")
    if requested.swap_max is not None and budget.swap_max != requested.swap_max:
        notes.append(f"swap: {format_size(requested.swap_max)} requested, {format_size(budget.swap_max)} given")
    for what, asked, given in (
        ("processes", requested.pids_max, budget.pids_max),
        ("CPU weight", weight, budget.cpu_weight),
        ("CPU cores", requested.cpu_cores, budget.cpu_cores),
    ):
        if asked is not None and given != asked:
            notes.append(f"{what}: {asked:.10g} requested, {given:.10g} given")
    return budget, notes


def _least(*values: _Number | None) -> _Number | None:
    return min((value for value in values if value is not None), default=None)
