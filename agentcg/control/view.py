# SPDX-License-Identifier: Apache-2.0
"""What the controller looks at, and what it wants: plain values. Memory is in bytes, times are monotonic seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

from agentcg.model import CallRef, SessionRef

__all__ = [
    "ACTIONS",
    "MECHANISMS",
    "Action",
    "CallView",
    "Mechanism",
    "Plan",
    "SessionView",
    "Settings",
    "Snapshot",
    "Subject",
]

Subject: TypeAlias = CallRef | SessionRef
"""What can be stopped by itself: a call, or a session with its agent and all its calls."""

Mechanism = Literal["reserve", "hold", "tripwire", "yield", "cpu", "reclaim", "kill"]
MECHANISMS: tuple[Mechanism, ...] = get_args(Mechanism)
"""What the controller can do, each of which can be left out."""

Action = Literal["hold", "freeze", "thaw", "tripwire", "yield", "reclaim", "kill"]
ACTIONS: tuple[Action, ...] = get_args(Action)
"""What it does with that: ``hold`` stops a call before it has run, ``freeze`` any other and whole sessions, ``thaw``
lets either go on; ``tripwire`` moves a session's memory.high."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How the controller decides."""

    mechanisms: frozenset[Mechanism] = frozenset(MECHANISMS)
    freeze_max_sec: float = 60.0
    """After this, whoever is stopped has a turn before the others, and a protected session is waited for no longer."""
    patience_sec: float = 600.0
    """Before that, it has a turn only if there is room for it; from then on in any case."""
    turn_sec: float = 10.0
    step: float = 1 / 16
    """What a session is given room for when nothing says what it will need, as a part of the wall."""
    step_min: int = 16 << 20
    growth_min: int = 1 << 20
    """Growth between two looks that counts as growing."""
    yield_quiet_sec: float = 0.025
    """The others go on when no protected session has grown for this long."""
    yield_max_sec: float = 1.0
    """They are stopped for this long at most, and for half of the time in the long run."""
    kill_pause_sec: float = 1.0
    """Time for a killed call's memory to come back before the next one is chosen."""

    def has(self, mechanism: Mechanism) -> bool:
        """Whether a mechanism may be used."""
        return mechanism in self.mechanisms


@dataclass(frozen=True, slots=True)
class CallView:
    """A call at the moment of a look."""

    ref: CallRef
    started: float
    current: int = 0
    claim: int | None = None
    """What it is expected to come to; None if nothing says so."""
    grew: int = 0
    """Since the look before."""
    priority: int = 50
    cpu_sec: float = 0.0
    waiting: bool = False
    """Nothing has run in it yet."""
    stopped: float | None = None
    """Since when it is stopped by the controller."""
    by_hand: bool = False
    """Somebody has frozen it by hand."""
    declared: bool = True
    """Its claim is what it said itself; otherwise, what calls like it came to, in whatever session."""


@dataclass(frozen=True, slots=True)
class SessionView:
    """A session at the moment of a look."""

    ref: SessionRef
    opened: float
    protected: bool = False
    current: int = 0
    claim: int | None = None
    grew: int = 0
    tripped: bool = False
    """It came to its tripwire since the look before."""
    stopped: float | None = None
    by_hand: bool = False
    turn_until: float = 0.0
    """It waited for long, and goes before the others until then."""
    urgency: float = 0.0
    """What it is worth to others that its calls end soon, 0 to 1: see :mod:`agentcg.kv.coordinate`."""
    cache: int = 0
    """Page cache in it, which can be given back without loss."""
    calls: tuple[CallView, ...] = ()

    @property
    def agent_grew(self) -> int:
        """Growth outside its calls."""
        return self.grew - sum(call.grew for call in self.calls)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All of it."""

    now: float
    wall: int | None
    """What all sessions that are not protected may hold together; None if they are not limited."""
    tripped: bool = False
    """They came to it since the look before, and the kernel slowed somebody down."""
    tenant_wall: int | None = None
    """What those of one tenant may hold together; None if they are not limited."""
    sessions: tuple[SessionView, ...] = ()
    protected_grew: float | None = None
    """When a protected session was last seen to grow."""
    yielding: bool = False
    """The others are stopped for that."""
    yield_credit: float = 0.0
    """For how long they may be, in seconds: spent while they are stopped, and earned while they run."""
    reclaimed: float | None = None
    """When page cache was last asked for."""
    killed: float | None = None
    """When a call was last killed to get its memory."""

    @property
    def others(self) -> tuple[SessionView, ...]:
        """The sessions that are not protected."""
        return tuple(session for session in self.sessions if not session.protected)


@dataclass(slots=True)
class Plan:
    """What is wanted: who is to be stopped and why, everybody else runs; and what is to be done once."""

    stopped: dict[Subject, str] = field(default_factory=dict)
    tripwires: dict[SessionRef, int | None] = field(default_factory=dict)
    """memory.high of each session that is not protected."""
    turns: list[SessionRef] = field(default_factory=list)
    """Whose turn begins."""
    reclaim: Mapping[SessionRef, int] = field(default_factory=dict)
    kill: tuple[CallRef, str] | None = None
    yielding: bool = False
    """All others are to stop for a moment while a protected session grows."""
