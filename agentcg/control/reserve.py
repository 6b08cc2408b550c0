# SPDX-License-Identifier: Apache-2.0
"""What protected sessions declared is set aside from the start: everybody else together is bounded by the rest.

A freeze or a kill when memory has run out comes too late for the one to be protected; a bound on all others does not
depend on anybody's reaction time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from agentcg.errors import InvalidInput
from agentcg.policy.budget import PAGE
from agentcg.units import format_size

__all__ = ["ALERT", "Bounds", "Stage", "bounds", "check", "margin", "reserve_of"]

ALERT = 3 / 4
"""From this part of the wall on, those behind it are watched closely. Up to there the kernel's own event, when the
group's memory.high is reached, is waited for."""


class Stage(IntEnum):
    """How near those behind the wall have come to it. The group's memory.high is at the end of each stage."""

    CALM = 0
    ALERT = 1
    """They are watched closely."""
    PRESSED = 2
    """A margin is left, and the kernel has called. From here on it must not slow them down: above memory.high one may
    not get on at all, where nothing can be reclaimed but the page of code that it is about to run."""


MARGIN, MARGIN_MIN = 1 / 64, 8 << 20
"""The shared group is slowed down, and its kernel events come, this far below its wall: a part of it, and a least."""
AHEAD, AHEAD_MIN = 1 / 4, 32 << 20
"""What is set aside beyond the peak so far of a session that has declared nothing."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Memory limits of the group of all sessions that are not protected, in bytes; None is unlimited."""

    high: int | None
    maximum: int | None
    wall: int | None
    """Where ``maximum`` belongs."""
    settled: bool
    """The wall is where it belongs. If not, the group still uses more than it may, and the wall has to follow it down:
    set below what is in use, it would kill at once."""


def margin(wall: int) -> int:
    """Return how far before a wall something has to happen, in bytes."""
    return max(round(wall * MARGIN), MARGIN_MIN)


def reserve_of(claim: int | None, peak: int) -> int:
    """Return what is to be set aside for a protected session, in bytes.

    :param claim: what it declared, or history predicts; None if nothing is known
    :param peak: the most that it has held so far
    """
    ahead = peak + max(round(peak * AHEAD), AHEAD_MIN)
    if claim is None:
        return ahead & ~4095
    return claim if peak <= claim else ahead & ~4095


def check(declared: int, granted: int | None, left: int | None) -> None:
    """See whether what a new session declares can be set aside.

    :param granted: what the policy lets it have
    :param left: what is not set aside yet
    :raises InvalidInput: if it cannot
    """
    cut = granted is not None and granted < declared - PAGE
    if cut or (left is not None and declared > left):
        raise InvalidInput(
            "budget.memoryMax",
            f"{format_size(declared)} cannot be reserved",
            hint=f"{format_size(left)} are left, and the policy grants a session {format_size(granted)}",
        )


def bounds(
    capacity: int | None, reserved: Iterable[int], current: int, *, limited: bool = False, stage: Stage = Stage.ALERT
) -> Bounds:
    """Return the limits of the shared group.

    :param capacity: what all sessions have together, None if it is not known
    :param reserved: what each protected session is to have
    :param current: what the shared group uses now
    :param limited: ``capacity`` is a limit of theirs, not just what the machine has
    """
    total = sum(reserved)
    if capacity is None or not (total or limited):
        return Bounds(None, None, None, True)
    wall = max(capacity - total, 4 << 20)
    end = {Stage.CALM: round(wall * ALERT), Stage.ALERT: wall - margin(wall), Stage.PRESSED: wall}
    high = max(end[stage], 1 << 20) & ~4095
    if current <= wall:
        return Bounds(high, wall, wall, True)
    # Above what was read: it may have grown meanwhile.
    return Bounds(high, current + margin(wall), wall, False)
