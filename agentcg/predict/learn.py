# SPDX-License-Identifier: Apache-2.0
"""What a predictor is taught by: verdicts and recordings."""

from __future__ import annotations

from agentcg.model import Outcome, Usage, Verdict
from agentcg.policy.match import command_key
from agentcg.predict.duration import Path, Predictor
from agentcg.trace.demand import demand
from agentcg.trace.model import Recording

__all__ = ["call_path", "learn_recording", "learn_verdict", "peaks_of", "progress_sec"]

_OWN_ENDS: frozenset[Outcome] = frozenset({"ok", "exit_status", "signal", "memory_limit", "timed_out", "pids_limit"})
"""A call that somebody else ended says nothing about how long it would have run. One that its own limits ended will
be ended by them again."""


def call_path(tool: str, command: str, session: str) -> Path:
    """Return the path under which a call is remembered: its tool, the words that say what it does, its session."""
    return tool, command_key(tool, command), session


def progress_sec(usage: Usage) -> float:
    """Return how long a call was let run: its duration without the time it was frozen or throttled, in seconds.

    The kernel adds up a cgroup's throttled time over CPUs (``throttle_cfs_rq`` in kernel/sched/fair.c), so a call on
    four CPUs is throttled for up to four seconds a second. A CPU that works for the call is either running it or
    withheld, so it kept at least (cpu + throttled) / wall CPUs, and each of them was withheld for that part of the sum.
    """
    wall = max(0.0, usage.duration_sec - (usage.frozen_sec or 0.0))
    throttled = usage.cpu_throttled_sec or 0.0
    if not wall or not throttled:
        return wall
    cpus = max(1.0, (throttled + (usage.cpu_sec or 0.0)) / wall)
    return max(0.0, wall - throttled / cpus)


def learn_verdict(predictor: Predictor, verdict: Verdict) -> None:
    """Teach what a call came to, if it came to its own end."""
    if verdict.outcome in _OWN_ENDS:
        path = call_path(verdict.tool, verdict.command, str(verdict.ref.session))
        predictor.observe(path, progress_sec(verdict.usage), verdict.usage.memory_peak)


def learn_recording(predictor: Predictor, recording: Recording) -> None:
    """Teach the calls of a session, in the order they ended. An end that was not recorded is not learned."""
    peaks = peaks_of(recording)
    for call in sorted(recording.calls, key=lambda call: call.end_sec):
        if not call.end_estimated:
            path = call_path(call.tool, call.command, recording.name)
            predictor.observe(path, call.duration_sec, peaks.get(call.id))


def peaks_of(recording: Recording) -> dict[str, int]:
    """Return what each call held at most, in bytes, where the recording has samples (docs/recordings.md)."""
    if not recording.session_samples:
        return {}
    return {item.call.id: round(item.memory.peak) for item in demand(recording).calls}
