# SPDX-License-Identifier: Apache-2.0
"""A session and a call of a simulated daemon, and how the controller sees them."""

from __future__ import annotations

from dataclasses import dataclass, field

from agentcg.control.standstill import Pauses, Standstill
from agentcg.control.view import CallView, SessionView
from agentcg.model import Budget, CallRef, SessionRef, ToolCall, Usage
from agentcg.replay.plan import SessionPlan
from agentcg.replay.simulation.clock import Timer
from agentcg.replay.simulation.group import Group

__all__ = ["LiveCall", "LiveSession"]


@dataclass(slots=True, eq=False)
class LiveSession:
    """A session and its cgroups. What is not said here is as in :class:`agentcg.control.live.LiveSession`."""

    plan: SessionPlan
    ref: SessionRef
    opened: float
    budget: Budget
    claim: int | None
    top: Group
    agent: Group
    calls_group: Group
    pauses: Pauses
    calls: dict[str, LiveCall] = field(default_factory=dict)
    closing: bool = False
    reserve: int = 0
    stopped: float | None = None
    turn_until: float = 0.0
    freezing: Timer | None = None
    """It was ordered to be frozen, and is not yet."""
    seen: int | None = None
    """What it held at the look before, bytes."""

    @property
    def protected(self) -> bool:
        """Its memory is reserved."""
        return self.plan.reserve is not None

    def view(self, *, tripped: bool, closely: bool) -> SessionView:
        """Look at it and its calls. ``closely``: also at CPU time."""
        current = int(self.top.usage)
        before = current if self.seen is None else self.seen
        self.seen = current
        return SessionView(
            ref=self.ref,
            opened=self.opened,
            protected=self.protected,
            current=current,
            claim=self.claim,
            grew=current - before,
            tripped=tripped,
            stopped=self.stopped,
            turn_until=self.turn_until,
            calls=tuple(call.view(closely) for call in self.calls.values() if not call.finishing),
        )


@dataclass(slots=True, eq=False)
class LiveCall:
    """A call and its cgroup."""

    call: ToolCall
    session: LiveSession
    group: Group
    oom_score_adj: int
    started: float
    claim: int | None
    finishing: bool = False
    entered: bool = False
    held: bool = False
    stopped: float | None = None
    still: Standstill = field(init=False)
    freezing: Timer | None = None
    reason: str = ""
    """Why the controller has ended it."""
    seen: int | None = None

    def __post_init__(self) -> None:
        self.still = Standstill(self.session.pauses, self.started)

    @property
    def ref(self) -> CallRef:
        """The call's full name."""
        return self.call.ref

    def view(self, closely: bool) -> CallView:
        """Look at it."""
        current = int(self.group.usage)
        before = current if self.seen is None else self.seen
        self.seen = current
        return CallView(
            ref=self.ref,
            started=self.started,
            current=current,
            claim=self.claim,
            grew=current - before,
            cpu_sec=self.group.cpu_sec if closely else 0.0,
            waiting=not self.entered or (self.held and self.stopped is not None),
            stopped=self.stopped,
        )

    def usage(self, now: float) -> Usage:
        """What it has used, as the kernel counts it."""
        group = self.group
        return Usage(
            duration_sec=now - self.started,
            cpu_sec=group.cpu_sec,
            memory_peak=round(group.peak),
            memory_high_events=int(group.slowed_sec > 0),
            memory_oom_events=group.ooms,
            memory_stall_sec=group.slowed_sec,
            oom_kills=group.kills,
            frozen_sec=self.still.sec(now) or None,
        )
