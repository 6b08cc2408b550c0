# SPDX-License-Identifier: Apache-2.0
"""When what starts: the order of a recorded session, kept by order and gaps, not by the time of day.

A session has a clock of its own that shows the recording's time. It runs at the chosen speed, but it stands still at
the recorded end of a call that still runs, and at the end of a stretch in which the agent is still growing: so a call
starts when every call that had ended before it has ended now, and the recorded gap has passed. When a call ends
earlier than recorded, because it was killed, the clock is put forward to its recorded end: an agent does not wait for
a dead call. Nor does it get what the call would have left behind. A turn of the language model, if those are taken, is
waited for like a call, and nothing else begins until it is over. Pure: the caller says what time it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from agentcg.replay.plan import Piece, PlannedCall, SessionPlan
from agentcg.trace.model import RecordedTurn

__all__ = ["Action", "FollowPiece", "Schedule", "StartCall", "TakeTurn"]


@dataclass(frozen=True, slots=True)
class StartCall:
    """Start this call now."""

    call: PlannedCall


@dataclass(frozen=True, slots=True)
class FollowPiece:
    """Have the agent follow this piece of its demand now."""

    piece: Piece


@dataclass(frozen=True, slots=True)
class TakeTurn:
    """Ask the language model now."""

    turn: RecordedTurn


Action: TypeAlias = StartCall | FollowPiece | TakeTurn


class Schedule:
    """The course of one session.

    :param real_sec: the time of its start, on whatever clock the caller uses throughout
    :param turns: those that are taken, none before the one in front of it has ended
    """

    def __init__(self, plan: SessionPlan, speed: float, real_sec: float, *, turns: Sequence[RecordedTurn] = ()) -> None:
        self._speed = speed
        self._duration = plan.duration_sec
        self._waiting = list(plan.calls)[::-1]
        self._pieces = list(plan.agent)[::-1]
        self._running: dict[str, PlannedCall] = {}
        self._following: Piece | None = None
        self._turns = list(turns)[::-1]
        self._turn: RecordedTurn | None = None
        self._real, self._shown = real_sec, 0.0
        self._floor = 0.0  # The latest recorded end of the calls and turns that have ended.
        self._level = 0  # What the agent held at the end of its last piece, as recorded.
        self._missing = 0  # The part of it that killed calls would have left behind.

    @property
    def done(self) -> bool:
        """Everything has run to its end, and the recorded length has passed."""
        busy = self._waiting or self._running or self._pieces or self._following or self._turns or self._turn
        return not busy and self._shown >= self._duration

    def shown(self, real_sec: float) -> float:
        """What the session's clock shows, in seconds of the recording."""
        return min(self._limit(), max(self._floor, self._shown + (real_sec - self._real) * self._speed))

    def _limit(self) -> float:
        """Where the clock stands still."""
        limits = [self._duration, *(call.end_sec for call in self._running.values())]
        if self._waiting:
            limits.append(self._waiting[-1].start_sec)
        if self._turn:
            limits.append(self._turn.end_sec)
        elif self._turns:
            limits.append(self._turns[-1].start_sec)
        if self._following:
            limits.append(self._following.end_sec)
        elif self._pieces:
            limits.append(self._pieces[-1].end_sec)
        return min(limits)

    def _set(self, real_sec: float) -> None:
        self._shown, self._real = max(self._shown, self.shown(real_sec)), real_sec

    def advance(self, real_sec: float) -> list[Action]:
        """Return what is to start now. It counts as started."""
        actions: list[Action] = []
        while True:
            self._set(real_sec)
            # A step of the agent comes before a call that starts at the same time: it is what an earlier call left.
            if self._following is None and self._pieces and self._due(self._pieces[-1].begin_sec):
                self._following = self._pieces.pop()
                actions.append(FollowPiece(self._without_missing(self._following)))
            elif self._turn_next() and self._due(self._turns[-1].start_sec):
                self._turn = self._turns.pop()
                actions.append(TakeTurn(self._turn))
            elif self._waiting and self._due(self._waiting[-1].start_sec) and not self._step_first():
                call = self._waiting.pop()
                self._running[call.id] = call
                actions.append(StartCall(call))
            else:
                return actions

    def _due(self, t_sec: float) -> bool:
        """The clock has come to ``t_sec``, and nothing that had to end by then is still going on."""
        behind = any(call.end_sec <= t_sec for call in self._running.values())
        behind = behind or (self._following is not None and self._following.end_sec <= t_sec)
        behind = behind or (self._turn is not None and self._turn.end_sec <= t_sec)
        return self._shown >= t_sec and not behind

    def _turn_next(self) -> bool:
        """A turn comes next. A call that starts with it is one of no length, of the answer before."""
        if self._turn is not None or not self._turns:
            return False
        return not self._waiting or self._turns[-1].start_sec < self._waiting[-1].start_sec

    def _step_first(self) -> bool:
        return bool(self._pieces) and self._pieces[-1].end_sec <= self._waiting[-1].start_sec

    def _without_missing(self, piece: Piece) -> Piece:
        # What the agent gave back later is first what the calls had left it.
        self._missing = max(0, self._missing - max(0, self._level - piece.memory))
        self._level = piece.memory
        return replace(piece, memory=max(0, piece.memory - self._missing))

    def call_ended(self, call_id: str, real_sec: float, *, killed: bool = False) -> None:
        """A call is over."""
        self._set(real_sec)
        call = self._running.pop(call_id)
        self._floor = max(self._floor, call.end_sec)
        if killed:
            self._missing += call.left_behind

    def turn_ended(self, real_sec: float) -> None:
        """The turn that was to be taken is over."""
        self._set(real_sec)
        if self._turn is not None:
            self._floor = max(self._floor, self._turn.end_sec)
            self._turn = None

    def piece_done(self, real_sec: float) -> None:
        """The agent has done the piece that it was to follow."""
        self._set(real_sec)
        self._following = None

    def next_sec(self) -> float | None:
        """The time of the next action, if nothing is reported before; None if only a report can bring one."""
        times = [self._duration]
        if self._following is None and self._pieces:
            times.append(self._pieces[-1].begin_sec)
        if self._waiting:
            times.append(self._waiting[-1].start_sec)
        if self._turn is None and self._turns:
            times.append(self._turns[-1].start_sec)
        ahead = [time for time in times if time > self._shown]
        if not ahead or self._limit() <= self._shown:
            return None
        # A microsecond at least: rounded down, the time would be just short of it, for ever.
        return self._real + max(1e-6, (min(*ahead, self._limit()) - self._shown) / self._speed)
