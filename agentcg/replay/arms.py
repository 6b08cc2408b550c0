# SPDX-License-Identifier: Apache-2.0
"""What a replay asks of where its sessions live: under agentcg, or as on a host without it."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from agentcg.cgroup.node import Inner
from agentcg.replay.event_log import EventLog
from agentcg.replay.follower import Placement
from agentcg.replay.plan import PlannedCall, SessionPlan

__all__ = ["Arm", "ObservedArm", "Place", "PlacedCall", "Scene", "Verdict", "judge_plain"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a call ended, and what it came to as far as anybody knows."""

    outcome: str
    advice: str = ""
    oom_kills: int = 0
    peak: int | None = None
    """Bytes."""
    cpu_sec: float | None = None
    frozen_sec: float | None = None


def judge_plain(status: int) -> Verdict:
    """Return what anybody can know of a call without agentcg: its exit status. Here only the OOM killer kills."""
    if status == -signal.SIGKILL:
        return Verdict("oom_killed", oom_kills=1)
    if status < 0:
        return Verdict("signal")
    return Verdict("exit_status" if status else "ok")


class PlacedCall(Protocol):
    """A call that has a place."""

    placement: Placement

    async def end(self, status: int) -> Verdict:
        """The call's process has ended with ``status``, negative for a signal."""


class Place(Protocol):
    """Where one session lives."""

    agent: Placement

    async def begin(self, call: PlannedCall) -> PlacedCall:
        """Return a place for a call. :raises AgentcgError: if it is refused"""

    async def close(self) -> None:
        """The session is over. What still runs in it is ended."""


class Arm(Protocol):
    """What the sessions of a run live under. The total and all else is the same in each."""

    node: Inner
    """The cgroup of everything, with the total as its limit."""

    async def __aenter__(self) -> Arm: ...

    async def __aexit__(self, *_: object) -> None: ...

    async def open(self, plan: SessionPlan) -> Place:
        """Return a place for a session. :raises AgentcgError: if it is refused"""


class ObservedArm(Arm, Protocol):
    """One that can say what is done to its sessions."""

    wall: str
    """The cgroup below ``node`` whose memory.max bounds all sessions that are not protected."""

    @property
    def socket(self) -> str | None:
        """Its daemon's, once it has been entered; None without one."""

    def name_of(self, session: str) -> str:
        """Return what a session that was opened is called here: under agentcg TENANT/SESSION."""

    def cgroup_of(self, session: str) -> str | None:
        """Return a session's cgroup below ``node``; None of one that was not opened yet."""

    def tell_controls(self, log: EventLog) -> None:
        """Tell what was done to the sessions. To be asked when the arm has been left."""


@dataclass(frozen=True)
class Scene:
    """What an arm is set up in."""

    parent: Inner
    directory: str
    """The path of ``parent``."""
    memory_max: int
    """What all sessions have together, bytes."""
    plans: Sequence[SessionPlan]
    swap_max: int = 0
    """What they have in swap besides, bytes; under agentcg its policy says so."""
