# SPDX-License-Identifier: Apache-2.0
"""What is set aside for protected sessions, as the kernel has it: memory.low for them, a wall for all others."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

from agentcg.cgroup.tree import Tree
from agentcg.cgroup.usage import memory_current, memory_peak
from agentcg.control.live import LiveSession
from agentcg.control.reserve import Stage, bounds, check, reserve_of
from agentcg.model import Budget, SessionRef

__all__ = ["Reserves"]

REBALANCE_SEC = 0.2


class Reserves:
    """The reserves of all sessions in ``sessions``.

    :param capacity: the memory that all sessions have together, in bytes; None if it is not known
    :param limited: it is theirs alone, so that they may be held to it together even while nothing is reserved
    """

    def __init__(
        self, tree: Tree, sessions: Mapping[SessionRef, LiveSession], capacity: int | None, *, limited: bool
    ) -> None:
        self._tree, self._sessions, self._capacity, self._limited = tree, sessions, capacity, limited
        self.active = True
        """Memory is set aside at all."""
        self.dry_run = False
        """It is reckoned with, and nothing is written."""
        self.wall: int | None = None
        """What all sessions that are not protected may hold together, bytes; None if they are not limited."""
        self.stage = Stage.ALERT
        """How near the others are to it."""
        self._rebalancing: asyncio.TimerHandle | None = None

    def reach(self, stage: Stage) -> None:
        """Say how near the others are to the wall; the kernel's event tells when they come to the end of that stage."""
        if stage != self.stage:
            self.stage = stage
            self.rebalance()

    def check(self, declared: int, granted: Budget) -> None:
        """:raises InvalidInput: if ``declared`` bytes cannot be set aside for a new session"""
        left = None if self._capacity is None else self._capacity - sum(self._all())
        check(declared, granted.memory_max, left)

    def _all(self, tenant: str | None = None) -> Iterable[int]:
        for live in self._sessions.values():
            if live.session.protected and tenant in (None, live.session.ref.tenant):
                yield live.reserve

    def protect(self, live: LiveSession) -> None:
        """Set aside what a protected session is to have: what it claims, or, where nothing is known, some more than it
        has ever held. To be called again as it grows.
        """
        reserve = reserve_of(live.claim, memory_peak(live.node.top) or 0) if self.active else 0
        if live.session.budget.memory_max is not None:
            reserve = min(reserve, live.session.budget.memory_max)
        if self._capacity is not None:
            others = sum(self._all()) - live.reserve
            reserve = min(reserve, max(self._capacity - others, 0))
        if reserve == live.reserve:
            return
        live.reserve = reserve
        if not self.dry_run:
            self._write(live)
        self.rebalance()

    def _write(self, live: LiveSession) -> None:
        reserve = live.reserve
        self._tree.protect(live.node.top, reserve)
        self._tree.protect(live.node.calls, reserve)
        self._share(live.session.ref.tenant)

    def released(self, tenant: str) -> None:
        """A protected session of ``tenant`` is gone."""
        self._share(tenant)
        self.rebalance()

    def _share(self, tenant: str) -> None:
        if not self.dry_run and (reserves := list(self._all(tenant))):
            self._tree.protect_tenant("reserved", tenant, sum(reserves))

    def rebalance(self) -> None:
        """Bound everybody whose memory is not reserved by what is left; again a little later while they use more."""
        if self._rebalancing is not None:
            self._rebalancing.cancel()
            self._rebalancing = None
        shared = self._tree.shared
        current = memory_current(shared) or 0
        wanted = bounds(self._capacity, self._all(), current, limited=self._limited, stage=self.stage)
        self.wall = wanted.wall
        if self.dry_run:
            return
        self._tree.bound(shared, high=wanted.high, maximum=wanted.maximum)
        if not wanted.settled:
            self._rebalancing = asyncio.get_running_loop().call_later(REBALANCE_SEC, self.rebalance)
