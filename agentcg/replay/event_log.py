# SPDX-License-Identifier: Apache-2.0
"""The events of one arm while it runs, and the clock that they go by."""

from __future__ import annotations

import time

from agentcg.replay.events import Event

__all__ = ["EventLog"]


class EventLog:
    """What happens from now on."""

    def __init__(self) -> None:
        self._began, self._epoch = time.monotonic(), time.time()
        self.events: list[Event] = []

    def now(self) -> float:
        """Seconds since the beginning."""
        return self.at(time.monotonic())

    def at(self, monotonic: float) -> float:
        """The same of a point on the monotonic clock."""
        return round(max(0.0, monotonic - self._began), 6)

    def at_epoch(self, moment: float) -> float:
        """The same of seconds since the epoch."""
        return round(max(0.0, moment - self._epoch), 6)

    def tell(self, event: Event) -> None:
        """Keep an event."""
        self.events.append(event)
