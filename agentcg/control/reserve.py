# SPDX-License-Identifier: Apache-2.0
"""What protected sessions declared is set aside from the start: everybody else together is bounded by the rest.

A freeze or a kill when memory has run out comes too late for the one to be protected; a bound on all others does not
depend on anybody's reaction time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Bounds", "bounds"]

MARGIN = 0.04
"""The shared group is slowed down this far below its wall, as a fraction of it."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Memory limits of the group of all sessions that are not protected, in bytes; None is unlimited."""

    high: int | None
    maximum: int | None
    settled: bool
    """The wall is where it belongs. If not, the group still uses more than it may, and the wall has to follow it down:
    set below what is in use, it would kill at once."""


def bounds(capacity: int | None, reserved: Iterable[int], current: int) -> Bounds:
    """Return the limits of the shared group.

    :param capacity: what all sessions have together, None if it is not limited
    :param reserved: what each protected session declared
    :param current: what the shared group uses now
    """
    total = sum(reserved)
    if capacity is None or not total:
        return Bounds(None, None, True)
    wall = max(capacity - total, 4 << 20)
    high = round(wall * (1 - MARGIN)) & ~4095
    return Bounds(high, wall, True) if current <= wall else Bounds(high, current, False)
