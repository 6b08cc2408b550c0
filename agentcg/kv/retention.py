# SPDX-License-Identifier: Apache-2.0
"""One face for whoever drives a cache, be it an engine's scheduler or a simulator: it says what happens, and asks.

The driver calls :meth:`Retention.arrive`, ``start``, ``end`` and so on as these things happen. It serves the first of
``order``, asks again after each start, and when a request does not fit, takes what ``give_up`` names from the end of
those sessions' contexts and says so with ``taken``. Whoever knows of the tool calls says it with ``call``.

What holds whatever the policy and whatever the driver says:

- While nothing runs, the first request in the order may take the cache of everybody else who is not running. So a
  request that fits into the whole cache can run.
- Who is not known, has gone, or said the same thing before, changes nothing. Time does not run backwards: an earlier
  time is taken as the latest.
- What is taken is enough, or nothing: nobody loses a cache for a request that has to wait all the same.
- A session without any cache is forgotten when 16384 others were heard of since, unless it has a request.
"""

from __future__ import annotations

from math import inf
from typing import NamedTuple

from agentcg.kv.policies.base import Policy
from agentcg.kv.reload import Reload
from agentcg.kv.state import Call, CallEvent, Load, Request, Session, State

__all__ = ["Retention", "Take"]

_SESSIONS = 16384


class Take(NamedTuple):
    """So many tokens of the cache of a session, from the end of its context."""

    session: str
    tokens: int


class Retention:
    """Whose cache stays: the state of the sessions, and a policy that is asked about it."""

    def __init__(self, policy: Policy, reload: Reload) -> None:
        self.policy = policy
        self.state = State(reload)
        self._number = self._sessions = 0

    def arrive(self, request: str, session: str, tokens: int, now: float, *, tool: str = "") -> None:
        """A turn is asked for; ``tokens`` is what it needs in the cache in all.

        :param tool: what its session has called since its last turn, if that was not known when the turn ended
        """
        now = self._at(now)
        if request in self.state.requests:
            return
        known = self._session(session, now)
        known.tool = tool or known.tool
        if known.paused and known.turns and known.returned is None:
            self.state.pauses.observe(known.tool, now - known.used)
            known.returned = now
        # Whatever it called is over for it: it asks for the next turn.
        known.calls.clear()
        known.waiting.add(request)
        self._number += 1
        self.state.requests[request] = Request(request, known, tokens, now, self._number)
        self._count(now)

    def start(self, request: str, now: float, *, hit: bool = False) -> None:
        """A turn that waited is served from now on. ``hit``: what was taken of its cache was still there."""
        now = self._at(now)
        found = self.state.requests.get(request)
        if found is None or found.started is not None:
            return
        session, found.started = found.session, now
        session.waiting.discard(request)
        session.running.add(request)
        if session.lost and not hit:
            self.state.delay.observe(now - found.arrived)
        session.lost, session.returned, session.returns_at, session.deadline = 0, None, None, -inf
        self._count(now)

    def preempt(self, request: str, resident: int, now: float) -> None:
        """A turn that was served waits again; ``resident`` tokens of it are still cached."""
        now = self._at(now)
        found = self.state.requests.get(request)
        if found is None or found.started is None:
            return
        session = found.session
        session.served_sec += now - found.started
        found.started, found.preempted = None, True
        session.running.discard(request)
        session.waiting.add(request)
        session.resident = resident
        session.returned = now
        self._count(now)

    def end(self, request: str, tokens: int, now: float, *, tool: str = "", last: bool = False) -> None:
        """A turn is over and left ``tokens`` in the cache. ``tool``: what it calls; ``last``: the session is over."""
        now = self._at(now)
        found = self.state.requests.get(request)
        if found is None or found.started is None:
            return
        session = found.session
        self._remove(found, now)
        session.turns += 1
        session.served_sec += now - found.started
        session.tokens = session.resident = tokens
        session.used, session.tool, session.over_from = now, tool, None
        if last and session.paused:
            self.close(session.name, now)
        elif session.paused:
            session.rent_from = self.state.contended_sec(now)
            session.deadline = self.policy.turn_ended(self.state, session, now)
        elif not session.running:
            session.returned = now

    def cancel(self, request: str, now: float) -> None:
        """A turn is given up, whether it waits or runs."""
        now = self._at(now)
        if (found := self.state.requests.get(request)) is not None:
            self._remove(found, now)

    def close(self, session: str, now: float) -> None:
        """A session is over: nothing of it is worth keeping."""
        now = self._at(now)
        known = self.state.sessions.pop(session, None)
        if known is None:
            return
        if known.turns:
            self.state.turns.observe(known.turns)
        for request in [*known.waiting, *known.running]:
            self._remove(self.state.requests[request], now)

    def call(self, session: str, event: CallEvent, now: float) -> None:
        """Something happened to a tool call of a session."""
        now = self._at(now)
        known = self.state.sessions.get(session)
        if known is None or known.returned is not None:
            return
        if event.kind == "ended":
            if known.calls.pop(event.call, None) is not None and not known.calls and known.over_from is None:
                known.over_from = self.state.contended_sec(now)
        else:
            known.calls.setdefault(event.call, Call(now)).heard(event, now)
        if known.paused:
            known.deadline = self.policy.call_changed(self.state, known, now)

    def forget_calls(self) -> None:
        """Whoever knew of the tool calls is gone: what was said of them may be over."""
        for session in self.state.sessions.values():
            session.calls.clear()

    def foretell(self, session: str, returns_at: float) -> None:
        """Say when a paused session will be back. Only a simulator can; only the clairvoyant policy looks."""
        if (known := self.state.sessions.get(session)) is not None:
            known.returns_at = returns_at

    def loaded(self, load: Load, now: float) -> None:
        """Say how busy tools and cache are."""
        now = self._at(now)
        self.state.load = load
        self.policy.load_changed(self.state, now)

    def taken(self, session: str, tokens: int, now: float) -> None:
        """So many tokens of a session's cache are gone."""
        self._at(now)
        if (known := self.state.sessions.get(session)) is not None:
            gone = min(tokens, known.resident)
            known.resident -= gone
            known.lost += gone

    def order(self, now: float) -> list[str]:
        """Return the requests that may run next, in this order."""
        now, state = self._at(now), self.state
        waiting = sorted(state.waiting, key=lambda each: (self.policy.rank(state, each, now), each.number))
        admitted = [each.id for each in waiting if self.policy.admits(state, each, now)]
        if not admitted and not state.running:
            return [each.id for each in waiting[:1]]
        return admitted

    def give_up(self, request: str, tokens: int, now: float) -> list[Take]:
        """Return whose cache is to be taken so that ``tokens`` more fit; nothing if too little may be taken."""
        now, state = self._at(now), self.state
        wants = state.requests.get(request)
        if wants is None:
            return []
        idle = not state.running
        free, kept = [], []
        for each in state.sessions.values():
            if not each.resident or each.running or each is wants.session:
                continue
            if not self.policy.protected(state, each, now):
                free.append(each)
            elif idle or self.policy.may_take(state, wants, each, now):
                kept.append(each)
        found, missing = [], tokens
        for group in (free, kept):
            for each in sorted(group, key=lambda each: self.policy.loss(state, each, now)):
                if missing > 0:
                    found.append(Take(each.name, min(missing, each.resident)))
                    missing -= found[-1].tokens
        return found if missing <= 0 else []

    def _at(self, now: float) -> float:
        self.state.now = max(self.state.now, now)
        return self.state.now

    def _session(self, name: str, now: float) -> Session:
        sessions = self.state.sessions
        if name not in sessions:
            if len(sessions) >= _SESSIONS:
                idle = (each.name for each in sessions.values() if each.paused and not each.resident)
                sessions.pop(next(idle, ""), None)
            self._sessions += 1
            sessions[name] = Session(name, now, self._sessions)
        sessions.move_to_end(name)
        return sessions[name]

    def _remove(self, request: Request, now: float) -> None:
        self.state.requests.pop(request.id, None)
        request.session.waiting.discard(request.id)
        request.session.running.discard(request.id)
        self._count(now)

    def _count(self, now: float) -> None:
        """Somebody began to wait, or nobody does any more."""
        state = self.state
        state.contended_before = state.contended_sec(now)
        waits = any(request.started is None for request in state.requests.values())
        state.contended_since = now if waits else None
