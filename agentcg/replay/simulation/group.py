# SPDX-License-Identifier: Apache-2.0
"""A simulated cgroup: what is charged to it, its limits, and who runs in it. Sizes are in bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from agentcg.cgroup.tree import PLAIN_WEIGHT

if TYPE_CHECKING:
    from agentcg.replay.simulation.process import Process

__all__ = ["PAGE", "Group"]

PAGE = 4096


class Group:
    """A cgroup. Limits are changed through the machine only."""

    def __init__(
        self,
        name: str,
        parent: Group | None = None,
        *,
        weight: int = PLAIN_WEIGHT,
        maximum: int | None = None,
        high: int | None = None,
        oom_group: bool = False,
    ) -> None:
        self.name, self.parent = name, parent
        self.above: tuple[Group, ...] = (self, *(parent.above if parent is not None else ()))
        """Itself and all above it, the nearest first."""
        self.weight, self.maximum, self.high, self.oom_group = weight, maximum, high, oom_group
        self.usage = self.peak = 0.0
        self.cpu_sec = 0.0
        """Of the processes in it, and of the groups below it that are gone."""
        self.frozen = False
        self.on_high: Callable[[], None] | None = None
        """Called when something is charged above ``high``: at once, and again while that goes on."""
        self.told_high = float("-inf")
        self.slowed_sec = 0.0
        """For how long its processes have been made to wait at a memory.high."""
        self.ooms = self.kills = 0
        """How often its own limit ran out; and how many of its processes were killed for want of memory."""
        self.killing = False
        """The OOM killer has chosen somebody, and waits for what that brings."""
        self.children: dict[Group, None] = {}
        self.processes: dict[Process, None] = {}
        self.runnable = 0
        """Processes in it or below that could use a CPU now."""
        self.active: dict[Group | Process, None] = {}
        """Where they are."""
        self.rate = 0.0
        """By which it grows, bytes per second."""
        if parent is not None:
            parent.children[self] = None

    def charge(self, size: float) -> None:
        """Account ``size`` to it and to all above it."""
        for group in self.above:
            group.usage += size
            if group.usage > group.peak:
                group.peak = group.usage

    def room(self) -> float:
        """What may still be charged to it, as far as its own limit goes."""
        return float("inf") if self.maximum is None else self.maximum - self.usage

    def all_processes(self) -> Iterator[Process]:
        """Yield the processes in it and below it."""
        yield from self.processes
        for child in self.children:
            yield from child.all_processes()

    def all_cpu_sec(self) -> float:
        """CPU seconds used in it and below it so far."""
        return self.cpu_sec + sum(child.all_cpu_sec() for child in self.children)

    def remove(self) -> None:
        """It is gone. Nothing may be left in it."""
        if self.parent is not None and self.parent.children.pop(self, self) is None:
            self.parent.cpu_sec += self.cpu_sec
