# SPDX-License-Identifier: Apache-2.0
"""How closely the controller looks, and how often: pure, so that a simulated controller looks as the real one does.

Memory is in bytes, times are in seconds on any clock.
"""

from __future__ import annotations

from agentcg.control.decide import RECLAIM_PAUSE_SEC, RECLAIM_SEC
from agentcg.control.reserve import ALERT, Stage, margin
from agentcg.control.view import Settings, Snapshot

__all__ = ["LOOK_SEC", "PAUSE_SEC", "TICK_SEC", "Credit", "changes_at", "is_due", "moves", "next_tick_sec", "stage_of"]

TICK_SEC = 0.01
"""While a protected session lives beside others: how often its growth is looked for, if the kernel does not tell."""
LOOK_SEC = 0.1
"""How often everybody is looked at while they have a wall."""
GROWN = 2 << 20
"""Growth of all that are not protected after which everybody is looked at before that time."""
TRIP_STEP = 2 << 20
"""A tripwire is moved if it would move by this at least."""
CALM = 0.05
"""How far below the line of alert, as a part of the wall, they have to be for it to end."""
PAUSE_SEC = 0.005
"""The least time between two looks for which the kernel's events call."""


def stage_of(before: Stage, held: int, wall: int, *, tripped: bool) -> Stage:
    """Return how near those behind a wall are to it.

    :param held: what they hold together
    :param tripped: the kernel had to slow somebody down there since the look before
    """
    if held <= wall * (ALERT - (CALM if before else 0.01)):
        return Stage.CALM
    if (tripped or before is Stage.PRESSED) and held > wall - 2 * margin(wall):
        return Stage.PRESSED
    return Stage.ALERT


def is_due(since_look_sec: float, held: int, held_at_look: int, *, stopped: bool) -> bool:
    """Whether everybody is to be looked at again, where something is at stake.

    :param stopped: somebody is
    """
    if abs(held - held_at_look) >= GROWN:
        return True
    return since_look_sec >= LOOK_SEC and (stopped or held != held_at_look)


def next_tick_sec(
    *, protected: bool, others: bool, walled: bool, alert: bool, stopped: bool, yielding: bool, told: bool = False
) -> float | None:
    """Return in how many seconds to see what grows; None if that is not needed before somebody calls.

    :param protected: there are protected sessions; ``others``: and others
    :param walled: these have a wall; ``alert``: and are near it
    :param told: the kernel says when protected sessions grow
    """
    if (others and ((protected and not told) or (walled and alert))) or yielding:
        return TICK_SEC
    return LOOK_SEC if stopped or protected or (walled and others) else None


def moves(before: int | None, high: int | None) -> bool:
    """Whether a tripwire that is at ``before`` is to be written anew."""
    return before != high and (before is None or high is None or abs(high - before) >= TRIP_STEP)


def changes_at(view: Snapshot, settings: Settings) -> float | None:
    """Return when :func:`agentcg.control.decide.decide` may say something else only because time has passed; None if it
    will not: as long as nobody yields, and nothing in ``view`` but its time is another."""
    times = [session.turn_until for session in view.sessions]
    stops: list[float | None] = [session.stopped for session in view.sessions]
    stops += [call.stopped for session in view.sessions for call in session.calls]
    for since, waits in (
        *((since, (settings.freeze_max_sec, settings.patience_sec)) for since in stops),
        (view.protected_grew, (settings.yield_quiet_sec,)),
        (view.killed, (settings.kill_pause_sec,)),
        (view.reclaimed, (RECLAIM_SEC, RECLAIM_PAUSE_SEC)),
    ):
        if since is not None:
            times += [since + wait for wait in waits]
    return min((time for time in times if time > view.now), default=None)


class Credit:
    """For how long all others may be stopped while protected sessions grow: spent while they are, else earned. It is
    whole at first: nobody has been stopped yet, and a protected session that has just begun grows most."""

    def __init__(self, most_sec: float, now: float) -> None:
        self._most, self._left, self._at = most_sec, most_sec, now

    def earn(self, now: float, *, yielding: bool) -> float:
        """Return what is left, in seconds; since the last time they were stopped, or not, as ``yielding`` says."""
        since, self._at = now - self._at, now
        self._left = min(max(self._left + (-since if yielding else since), 0.0), self._most)
        return self._left
