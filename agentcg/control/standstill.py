# SPDX-License-Identifier: Apache-2.0
"""For how long a call stands still: stopped by itself, with its session, or with its whole group.

Pure, so that a simulated call counts as a real one does. Times are in seconds on any clock.
"""

from __future__ import annotations

__all__ = ["Pauses", "Standstill"]


class Pauses:
    """A clock that runs while a group is stopped as a whole.

    What is in the group reads it when it wants to know: a pause costs the same however many calls there are.
    """

    def __init__(self) -> None:
        self._sec = 0.0
        self._since: float | None = None

    @property
    def under_way(self) -> bool:
        """Whether it is stopped now."""
        return self._since is not None

    def begin(self, now: float) -> None:
        """The group is stopped."""
        self._since = now

    def end(self, now: float) -> None:
        """It goes on."""
        self._sec, self._since = self.sec(now), None

    def sec(self, now: float) -> float:
        """Return for how long it has been stopped so far. Before the pause under way began, there was none of it."""
        return self._sec + (0.0 if self._since is None else max(0.0, now - self._since))


class Standstill:
    """Of one call. Time for which it is stopped in several ways at once counts once.

    :param pauses: of the group that its session is in
    """

    def __init__(self, pauses: Pauses, started: float) -> None:
        self._pauses = pauses
        self._sec = 0.0
        self._counted = pauses.sec(started)  # Of the pauses, what is in _sec already, or was not its own.
        self.since: float | None = None
        """Since when it is stopped, by itself or with its session; None while it is not."""

    def begin(self, since: float) -> None:
        """It is stopped, by itself or with its session, as it may be already."""
        if self.since is None:
            self._sec, self.since = self.sec(since), since

    def end(self, now: float) -> None:
        """It goes on, unless its group is stopped."""
        if self.since is not None:
            self._sec, self.since, self._counted = self.sec(now), None, self._pauses.sec(now)

    def sec(self, now: float) -> float:
        """Return for how long it has stood still so far."""
        if self.since is not None:
            return self._sec + now - self.since
        return self._sec + self._pauses.sec(now) - self._counted
