# SPDX-License-Identifier: Apache-2.0
"""What happens, told to whoever listens. A slow listener loses events, and is told so; it never holds anything up."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Literal

from agentcg.model import Verdict

__all__ = ["Bus", "Event", "EventKind"]

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


class _Listener:
    def __init__(self, wanted: Callable[[Event], bool]) -> None:
        self.wanted = wanted
        self.queue: deque[Event] = deque()
        self.lost = 0
        self.waiting = asyncio.Event()


class Bus:
    """One publisher, any number of listeners, on one event loop."""

    def __init__(self) -> None:
        self._sequence = 0
        self._listeners: set[_Listener] = set()
        self.hooks: list[Callable[[Event], None]] = []
        """Called with every event at once, so they miss none; they must neither block nor raise."""
        self.lost = 0
        """Events that listeners have missed so far."""

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
        log.info("%s %s: %s", kind, event.subject, message)
        for hook in self.hooks:
            hook(event)
        for listener in self._listeners:
            if not listener.wanted(event):
                continue
            if len(listener.queue) >= QUEUE:
                listener.queue.popleft()
                listener.lost += 1
                self.lost += 1
            listener.queue.append(event)
            listener.waiting.set()

    async def listen(self, wanted: Callable[[Event], bool] = lambda event: True) -> AsyncIterator[Event]:
        """Yield every event from now on that is ``wanted``, which is asked when it happens."""
        listener = _Listener(wanted)
        self._listeners.add(listener)
        try:
            while True:
                await listener.waiting.wait()
                listener.waiting.clear()
                if listener.lost:
                    yield Event(0, time.time(), "lost", "", f"{listener.lost} events were missed: read faster")
                    listener.lost = 0
                while listener.queue:
                    yield listener.queue.popleft()
        finally:
            self._listeners.discard(listener)
