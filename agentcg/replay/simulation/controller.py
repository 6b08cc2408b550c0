# SPDX-License-Identifier: Apache-2.0
"""The controller over simulated cgroups: it looks when :mod:`agentcg.control.controller` does, and
:func:`agentcg.control.decide.decide` says what is to be done.

Looks at which nothing new could be seen are left out: while nobody grows or gives back, and nobody comes or goes, it
waits until time alone could change what is decided.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import ceil

from agentcg.cgroup.tree import FIRST_SHARE, PLAIN_WEIGHT
from agentcg.control.decide import decide, yields
from agentcg.control.pace import (
    LOOK_SEC,
    PAUSE_SEC,
    TICK_SEC,
    changes_at,
    is_due,
    moves,
    next_tick_sec,
    stage_of,
)
from agentcg.control.reserve import Stage
from agentcg.control.standstill import Pauses
from agentcg.control.view import Plan, SessionView, Settings, Snapshot, Subject
from agentcg.model import CallRef, SessionRef
from agentcg.replay.events import Killed, Tell, Yielded
from agentcg.replay.simulation.clock import Timer
from agentcg.replay.simulation.group import Group
from agentcg.replay.simulation.machine import Machine
from agentcg.replay.simulation.managed import LiveCall, LiveSession
from agentcg.replay.simulation.reserves import SimulatedReserves
from agentcg.replay.simulation.stops import SimulatedStops
from agentcg.replay.simulation.worker import Worker
from agentcg.replay.simulation.yielding import Yielding

__all__ = ["SimulatedController"]


class SimulatedController:
    """Looks, decides and acts.

    :param worker: the daemon, which a look takes time of
    """

    def __init__(
        self,
        machine: Machine,
        worker: Worker,
        shared: Group,
        reserved: Group,
        sessions: dict[SessionRef, LiveSession],
        reserves: SimulatedReserves,
        tenant_wall: int | None,
        pauses: Pauses,
        tell: Tell,
    ) -> None:
        self._machine, self._worker, self._shared, self._reserved = machine, worker, shared, reserved
        self._sessions, self._reserves, self._tenant_wall = sessions, reserves, tenant_wall
        self._tell = tell
        self._settings = Settings()
        self._stops = SimulatedStops(machine, self._find, tell)
        self._protected: dict[SessionRef, int] = {}  # What each held at the last tick.
        self._followed: dict[SessionRef, int] = {}  # What undeclared ones held when last reserved for.
        self._others = 0
        self._trips: dict[SessionRef, int | None] = {}
        self._tripped: set[SessionRef] = set()
        self._shared_tripped = False
        self._shared_at_look = 0
        self._wall_at_look: int | None = None
        self._looked = self._ticked = 0.0
        self._yielding = Yielding(machine, shared, pauses, self._settings.yield_max_sec)
        self._protected_grew: float | None = None
        self._killed: float | None = None
        self._timer: Timer | None = None
        self._asleep = False
        self._asked = False
        self._moved = False  # What was seen at the last look was not as at the one before.
        self._changes_at: float | None = None
        self.looks = 0
        """How often it has looked at everybody."""
        machine.on_growing = self._wake
        shared.on_high = self._trip_all

    # What happens

    def opened(self, live: LiveSession) -> None:
        """A session came."""
        if live.protected:
            self._protected[live.ref] = int(live.top.usage)
            self._weigh()
        else:
            self._others += 1
            live.top.on_high = partial(self._trip, live.ref)
        self.poke()

    def closed(self, live: LiveSession) -> None:
        """A session went."""
        if live.protected:
            del self._protected[live.ref]
            self._followed.pop(live.ref, None)
            self._weigh()
        else:
            self._others -= 1
        self._stops.forget(live)
        self._trips.pop(live.ref, None)
        self.poke()

    def begun(self, live: LiveCall) -> None:
        """A call came: decide before anything can run in it."""
        if live.session.stopped is not None:
            live.still.begin(live.started)
        if self._wall is not None and live.claim is not None and not live.session.protected:
            self.look()

    def finished(self, live: LiveCall) -> None:
        """A call went."""
        self._stops.forget(live)
        if self._at_stake:
            self.poke()

    def poke(self) -> None:
        """Look as soon as the daemon comes to it."""
        self._again_in(0.0, self._ask)

    def _trip(self, ref: SessionRef) -> None:
        self._tripped.add(ref)
        self._look_soon()

    def _trip_all(self) -> None:
        self._shared_tripped = self._shared_tripped or self._alert
        self._look_soon()

    def _look_soon(self) -> None:
        self._again_in(max(0.0, self._looked + PAUSE_SEC - self._now), self._ask)

    def _wake(self) -> None:
        """Somebody begins to grow, or gives memory back: the tick that was left out is the next one."""
        if self._asleep:
            passed = self._now - self._ticked
            self._again_in(max(ceil(passed / TICK_SEC) * TICK_SEC - passed, 0.0), self._tick)

    # The tick

    @property
    def _now(self) -> float:
        return self._machine.clock.now

    def _again_in(self, sec: float, action: Callable[[], None]) -> None:
        self._asleep = False
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._machine.clock.after(sec, action)

    def _ask(self) -> None:
        """A look takes the daemon some time; what is seen is seen at its end."""
        if not self._asked:
            self._asked = True
            self._worker.ask(self._machine.host.look_sec, self._asked_for)

    def _asked_for(self) -> None:
        self._asked = False
        self.look()

    def _tick(self) -> None:
        now = self._ticked = self._now
        self._look_at_protected(now)
        shared = int(self._shared.usage)
        self._stay_alert(shared)
        due = self._wall != self._wall_at_look
        if self._at_stake and self._wall is not None:
            due = due or is_due(now - self._looked, shared, self._shared_at_look, stopped=self._stops.any)
        if due:
            self._ask()
            return
        self._yield(yields(self._snapshot(now, ()), self._settings))
        self._again()

    def _look_at_protected(self, now: float) -> None:
        for ref, before in self._protected.items():
            live = self._sessions[ref]
            held = self._protected[ref] = int(live.top.usage)
            if held - before >= self._settings.growth_min:
                self._protected_grew = now
            if live.claim is not None and held <= live.reserve:
                continue
            if held - self._followed.get(ref, 0) >= self._settings.growth_min:
                self._followed[ref] = held
                self._reserves.protect(live)

    def _again(self) -> None:
        wait = next_tick_sec(
            protected=bool(self._protected),
            others=bool(self._others),
            walled=self._wall is not None,
            alert=self._alert,
            stopped=self._stops.any,
            yielding=self._yielding.now,
        )
        if wait is None:
            if self._timer is not None:
                self._timer.cancel()
            return
        seen = not self._at_stake or int(self._shared.usage) == self._shared_at_look
        if self._machine.growing or self._yielding.now or not seen or self._wall != self._wall_at_look:
            self._again_in(wait, self._tick)
            return
        if self._timer is not None:
            self._timer.cancel()
        if self._stops.any and self._moved:
            self._again_in(max(LOOK_SEC - (self._now - self._looked), TICK_SEC), self._tick)
        elif self._stops.any and self._changes_at is not None:
            self._again_in(max(self._changes_at - self._now, LOOK_SEC), self._ask)
        self._asleep = True

    def look(self) -> None:
        """Look at everybody, decide, and act."""
        now = self._looked = self._ticked = self._now
        self.looks += 1
        self._look_at_protected(now)
        self._shared_at_look, self._wall_at_look = int(self._shared.usage), self._wall
        self._stay_alert(self._shared_at_look)
        view = self._snapshot(now, self._views())
        plan = decide(view, self._settings)
        self._moved = bool(self._tripped) or any(
            session.grew or any(call.grew for call in session.calls) for session in view.sessions
        )
        self._changes_at = changes_at(view, self._settings)
        self._tripped.clear()
        self._shared_tripped = False
        self._act(plan)
        self._yield(plan.yielding)
        self._again()

    @property
    def _wall(self) -> int | None:
        walls = (self._reserves.wall, self._tenant_wall)
        return min((wall for wall in walls if wall is not None), default=None)

    def _stay_alert(self, held: int) -> None:
        wall = self._wall
        if wall is not None:
            self._reserves.reach(stage_of(self._reserves.stage, held, wall, tripped=self._shared_tripped))

    @property
    def _alert(self) -> bool:
        return self._reserves.stage > Stage.CALM

    @property
    def _at_stake(self) -> bool:
        return self._stops.any or self._alert

    def _views(self) -> tuple[SessionView, ...]:
        short = self._wall is not None and self._shared_at_look > self._wall * 7 // 8
        return tuple(
            live.view(tripped=ref in self._tripped, closely=short and not live.protected)
            for ref, live in self._sessions.items()
            if not live.closing
        )

    def _snapshot(self, now: float, sessions: tuple[SessionView, ...]) -> Snapshot:
        return Snapshot(
            now=now,
            wall=self._reserves.wall,
            tripped=self._shared_tripped,
            tenant_wall=self._tenant_wall,
            sessions=sessions,
            protected_grew=self._protected_grew,
            yielding=self._yielding.now,
            yield_credit=self._yielding.credit(),
            killed=self._killed,
        )

    # What is done

    def _find(self, subject: Subject) -> LiveCall | LiveSession | None:
        if isinstance(subject, CallRef):
            session = self._sessions.get(subject.session)
            call = None if session is None else session.calls.get(subject.call)
            return None if call is None or call.finishing else call
        live = self._sessions.get(subject)
        return None if live is None or live.closing else live

    def _act(self, plan: Plan) -> None:
        self._moved |= self._stops.apply(plan.stopped) or bool(plan.turns or plan.kill)
        for ref in plan.turns:
            self._sessions[ref].turn_until = self._now + self._settings.turn_sec
        for ref, high in plan.tripwires.items():
            live = self._sessions[ref]
            if moves(self._trips.get(ref), high) and not live.closing:
                self._trips[ref] = high
                self._machine.bound(live.top, high=high, maximum=live.top.maximum)
        if plan.kill is not None:
            self._kill(*plan.kill)

    def _yield(self, wanted: bool) -> None:
        if self._yielding.set(wanted) and wanted:
            for live in self._sessions.values():
                if not live.protected:
                    self._tell(Yielded(self._now, live.ref.session, None, "a protected session grows"))

    def _weigh(self) -> None:
        self._machine.weigh(self._reserved, PLAIN_WEIGHT * (FIRST_SHARE if self._protected else 1))

    def _kill(self, ref: CallRef, reason: str) -> None:
        live = self._find(ref)
        if isinstance(live, LiveCall):
            self._killed = self._now
            live.reason, live.finishing = reason, True
            self._stops.forget(live)
            self._tell(Killed(self._now, ref.session.session, ref.call, reason))
            for process in list(live.group.processes):
                self._machine.kill(process)
