# SPDX-License-Identifier: Apache-2.0
"""The controller: look, decide, act. It is called by the kernel's events and by calls that begin, and looks again by
itself only while something is at stake: while a protected session may grow, or somebody is stopped.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from functools import partial

from agentcg.cgroup import files
from agentcg.cgroup.node import Node
from agentcg.control.alarm import Alarm
from agentcg.control.decide import decide, yields
from agentcg.control.live import LiveCall, LiveSession
from agentcg.control.look import Eyes, Gauge
from agentcg.control.pace import (
    PAUSE_SEC,
    TICK_SEC,
    Credit,
    is_due,
    moves,
    next_tick_sec,
    stage_of,
)
from agentcg.control.registry import Registry
from agentcg.control.reserve import Stage
from agentcg.control.stops import Stops
from agentcg.control.view import Mechanism, Plan, SessionView, Settings, Snapshot
from agentcg.errors import Unsupported
from agentcg.journal import about
from agentcg.model import CallRef, SessionRef
from agentcg.policy.budget import budget_for

__all__ = ["Controller"]

log = logging.getLogger("agentcg.control")

FREEZING: frozenset[Mechanism] = frozenset(("hold", "tripwire", "yield"))
"""What needs somebody who thaws if we die."""


class Controller:
    """An :class:`~agentcg.control.observer.Observer` of a registry. Belongs to the loop it was made on.

    Nothing is frozen without a guard that thaws it if we die.

    :param stops: does what is decided; told by way of us of what comes and goes. In a dry run, we do nothing either
    :param told: the kernel says when protected sessions grow, by :meth:`grew`: it need not be looked for
    """

    def __init__(self, registry: Registry, settings: Settings, stops: Stops, *, told: bool = False) -> None:
        self._registry, self._settings, self._stops, self._dry_run = registry, settings, stops, stops.dry_run
        self.actions = stops.actions
        """How often each was done so far."""
        self._eyes = Eyes()
        self._gauges: dict[SessionRef, Gauge] = {}
        self._shared = Gauge(registry.tree.shared)
        self._shared_at_look = 0
        self._looked = 0.0
        self._trips: dict[SessionRef, int | None] = {}  # What their memory.high is.
        self._tripped: set[SessionRef] = set()
        self._watches: dict[SessionRef, int | None] = {}
        self._next = Alarm()
        self._reclaiming: set[asyncio.Task[None]] = set()
        self._told = told
        self._protected_grew: float | None = None
        self._credit = Credit(settings.yield_max_sec, time.monotonic())
        self._killed: float | None = None
        self._reclaimed: float | None = None
        self._followed: dict[SessionRef, int] = {}  # What undeclared protected sessions held when last reserved for.
        self._wall_at_look: int | None = None
        watch = registry.poll.watch_file
        self._shared_tripped = False
        self._shared_watch = watch(registry.tree.shared.fd, "memory.events.local", self._trip_all)
        # Every tenant has the same.
        self._tenant_wall = budget_for(registry.policy.tenant, None, registry.capacity)[0].memory_max
        stops.on_thawed, stops.on_unguarded = self._thawed, self._unguarded
        self._start_guard()

    # What happens

    def opened(self, live: LiveSession) -> None:
        """A session came."""
        ref = live.session.ref
        if live.session.protected:
            self._gauges[ref] = Gauge(live.node.top)
            self._favour()
        else:
            watch = self._registry.poll.watch_file
            self._watches[ref] = watch(live.node.top.fd, "memory.events.local", partial(self._trip, ref))
        self.poke()

    def closed(self, live: LiveSession) -> None:
        """A session went."""
        ref = live.session.ref
        self._stops.closed(live)
        if gauge := self._gauges.pop(ref, None):
            gauge.close()
            self._followed.pop(ref, None)
            self._favour()
        self._registry.poll.unwatch(self._watches.pop(ref, None))
        self._eyes.forget(live)
        self._trips.pop(ref, None)
        self.poke()

    def begun(self, live: LiveCall) -> None:
        """A call came: decide before anything can run in it."""
        self._stops.begun(live)
        if self._wall is not None and live.claim is not None and not live.session.session.protected:
            self.look()

    def amended(self, live: LiveCall) -> None:
        """A call's claim may be another."""
        self.poke()

    def finished(self, live: LiveCall) -> None:
        """A call went."""
        self._stops.finished(live)
        self._eyes.forget(live)
        if self._at_stake:
            self.poke()

    def grew(self) -> None:
        """A protected session has grown."""
        now = self._protected_grew = time.monotonic()
        self._yield_if_growing(now)
        self._look_at_protected(now)
        self._next.within(TICK_SEC, self._tick)  # For the others to go on.

    def _trip(self, ref: SessionRef) -> None:
        self._tripped.add(ref)
        self._look_soon()

    def _look_soon(self) -> None:
        """Look at once, but not twice within :data:`PAUSE_SEC`."""
        wait = self._looked + PAUSE_SEC - time.monotonic()
        if wait <= 0:
            self.look()
        else:
            self._next.set(wait, self.look)

    def _trip_all(self) -> None:
        # While nobody watches closely, it was to call us, no more.
        self._shared_tripped = self._shared_tripped or self._alert
        self._look_soon()

    def poke(self) -> None:
        """Look as soon as the loop comes to it."""
        self._next.set(0, self.look)

    def close(self) -> None:
        """Let everybody go on, and stop."""
        self._next.cancel()
        self._let_go()
        for gauge in (self._shared, *self._gauges.values()):
            gauge.close()
        self._eyes.close()
        for handle in (self._shared_watch, *self._watches.values()):
            self._registry.poll.unwatch(handle)

    def _let_go(self) -> None:
        """Let everybody go on."""
        self._act(Plan(tripwires=dict.fromkeys(self._trips, None)))
        self._yield(False, time.monotonic())

    # The guard

    def _start_guard(self) -> None:
        if self._dry_run or not self._settings.mechanisms & FREEZING:
            return
        try:
            self._stops.require_guard()
        except Unsupported as error:
            log.warning("nothing will be frozen, for want of who would thaw it: %s", error)
            self._settings = replace(self._settings, mechanisms=self._settings.mechanisms - FREEZING)

    def _thawed(self) -> None:
        """We were silent for so long that the guard let everybody go on: so it is, until the next look."""
        self._trips.clear()
        self.poke()

    def _unguarded(self) -> None:
        self._let_go()
        self._start_guard()
        self.poke()

    # The tick

    def _tick(self) -> None:
        """Look at what grows; at everybody only if that is worth it."""
        now = time.monotonic()
        self._look_at_protected(now)
        shared = self._shared.read()
        self._stay_alert()
        due = self._wall != self._wall_at_look
        if self._at_stake and self._wall is not None:
            due = due or is_due(now - self._looked, shared, self._shared_at_look, stopped=self._stops.any)
        if due:
            self.look()
            return
        self._yield_if_growing(now)
        self._again()

    def _yield_if_growing(self, now: float) -> None:
        """Decide on that alone: it takes no look at anybody."""
        self._yield(yields(self._snapshot(now, ()), self._settings), now)

    def _look_at_protected(self, now: float) -> None:
        for ref, gauge in self._gauges.items():
            before = gauge.last
            if gauge.read() - before >= self._settings.growth_min and not self._told:
                self._protected_grew = now
            live = self._registry.sessions.get(ref)
            if live is None or (live.claim is not None and gauge.last <= live.reserve):
                continue
            if gauge.last - self._followed.get(ref, 0) >= self._settings.growth_min:
                self._followed[ref] = gauge.last
                self._registry.reserves.protect(live)

    def _again(self) -> None:
        wait = next_tick_sec(
            protected=bool(self._gauges),
            others=bool(self._watches),
            walled=self._wall is not None,
            alert=self._alert,
            stopped=self._stops.any,
            yielding=self._stops.paused,
            told=self._told,
        )
        if wait is None:
            self._next.cancel()
        else:
            self._next.set(wait, self._tick)

    def look(self) -> None:
        """Look at everybody, decide, and act."""
        now = self._looked = time.monotonic()
        try:
            self._look_at_protected(now)
            self._shared_at_look, self._wall_at_look = self._shared.read(), self._wall
            self._stay_alert()
            self._eyes.begin()
            plan = decide(self._snapshot(now, self._sessions()), self._settings)
            self._tripped.clear()
            self._shared_tripped = False
            self._act(plan)
            self._yield(plan.yielding, now)
        except OSError:
            log.exception("something of this look could not be done")  # The next one tries again.
        finally:
            self._again()

    @property
    def _wall(self) -> int | None:
        """The nearest wall."""
        walls = (self._registry.reserves.wall, self._tenant_wall)
        return min((wall for wall in walls if wall is not None), default=None)

    def _stay_alert(self) -> None:
        """Watch closely while the others are near a wall; the kernel tells when they come there."""
        wall, reserves = self._wall, self._registry.reserves
        if wall is not None:
            reserves.reach(stage_of(reserves.stage, self._shared.last, wall, tripped=self._shared_tripped))

    @property
    def _alert(self) -> bool:
        return self._registry.reserves.stage > Stage.CALM

    @property
    def _at_stake(self) -> bool:
        """Whether anybody waits, or may soon have to. As long as not, it is enough to look when somebody comes."""
        return self._stops.any or self._alert

    def _sessions(self) -> tuple[SessionView, ...]:
        # What may be reclaimed or ended matters only where memory is short.
        short = self._wall is not None and self._shared_at_look > self._wall * 7 // 8
        return tuple(
            self._eyes.session(live, tripped=ref in self._tripped, closely=short and not live.session.protected)
            for ref, live in self._registry.sessions.items()
            if not live.closing and not live.session.container
        )

    def _snapshot(self, now: float, sessions: tuple[SessionView, ...]) -> Snapshot:
        return Snapshot(
            now=now,
            wall=self._registry.reserves.wall,
            tripped=self._shared_tripped,
            tenant_wall=self._tenant_wall,
            sessions=sessions,
            protected_grew=self._protected_grew,
            yielding=self._stops.paused,
            yield_credit=self._earn(now),
            reclaimed=self._reclaimed,
            killed=self._killed,
        )

    # What is done

    def _act(self, plan: Plan) -> None:
        self._stops.apply(plan.stopped)
        for ref in plan.turns:
            if live := self._registry.sessions.get(ref):
                live.turn_until = time.monotonic() + self._settings.turn_sec
        for ref, high in plan.tripwires.items():
            self._set_tripwire(ref, high)
        for ref, size in plan.reclaim.items():
            self._reclaim(ref, size)
        if plan.kill is not None:
            self._kill(*plan.kill)

    def _set_tripwire(self, ref: SessionRef, high: int | None) -> None:
        if not moves(self._trips.get(ref), high):
            return
        live = self._registry.sessions.get(ref)
        if live is None or live.closing or self._dry_run:
            return
        self._trips[ref] = high
        self.actions["tripwire"] += 1
        self._registry.tree.trip(live.node, high)

    def _earn(self, now: float) -> float:
        """Return the credit for yielding."""
        return self._credit.earn(now, yielding=self._stops.paused)

    def _yield(self, wanted: bool, now: float) -> None:
        if wanted == self._stops.paused or self._dry_run:
            return
        self._earn(now)
        self._stops.pause(wanted)

    def _favour(self) -> None:
        if self._settings.has("cpu") and not self._dry_run:
            self._registry.tree.favour(first=bool(self._gauges))

    def _reclaim(self, ref: SessionRef, size: int) -> None:
        live = self._registry.sessions.get(ref)
        if live is None or self._reclaiming:
            return
        log.info("%sreclaiming %d bytes of page cache from %s", self._would, size, ref, extra=about(ref))
        self._reclaimed = time.monotonic()
        if not self._dry_run:
            self.actions["reclaim"] += 1
            task = asyncio.create_task(asyncio.to_thread(_reclaim, live.node.top, size))
            self._reclaiming.add(task)
            task.add_done_callback(self._reclaiming.discard)

    def _kill(self, ref: CallRef, reason: str) -> None:
        log.info("%skilling %s: %s", self._would, ref, reason, extra=about(ref))
        live = self._registry.calls.get(ref)
        if live is not None and live.finishing is None and not self._dry_run:
            self._killed = time.monotonic()
            self.actions["kill"] += 1
            self._registry.bus.publish("call_killed", ref, reason)
            self._registry.finish(live, reason=reason)

    @property
    def _would(self) -> str:
        return "dry run: " if self._dry_run else ""


def _reclaim(node: Node, size: int) -> None:
    try:
        files.write(node.fd, "memory.reclaim", str(size))
    except OSError:  # EAGAIN: less than that could be had.
        log.debug("%s: could not reclaim %d bytes", node.name, size)
