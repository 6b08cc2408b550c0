# SPDX-License-Identifier: Apache-2.0
"""A simulated process that follows a demand, as ``agentcg-load`` does: for each point it first grows or shrinks, then
burns CPU, then waits for the point's time. One that is late shifts all that follows."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from enum import Enum, auto
from math import inf
from typing import TYPE_CHECKING

from agentcg.cgroup.tree import PLAIN_WEIGHT
from agentcg.replay.follower import Point
from agentcg.replay.simulation.clock import Timer
from agentcg.replay.simulation.group import PAGE, Group

if TYPE_CHECKING:
    from agentcg.replay.simulation.machine import Machine

__all__ = ["Phase", "Process"]

_ROUNDING_SEC = 1e-9


class Phase(Enum):
    """What a process does."""

    IDLE = auto()
    """It has no point to follow."""
    GROW = auto()
    BURN = auto()
    WAIT = auto()
    """For the time of its point."""
    SLOWED = auto()
    """The kernel makes it wait at a memory.high."""
    STALLED = auto()
    """It has come to a limit and waits for memory."""
    DYING = auto()
    """It was killed, and its memory is not back yet."""
    GONE = auto()


class Process:
    """A process in a group; it begins at once.

    :param name: the session's, and the call's if it is one
    :param on_done: called when a point is done
    :param on_end: called when it is gone, with the signal that killed it, or 0
    """

    weight = PLAIN_WEIGHT

    def __init__(
        self,
        machine: Machine,
        group: Group,
        *,
        name: tuple[str, str | None] = ("", None),
        oom_score_adj: int = 0,
        on_done: Callable[[], None] = lambda: None,
        on_end: Callable[[int], None] = lambda signal: None,
    ) -> None:
        self._machine, self.group, self.oom_score_adj = machine, group, oom_score_adj
        self.name = name
        self._on_done, self._on_end = on_done, on_end
        self.phase = Phase.IDLE
        self.held = 0.0
        self.peak = 0.0
        """The most it has held."""
        self.cpu_sec = 0.0
        """What it has used."""
        self.left = 0.0
        """Of what it is doing: bytes, or CPU seconds."""
        self.share = 0.0
        """The part of a CPU that it has while it runs."""
        self.allowance = inf
        """Bytes that it may grow by before the kernel looks at its memory.high again."""
        self.frozen = sum(above.frozen for above in group.above)
        """How many of the groups that it is in are frozen."""
        self.chosen = False
        """By the OOM killer."""
        self.slowed = False
        """It was made to wait at a memory.high."""
        self.timer: Timer | None = None
        self.growth: list[tuple[int, float]] = []
        """The size of each growth step, bytes, and how long it took, seconds."""
        self._points: deque[Point] = deque()
        self._last = False
        self._point: Point = (0.0, 0, 0.0)
        self._start = machine.clock.now
        self._step_began = 0.0
        self._step = 0
        self._held_back = False  # It could go on, but is frozen.
        group.processes[self] = None

    @property
    def running(self) -> bool:
        """It could use a CPU now."""
        return not self.frozen and (self.phase is Phase.GROW or self.phase is Phase.BURN)

    def follow(self, points: Iterable[Point], *, last: bool = False) -> None:
        """Give it points to follow, behind those it has. After the ``last`` one it exits."""
        self._points.extend(points)
        self._last = last
        if self.phase is Phase.IDLE:
            self._go_on()

    def _go_on(self) -> None:
        """Do all that takes no time."""
        if self.frozen:
            self._held_back = True
            return
        machine = self._machine
        while True:
            if self.phase is Phase.IDLE:
                if not self._points:
                    if self._last:
                        self.end(0)
                    return
                self._point = self._points.popleft()
                if self._begin_growing():
                    return
            # It holds what it should.
            if self.phase in (Phase.IDLE, Phase.GROW):
                self.left = self._point[2] - self.cpu_sec
                if self.left > _ROUNDING_SEC:
                    self.phase = Phase.BURN
                    machine.runs(self)
                    return
            if self.phase is not Phase.WAIT:
                due = self._start + self._point[0]
                if due > machine.clock.now:
                    self.phase = Phase.WAIT
                    self.timer = machine.clock.at(due, self._go_on)
                    return
                self._start += machine.clock.now - due
            self.phase = Phase.IDLE
            self._on_done()
            if self.phase is not Phase.IDLE:
                return  # It was given more to do, or ended, by whom it told.

    def _begin_growing(self) -> bool:
        target = -(-self._point[1] // PAGE) * PAGE
        if target <= self.held:
            if target < self.held:
                self._machine.give_back(self, self.held - target)
            return False
        self.left = target - self.held
        self._step, self._step_began = round(self.left), self._machine.clock.now
        self.phase, self.allowance = Phase.GROW, self._machine.allowance(self)
        self._machine.runs(self)
        return True

    def step_done(self) -> None:
        """It has grown, or burnt, what it was to."""
        self._machine.stops(self)
        if self.phase is Phase.GROW:
            self._machine.take(self, self.left)  # What was lost in rounding.
            self.growth.append((self._step, self._machine.clock.now - self._step_began))
        else:
            self.cpu_sec += self.left
            self.phase = Phase.BURN
        self._go_on()

    def pause(self, phase: Phase) -> None:
        """The kernel has it wait while it grows: ``SLOWED`` or ``STALLED``."""
        self._machine.stops(self)
        self.phase = phase

    def resume(self) -> None:
        """It may grow again."""
        self.phase = Phase.GROW
        if not self.frozen:
            self._machine.runs(self)

    def freeze(self) -> None:
        """One more group that it is in is frozen."""
        if self.running:
            self._machine.stops(self)
        self.frozen += 1

    def thaw(self) -> None:
        """One less is."""
        self.frozen -= 1
        if self.running:
            self._machine.runs(self)
        elif not self.frozen and self._held_back:
            self._held_back = False
            self._go_on()

    def kill(self, after_sec: float) -> None:
        """Kill it; its memory is back ``after_sec`` later."""
        if self.phase in (Phase.DYING, Phase.GONE):
            return
        if self.running:
            self._machine.stops(self)
        if self.timer is not None:
            self.timer.cancel()
        self.phase, self._held_back = Phase.DYING, False
        self._machine.clock.after(after_sec, lambda: self.end(9))

    def end(self, signal: int) -> None:
        """It is gone."""
        self.phase = Phase.GONE
        del self.group.processes[self]
        if self.held:
            self._machine.give_back(self, self.held)
        self._on_end(signal)
