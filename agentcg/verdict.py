# SPDX-License-Identifier: Apache-2.0
"""How a call ended, from its cgroup's own counters, and what its agent should do differently.

An exit status of 137 proves nothing: any program may be sent SIGKILL, and a shell reports its child's end as its own.
Only ``oom_kill`` of the call's memory.events says that the OOM killer was there, and only ``oom`` (the limit that ran
out was this cgroup's own) tells the call's limit from a limit further up (cgroup-v2.rst, "memory.events").
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from agentcg.model import Intent, Limits, Outcome, ToolCall, Usage, Verdict
from agentcg.units import format_duration, format_size

__all__ = ["Ending", "advise", "judge", "one_line"]

NOTICEABLE_STALL_SEC = 0.5
"""Below this, a call that was slowed down is not told so: its agent has nothing to gain from knowing."""
NOTICEABLE_STALL_SHARE = 0.05

# Half as much again, in whole steps of 64 MiB: the next try should not die of the same peak.
_ROOM = 1.5
_STEP = 64 << 20


@dataclass(frozen=True, slots=True)
class Ending:
    """What is known about the end of a call besides its counters."""

    ended: float
    exit_code: int | None = None
    signal: int | None = None
    timed_out: bool = False
    reason: str = ""
    """Why agentcg or an operator ended it; empty if nobody did."""


def judge(call: ToolCall, usage: Usage, ending: Ending) -> Verdict:
    """Return the verdict on a call that is over."""
    throttled = _throttled(usage)
    verdict = Verdict(
        ref=call.ref,
        outcome=_outcome(usage, ending),
        usage=usage,
        limits=call.limits,
        started=call.started,
        ended=ending.ended,
        tool=call.tool,
        command=call.command,
        call_class=call.call_class,
        exit_code=ending.exit_code,
        signal=ending.signal,
        reason=ending.reason,
        throttled=throttled,
    )
    return replace(verdict, advice=advise(verdict, call.intent))


def _outcome(usage: Usage, ending: Ending) -> Outcome:
    failed = bool(ending.exit_code) or ending.signal is not None
    if usage.oom_kills:
        return "memory_limit" if usage.memory_oom_events else "oom_killed"
    if ending.timed_out:
        return "timed_out"
    if ending.reason:
        return "killed"
    if usage.pids_limit_events and (failed or ending.exit_code is None):
        return "pids_limit"
    if ending.signal is not None:
        return "signal"
    if ending.exit_code is None:
        return "unknown"
    return "exit_status" if ending.exit_code else "ok"


def _throttled(usage: Usage) -> bool:
    held = max(usage.memory_stall_sec or 0.0 if usage.memory_high_events else 0.0, usage.cpu_throttled_sec or 0.0)
    return held >= NOTICEABLE_STALL_SEC and held >= NOTICEABLE_STALL_SHARE * usage.duration_sec


def advise(verdict: Verdict, intent: Intent) -> str:
    """Return a few plain sentences on ``verdict`` for the agent, or an empty string.

    :param intent: what the call declared
    """
    shown = one_line(verdict.command or verdict.tool or "the call", 60)
    name = "`" + shown.replace("`", "'") + "`"
    advice = _advise_on_outcome(name, verdict, intent)
    if not verdict.usage.refusals:
        return advice
    return f"{advice} It {_refused(verdict.usage)}" if advice else f"{name} {_refused(verdict.usage)}"


def _refused(usage: Usage) -> str:
    attempts = "1 attempt" if usage.refusals == 1 else f"{usage.refusals} attempts"
    return (
        f"was refused {attempts} to leave its call or to act on what is outside; "
        "all that a call starts stays in it, so do the work there."
    )


def _no_forks(name: str, usage: Usage, limits: Limits) -> str:
    return f"{name} was refused new processes {_times(usage.pids_limit_events)} at its limit of {limits.pids_max}"


def _times(number: int | None) -> str:
    return "once" if number == 1 else f"{number} times"


def _advise_on_outcome(name: str, verdict: Verdict, intent: Intent) -> str:
    usage, limits = verdict.usage, verdict.limits
    match verdict.outcome:
        case "memory_limit":
            wall = format_size(limits.memory_max)
            after = _after_stall(usage)
            return f"{name} was stopped at its memory limit of {wall}{after}; {_need(usage, limits)}."
        case "oom_killed":
            used = f" while using {format_size(usage.memory_peak)}" if usage.memory_peak else ""
            return (
                f"{name} was ended{used} because memory ran out above it, in its session or in what all sessions "
                "share, not at its own limit. Run it again, with fewer calls at the same time."
            )
        case "timed_out":
            return (
                f"{name} was stopped after {format_duration(limits.duration_max_sec)}, its longest allowed duration; "
                "run a smaller part of the work, or declare a longer duration."
            )
        case "pids_limit":
            return f"{_no_forks(name, usage, limits)}; run fewer workers or ask for more pids."
        case "killed":
            return f"{name} was ended: {verdict.reason}."
        case "exit_status" | "signal" if usage.network_refused:
            refused = f"{name} tried to use the network and was refused {_times(usage.network_refused)}"
            if intent.network_rate == 0:
                return f"{refused}: it had declared that it would not. Do without, or declare nothing of the kind."
            return f"{refused}: the policy allows none to class {verdict.call_class!r}. Do without."
    if usage.pids_limit_events:
        return f"{_no_forks(name, usage, limits)}."
    if verdict.throttled:
        return _throttle_advice(name, usage, limits)
    return ""


def _after_stall(usage: Usage) -> str:
    if (usage.memory_stall_sec or 0.0) < 0.1:
        return ""
    return f" after being slowed down there for {format_duration(usage.memory_stall_sec)}"


def _need(usage: Usage, limits: Limits) -> str:
    peak = max(usage.memory_peak or 0, limits.memory_max or 0)
    wanted = -(-round(peak * _ROOM) // _STEP) * _STEP
    return f"run fewer workers or a smaller part of the work, or ask for {format_size(wanted)}"


def _throttle_advice(name: str, usage: Usage, limits: Limits) -> str:
    memory = usage.memory_stall_sec or 0.0 if usage.memory_high_events else 0.0
    cpu = usage.cpu_throttled_sec or 0.0
    if memory >= cpu:
        return (
            f"{name} was slowed down for {format_duration(memory)} at {format_size(limits.memory_high)} of memory; "
            f"{_need(usage, limits)}."
        )
    return (
        f"{name} was held to {limits.cpu_cores} CPU cores and waited {format_duration(cpu)} for them; "
        "run fewer workers or ask for more cores."
    )


def one_line(text: str, limit: int) -> str:
    """Return ``text`` without control characters, in one line of at most ``limit`` characters."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
