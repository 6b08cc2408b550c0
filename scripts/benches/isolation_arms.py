# SPDX-License-Identifier: Apache-2.0
"""What the sessions of the isolation bench live under: a plain host, one with knobs, controllers, and agentcg."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Protocol

from agentcg.cgroup import files
from agentcg.replay import plain_arms
from agentcg.replay.agentcg_arm import AgentcgArm
from agentcg.replay.arms import Arm, Place, PlacedCall, Scene
from agentcg.replay.plan import PlannedCall, SessionPlan, with_margin
from benches.isolation_sessions import MB

__all__ = [
    "MIB",
    "AdmissionArm",
    "ArmAround",
    "BenchArm",
    "DaemonArm",
    "Figures",
    "KnobArm",
    "LoopArm",
    "PlainArm",
    "WatchedPlace",
]

MIB = 1 << 20
OTHERS_HIGH = 400 * MB
"""memory.high of each other session where that is all they have: 400 MB, as it was published."""
_FROZE = re.compile(r"\bfroze \S+ in ([0-9.]+) ms")

Figures = Mapping[str, float | None]
"""What an arm itself has measured, by metric."""


class BenchArm(Arm, Protocol):
    """An arm that can say what it has measured."""

    def figures(self) -> Figures:
        """To be asked when the sessions have ended, before it is left."""


class ArmAround:
    """Another arm, for more to be done around it."""

    def __init__(self, arm: BenchArm) -> None:
        self._arm = arm

    async def __aenter__(self) -> ArmAround:
        await self._arm.__aenter__()
        self.node = self._arm.node
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._arm.__aexit__(*error)

    async def open(self, plan: SessionPlan) -> Place:
        return await self._arm.open(plan)

    def figures(self) -> Figures:
        return self._arm.figures()


class WatchedPlace:
    """A session's place, with something to be done before and after it is given up."""

    def __init__(
        self, place: Place, *, closing: Callable[[], None] = lambda: None, closed: Callable[[], None] = lambda: None
    ) -> None:
        self._place, self._closing, self._closed = place, closing, closed
        self.agent = place.agent

    async def begin(self, call: PlannedCall) -> PlacedCall:
        return await self._place.begin(call)

    async def close(self) -> None:
        self._closing()
        try:
            await self._place.close()
        finally:
            self._closed()


class PlainArm(plain_arms.PlainArm):
    """A host without agentcg."""

    def figures(self) -> Figures:
        return {}


class KnobArm(plain_arms.KnobArm):
    """The same, with some of the kernel's knobs set once for each session."""

    def figures(self) -> Figures:
        over = []
        for plan in self.scene.plans:
            high = self.knobs(self.scene, plan).get("memory.high")
            if high is not None:
                peak = int(Path(self.directory, plan.name, "memory.peak").read_text())
                over.append(max(0, peak - high) / MIB)
        return {"overshoot_mib": max(over)} if over else {}


def high_only(scene: Scene, plan: SessionPlan) -> Mapping[str, int]:
    """memory.high on the others."""
    return {"memory.high": OTHERS_HIGH} if plan.reserve is None else {}


def low_high(scene: Scene, plan: SessionPlan) -> Mapping[str, int]:
    """memory.low on the protected session besides."""
    return {"memory.high": OTHERS_HIGH} if plan.reserve is None else {"memory.low": plan.reserve}


class LoopArm(plain_arms.LoopArm):
    """The 10 ms loop, by memory.current alone."""

    def figures(self) -> Figures:
        return {"controller_cpu_sec": self.cpu_sec()}


class AdmissionArm(PlainArm):
    """The protected session's memory is set aside; each other starts when there is room for its peak, and nothing
    is done once it runs."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._room = scene.memory_max - sum(plan.reserve or 0 for plan in scene.plans)
        self._freed = asyncio.Event()

    async def open(self, plan: SessionPlan) -> Place:
        if plan.reserve is not None:
            return WatchedPlace(await super().open(plan), closed=lambda: self._free(plan.reserve or 0))
        needs = with_margin(plan.peak)
        while self._room < needs:
            self._freed.clear()
            await self._freed.wait()
        self._room -= needs
        return WatchedPlace(await super().open(plan), closed=lambda: self._free(needs))

    def _free(self, size: int) -> None:
        self._room += size
        self._freed.set()


class DaemonArm(AgentcgArm):
    """agentcg, measured.

    :param history: a history that the daemon starts with; the file itself stays as it is, unless the daemon ``learns``
    """

    def __init__(
        self,
        scene: Scene,
        *,
        policy: str = "default",
        options: Sequence[str] = (),
        history: Path | None = None,
        declares: bool = True,
        learns: bool = False,
    ) -> None:
        if history is not None and not learns:
            history = Path(shutil.copyfile(history, history.with_suffix(".copy")))
        super().__init__(
            scene,
            policy,
            options=options,
            history=None if history is None else str(history),
            declares=declares,
        )
        self._overshoot: float | None = None

    async def open(self, plan: SessionPlan) -> Place:
        place = await super().open(plan)
        return place if plan.reserve is None else WatchedPlace(place, closing=lambda: self._look(plan.name))

    def _look(self, protected: str) -> None:
        """While the protected session still has its reserve, see how far the others once went into it."""
        top = Path(self.scene.directory, "agentcg")
        reserves = list(top.glob(f"reserved/*/{protected}/memory.low"))
        peak = files.read_int(self.node.fd, "shared/memory.peak")
        if reserves and peak is not None and (reserve := int(reserves[0].read_text())):
            self._overshoot = max(0.0, peak - (self.scene.memory_max - reserve)) / MIB

    def figures(self) -> Figures:
        freezes = [float(took) for took in _FROZE.findall(self.log_text())]
        return {
            "overshoot_mib": self._overshoot,
            "freeze_ms": median(freezes) if freezes else None,
            "freezes": float(len(freezes)),
            "controller_cpu_sec": self.cpu_sec(),
        }
