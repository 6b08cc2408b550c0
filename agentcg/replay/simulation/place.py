# SPDX-License-Identifier: Apache-2.0
"""Where simulated sessions live: what an arm of the simulation has to be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from agentcg.replay.arms import Verdict
from agentcg.replay.events import Limits
from agentcg.replay.plan import PlannedCall, SessionPlan
from agentcg.replay.simulation.group import Group
from agentcg.replay.simulation.process import Process

__all__ = ["SimulatedArm", "SimulatedCall", "SimulatedPlace"]


class SimulatedCall(Protocol):
    """A call that has a place."""

    group: Group
    oom_score_adj: int

    def entered(self, process: Process) -> None:
        """Its process is there."""

    def end(self, signal: int, judged: Callable[[Verdict], None]) -> None:
        """Its process was ended by ``signal``, or by itself if that is 0. ``judged`` is told the verdict."""


class SimulatedPlace(Protocol):
    """Where one session lives."""

    group: Group
    agent: Group

    def begin(self, call: PlannedCall, begun: Callable[[SimulatedCall], None]) -> None:
        """Give a call its place. :raises AgentcgError: if it is refused"""

    def close(self) -> None:
        """The session is over, and nothing runs in it any more."""


class SimulatedArm(Protocol):
    """What all sessions live under."""

    node: Group
    """The cgroup of everything, with the total as its limit."""

    def open(self, plan: SessionPlan, opened: Callable[[SimulatedPlace], None]) -> None:
        """Give a session its place. :raises AgentcgError: if it is refused"""

    def limits(self) -> Limits:
        """Return what is in force now."""
