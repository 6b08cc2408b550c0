# SPDX-License-Identifier: Apache-2.0
"""What is known of the sessions of one LLM server when a policy is asked. Policies read it, and change nothing.

Times are seconds of the driver's clock, amounts of cache are tokens.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from math import inf
from typing import Literal

from agentcg.kv.reload import Reload
from agentcg.kv.statistics import Delay, Turns
from agentcg.kv.ttl import Pauses
from agentcg.predict.distribution import Distribution

__all__ = ["Call", "CallEvent", "CallEventKind", "Load", "Request", "Session", "State"]

CallEventKind = Literal["began", "revised", "frozen", "thawed", "ended"]
"""``frozen``: it makes no progress, be it stopped or not let begin. ``revised``: there is a newer prediction."""


@dataclass(frozen=True, slots=True)
class CallEvent:
    """What happened to a tool call."""

    call: str
    kind: CallEventKind
    remaining: Distribution | None = None
    """How many seconds of progress it still needs, as it is predicted now; None: no news."""


@dataclass(slots=True)
class Call:
    """A tool call that runs while its session is paused."""

    runs_since: float | None
    """None while it is frozen."""
    remaining: Distribution | None = None
    """As it was predicted last."""
    progress_sec: float = 0.0
    """What it has made since then, until ``runs_since``."""

    def heard(self, event: CallEvent, now: float) -> None:
        """Take an event to heart."""
        self.progress_sec = 0.0 if event.remaining is not None else self._progress(now)
        self.remaining = event.remaining or self.remaining
        frozen = event.kind == "frozen" or (event.kind == "revised" and self.runs_since is None)
        self.runs_since = None if frozen else now

    def left(self, now: float) -> Distribution | None:
        """Return what is left of it by now."""
        return None if self.remaining is None else self.remaining.after(self._progress(now))

    def _progress(self, now: float) -> float:
        return self.progress_sec + (0.0 if self.runs_since is None else now - self.runs_since)


@dataclass(slots=True)
class Session:
    """One run of an agent; Continuum calls it a program."""

    name: str
    arrived: float
    """When its first request came."""
    number: int = 0
    """In the order of arrival: of two that came at one time, one is still first."""
    running: set[str] = field(default_factory=set)
    """Its requests that are being served; several for an agent that branches."""
    waiting: set[str] = field(default_factory=set)
    tokens: int = 0
    """Context at the end of its last turn."""
    resident: int = 0
    """How many of these are still cached."""
    lost: int = 0
    """How many were taken since its last turn."""
    turns: int = 0
    served_sec: float = 0.0
    """How long its turns took, together."""
    used: float = -inf
    """When its last turn ended."""
    tool: str = ""
    """What that turn called; empty if it called nothing."""
    returned: float | None = None
    """When it came back from its pause; None while it pauses or runs."""
    deadline: float = -inf
    """What the policy made of the pause when it began, or when its call changed."""
    rent_from: float = 0.0
    """What :meth:`State.contended_sec` was when the pause began."""
    over_from: float | None = None
    """And when its calls were over for the first time."""
    calls: dict[str, Call] = field(default_factory=dict)
    """Those that have not ended."""
    returns_at: float | None = None
    """When it will come back. Only a simulator knows."""

    @property
    def paused(self) -> bool:
        """Whether nothing of it runs or waits."""
        return not self.running and not self.waiting

    def left(self, now: float) -> Distribution | None:
        """Return what is left of the call that is expected to take longest; None if nothing is known of any."""
        known = [left for call in self.calls.values() if (left := call.left(now)) is not None]
        return max(known, key=Distribution.mean, default=None)


@dataclass(slots=True)
class Request:
    """One turn that is asked for."""

    id: str
    session: Session
    tokens: int
    """What it needs in the cache, with what is there already."""
    arrived: float
    number: int
    """In the order of arrival."""
    started: float | None = None
    """When it began to run; None while it waits."""
    preempted: bool = False
    """It ran before, and was put back."""


@dataclass(frozen=True, slots=True)
class Load:
    """How busy the host of the tools and the cache are."""

    cpu_backlog: float = 0.0
    """Calls that want to run, per CPU that there is for them."""
    cpu_wait_sec: float = 0.0
    """How long a call waits for one."""
    cache_used: float = 0.0
    """0 to 1."""


@dataclass(slots=True)
class State:
    """All of it."""

    reload: Reload
    sessions: OrderedDict[str, Session] = field(default_factory=OrderedDict)
    """The one that was heard of last at the end."""
    requests: dict[str, Request] = field(default_factory=dict)
    """Those that wait or run."""
    pauses: Pauses = field(default_factory=Pauses)
    delay: Delay = field(default_factory=Delay)
    turns: Turns = field(default_factory=Turns)
    load: Load = Load()
    now: float = -inf
    """The latest time that was heard of."""
    contended_before: float = 0.0
    contended_since: float | None = None
    """When somebody began to wait; None while nobody does."""

    @property
    def running(self) -> list[Request]:
        """The requests that are being served."""
        return [request for request in self.requests.values() if request.started is not None]

    @property
    def waiting(self) -> list[Request]:
        """Those that are not."""
        return [request for request in self.requests.values() if request.started is None]

    def benefit_sec(self, session: Session) -> float:
        """Return B, what it saves to find the session's cache kept: T x η + PrefillReload, in seconds."""
        return self.delay.sec * self.turns.eta + self.reload.sec(session.tokens)

    def contended_sec(self, now: float) -> float:
        """Return for how long, so far, somebody has been waiting: keeping has a price only then."""
        return self.contended_before + (0.0 if self.contended_since is None else max(0.0, now - self.contended_since))

    def rent_sec(self, session: Session, now: float) -> float:
        """Return for how long of the session's pause somebody has been waiting."""
        return self.contended_sec(now) - session.rent_from
