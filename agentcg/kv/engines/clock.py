# SPDX-License-Identifier: Apache-2.0
"""Time that goes on whatever its clock does."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["SteadyClock"]

_JUMP_SEC = 600.0


class SteadyClock:
    """Seconds since it was made. :param read: a clock, in seconds; where it jumps or runs back, this stands still"""

    def __init__(self, read: Callable[[], float]) -> None:
        self._read = read
        self._last, self._time = read(), 0.0

    def now(self) -> float:
        """Return the time."""
        before, self._last = self._last, self._read()
        if 0 < self._last - before < _JUMP_SEC:
            self._time += self._last - before
        return self._time
