# SPDX-License-Identifier: Apache-2.0
"""One call of a function that is to come: whoever sets another takes it back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["Alarm"]


class Alarm:
    """Belongs to the loop it was made on. Times are in seconds from now."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._pending: asyncio.Handle | None = None
        self._at = 0.0

    @property
    def pending(self) -> bool:
        """Whether something is to come."""
        return self._pending is not None

    def set(self, sec: float, call: Callable[[], None]) -> None:
        """Call in so long, and not what was to come before; 0: as soon as the loop comes to it."""
        self.cancel()
        self._at = self._loop.time() + sec
        if sec:
            self._pending = self._loop.call_later(sec, self._ring, call)
        else:
            self._pending = self._loop.call_soon(self._ring, call)

    def within(self, sec: float, call: Callable[[], None]) -> None:
        """Call in so long, unless something is to come by then anyway: that stays."""
        if self._pending is None or self._at > self._loop.time() + sec:
            self.set(sec, call)

    def cancel(self) -> None:
        """Nothing is to come."""
        if self._pending is not None:
            self._pending.cancel()
            self._pending = None

    def _ring(self, call: Callable[[], None]) -> None:
        self._pending = None
        call()
