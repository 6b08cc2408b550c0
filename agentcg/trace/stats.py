# SPDX-License-Identifier: Apache-2.0
"""What recorded sessions came to: lengths, memory, CPU time, and what their tool calls took.

Nothing is made up: a figure that a recording has no samples or no clock for is None, and does not count in a set.
Percentiles are interpolated between the two values beside them.
"""

from __future__ import annotations

import statistics
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from agentcg.trace.model import RecordedCall, Recording, Sample

__all__ = ["STEP_BYTES", "MemoryFigures", "SessionFigures", "Spread", "covered", "session_figures", "spread"]

STEP_BYTES = 50_000_000
"""A change between two samples that counts as a step."""

_START_SEC, _END_SEC = 10.0, 5.0  # What is not settled of a session: the agent starts, the container ends.


@dataclass(frozen=True, slots=True)
class Spread:
    """Values in short."""

    n: int
    p50: float
    p95: float
    p99: float
    max: float


def spread(values: Iterable[float | None]) -> Spread | None:
    """Return the values that are known in short; None if there are none."""
    known = sorted(value for value in values if value is not None)
    if not known:
        return None
    cuts = statistics.quantiles(known, n=100, method="inclusive") if len(known) > 1 else known * 99
    return Spread(len(known), cuts[49], cuts[94], cuts[98], known[-1])


@dataclass(frozen=True, slots=True)
class MemoryFigures:
    """What the samples of a session say."""

    sampled_sec: float
    samples: int
    peak: int
    """Bytes, as all that follow."""
    mean: float
    largest_rise: int
    """Between two samples."""
    largest_fall: int
    steps: int
    """Changes of at least :data:`STEP_BYTES` between two samples."""
    steps_in_calls: int
    """Those that a call ran in."""
    settled_steps: int
    """Those not in the first ten and the last five seconds of the samples."""
    settled_sec: float
    cpu_sec: float
    cpu_mean: float | None
    """CPU seconds per second, as the next."""
    cpu_p95: float | None
    """Between two samples."""

    @property
    def peak_over_mean(self) -> float | None:
        return self.peak / self.mean if self.mean else None

    @property
    def steps_per_min(self) -> float | None:
        return self.steps / self.sampled_sec * 60 if self.sampled_sec else None


@dataclass(frozen=True, slots=True)
class SessionFigures:
    """One recording in short."""

    name: str
    calls: int
    estimated: int
    """Calls of which it is not known how long they took."""
    duration_sec: float | None
    """None if times are not known."""
    tool_sec: float | None
    """The time in which at least one call ran. Where calls are estimated, the most that it can have been."""
    own_tool_sec: float | None
    """The same without sub-agents and the web, which wait for somebody else's machine."""
    overlaps: int
    """Calls that began before the one before had ended."""
    samples_in_calls: tuple[int, int, int]
    """How many calls contain no sample, one, and more."""
    memory: MemoryFigures | None
    """None without samples."""

    @property
    def tool_share(self) -> float | None:
        """Of the session's time."""
        return None if self.tool_sec is None or not self.duration_sec else self.tool_sec / self.duration_sec


_WEB_TOOLS = frozenset({"WebFetch", "WebSearch"})


def session_figures(recording: Recording) -> SessionFigures:
    """Return what one session came to."""
    timed = recording.timing == "clock"
    ordered = sorted(recording.calls, key=lambda call: call.start_sec)
    times = [sample.t_sec for sample in recording.session_samples]
    inside = [bisect_right(times, call.end_sec) - bisect_left(times, call.start_sec) for call in ordered if times]
    own = [call for call in ordered if call.kind == "tool" and call.tool not in _WEB_TOOLS]
    return SessionFigures(
        name=recording.name,
        calls=len(ordered),
        estimated=sum(call.end_estimated for call in ordered),
        duration_sec=recording.duration_sec if timed else None,
        tool_sec=covered(ordered) if timed else None,
        own_tool_sec=covered(own) if timed else None,
        overlaps=sum(after.start_sec < before.end_sec for before, after in pairwise(ordered)) if timed else 0,
        samples_in_calls=(inside.count(0), inside.count(1), sum(count > 1 for count in inside)),
        memory=_memory(recording.session_samples, ordered) if times else None,
    )


def covered(calls: Sequence[RecordedCall]) -> float:
    """Return the seconds in which at least one of ``calls``, in the order they began, ran."""
    total, until = 0.0, 0.0
    for call in calls:
        total += max(0.0, call.end_sec - max(call.start_sec, until))
        until = max(until, call.end_sec)
    return total


def _memory(samples: Sequence[Sample], calls: Sequence[RecordedCall]) -> MemoryFigures:
    levels = [sample.memory_bytes for sample in samples]
    changes = [after - before for before, after in pairwise(levels)]
    steps = [pair for pair, change in zip(pairwise(samples), changes, strict=True) if abs(change) >= STEP_BYTES]
    begin, end = samples[0].t_sec + _START_SEC, samples[-1].t_sec - _END_SEC
    settled = [sample for sample in samples if begin <= sample.t_sec <= end]
    rates = spread(
        (after.cpu_sec - before.cpu_sec) / (after.t_sec - before.t_sec) for before, after in pairwise(samples)
    )
    length = samples[-1].t_sec - samples[0].t_sec
    return MemoryFigures(
        sampled_sec=length,
        samples=len(samples),
        peak=max(levels),
        mean=statistics.fmean(levels),
        largest_rise=max([0, *changes]),
        largest_fall=-min([0, *changes]),
        steps=len(steps),
        steps_in_calls=sum(any(_overlaps(call, *pair) for call in calls) for pair in steps),
        settled_steps=sum(
            abs(after.memory_bytes - before.memory_bytes) >= STEP_BYTES for before, after in pairwise(settled)
        ),
        settled_sec=settled[-1].t_sec - settled[0].t_sec if settled else 0.0,
        cpu_sec=samples[-1].cpu_sec,
        cpu_mean=(samples[-1].cpu_sec - samples[0].cpu_sec) / length if length else None,
        cpu_p95=rates.p95 if rates else None,
    )


def _overlaps(call: RecordedCall, before: Sample, after: Sample) -> bool:
    return call.start_sec < after.t_sec and call.end_sec > before.t_sec
