# SPDX-License-Identifier: Apache-2.0
"""Other sessions that compute all the time: two busy loops each, in calls of their own, that say how much they did."""

from __future__ import annotations

import asyncio
import contextlib

from agentcg.errors import AgentcgError
from agentcg.replay.arms import Place, PlacedCall
from agentcg.replay.follower import Follower
from agentcg.replay.plan import PlannedCall, SessionPlan
from agentcg.trace.profile import Profile
from benches.isolation_arms import ArmAround, BenchArm, Figures

__all__ = ["BusyArm"]

LOOPS = 2
MEMORY = 4 << 20
"""What a loop declares, bytes: it is a process that holds next to nothing."""
STEP_SEC = 0.05
MOST_SEC = 180.0
"""CPU time: the loop says how much it did after each step, and would end by itself after the most."""


class BusyArm(ArmAround):
    """An arm with busy loops in all sessions that are not protected."""

    def __init__(self, arm: BenchArm, program: str) -> None:
        super().__init__(arm)
        self._program = program
        self._rates: list[float] = []

    async def open(self, plan: SessionPlan) -> Place:
        place = await super().open(plan)
        return place if plan.reserve is not None else _BusyPlace(place, self._program, self._rates)

    def figures(self) -> Figures:
        return {**super().figures(), "others_rounds_per_sec": sum(self._rates) or None}


class _BusyPlace:
    """A session's place in which busy loops run from its beginning to its end."""

    def __init__(self, place: Place, program: str, rates: list[float]) -> None:
        self._place, self._program, self._rates = place, program, rates
        self.agent = place.agent
        self._began = asyncio.get_running_loop().time()
        self._loops = [asyncio.create_task(self._loop(number)) for number in range(LOOPS)]

    async def _loop(self, number: int) -> int:
        """Compute until cancelled; return the rounds."""
        flat = Profile(((0.0, MEMORY), (1.0, MEMORY)))
        call = PlannedCall(f"busy-{number}", "busy", "busy loop", 0.0, 1.0, flat, Profile(((0.0, 0.0), (1.0, 0.0))))
        placed: PlacedCall | None = None
        rounds, status = 0, -9
        with contextlib.suppress(asyncio.CancelledError):
            placed = await self._place.begin(call)
            follower = await Follower.start(self._program, placed.placement)
            try:
                steps = range(1, round(MOST_SEC / STEP_SEC))
                follower.follow([(0.0, 0, step * STEP_SEC) for step in steps], last=True)
                status = await follower.wait()
            finally:
                await follower.stop()
                rounds = follower.rounds
        if placed is not None:
            # The session may have ended the call already, as it does when its agent dies.
            with contextlib.suppress(AgentcgError):
                await placed.end(status)
        return rounds

    async def begin(self, call: PlannedCall) -> PlacedCall:
        return await self._place.begin(call)

    async def close(self) -> None:
        took = asyncio.get_running_loop().time() - self._began
        for task in self._loops:
            task.cancel()
        done = await asyncio.gather(*self._loops, return_exceptions=True)
        self._rates.append(sum(rounds for rounds in done if isinstance(rounds, int)) / took)
        await self._place.close()
