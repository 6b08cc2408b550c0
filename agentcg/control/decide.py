# SPDX-License-Identifier: Apache-2.0
"""Who runs and who waits: from a snapshot to a plan. Pure: the same snapshot gives the same plan.

Sessions that are not protected share what is left of the memory, the *wall*; those of one tenant share its budget,
which is another. They stand in a line, the first opened first; one that has waited too long goes before all others for
a while, and those that have yet to start may be put in order by what their end is worth to others. Each has *room*:
the wall less what those before it are expected to come to, less what those behind it hold (stopped, they keep their
pages). This is the banker's algorithm (Dijkstra, EWD 108) with a fixed order: whoever is first can always come to its
end, and then the next.

A session that has grown to the end of its room is stopped: the call of it that grows most, or all of it if it is its
agent that grows. It goes on when there is room for a step more. Where claims are not known, a step takes their place,
and the first may find the memory held by those behind it. Then, in this order: page cache is given back; the first
waits too, if a protected session's memory will come back; the call that is cheapest to lose is killed. Agents never
are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from agentcg.control.reserve import margin as margin_of
from agentcg.control.view import CallView, Plan, SessionView, Settings, Snapshot, Subject
from agentcg.units import format_duration, format_size

__all__ = ["cheapest", "decide", "line", "yields"]

RECLAIM_SEC, RECLAIM_PAUSE_SEC = 0.2, 1.0
"""How long what was asked for is waited for, and when it is asked for again: it may not be there to be had."""
LEAST = 4 << 20
"""No tripwire is below this, in bytes."""


def decide(view: Snapshot, settings: Settings) -> Plan:
    """Return what is to be the case after this look."""
    plan = Plan(yielding=yields(view, settings))
    order = line(view, settings)
    if order and order[0].turn_until <= view.now and _overdue(order[0], view, settings):
        plan.turns = [order[0].ref]
    walls = _walls(view, order)
    for session in order:
        mine = [wall for tenant, wall in walls.items() if tenant in (None, session.ref.tenant)]
        for wall in mine:
            wall.reach(session)
        tight = min(mine, key=lambda wall: wall.room, default=None)
        if tight is None:
            plan.tripwires[session.ref] = None
            continue
        first = tight.line[0] is session
        step = _step(tight.size, settings)
        if first:
            _first(plan, view, settings, session, tight)
            plan.tripwires[session.ref] = _slowed(plan, view, settings, session, tight)
        else:
            _next(plan, settings, session, tight, step)
            plan.tripwires[session.ref] = max(tight.room - margin_of(tight.size), LEAST)
        if settings.has("hold"):
            _hold(plan, view, settings, session, tight, is_first=first)
        for wall in mine:
            wall.leave(session, step)
    if not settings.has("tripwire"):
        plan.tripwires = dict.fromkeys(plan.tripwires, None)
    return plan


@dataclass(slots=True)
class _Wall:
    """What some sessions may hold together, and how far down their line we are."""

    size: int
    line: list[SessionView]
    given_back: bool
    """It moves when a protected session ends."""
    tripped: bool
    """The kernel had to slow somebody down there since the look before."""
    behind: int = field(init=False)
    taken: int = 0
    room: int = 0

    def __post_init__(self) -> None:
        self.behind = sum(session.current for session in self.line)

    def reach(self, session: SessionView) -> None:
        self.behind -= session.current
        self.room = self.size - self.taken - self.behind

    def leave(self, session: SessionView, step: int) -> None:
        wants = session.claim
        if wants is None:
            calls = (call for call in session.calls if not (call.waiting and call.stopped is not None))
            wants = session.current + max(step, sum(max((call.claim or 0) - call.current, 0) for call in calls))
        self.taken += max(session.current, min(wants, self.size))


def _walls(view: Snapshot, order: list[SessionView]) -> dict[str | None, _Wall]:
    """Return the walls: that of a tenant by its name, that of all by None."""
    walls: dict[str | None, _Wall] = {}
    if view.wall is not None:
        protected = any(session.protected for session in view.sessions)
        walls[None] = _Wall(view.wall, order, protected, view.tripped)
    if view.tenant_wall is not None:
        for tenant in {session.ref.tenant for session in order}:
            members = [session for session in order if session.ref.tenant == tenant]
            walls[tenant] = _Wall(view.tenant_wall, members, given_back=False, tripped=False)
    return walls


def line(view: Snapshot, settings: Settings) -> list[SessionView]:
    """Return the sessions that are not protected in the order in which they go.

    Those that have yet to start may change places with each other, the most urgent to the front. Nobody else's place
    changes, that of the first in no case; and who has waited too long goes before all of them.
    """

    def place(session: SessionView) -> tuple[int, float, str]:
        if session.turn_until > view.now:
            return 0, session.turn_until, str(session.ref)
        if _overdue(session, view, settings):
            return 1, _stopped_since(session) or 0.0, str(session.ref)
        return 2, session.opened, str(session.ref)

    order = sorted(view.others, key=place)
    if any(session.urgency for session in order):
        starting = [index for index, one in enumerate(order) if index and place(one)[0] == 2 and _has_yet_to_start(one)]
        urgent = sorted((order[index] for index in starting), key=lambda session: -session.urgency)
        for index, session in zip(starting, urgent, strict=True):
            order[index] = session
    return order


def _has_yet_to_start(session: SessionView) -> bool:
    return session.stopped is None and bool(session.calls) and all(call.waiting for call in session.calls)


def _stopped_since(session: SessionView) -> float | None:
    """Return since when it waits to be let go on. What is frozen by hand does not: it could not go on."""
    if session.by_hand:
        return None
    stops = (session.stopped, *(call.stopped for call in session.calls if not call.by_hand))
    return min((since for since in stops if since is not None), default=None)


def _overdue(session: SessionView, view: Snapshot, settings: Settings) -> bool:
    """Whether it has waited so long that it goes before the others. Not where it could not go on all the same."""
    since = _stopped_since(session)
    if since is None or view.now - since < settings.freeze_max_sec:
        return False
    if view.now - since >= settings.patience_sec:
        return True
    behind = [other for other in view.others if other is not session]
    if view.wall is not None and not _fits(session, behind, view.wall, settings):
        return False
    tenant = [other for other in behind if other.ref.tenant == session.ref.tenant]
    return view.tenant_wall is None or _fits(session, tenant, view.tenant_wall, settings)


def _fits(session: SessionView, behind: list[SessionView], wall: int, settings: Settings) -> bool:
    return session.current + _lacking(session, _step(wall, settings)) <= wall - sum(one.current for one in behind)


def _step(wall: int, settings: Settings) -> int:
    return max(round(wall * settings.step), settings.step_min)


def _lacking(session: SessionView, most: int) -> int:
    """Return what it needs to go on for a while: ``most``, or what lacks to its claim if that is less."""
    if session.claim is None or session.claim < session.current:
        return most
    return min(most, session.claim - session.current)


def _next(plan: Plan, settings: Settings, session: SessionView, wall: _Wall, step: int) -> None:
    """Stop a session that is not the first, or part of it, if it has come to the end of its room."""
    room = wall.room
    if not settings.has("tripwire"):
        return
    why = f"it has come to {format_size(session.current)}, and more is not left"
    stopped: dict[Subject, str]
    stopped = {call.ref: why for call in session.calls if call.stopped is not None and not call.waiting}
    goes_on = session.current + _lacking(session, step) <= room
    if session.stopped is not None:
        if not goes_on:
            plan.stopped.update(stopped)
            plan.stopped[session.ref] = why
        return
    if session.current + _lacking(session, margin_of(wall.size)) <= room:
        if not goes_on:
            plan.stopped.update(stopped)
        return
    plan.stopped.update(stopped)
    # One that stays as it is needs no stopping; and one call at a time, that which grows most.
    growing = max((call for call in session.calls if call.stopped is None), key=lambda call: call.grew, default=None)
    if not session.tripped and session.grew < settings.growth_min:
        return
    if growing is not None and growing.grew > 0 and growing.grew >= session.agent_grew:
        plan.stopped[growing.ref] = why
    else:
        plan.stopped[session.ref] = why


def _waited(one: CallView | SessionView, view: Snapshot, settings: Settings) -> bool:
    return one.stopped is not None and view.now - one.stopped >= settings.freeze_max_sec


def _first(plan: Plan, view: Snapshot, settings: Settings, session: SessionView, wall: _Wall) -> None:
    """See that the first can go on; if the memory that it needs is held by others, get it."""
    room, margin = wall.room, margin_of(wall.size)
    # One that is stopped goes on when there is more than before: not let go for nothing, over and over.
    lacking = _lacking(session, margin if session.stopped is None else 2 * margin)
    stuck = session.current + lacking > room
    if not stuck or not (session.grew > 0 or wall.tripped or session.stopped is not None):
        return
    caches = {other.ref: min(other.cache, 2 * margin) for other in wall.line if other.cache >= margin}
    asked = None if view.reclaimed is None else view.now - view.reclaimed
    if caches and settings.has("reclaim") and (asked is None or not RECLAIM_SEC <= asked < RECLAIM_PAUSE_SEC):
        plan.reclaim = caches if asked is None or asked >= RECLAIM_PAUSE_SEC else {}
        return
    waited = session.turn_until > view.now or _waited(session, view, settings)
    if wall.given_back and settings.has("tripwire") and not waited:
        plan.stopped[session.ref] = "until a protected session gives memory back"
        return
    at_the_wall = wall.tripped or session.tripped or session.current + margin // 4 > room
    if (
        settings.has("kill")
        and at_the_wall
        and (view.killed is None or view.now - view.killed >= settings.kill_pause_sec)
    ):
        _kill(plan, wall.line, margin)


def _slowed(plan: Plan, view: Snapshot, settings: Settings, session: SessionView, wall: _Wall) -> int | None:
    """Return the first's tripwire: while it goes on to what others hold, the kernel slows it down until we have come.

    The wire is there to call us, and is then moved on. Above its memory.high a session may not get on at all: where
    nothing else can be reclaimed, the kernel takes the very page of code that it is about to run, over and over.
    """
    margin = margin_of(wall.size)
    if not wall.behind or (session.claim is not None and session.current <= session.claim <= wall.room - margin):
        return None
    if session.current < wall.room - 2 * margin:
        return max(wall.room - 2 * margin, LEAST)
    coming = plan.kill is not None or (view.killed is not None and view.now - view.killed < settings.kill_pause_sec)
    if session.current < wall.room - margin or coming:
        return max(wall.room - margin, LEAST)
    return None


def _kill(plan: Plan, line: list[SessionView], least: int) -> None:
    call = cheapest((call for session in line for call in session.calls), least)
    if call is not None:
        why = f"memory ran out, and of all calls it was the cheapest to lose: {_value(call)}"
        plan.kill = call.ref, why


def cheapest(calls: Iterable[CallView], least: int = 0) -> CallView | None:
    """Return the call whose loss costs least: of the lowest priority, with the least CPU time spent on it.

    Calls that hold less than ``least`` bytes are left out: ending them would not help.
    """
    candidates = [call for call in calls if call.current >= least]
    return min(candidates, key=lambda call: (call.priority, call.cpu_sec, -call.current, str(call.ref)), default=None)


def _value(call: CallView) -> str:
    return f"priority {call.priority}, {format_duration(call.cpu_sec)} of CPU time, {format_size(call.current)}"


def _hold(plan: Plan, view: Snapshot, settings: Settings, session: SessionView, wall: _Wall, *, is_first: bool) -> None:
    """Hold calls in which nothing has run yet and whose claim does not fit. A smaller one behind them may still fit.

    Calls like one that declared nothing may have been in larger sessions: it needs no more than what its own session
    still lacks to its claim.
    """
    room = wall.room
    used, held = session.current, 0
    whole = session.claim if session.claim is not None and session.claim > session.current else None
    for call in sorted(session.calls, key=lambda call: (call.started, str(call.ref))):
        needs = max((call.claim or 0) - call.current, 0)
        if whole is not None and not call.declared:
            needs = min(needs, max(whole - used, 0))
        fits = used + needs <= room
        # The first is held only for what a protected session will give back; else it would wait for nobody.
        may_wait = (not is_first or (wall.given_back and session.turn_until <= view.now)) and not _waited(
            call, view, settings
        )
        if call.waiting and not fits and may_wait and needs:
            held += 1
            why = f"it is expected to need {format_size(needs)}, and {format_size(max(room - used, 0))} are free"
            plan.stopped[call.ref] = f"{why}; place {held} in the queue"
        else:
            used += needs


def yields(view: Snapshot, settings: Settings) -> bool:
    """Return whether all others stop for a moment, because a protected session is growing."""
    if not settings.has("yield") or view.protected_grew is None:
        return False
    if view.now - view.protected_grew > settings.yield_quiet_sec:
        return False
    return view.yield_credit > (0 if view.yielding else settings.yield_quiet_sec)
