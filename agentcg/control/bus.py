# SPDX-License-Identifier: Apache-2.0
"""What happens, told to whoever listens. A slow listener loses events, and is told so; it never holds anything up."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from agentcg.journal import about
from agentcg.model import Verdict

__all__ = ["Bus", "Event", "EventKind", "Listeners"]

log = logging.getLogger("agentcg.events")

QUEUE = 1024  # Events that a listener may fall behind.

EventKind = Literal[
    "session_opened",
    "session_closed",
    "session_adopted",
    "session_pressure",
    "session_frozen",
    "session_thawed",
    "call_begun",
    "call_amended",
    "call_held",
    "call_frozen",
    "call_thawed",
    "call_throttled",
    "call_oom",
    "call_killed",
    "call_ended",
    "call_adopted",
    "call_unmanaged",
    "refused",
    "lost",
]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to ``subject``, the full name of a session or a call."""

    sequence: int
    time: float
    kind: EventKind
    subject: str
    message: str
    verdict: Verdict | None = None


_T = TypeVar("_T")


class _Listener(Generic[_T]):
    def __init__(self, wanted: Callable[[_T], bool], first: Iterable[_T]) -> None:
        self.wanted = wanted
        self.queue: deque[_T] = deque(first)
        self.lost = 0
        self.waiting = asyncio.Event()
        if self.queue:
            self.waiting.set()


class Listeners(Generic[_T]):
    """One teller, any number of listeners, on one event loop.

    :param lost: what to tell a listener that missed so many
    """

    def __init__(self, lost: Callable[[int], _T]) -> None:
        self._tell_lost = lost
        self._listeners: set[_Listener[_T]] = set()
        self.lost = 0
        """What listeners have missed so far."""

    def tell(self, item: _T) -> None:
        """Tell every listener."""
        for listener in self._listeners:
            if not listener.wanted(item):
                continue
            if len(listener.queue) >= QUEUE:
                listener.queue.popleft()
                listener.lost += 1
                self.lost += 1
            listener.queue.append(item)
            listener.waiting.set()

    async def listen(
        self, wanted: Callable[[_T], bool] = lambda item: True, first: Callable[[], Iterable[_T]] = tuple
    ) -> AsyncIterator[_T]:
        """Yield what ``first`` returns now, and then everything that is ``wanted``, which is asked when it is told."""
        listener = _Listener(wanted, first())
        self._listeners.add(listener)
        try:
            while True:
                await listener.waiting.wait()
                listener.waiting.clear()
                if listener.lost:
                    yield self._tell_lost(listener.lost)
                    listener.lost = 0
                while listener.queue:
                    yield listener.queue.popleft()
        finally:
            self._listeners.discard(listener)


def _missed(count: int) -> Event:
    return Event(0, time.time(), "lost", "", f"{count} events were missed: read faster")


class Bus(Listeners[Event]):
    """Tells of what happens to sessions and calls."""

    def __init__(self) -> None:
        super().__init__(_missed)
        self._sequence = 0
        self.hooks: list[Callable[[Event], None]] = []
        """Called with every event at once, so they miss none; they must neither block nor raise."""

    def publish(
        self,
        kind: EventKind,
        subject: object,
        message: str,
        verdict: Verdict | None = None,
        *,
        at: float | None = None,
    ) -> None:
        """Tell every listener, and the log. ``at`` is when it happened, in seconds since the epoch; by default now."""
        self._sequence += 1
        event = Event(self._sequence, time.time() if at is None else at, kind, str(subject), message, verdict)
        if log.isEnabledFor(logging.INFO):
            outcome = {"outcome": verdict.outcome} if verdict else {}
            log.info("%s %s: %s", kind, event.subject, message, extra=about(subject, event=kind, **outcome))
        for hook in self.hooks:
            hook(event)
        self.tell(event)
