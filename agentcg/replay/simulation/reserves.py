# SPDX-License-Identifier: Apache-2.0
"""What a simulated daemon sets aside, and the wall of all others: :mod:`agentcg.control.reserve` decides."""

from __future__ import annotations

from collections.abc import Mapping

from agentcg.control.reserve import Stage, bounds, reserve_of
from agentcg.control.reserves import REBALANCE_SEC
from agentcg.model import SessionRef
from agentcg.replay.simulation.clock import Timer
from agentcg.replay.simulation.group import Group
from agentcg.replay.simulation.machine import Machine
from agentcg.replay.simulation.managed import LiveSession

__all__ = ["SimulatedReserves"]


class SimulatedReserves:
    """The reserves of ``sessions``; everybody else is in ``shared``."""

    def __init__(self, machine: Machine, shared: Group, sessions: Mapping[SessionRef, LiveSession]) -> None:
        self._machine, self._shared, self._sessions = machine, shared, sessions
        self._again: Timer | None = None
        self.wall: int | None = None
        self.stage = Stage.ALERT
        self.rebalance()

    def total(self) -> int:
        """What is set aside, bytes."""
        return sum(live.reserve for live in self._sessions.values() if live.protected)

    def left(self) -> int:
        """What is not, bytes."""
        return self._machine.host.memory_max - self.total()

    def reach(self, stage: Stage) -> None:
        """Say how near the others are to the wall."""
        if stage != self.stage:
            self.stage = stage
            self.rebalance()

    def protect(self, live: LiveSession) -> None:
        """Set aside what a protected session is to have; once more as it grows."""
        reserve = reserve_of(live.claim, round(live.top.peak))
        if live.budget.memory_max is not None:
            reserve = min(reserve, live.budget.memory_max)
        reserve = min(reserve, max(self.left() + live.reserve, 0))
        if reserve != live.reserve:
            live.reserve = reserve
            self.rebalance()

    def rebalance(self) -> None:
        """Bound the others by what is left; again a little later while they use more."""
        if self._again is not None:
            self._again.cancel()
            self._again = None
        reserved = [live.reserve for live in self._sessions.values() if live.protected]
        current = int(self._shared.usage)
        wanted = bounds(self._machine.host.memory_max, reserved, current, limited=True, stage=self.stage)
        self.wall = wanted.wall
        self._machine.bound(self._shared, high=wanted.high, maximum=wanted.maximum)
        if not wanted.settled:
            self._again = self._machine.clock.after(REBALANCE_SEC, self.rebalance)
