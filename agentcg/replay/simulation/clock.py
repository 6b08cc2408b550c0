# SPDX-License-Identifier: Apache-2.0
"""Simulated time, and what is to happen when."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from math import inf

__all__ = ["Clock", "Timer"]


class Timer:
    """Something that is to happen."""

    __slots__ = ("action",)

    def __init__(self, action: Callable[[], None]) -> None:
        self.action: Callable[[], None] | None = action

    def cancel(self) -> None:
        """It will not. Safe to call twice, and when it has."""
        self.action = None


class Clock:
    """The time, in seconds since the begin. What is due at one time happens in the order in which it was asked for."""

    def __init__(self) -> None:
        self.now = 0.0
        self._timers: list[tuple[float, int, Timer]] = []
        self._number = 0

    def after(self, sec: float, action: Callable[[], None]) -> Timer:
        """Have ``action`` called when ``sec`` have passed."""
        return self.at(self.now + sec, action)

    def at(self, time: float, action: Callable[[], None]) -> Timer:
        """Have ``action`` called at ``time``, or as soon as possible."""
        timer = Timer(action)
        self._number += 1
        heappush(self._timers, (max(time, self.now), self._number, timer))
        return timer

    @property
    def next_sec(self) -> float:
        """When the next thing happens; infinite if there is none."""
        timers = self._timers
        while timers and timers[0][2].action is None:
            heappop(timers)
        return timers[0][0] if timers else inf

    def run_due(self) -> None:
        """Do the next thing if its time has come."""
        if self.next_sec <= self.now:
            _, _, timer = heappop(self._timers)
            action, timer.action = timer.action, None
            if action is not None:
                action()
