# SPDX-License-Identifier: Apache-2.0
"""What a replay needs of a recording: who held how much memory and used how much CPU time, the agent or which call.

A recording usually has samples of the whole session only. Between two samples, a rise of memory is given to the tool
calls that ran then, by the time they overlapped; without one it is the agent's. A fall is taken from the calls that
ended there, then from those that run on, then from the agent. What a call still holds when it ends stays behind: it
is handed to the agent. A call with samples of its own keeps those, and the rest is divided as above.

So at each sample the agent's memory and the calls' add up to what was recorded, and between two samples the sum stays
between the two. (Where calls' own samples come to more than the session's, they stand, and the agent holds nothing.)
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from statistics import median

from agentcg.trace.model import RecordedCall, Recording, Sample
from agentcg.trace.profile import Line, Profile

__all__ = ["GROWTH_MAX", "CallDemand", "Demand", "Growth", "demand"]

GROWTH_MAX = 2**30
"""Bytes per second that a call can grow by: about what one CPU can zero. A rise that the calls which ran were too
short to have made is the agent's."""

_BASE_QUANTILE = 0.1


@dataclass(frozen=True, slots=True)
class CallDemand:
    """One tool call. Its profiles run from its start to its end, in session time, and begin at 0."""

    call: RecordedCall
    memory: Profile
    """Bytes."""
    cpu: Profile
    """CPU seconds so far."""

    @property
    def start_sec(self) -> float:
        return self.call.start_sec

    @property
    def duration_sec(self) -> float:
        return self.call.duration_sec

    def memory_at(self, t_sec: float) -> float:
        """Bytes held; nothing before the call and from its end on."""
        return self.memory.at(t_sec) if self.call.start_sec <= t_sec < self.call.end_sec else 0

    def cpu_at(self, t_sec: float) -> float:
        """CPU seconds used so far; they stay used when the call is over."""
        return self.cpu.at(t_sec)


@dataclass(frozen=True, slots=True)
class Growth:
    """The sum of all rises of memory, bytes."""

    total: int
    in_calls: int
    """What calls made while they ran."""
    outlived: int
    """The part of it that calls still held when they ended: the agent's from then on."""


@dataclass(frozen=True, slots=True)
class Demand:
    """A session. Sub-agents' calls are not in it: they are the agent's own demand."""

    calls: tuple[CallDemand, ...]
    agent_memory: Profile
    """Bytes, the base and what calls left behind included."""
    agent_cpu: Profile
    """CPU seconds so far."""
    base_memory: int
    """What the agent idles at, bytes: as recorded, else the lowest tenth of its memory while it made calls."""
    outlived_bytes: int
    """What calls held when they ended and the agent was given, all calls together."""
    duration_sec: float

    def memory_at(self, t_sec: float) -> float:
        """Bytes that the agent and all calls hold together."""
        return self.agent_memory.at(t_sec) + sum(call.memory_at(t_sec) for call in self.calls)

    @property
    def growth(self) -> Growth:
        """How much memory grew from the first call on, and who made it grow."""
        in_calls = round(sum(call.memory.rise for call in self.calls))
        begin = self.calls[0].start_sec if self.calls else 0.0
        points = self.agent_memory.points
        behind = points[bisect_left(points, begin, key=lambda point: point[0]) :]
        agent = round(Profile(((begin, self.agent_memory.at(begin)), *behind)).rise) - self.outlived_bytes
        return Growth(in_calls + max(0, agent), in_calls, self.outlived_bytes)


class _Running:
    """A call without samples of its own, while the samples are walked through."""

    def __init__(self, call: RecordedCall) -> None:
        self.start, self.end = call.start_sec, call.end_sec
        self.held = 0
        self.used = 0.0
        self.memory = Line(self.start, 0)
        self.cpu = Line(self.start, 0.0)

    def overlap(self, begin: float, end: float) -> float:
        return max(0.0, min(end, self.end) - max(begin, self.start))


def demand(recording: Recording) -> Demand:
    """Divide what a session used among its agent and its calls.

    :raises InvalidInput: if the recording has no samples of the session
    """
    samples = recording.require_samples()
    tools = sorted(
        (call for call in recording.calls if call.kind == "tool"), key=lambda call: (call.start_sec, call.id)
    )
    known = _own(recording, tools)
    rest, own_used = _remainder(samples, known.values())
    running = {call.id: _Running(call) for call in tools if call.id not in known}
    steps = _overlapping(rest, list(running.values()))

    agent_memory, outlived = _divide_memory(rest, steps)
    agent_cpu = _divide_cpu(rest, own_used, steps)
    calls = tuple(
        known[call.id]
        if call.id in known
        else CallDemand(call, running[call.id].memory.profile(), running[call.id].cpu.profile())
        for call in tools
    )
    return Demand(
        calls=calls,
        agent_memory=agent_memory,
        agent_cpu=agent_cpu,
        base_memory=_base(recording, samples, agent_memory),
        outlived_bytes=outlived,
        duration_sec=recording.duration_sec,
    )


def _own(recording: Recording, tools: Sequence[RecordedCall]) -> dict[str, CallDemand]:
    by_call: dict[str | None, list[Sample]] = {}
    for sample in recording.samples:
        by_call.setdefault(sample.call, []).append(sample)
    found = {}
    for call in tools:
        samples = [item for item in by_call.get(call.id, ()) if call.start_sec <= item.t_sec <= call.end_sec]
        if not samples:
            continue
        memory, cpu = Line(call.start_sec, 0), Line(call.start_sec, 0.0)
        for sample in samples:
            memory.to(sample.t_sec, sample.memory_bytes)
            cpu.to(sample.t_sec, sample.cpu_sec)
        memory.to(call.end_sec, samples[-1].memory_bytes)
        cpu.to(call.end_sec, samples[-1].cpu_sec)
        found[call.id] = CallDemand(call, memory.profile(), cpu.profile())
    return found


def _remainder(samples: Sequence[Sample], known: Iterable[CallDemand]) -> tuple[list[Sample], list[float]]:
    """The session's samples without the calls that have their own, and what those used up to each."""
    times = [sample.t_sec for sample in samples]
    memory = [sample.memory_bytes for sample in samples]
    used = [0.0] * (len(samples) + 1)  # in the interval that ends with the sample
    for item in known:
        first, end = bisect_left(times, item.call.start_sec), bisect_left(times, item.call.end_sec)
        before = 0.0
        for index in range(first, min(end + 1, len(samples))):
            memory[index] = max(0, memory[index] - round(item.memory_at(times[index])))
            now = item.cpu_at(times[index])
            used[index] += now - before
            before = now
    rest = [
        Sample(sample.t_sec, bytes_left, sample.cpu_sec) for sample, bytes_left in zip(samples, memory, strict=True)
    ]
    return rest, list(accumulate(used[: len(samples)]))


def _overlapping(samples: Sequence[Sample], calls: Sequence[_Running]) -> list[list[_Running]]:
    """For each interval between two samples, the calls that began before its end and ended after its begin."""
    steps = []
    live: list[_Running] = []
    following = 0
    for before, after in pairwise(samples):
        first = following
        while following < len(calls) and calls[following].start < after.t_sec:
            following += 1
        live = [call for call in (*live, *calls[first:following]) if call.end > before.t_sec]
        steps.append(live)
    return steps


def _divide_memory(samples: Sequence[Sample], steps: Sequence[list[_Running]]) -> tuple[Profile, int]:
    agent = Line(samples[0].t_sec, samples[0].memory_bytes)
    outlived = 0
    for (before, after), live in zip(pairwise(samples), steps, strict=True):
        begin, end = before.t_sec, after.t_sec
        level = float(agent.points[-1][1])
        for call in live:
            if call.start < begin:
                call.memory.to(begin, call.held)
        change = after.memory_bytes - before.memory_bytes
        freed = _rise(change, live, begin, end) if change >= 0 else _fall(-change, live, end)
        stepped = 0
        over = sorted((call for call in live if call.end <= end), key=lambda call: call.end)
        left = sum(call.held for call in live if call.end > end)
        # What no call accounts for, the agent's own line from sample to sample.
        own = after.memory_bytes - left - level - sum(call.held - freed.get(call, 0) for call in over)
        for call in over:
            call.memory.to(call.end, call.held)
            stays = call.held - freed.get(call, 0)
            at = level + stepped + own * ((call.end - begin) / (end - begin))
            if stays:
                agent.to(call.end, round(at))
                agent.to(call.end, round(at) + stays)
            stepped += stays
            outlived += stays
        for call in live:
            if call.end > end:
                call.memory.to(end, call.held)
        agent.to(end, after.memory_bytes - left)
    # Calls that outlast the samples hold what they have.
    for call in steps[-1] if steps else ():
        if call.end > samples[-1].t_sec:
            call.memory.to(call.end, call.held)
    return agent.profile(), outlived


def _rise(change: int, live: Sequence[_Running], begin: float, end: float) -> dict[_Running, int]:
    """Add a rise to the calls that overlapped it. Nothing is freed."""
    total = sum(call.overlap(begin, end) for call in live)
    for call in live:
        overlap = call.overlap(begin, end)
        if overlap > 0:
            call.held += int(min(change * (overlap / total), GROWTH_MAX * overlap))
    return {}


def _fall(change: int, live: Sequence[_Running], end: float) -> dict[_Running, int]:
    """Take a fall from calls: what those that ended freed is returned, those that run on hold less."""
    freed = {}
    for call in sorted((call for call in live if call.end <= end), key=lambda call: call.end):
        freed[call] = min(call.held, change)
        change -= freed[call]
    going_on = [call for call in live if call.end > end]
    held = sum(call.held for call in going_on)
    for call in going_on:
        # Rounded up and counted down, so that the parts come to exactly the whole.
        part = min(call.held, -(-change * call.held // held)) if held else 0
        held -= call.held
        call.held -= part
        change -= part
    return freed


def _divide_cpu(samples: Sequence[Sample], known: Sequence[float], steps: Sequence[list[_Running]]) -> Profile:
    totals = [sample.cpu_sec - own for sample, own in zip(samples, known, strict=True)]
    spans = [after.t_sec - before.t_sec for before, after in pairwise(samples)]
    spent = [max(0.0, after - before) for before, after in pairwise(totals)]
    covered = [
        sum(call.overlap(a.t_sec, b.t_sec) for call in live)
        for (a, b), live in zip(pairwise(samples), steps, strict=True)
    ]
    rates = [used / span for used, span in zip(spent, spans, strict=True)]
    # The agent works a little all the time; and a call of milliseconds cannot have used a second of CPU time, however
    # idle the rest was: more than one CPU only where the session was seen to use more.
    idle = median([rate for rate, share in zip(rates, covered, strict=True) if not share] or [0.0])
    fastest = max([1.0, *rates])
    agent_used = max(0.0, totals[0])
    agent = Line(samples[0].t_sec, agent_used)
    for (before, after), live, used, span, share in zip(pairwise(samples), steps, spent, spans, covered, strict=True):
        busy = max(0.0, used - idle * span)
        rate = min(busy / share, fastest) if share else 0.0
        given = 0.0
        for call in live:
            part = rate * call.overlap(before.t_sec, after.t_sec)
            if call.start < before.t_sec:
                call.cpu.to(before.t_sec, call.used)
            call.used += part
            given += part
            call.cpu.to(min(call.end, after.t_sec), call.used)
        agent_used += max(0.0, used - given)
        agent.to(after.t_sec, agent_used)
    return agent.profile()


def _base(recording: Recording, samples: Sequence[Sample], agent: Profile) -> int:
    if recording.base_memory is not None:
        return recording.base_memory
    begin = min((call.start_sec for call in recording.calls), default=0.0)
    end = max((call.end_sec for call in recording.calls), default=0.0)
    levels = sorted(agent.at(item.t_sec) for item in samples if begin <= item.t_sec <= end)
    levels = levels or sorted(agent.at(item.t_sec) for item in samples)
    return round(levels[int(len(levels) * _BASE_QUANTILE)])
