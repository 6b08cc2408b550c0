# SPDX-License-Identifier: Apache-2.0
"""What happened when in one arm of one round: calls as spans, what was done to them, and values over time.

Times are seconds since the arm's start, sizes are bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from agentcg.replay import events
from agentcg.replay.events import Event

__all__ = ["Points", "Session", "Span", "Stop", "Timeline", "read_timeline"]

Points: TypeAlias = list[tuple[float, float | None]]
"""Values at times. None is no value, or no limit, from there on."""


@dataclass(slots=True)
class Span:
    """One tool call."""

    call: str
    tool: str
    command: str
    begin: float
    end: float | None = None
    """None if nobody saw it end."""
    outcome: str = ""
    advice: str = ""
    peak: int | None = None
    track: int = 0
    """Calls that ran side by side are on different ones."""


@dataclass(slots=True)
class Stop:
    """What was done to a session or to one of its calls. ``end`` is there of what lasts: held and frozen."""

    kind: str
    begin: float
    end: float | None
    call: str | None
    why: str


@dataclass(slots=True)
class Session:
    """One lane."""

    name: str
    spans: list[Span] = field(default_factory=list)
    stops: list[Stop] = field(default_factory=list)
    memory: Points = field(default_factory=list)
    cpu: Points = field(default_factory=list)
    """CPUs in use since the point before."""
    high: Points = field(default_factory=list)
    max: Points = field(default_factory=list)
    kv: dict[str, Points] = field(default_factory=dict)
    """What it has in an LLM server's cache, by its state there."""
    ended: tuple[float, str, str] | None = None
    """When, its state, and why."""

    @property
    def tracks(self) -> int:
        return max((span.track + 1 for span in self.spans), default=1)


@dataclass(slots=True)
class Timeline:
    """All sessions of one arm in one round."""

    sessions: dict[str, Session] = field(default_factory=dict)
    total: Points = field(default_factory=list)
    wall: Points = field(default_factory=list)
    reserved: Points = field(default_factory=list)
    end: float = 0.0

    def session(self, name: str) -> Session:
        return self.sessions.setdefault(name, Session(name))


def read_timeline(lines: Iterable[Event]) -> Timeline:
    """Return what the events say, in their order. What has not ended lasts until the last of them."""
    reader = _Reader()
    for event in lines:
        reader.take(event)
    return reader.finish()


class _Reader:
    def __init__(self) -> None:
        self.timeline = Timeline()
        self.running: dict[tuple[str, str], Span] = {}
        self.stopped: dict[tuple[str, str, str | None], Stop] = {}
        self.cpu: dict[str, tuple[float, float]] = {}

    def take(self, event: Event) -> None:
        self.timeline.end = max(self.timeline.end, event.t)
        match event:
            case events.Sample():
                self._sample(event)
            case events.Limits():
                self._limits(event)
            case events.SessionBegan():
                self.timeline.session(event.session)
            case events.SessionEnded():
                self.timeline.session(event.session).ended = (event.t, event.state, event.reason)
            case events.CallBegan():
                self._begin(event)
            case events.CallEnded():
                self._end(event)
            case events.Kv():
                self._kv(event)
            case events.Turn():
                pass  # Of turns there is a table.
            case events.Thawed():
                self._resume(event.t, "frozen", event.session, event.call)
            case _:
                self._stop(event)

    def finish(self) -> Timeline:
        for stop in self.stopped.values():
            stop.end = self.timeline.end
        return self.timeline

    def _sample(self, event: events.Sample) -> None:
        self.timeline.total.append((event.t, event.total))
        for name, size in event.memory.items():
            self.timeline.session(name).memory.append((event.t, size))
        for name, used in event.cpu.items():
            before, so_far = self.cpu.get(name, (0.0, 0.0))
            if event.t > before:
                self.timeline.session(name).cpu.append((event.t, max(0.0, used - so_far) / (event.t - before)))
            self.cpu[name] = (event.t, used)

    def _limits(self, event: events.Limits) -> None:
        self.timeline.wall.append((event.t, event.wall))
        self.timeline.reserved.append((event.t, event.reserved))
        for name, limit in event.high.items():
            self.timeline.session(name).high.append((event.t, limit))
        for name, limit in event.max.items():
            self.timeline.session(name).max.append((event.t, limit))

    def _kv(self, event: events.Kv) -> None:
        states = self.timeline.session(event.session).kv
        for state, points in states.items():
            if state != event.state and points[-1][1]:
                points.append((event.t, 0))
        states.setdefault(event.state, []).append((event.t, event.bytes))

    def _begin(self, event: events.CallBegan) -> None:
        self._resume(event.t, "held", event.session, event.call)
        taken = {span.track for (session, _), span in self.running.items() if session == event.session}
        track = next(at for at in range(len(taken) + 1) if at not in taken)
        span = Span(event.call, event.tool, event.command, event.t, track=track)
        self.timeline.session(event.session).spans.append(span)
        self.running[event.session, event.call] = span

    def _end(self, event: events.CallEnded) -> None:
        for kind in ("held", "frozen"):
            self._resume(event.t, kind, event.session, event.call)
        span = self.running.pop((event.session, event.call), None)
        if span is None:  # It was refused before it began.
            span = Span(event.call, "", "", event.t)
            self.timeline.session(event.session).spans.append(span)
        span.end, span.outcome, span.advice = event.t, event.outcome, event.advice
        span.peak = event.peak_bytes

    def _stop(self, event: events.Held | events.Frozen | events.Throttled | events.Killed | events.Yielded) -> None:
        kind = type(event).__name__.lower()
        stop = Stop(kind, event.t, None, event.call, event.why)
        if kind in ("held", "frozen"):
            self._resume(event.t, kind, event.session, event.call)
            self.stopped[kind, event.session, event.call] = stop
        self.timeline.session(event.session).stops.append(stop)

    def _resume(self, now: float, kind: str, session: str, call: str | None) -> None:
        stop = self.stopped.pop((kind, session, call), None)
        if stop is not None:
            stop.end = now
