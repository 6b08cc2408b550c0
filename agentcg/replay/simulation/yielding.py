# SPDX-License-Identifier: Apache-2.0
"""All others stop for a moment while a protected session grows: the freeze of their group, and the credit for it."""

from __future__ import annotations

from functools import partial

from agentcg.control.pace import Credit
from agentcg.control.standstill import Pauses
from agentcg.replay.simulation.clock import Timer
from agentcg.replay.simulation.group import Group
from agentcg.replay.simulation.machine import Machine

__all__ = ["Yielding"]


class Yielding:
    """Whether the group ``shared`` is stopped.

    :param pauses: is told for how long
    :param most_sec: for how long it may be, at most
    """

    def __init__(self, machine: Machine, shared: Group, pauses: Pauses, most_sec: float) -> None:
        self._machine, self._shared, self._pauses = machine, shared, pauses
        self._credit = Credit(most_sec, machine.clock.now)
        self._freezing: Timer | None = None

    @property
    def now(self) -> bool:
        """It is, or is about to be."""
        return self._pauses.under_way

    def credit(self) -> float:
        """Return for how long it still may be, in seconds."""
        return self._credit.earn(self._machine.clock.now, yielding=self.now)

    def set(self, wanted: bool) -> bool:
        """Stop it, or let it go on. False if it is so already."""
        if wanted == self.now:
            return False
        self.credit()
        if self._freezing is not None:
            self._freezing.cancel()
        if wanted:
            self._pauses.begin(self._machine.clock.now)
            delay = self._machine.host.freeze_sec
            self._freezing = self._machine.clock.after(delay, partial(self._machine.freeze, self._shared))
        else:
            self._pauses.end(self._machine.clock.now)
            self._machine.thaw(self._shared)
        return True
