# SPDX-License-Identifier: Apache-2.0
"""A simulated host with the loop of :mod:`agentcg.replay.freeze_loop`, which looks at memory and at its pressure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from agentcg.replay.events import Frozen, Tell, Thawed
from agentcg.replay.freeze_loop import GROWS, PERIOD_SEC, STALLS_USEC, frozen
from agentcg.replay.plan import SessionPlan
from agentcg.replay.simulation.clock import Timer
from agentcg.replay.simulation.machine import Machine
from agentcg.replay.simulation.place import SimulatedPlace
from agentcg.replay.simulation.plain import PlainArm, PlainPlace
from agentcg.replay.simulation.process import Phase

__all__ = ["LoopArm"]


class LoopArm(PlainArm):
    """The loop takes no CPU here. It does not look while nobody grows, waits for memory or gives any back."""

    def __init__(self, machine: Machine, plans: Sequence[SessionPlan], tell: Tell) -> None:
        super().__init__(machine, plans)
        self._tell = tell
        self._limit = machine.host.memory_max
        self._protected: dict[str, PlainPlace] = {}
        self._others: dict[str, PlainPlace] = {}
        self._held: dict[str, float] = {}
        self._frozen: frozenset[str] = frozenset()
        self._timer: Timer | None = None
        self._looked = 0.0
        machine.on_growing = self._wake

    def open(self, plan: SessionPlan, opened: Callable[[SimulatedPlace], None]) -> None:
        def placed(place: SimulatedPlace) -> None:
            if isinstance(place, PlainPlace):
                (self._others if plan.reserve is None else self._protected)[plan.name] = place
            opened(place)

        super().open(plan, placed)

    def _wake(self) -> None:
        if self._timer is None:
            self._timer = self.machine.clock.at(self._looked + PERIOD_SEC, self._look)

    def _look(self) -> None:
        self._timer, self._looked = None, self.machine.clock.now
        changed = grows = False
        for places in (self._protected, self._others):
            for name in [name for name, place in places.items() if place.over]:
                del places[name]
        for name, place in self._protected.items():
            before, self._held[name] = self._held.get(name, 0.0), place.group.usage
            waits = any(process.phase in (Phase.STALLED, Phase.SLOWED) for process in place.group.all_processes())
            grows |= place.group.usage - before > GROWS or (waits and PERIOD_SEC * 1e6 > STALLS_USEC)
            changed |= waits or place.group.usage != before
        alive = list(self._others)
        number = frozen(
            self.node.usage / self._limit,
            len(self._frozen & set(alive)),
            len(alive),
            protected_lives=bool(self._protected),
            grows=grows,
        )
        wanted = frozenset(alive[len(alive) - number :])
        changed |= wanted != self._frozen or bool(self.machine.growing)
        for name in alive:
            if (name in wanted) != (name in self._frozen):
                self._set(self._others[name], name, name in wanted)
        self._frozen = wanted
        if changed and (self._others or self._protected):
            self._wake()

    def _set(self, place: PlainPlace, name: str, freeze: bool) -> None:
        clock = self.machine.clock
        self._tell((Frozen if freeze else Thawed)(clock.now, name, None, "by the loop"))
        if place.freezing is not None:
            place.freezing.cancel()
        if freeze:
            place.freezing = clock.after(self.machine.host.freeze_sec, partial(self.machine.freeze, place.group))
        else:
            self.machine.thaw(place.group)
