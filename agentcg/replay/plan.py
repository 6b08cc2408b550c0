# SPDX-License-Identifier: Apache-2.0
"""What is to be replayed of one session: its calls with their demand, and the agent's own, piece by piece.

Times are in the recording's seconds, memory in bytes, CPU in seconds of CPU time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from agentcg.errors import InvalidInput
from agentcg.model import COMMAND_MAX, validate_name
from agentcg.trace.demand import CallDemand, demand
from agentcg.trace.model import RecordedTurn, Recording
from agentcg.trace.profile import Profile

__all__ = [
    "Piece",
    "PlannedCall",
    "SessionPlan",
    "make_plan",
    "name_for",
    "points",
    "protect",
    "unique_names",
    "with_agent_memory",
    "with_margin",
]

RESERVE_MARGIN = 0.05
RESERVE_LEAST = 16 << 20
"""What is reserved above the recorded peak: the fraction of it, and at least this. The replaying processes, their page
tables and the kernel's own memory for them come on top of what was recorded."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of the agent's own demand. One of no length is a step."""

    begin_sec: float
    end_sec: float
    memory: int
    """Held at its end."""
    cpu_sec: float
    """Used in all at its end."""


@dataclass(frozen=True, slots=True)
class PlannedCall:
    """One tool call."""

    id: str
    tool: str
    command: str
    start_sec: float
    end_sec: float
    memory: Profile
    cpu: Profile
    """CPU time since the call's start."""
    left_behind: int = 0
    """What of its memory outlives it and is the agent's from then on, bytes."""

    @property
    def declared(self) -> int:
        """What it will hold at most, in bytes."""
        return max(round(self.memory.peak), 1)


@dataclass(frozen=True, slots=True)
class SessionPlan:
    """One session. ``reserve`` is what is set aside for it in bytes; None if it is not protected."""

    name: str
    recording: str
    calls: tuple[PlannedCall, ...]
    agent: tuple[Piece, ...]
    duration_sec: float
    peak: int
    """The most that agent and calls hold together, bytes."""
    reserve: int | None = None
    turns: tuple[RecordedTurn, ...] = ()
    """What was asked of the language model; with a server in the loop, it is asked again."""


def make_plan(recording: Recording, name: str, *, agent_memory: int = 0) -> SessionPlan:
    """Return the plan of a recorded session.

    :param agent_memory: what the agent holds all the time besides what was recorded, in bytes
    :raises InvalidInput: if ``name`` cannot be a session's, or the recording has no samples
    """
    needs = demand(recording)
    calls = tuple(_planned(call, _step(needs.agent_memory, call)) for call in needs.calls)
    plan = SessionPlan(
        name=validate_name("session", name),
        recording=recording.name,
        calls=tuple(sorted(calls, key=lambda call: (call.start_sec, call.end_sec))),
        agent=tuple(_pieces(needs.agent_memory, needs.agent_cpu, needs.duration_sec)),
        duration_sec=needs.duration_sec,
        peak=recording.memory_peak or 0,
        turns=recording.turns,
    )
    return with_agent_memory(plan, agent_memory)


def with_agent_memory(plan: SessionPlan, size: int) -> SessionPlan:
    """Return ``plan`` with an agent that holds ``size`` bytes more all the time."""
    agent = tuple(replace(piece, memory=piece.memory + size) for piece in plan.agent)
    return replace(plan, agent=agent, peak=plan.peak + size)


def protect(plan: SessionPlan, size: int | None) -> SessionPlan:
    """Return ``plan`` with ``size`` bytes reserved, or what it holds at most and a margin."""
    return replace(plan, reserve=size or with_margin(plan.peak))


def with_margin(peak: int) -> int:
    """Return what a session declares that held ``peak`` bytes at most when it was recorded, in bytes."""
    return peak + max(round(peak * RESERVE_MARGIN), RESERVE_LEAST)


def _step(agent: Profile, call: CallDemand) -> int:
    """What the agent is given at a call's end: its step there, and no more than the call held."""
    there = [value for time, value in agent.points if time == call.call.end_sec]
    return round(max(0.0, min(there[-1] - there[0], call.memory.points[-1][1]))) if there else 0


def _planned(call: CallDemand, left_behind: int) -> PlannedCall:
    recorded = call.call
    # A command may be empty, or cut in the middle: it is shown and matched, never run.
    command = (recorded.command or recorded.tool or recorded.id).replace("\0", " ")[:COMMAND_MAX]
    return PlannedCall(
        id=recorded.id,
        tool=recorded.tool[:64],
        command=command,
        start_sec=recorded.start_sec,
        end_sec=recorded.end_sec,
        memory=call.memory,
        cpu=call.cpu,
        left_behind=left_behind,
    )


def _pieces(memory: Profile, cpu: Profile, duration_sec: float) -> Iterable[Piece]:
    """Cut a demand into pieces at every bend of its memory or CPU."""
    at = 0.0
    for time, value in _bends(memory, cpu):
        time = max(time, at)
        yield Piece(at, time, max(0, round(value)), max(0.0, cpu.at(time)))
        at = time
    if at < duration_sec:
        yield Piece(at, duration_sec, max(0, round(memory.points[-1][1])), max(0.0, cpu.points[-1][1]))


def _bends(memory: Profile, cpu: Profile) -> list[tuple[float, float]]:
    """The points of ``memory``, with those of ``cpu`` in between; two at one time are a step and stay in order."""
    found = list(memory.points)
    times = {time for time, _ in found}
    for time, _ in cpu.points:
        if time not in times:
            found.append((time, memory.at(time)))
    return sorted(found, key=lambda point: point[0])


def points(call: PlannedCall, speed: float) -> list[tuple[float, int, float]]:
    """Return a call's demand as a process follows it: seconds since its start, bytes, and CPU seconds, all at ``speed``
    times the recorded pace."""
    bends = _bends(call.memory, call.cpu)
    return [
        (max(0.0, time - call.start_sec) / speed, max(0, round(value)), max(0.0, call.cpu.at(time)) / speed)
        for time, value in bends
    ]


def name_for(text: str) -> str:
    """Return a session's name made of ``text``, in which what a name cannot hold becomes a hyphen."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-_")[:60].strip("-_")
    if not name:
        raise InvalidInput("session", f"no name can be made of {text[:80]!r}", hint="write NAME=RECORDING")
    return name


def unique_names(names: Sequence[str]) -> list[str]:
    """Return the names, with -2, -3 and so on behind those that came before."""
    seen: dict[str, int] = {}
    taken = set(names)
    found = []
    for name in names:
        number = seen[name] = seen.get(name, 0) + 1
        unique = name
        while number > 1 and (unique := f"{name}-{number}") in taken:
            number += 1
        taken.add(unique)
        found.append(unique)
    return found
