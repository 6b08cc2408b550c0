# SPDX-License-Identifier: Apache-2.0
"""What a set of recorded sessions came to: each figure over its sessions, and over all their calls."""

from __future__ import annotations

import dataclasses
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from agentcg.policy.match import classify
from agentcg.policy.schema import Policy
from agentcg.trace.model import RecordedCall, Recording
from agentcg.trace.stats import SessionFigures, session_figures, spread

__all__ = ["Summary"]

_OF_SESSIONS = ("duration_sec", "calls", "tool_share")
_OF_MEMORY = (
    *("sampled_sec", "peak", "mean", "peak_over_mean", "steps_per_min", "largest_rise", "largest_fall"),
    *("cpu_sec", "cpu_mean", "cpu_p95"),
)
_SHELLS = frozenset({"bash", "execute_bash", "sh", "shell", "terminal"})  # As runtimes call it, in lower case.


class Summary:
    """Takes recordings one by one, and keeps figures of them.

    :param policy: whose classes the shell's commands are put into
    """

    def __init__(self, policy: Policy) -> None:
        self.sessions: list[SessionFigures] = []
        self._policy = policy
        self._durations: dict[str, list[float]] = {}  # By tool.
        self._seconds: dict[str, list[float]] = {}  # By class.
        self._rises: dict[str, list[float]] = {}
        self._exit_codes: Counter[int] = Counter()

    def add(self, recording: Recording) -> None:
        self.sessions.append(session_figures(recording))
        for call, rise in _rises(recording):
            if call.exit_code is not None:
                self._exit_codes[call.exit_code] += 1
            if not call.end_estimated:
                self._durations.setdefault(call.tool, []).append(call.duration_sec)
            if call.tool.lower() in _SHELLS:
                name, _ = classify(self._policy, call.tool, call.command)
                self._seconds.setdefault(name, []).extend([] if call.end_estimated else [call.duration_sec])
                self._rises.setdefault(name, []).extend([] if rise is None else [rise])

    def to_dict(self) -> dict[str, Any]:
        """Return all of it, ready for JSON: bytes, seconds, shares of 1, CPU seconds per second; None is not known."""
        memory = [session.memory for session in self.sessions if session.memory]
        figures = {name: _spread(getattr(session, name) for session in self.sessions) for name in _OF_SESSIONS}
        figures |= {name: _spread(getattr(item, name) for item in memory) for name in _OF_MEMORY}
        return {
            "sessions": [dataclasses.asdict(session) for session in self.sessions],
            "figures": figures,
            "pooled": self._pooled(),
            "calls": self._calls(),
            "tools": [
                {"tool": tool, "duration_sec": _spread(durations)} for tool, durations in _longest(self._durations)
            ],
            "classes": self._classes(),
        }

    def _pooled(self) -> dict[str, float | None]:
        memory = [session.memory for session in self.sessions if session.memory]
        steps = sum(item.steps for item in memory)
        settled_sec = sum(item.settled_sec for item in memory)
        return {
            "sampled_sec": sum(item.sampled_sec for item in memory),
            "samples": sum(item.samples for item in memory),
            "steps": steps,
            "steps_in_calls": _ratio(sum(item.steps_in_calls for item in memory), steps),
            "settled_steps_per_min": _ratio(60 * sum(item.settled_steps for item in memory), settled_sec),
            "tool_share": self._share(lambda session: session.tool_sec),
            "own_tool_share": self._share(lambda session: session.own_tool_sec),
        }

    def _share(self, part: Callable[[SessionFigures], float | None]) -> float | None:
        timed = [session for session in self.sessions if session.duration_sec]
        whole = sum(session.duration_sec or 0.0 for session in timed)
        return _ratio(sum(part(session) or 0.0 for session in timed), whole)

    def _calls(self) -> dict[str, Any]:
        durations = [duration for found in self._durations.values() for duration in found]
        none, one, more = (sum(session.samples_in_calls[at] for session in self.sessions) for at in range(3))
        return {
            "n": sum(session.calls for session in self.sessions),
            "estimated": sum(session.estimated for session in self.sessions),
            "overlaps": sum(session.overlaps for session in self.sessions),
            "duration_sec": _spread(durations),
            "under_100_ms": _ratio(sum(duration < 0.1 for duration in durations), len(durations)),
            "under_1_sec": _ratio(sum(duration < 1 for duration in durations), len(durations)),
            "over_10_sec": _ratio(sum(duration > 10 for duration in durations), len(durations)),
            "over_60_sec": _ratio(sum(duration > 60 for duration in durations), len(durations)),
            "without_sample": _ratio(none, none + one + more),
            "with_one_sample": _ratio(one, none + one + more),
            "exit_codes": {str(code): count for code, count in self._exit_codes.most_common()},
        }

    def _classes(self) -> list[dict[str, Any]]:
        total = sum(map(sum, self._seconds.values()))
        return [
            {
                "class": name,
                "n": len(durations),
                "share_of_sec": _ratio(sum(durations), total),
                "memory_rise": _spread(self._rises[name]),
            }
            for name, durations in _longest(self._seconds)
        ]


def _rises(recording: Recording) -> Iterator[tuple[RecordedCall, float | None]]:
    """Each call, and how far memory rose in it above the sample before; None if there is no sample in it, or before."""
    samples = recording.session_samples
    times = [sample.t_sec for sample in samples]
    for call in recording.calls:
        first, end = bisect_right(times, call.start_sec), bisect_right(times, call.end_sec)
        inside = [sample.memory_bytes for sample in samples[first:end]]
        yield call, max(inside) - samples[first - 1].memory_bytes if first and inside else None


def _longest(found: dict[str, list[float]]) -> list[tuple[str, list[float]]]:
    return sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _spread(values: Iterable[float | None]) -> dict[str, Any] | None:
    found = spread(values)
    return None if found is None else dataclasses.asdict(found)
