# SPDX-License-Identifier: Apache-2.0
"""A session and a call while they live, and how both are written down on their cgroups."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, get_args

import msgspec

from agentcg.cgroup.node import Leaf
from agentcg.cgroup.tree import WEIGHT_MAX, SessionNode
from agentcg.control.lease import Lease
from agentcg.control.standstill import Pauses, Standstill
from agentcg.model import CallRef, Session, SessionRef, ToolCall, Verdict

__all__ = ["STATES", "LiveCall", "LiveSession", "State", "oom_score_adj", "read_call", "read_process", "read_session"]

_FORMAT = 1
_T = TypeVar("_T")

State = Literal["running", "throttled", "frozen", "held", "ending"]
STATES: tuple[State, ...] = get_args(State)
"""What a call does. ``throttled``: it runs, and has come to its memory.high. ``frozen``: it or its session is stopped.
``held``: it was stopped before it had run. ``ending``: it is over, and what it left is dealt with."""


@dataclass(slots=True, eq=False)
class LiveSession:
    """A session and its cgroups."""

    session: Session
    node: SessionNode
    lease: Lease | None
    pauses: Pauses = field(default_factory=Pauses)
    """For how long all of its group were stopped together."""
    calls: dict[str, LiveCall] = field(default_factory=dict)
    implicit: bool = False
    """Opened for calls that named none; closed when it has had none for a while."""
    used: float = 0.0
    """When its last call began, or the last of them ended; on the monotonic clock."""
    closing: bool = False
    pressure: int | None = None
    """Handle of the watch on its memory pressure."""
    claim: int | None = None
    """What it is expected to come to, in bytes: as declared, or as those of its name did before."""
    reserve: int = 0
    """What is set aside for it, in bytes, if it is protected."""
    stopped: float | None = None
    """Since when the controller has it stopped, on the monotonic clock."""
    by_hand: float | None = None
    """Since when somebody has frozen it by hand."""
    turn_until: float = 0.0
    urgency: float = 0.0
    """What it is worth to others that its calls end soon: 0, nothing, to 1. Held calls start by it."""
    cpu_factor: float = 1.0
    """What its share of the CPUs is multiplied by for that."""
    left: dict[str, tuple[Leaf, int | None]] = field(default_factory=dict)
    """What calls that are over have left running, by their names, and the handles of the watches on it."""

    @property
    def ref(self) -> SessionRef:
        """The session's full name."""
        return self.session.ref

    @property
    def frozen(self) -> bool:
        """Whether it is stopped, by whomever, with all that runs in it."""
        return self.stopped is not None or self.by_hand is not None

    @property
    def state(self) -> Literal["running", "frozen"]:
        """What it does now."""
        return "frozen" if self.frozen else "running"

    @property
    def cpu_weight(self) -> int:
        """Its share against the other sessions of its tenant, 1 to 10000 (cpu.weight)."""
        return min(max(round(self.session.budget.cpu_weight * self.cpu_factor), 1), WEIGHT_MAX)

    def write(self) -> None:
        """Keep the session on its cgroup."""
        record: dict[str, Any] = {"format": _FORMAT, "session": self.session, "implicit": self.implicit}
        record["claim"] = self.claim
        record["lease"] = self.lease.record() if self.lease else None
        self.node.top.write_record(record)


@dataclass(slots=True, eq=False)
class LiveCall:
    """A call and its cgroup."""

    call: ToolCall
    leaf: Leaf
    session: LiveSession
    lease: Lease | None
    started: float
    """On the monotonic clock, which counts from boot: cgroups do not outlive it either."""
    handles: list[int | None] = field(default_factory=list)
    deadline: asyncio.TimerHandle | None = None
    """Ends it when its time is up."""
    grace: asyncio.TimerHandle | None = None
    """Ends it if it is still empty then."""
    relief: asyncio.TimerHandle | None = None
    """Looks whether it still gets on above its memory.high."""
    finishing: asyncio.Task[Verdict] | None = None
    throttle_told: bool = False
    ooms_told: int = 0
    oom_at: float = 0.0
    """When the kernel last told that one of its processes is killed, in seconds since the epoch."""
    claim: int | None = None
    """What it is expected to come to, in bytes."""
    stopped: float | None = None
    """Since when the controller has it stopped, on the monotonic clock."""
    by_hand: float | None = None
    """Since when somebody has frozen it by hand."""
    still: Standstill = field(init=False)
    """For how long nothing in it has run because it, its session or its group is stopped."""
    expected_sec: float | None = None
    """How long it is expected to run: as declared, or as 95 of 100 calls like it did."""
    entered: bool = False
    """Something was seen in it."""
    doom: str = ""
    """Why somebody else is about to kill it."""
    held: bool = False
    """It was stopped before anything had run in it."""
    refusals: int = 0
    """Requests of its own processes that the daemon refused."""
    process: tuple[int, int] | None = None
    """The process that it stands for, in a transparent session: the pid, and the start time in clock ticks."""

    def __post_init__(self) -> None:
        self.still = Standstill(self.session.pauses, self.started)

    @property
    def ref(self) -> CallRef:
        """The call's full name."""
        return self.call.ref

    @property
    def frozen(self) -> bool:
        """Whether it or its session is stopped, by whomever."""
        return self.stopped is not None or self.by_hand is not None or self.session.frozen

    @property
    def state(self) -> State:
        """What it does now."""
        if self.finishing is not None:
            return "ending"
        if self.still.since is not None:
            return "held" if self.held else "frozen"
        return "throttled" if self.throttle_told else "running"

    @property
    def directory(self) -> str:
        """Where its cgroup is in the file system."""
        return f"{self.session.node.directory}/calls/{self.ref.call}"

    @property
    def path(self) -> str:
        """Where its cgroup is in the hierarchy, from its top."""
        return f"{self.session.node.path}/calls/{self.ref.call}"

    def write(self) -> None:
        """Keep the call on its cgroup."""
        record: dict[str, Any] = {"format": _FORMAT, "call": self.call, "started": self.started}
        record["process"] = self.process
        record["lease"] = self.lease.record() if self.lease else None
        self.leaf.write_record(record)


def read_session(record: dict[str, Any] | None) -> Session | None:
    """Return the session written on a cgroup, or None if there is none that can be understood."""
    return _read(record, "session", Session)


def read_call(record: dict[str, Any] | None) -> ToolCall | None:
    """Return the call written on a cgroup, or None if there is none that can be understood."""
    return _read(record, "call", ToolCall)


def read_process(record: dict[str, Any] | None) -> tuple[int, int] | None:
    """Return the process that the call on a cgroup stands for, or None if there is none."""
    return _read(record, "process", tuple[int, int])


def _read(record: dict[str, Any] | None, key: str, kind: type[_T]) -> _T | None:
    try:
        return msgspec.convert((record or {})[key], kind)
    except (KeyError, msgspec.ValidationError):
        return None


def oom_score_adj(protected: bool, priority: int | None) -> int:
    """Return what a call's processes set as their oom_score_adj.

    An agent's own processes stay at 0, so that calls are chosen before agents, those of protected sessions last. The
    value counts as thousandths of the memory that ran out, on top of what a process holds (proc_pid_oom_score_adj(5)):
    at 500 an agent that held more than half of it was chosen before any call.
    """
    return 700 if protected else 1000 - (50 if priority is None else priority) // 2
