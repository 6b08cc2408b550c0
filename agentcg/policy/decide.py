# SPDX-License-Identifier: Apache-2.0
"""From what a call declared, what calls like it needed before, and what is left to give: its limits, and why.

Pure: the same input gives the same limits. To amend a running call is to decide again with
``merge(amendment, its intent)``; whether it already uses more than the new maximum is for the caller to look at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from agentcg.errors import InvalidInput
from agentcg.model import MAX_BYTES, Budget, CpuClass, History, Intent, Limits
from agentcg.policy.budget import PAGE
from agentcg.policy.intent import merge
from agentcg.policy.match import classify
from agentcg.policy.schema import LIMIT_FLOOR, CallClass, Policy
from agentcg.units import format_duration, format_rate, format_size

__all__ = ["Decision", "decide"]

_WEIGHTS: dict[CpuClass, int] = {"interactive": 400, "normal": 100, "batch": 25}
_WEIGHT_MAX = 10_000  # cpu.weight and io.weight
_GROWTH = 1.5  # From what a call expects, or was killed at, to its wall.


@dataclass(frozen=True, slots=True)
class Decision:
    """The limits of one call."""

    call_class: str
    limits: Limits
    notes: list[str]
    """A sentence for everything in which the limits differ from what was declared."""
    reasons: dict[str, str]
    """For every field of :class:`Limits`, where it comes from."""


def decide(
    policy: Policy,
    *,
    tool: str,
    command: str,
    intent: Intent,
    history: History | None,
    budget: Budget,
    capacity: int | None,
    protected: bool = False,
    hint: Intent | None = None,
) -> Decision:
    """Return the limits of a call.

    :param command: shell text, as :func:`agentcg.model.validate_command` returns it
    :param hint: what AGENT_RESOURCE_HINT said; ``intent`` wins over it
    :param budget: the session's, from :func:`agentcg.policy.budget.budget_for`
    :param capacity: the memory of the machine in bytes, or ``None`` if unknown
    :param protected: the session's memory is reserved
    :raises InvalidInput: if the budget is so small that nothing could run in it
    """
    least = min((size for size in (budget.memory_max, capacity) if size is not None), default=None)
    if least is not None and least < LIMIT_FLOOR:
        raise InvalidInput(
            "budget.memoryMax",
            f"{format_size(least)} is too small for anything to run",
            hint=f"give the session at least {format_size(LIMIT_FLOOR)}",
        )
    name, _ = classify(policy, tool, command)
    case = _Case(policy, policy.classes[name], intent, merge(intent, hint or Intent()), history, budget, capacity)
    memory_max = _memory_max(case)
    memory_high = _memory_high(case, memory_max.value)
    chosen = {
        "memory_low": _memory_low(case, memory_high.value, protected),
        "memory_high": memory_high,
        "memory_max": memory_max,
        "swap_max": _swap_max(case),
        "pids_max": _pids_max(case),
        "cpu_weight": _weight(case, "cpu_class", case.call_class.cpu),
        "cpu_cores": _cpu_cores(case),
        "io_weight": _weight(case, "io_class", case.call_class.io),
        "duration_max_sec": _duration_max(case),
        "network_rate": _network_rate(case),
    }
    return Decision(
        call_class=name,
        limits=Limits(**{field: choice.value for field, choice in chosen.items()}),
        notes=[choice.note for choice in chosen.values() if choice.note],
        reasons={field: choice.reason for field, choice in chosen.items()},
    )


@dataclass(frozen=True, slots=True)
class _Choice:
    value: Any
    reason: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class _Case:
    policy: Policy
    call_class: CallClass
    intent: Intent
    asked: Intent
    """The intent with the hint under it."""
    history: History | None
    budget: Budget
    capacity: int | None

    @property
    def by_class(self) -> str:
        return f"class {self.call_class.name!r}"

    @property
    def believed(self) -> History | None:
        """The history, if it is long enough to tell a peak."""
        history = self.history
        enough = history and history.n >= self.policy.history.min_calls and history.memory_peak_p95
        return history if enough else None

    def by(self, field: str) -> str:
        return "the intent" if getattr(self.intent, field) is not None else "the hint"


def _limited(
    what: str,
    choice: _Choice,
    declared: float | None,
    ceilings: Sequence[tuple[float | None, str]],
    shown: Callable[[float], str],
) -> _Choice:
    """Lower a choice to every ceiling, and note it if less than what was declared is left."""
    value, whose = choice.value, ""
    for ceiling, owner in ceilings:
        if ceiling is not None and (value is None or value > ceiling):
            value, whose = ceiling, owner
    if not whose:
        return choice
    note = (
        f"{what}: {shown(declared)} declared, {shown(value)} given: {whose} allows no more"
        if (declared is not None and value < declared)
        else ""
    )
    return _Choice(value, f"{choice.reason}, limited to what {whose} allows", note)


def _memory_max(case: _Case) -> _Choice:
    asked = case.asked
    declared = asked.memory_max if asked.memory_max is not None else asked.memory_expected
    choice = _limited(
        "memory",
        _memory_wanted(case),
        declared,
        (
            (case.call_class.memory_cap, case.by_class),
            (case.budget.memory_max, "the session's budget"),
            (case.capacity, "the memory of the machine"),
        ),
        format_size,
    )
    if choice.value is None:
        return choice
    if choice.value < LIMIT_FLOOR:
        note = f"memory: {format_size(declared)} declared, {format_size(LIMIT_FLOOR)} given: nothing can run in less"
        return _Choice(LIMIT_FLOOR, f"{choice.reason}, raised to the least that anything can run in", note)
    return replace(choice, value=choice.value - choice.value % PAGE)


def _memory_wanted(case: _Case) -> _Choice:
    asked, history, default = case.asked, case.history, case.call_class.memory_max
    if asked.memory_max is not None:
        return _Choice(asked.memory_max, f"declared by {case.by('memory_max')}")
    if (expected := asked.memory_expected) is not None:
        by = case.by("memory_expected")
        return _Choice(_scaled(expected, _GROWTH), f"{_GROWTH:g} times the {format_size(expected)} that {by} expects")
    if default is None:
        return _Choice(None, f"{case.by_class} has no limit of its own")
    best = _Choice(default, f"the default of {case.by_class}")
    if past := case.believed:
        margin = case.policy.history.margin
        usual = _scaled(past.memory_peak_p95 or 0, margin)
        if usual > best.value:
            reason = f"{margin:g} times the 95th percentile of {past.n} past peaks, {format_size(past.memory_peak_p95)}"
            best = _Choice(usual, reason)
    if history and history.memory_limit_hits and history.memory_peak_max:
        # One is enough: that call was killed for want of memory, whatever is usual.
        more = _scaled(history.memory_peak_max, _GROWTH)
        if more > best.value:
            peak = format_size(history.memory_peak_max)
            best = _Choice(more, f"{_GROWTH:g} times the {peak} at which a past call was killed by its limit")
    return best


def _memory_high(case: _Case, memory_max: int | None) -> _Choice:
    if memory_max is None:
        return _Choice(None, "there is no memory_max to stay below")
    headroom = case.call_class.headroom
    high, reason = int(memory_max * headroom), f"{headroom:.0%} of memory_max, the headroom of {case.by_class}"
    return _Choice(_pages(min(high, memory_max - PAGE)), reason)


def _memory_low(case: _Case, memory_high: int | None, protected: bool) -> _Choice:
    if not protected:
        return _Choice(None, "the session is not protected")
    if (low := case.asked.memory_expected) is not None:
        reason = f"what {case.by('memory_expected')} expects"
    elif past := case.believed:
        low, reason = past.memory_peak_p95, f"the 95th percentile of {past.n} past peaks"
    elif (low := case.call_class.memory_expected) is not None:
        reason = f"what {case.by_class} expects"
    if not low:
        return _Choice(None, "nothing says what the call will need")
    choice = _limited("reserved memory", _Choice(low, reason), None, ((memory_high, "memory_high"),), format_size)
    return replace(choice, value=_pages(choice.value) or None)


def _swap_max(case: _Case) -> _Choice:
    declared, default = case.asked.swap_max, case.call_class.swap_max
    choice = _declared_or(case, "swap_max", default)
    ceilings = ((default, case.by_class), (case.budget.swap_max, "the session's budget"))
    return _limited("swap", choice, declared, ceilings, format_size)


def _pids_max(case: _Case) -> _Choice:
    choice = _declared_or(case, "pids_max", case.call_class.pids_max)
    ceilings = ((case.budget.pids_max, "the session's budget"),)
    return _limited("processes", choice, case.asked.pids_max, ceilings, "{:.10g}".format)


def _cpu_cores(case: _Case) -> _Choice:
    choice = _declared_or(case, "cpu_cores", case.call_class.cores)
    ceilings = ((case.budget.cpu_cores, "the session's budget"),)
    return _limited("CPU cores", choice, case.asked.cpu_cores, ceilings, "{:.10g}".format)


def _duration_max(case: _Case) -> _Choice:
    call_class = case.call_class
    choice = _declared_or(case, "duration_max_sec", call_class.duration_max)
    ceiling = call_class.duration_cap if call_class.duration_cap is not None else call_class.duration_max
    return _limited("time", choice, case.asked.duration_max_sec, ((ceiling, case.by_class),), format_duration)


def _network_rate(case: _Case) -> _Choice:
    choice = _declared_or(case, "network_rate", case.call_class.network)
    ceilings = ((case.call_class.network, case.by_class),)
    return _limited("network", choice, case.asked.network_rate, ceilings, format_rate)


def _declared_or(case: _Case, field: str, default: float | None) -> _Choice:
    declared = getattr(case.asked, field)
    if declared is not None:
        return _Choice(declared, f"declared by {case.by(field)}")
    if default is None:
        return _Choice(None, f"{case.by_class} has no limit of its own")
    return _Choice(default, f"the default of {case.by_class}")


def _weight(case: _Case, field: str, default: CpuClass) -> _Choice:
    kind: CpuClass = getattr(case.asked, field) or default
    source = case.by(field) if getattr(case.asked, field) else case.by_class
    priority, by_priority = case.call_class.priority, case.by_class
    if case.asked.priority is not None:
        priority, by_priority = case.asked.priority, case.by("priority")
    weight = round(_WEIGHTS[kind] * min(2.0, max(0.2, priority / 50)))
    by = f"both from {source}" if source == by_priority else f"from {source} and from {by_priority}"
    return _Choice(min(max(weight, 1), _WEIGHT_MAX), f"{kind!r} at priority {priority}, {by}")


def _scaled(size: int, factor: float) -> int:
    return min(int(size * factor), MAX_BYTES)


def _pages(size: int) -> int:
    return size - size % PAGE
