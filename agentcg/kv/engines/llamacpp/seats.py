# SPDX-License-Identifier: Apache-2.0
"""Who gets which slot, whose slot is taken for it, and what is saved on the way. No clock, no I/O.

A slot holds the context of one session, whole, however short it is. So what is asked of the policy is for room of one
token: it names one session, and that session's whole slot is taken.

What holds whatever is said:

- A slot serves one turn at a time. A session sits in one slot at most.
- A turn waits only while every slot is busy, or others are protected by the policy; and for 30 s at most while a slot
  is idle. After that it gets the one that was used least recently.
- While nothing runs anybody may take what is protected, but not at once: only when the server has been idle for as long
  as it takes to have that context back. With few slots, all sessions often pause at a time, and briefly; by ski rental,
  waiting for them costs at most as much again as not to wait.
- A file holds one session's context at a time, and is read for that session alone. There are no more files than were
  allowed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from typing import NamedTuple

from agentcg.kv.engines.llamacpp.costs import Costs
from agentcg.kv.policies.base import Policy
from agentcg.kv.retention import Retention
from agentcg.kv.state import CallEvent

__all__ = ["PATIENCE_SEC", "Holding", "Seat", "Seats"]

PATIENCE_SEC = 30.0
_ERASING = "erasing"  # No request is called so: the driver's are numbers.


@dataclass(slots=True)
class _Slot:
    number: int
    session: str = ""
    """Whose context it holds; empty: nobody's."""
    request: str = ""
    """The turn that it serves; empty: none."""


class Seat(NamedTuple):
    """A turn may run. First ``victim`` is to be saved to the file ``save``, then the file ``restore`` to be read."""

    request: str
    slot: int
    victim: str
    save: int | None
    restore: int | None


class Holding(NamedTuple):
    """What a session has of the cache. ``turns`` wait or are served; ``protected``: nobody gets its slot now."""

    session: str
    tokens: int
    seated: bool
    turns: int
    protected: bool


class Seats:
    """The slots of one server, and the sessions that want them.

    :param slots: how many it has
    :param context: tokens that each holds
    :param files: how many contexts may be saved at a time
    """

    def __init__(self, policy: Policy, slots: int, context: int, files: int) -> None:
        self.costs = Costs()
        self.retention = Retention(policy, self.costs)
        self.context = context
        self._slots = [_Slot(number) for number in range(slots)]
        self._free_files = list(range(files))
        self._saved: OrderedDict[str, int] = OrderedDict()
        self._idle_since = -inf
        self.ask_again_at = inf
        """When a turn may run that may not yet, though nothing runs; of :meth:`next` that returned None."""

    @property
    def slots(self) -> int:
        """How many there are."""
        return len(self._slots)

    @property
    def waiting(self) -> int:
        """How many turns have no slot yet."""
        return len(self.retention.state.waiting)

    def arrive(self, request: str, session: str, tokens: int, now: float) -> None:
        """A turn of ``session`` is asked for, whose prompt has about so many tokens."""
        self.retention.arrive(request, session, self._within(tokens), now)

    def next(self, now: float) -> Seat | None:
        """Return the turn that may run now, if any; ask again until there is none."""
        self.ask_again_at = inf
        requests = self.retention.state.requests
        if all(slot.request for slot in self._slots):
            return None
        busy = {slot.session for slot in self._slots if slot.request}
        # A session's second turn goes on in its slot, after the first, and holds nobody up meanwhile.
        order = (each for each in self.retention.order(now) if requests[each].session.name not in busy)
        request = next(order, None)
        if request is None:
            return None
        session = requests[request].session.name
        slot = self._find(request, session, now)
        if slot is None:
            return None
        victim, save, restore = slot.session, None, None
        if victim != session:
            if victim:
                tokens = self.retention.state.sessions[victim].resident
                self.retention.taken(victim, tokens, now)
                save = self._file(victim) if self.costs.saving_pays(tokens) else None
            restore = self._saved.pop(session, None)
        slot.session, slot.request = session, request
        self.retention.start(request, now)
        return Seat(request, slot.number, victim, save, restore)

    def written(self, victim: str, file: int, *, good: bool) -> None:
        """A session was saved to a file, or could not be."""
        if good and victim not in self._saved:
            self._saved[victim] = file
        else:
            self._free_files.append(file)

    def read(self, file: int) -> None:
        """A file was read, or could not be. Either way nobody needs it any more."""
        self._free_files.append(file)

    def ended(self, request: str, tokens: int, now: float, *, tool: str = "") -> None:
        """A turn is over, and left so many tokens in its slot; it called ``tool``."""
        slot = self._of(request)
        if slot is None:
            self.retention.cancel(request, now)
            return
        slot.request = ""
        if request not in self.retention.state.requests:
            slot.session = ""  # It was closed meanwhile.
        # A slot that holds nothing would be nobody's to give up.
        self.retention.end(request, max(1, self._within(tokens)), now, tool=tool)
        self._idle_since = self.retention.state.now

    def cancelled(self, request: str, now: float) -> None:
        """A turn was given up, before or after it had a slot."""
        found = self.retention.state.requests.get(request)
        self.ended(request, 0 if found is None else found.session.resident, now)

    def call(self, session: str, event: CallEvent, now: float) -> None:
        """Something happened to a tool call of a session."""
        self.retention.call(session, event, now)

    def end_calls(self, now: float) -> None:
        """All calls are over, as far as anybody will ever say."""
        for session in self.retention.state.sessions.values():
            for call in list(session.calls):
                self.retention.call(session.name, CallEvent(call, "ended"), now)

    def close(self, session: str, now: float) -> list[int]:
        """A session is over. Return the slots that held it: each is to be erased, and nobody gets it until it is."""
        self.retention.close(session, now)
        if (file := self._saved.pop(session, None)) is not None:
            self._free_files.append(file)
        left = [slot for slot in self._slots if slot.session == session and not slot.request]
        for slot in left:
            slot.session, slot.request = "", _ERASING
        return [slot.number for slot in left]

    def erased(self, number: int) -> None:
        """Such a slot was erased, or could not be."""
        for slot in self._slots:
            if slot.number == number and slot.request == _ERASING:
                slot.request = ""

    def named(self, start: str) -> list[str]:
        """Return the sessions that sit in a slot or a file and whose names begin so."""
        names = {slot.session for slot in self._slots} | set(self._saved)
        return sorted(name for name in names if name.startswith(start))

    def forget(self, slots: int, context: int, now: float) -> None:
        """The server is a new one, with so many slots: they are empty, and what was saved may be another model's."""
        for session in self.retention.state.sessions.values():
            self.retention.taken(session.name, session.resident, now)
        self._free_files += self._saved.values()
        self._saved.clear()
        self.context = context
        # Turns of the old server are over when whoever asked for them says so.
        busy = {slot.number: slot for slot in self._slots if slot.request not in ("", _ERASING)}
        self._slots = [busy.get(number) or _Slot(number) for number in range(slots)]

    def holdings(self, now: float) -> Iterator[Holding]:
        """Yield what each session has that has anything, or waits for it."""
        state, policy = self.retention.state, self.retention.policy
        seated = {slot.session for slot in self._slots if slot.session}
        for name in sorted(seated | {request.session.name for request in state.requests.values()}):
            if (session := state.sessions.get(name)) is not None:
                turns = len(session.running) + len(session.waiting)
                protected = session.paused and policy.protected(state, session, max(now, state.now))
                yield Holding(name, session.resident, name in seated, turns, protected)

    def free_slots(self, now: float) -> int:
        """Return how many slots a new turn could have at once."""
        kept = {holding.session for holding in self.holdings(now) if holding.protected or holding.turns}
        return sum(not slot.request and slot.session not in kept for slot in self._slots)

    def _find(self, request: str, session: str, now: float) -> _Slot | None:
        idle = [slot for slot in self._slots if not slot.request]
        for slot in idle:
            if slot.session == session:
                return slot
        for slot in idle:
            if not slot.session:
                return slot
        by_session = {slot.session: slot for slot in idle}
        state = self.retention.state
        arrived = state.requests[request].arrived
        for take in self.retention.give_up(request, 1, now):
            victim = state.sessions[take.session]
            if not state.running and self.retention.policy.protected(state, victim, state.now):
                wait_sec = min(state.benefit_sec(victim), PATIENCE_SEC)
                self.ask_again_at = max(self._idle_since, arrived) + wait_sec
                if state.now < self.ask_again_at:
                    return None
            return by_session.get(take.session)
        if state.now - arrived < PATIENCE_SEC:
            return None
        return min(idle, key=lambda slot: state.sessions[slot.session].used)

    def _file(self, victim: str) -> int | None:
        if victim in self._saved:
            return self._saved.pop(victim)
        if not self._free_files and self._saved:
            return self._saved.popitem(last=False)[1]
        return self._free_files.pop() if self._free_files else None

    def _of(self, request: str) -> _Slot | None:
        return next((slot for slot in self._slots if slot.request == request), None)

    def _within(self, tokens: int) -> int:
        return min(max(0, tokens), self.context)
