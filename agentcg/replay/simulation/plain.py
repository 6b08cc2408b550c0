# SPDX-License-Identifier: Apache-2.0
"""A simulated host without agentcg, with some of the kernel's knobs set once for each session, or with none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from agentcg.replay.arms import Verdict, judge_plain
from agentcg.replay.events import Limits
from agentcg.replay.plan import PlannedCall, SessionPlan
from agentcg.replay.simulation.clock import Timer
from agentcg.replay.simulation.group import Group
from agentcg.replay.simulation.machine import Machine
from agentcg.replay.simulation.place import SimulatedCall, SimulatedPlace
from agentcg.replay.simulation.process import Process

__all__ = ["PlainArm", "PlainKind"]

PlainKind = Literal["none", "static", "high-only"]


class PlainArm:
    """One limit for all, and a cgroup for each session with agent and calls in it."""

    def __init__(self, machine: Machine, plans: Sequence[SessionPlan], kind: PlainKind = "none") -> None:
        self.machine = machine
        total = machine.host.memory_max
        self.node = Group("sessions", machine.root, maximum=total)
        self._maximum = total // max(len(plans), 1) if kind == "static" else None
        others = sum(plan.reserve is None for plan in plans)
        reserved = sum(plan.reserve or 0 for plan in plans)
        self._high = max(total - reserved, 0) // max(others, 1) if kind == "high-only" else None

    def open(self, plan: SessionPlan, opened: Callable[[SimulatedPlace], None]) -> None:
        high = self._high if plan.reserve is None else None
        opened(PlainPlace(self.machine, Group(plan.name, self.node, maximum=self._maximum, high=high)))

    def limits(self) -> Limits:
        groups = list(self.node.children)
        high = {group.name: group.high for group in groups}
        return Limits(
            self.machine.clock.now, self.node.maximum, high, {group.name: group.maximum for group in groups}, 0
        )


class PlainPlace:
    """A session's cgroup without agentcg."""

    def __init__(self, machine: Machine, group: Group) -> None:
        self._machine = machine
        self.group = self.agent = group
        self.over = False
        """Its session is."""
        self.freezing: Timer | None = None
        """It was ordered to be frozen, and is not yet."""

    def begin(self, call: PlannedCall, begun: Callable[[SimulatedCall], None]) -> None:
        begun(PlainCall(self.group))

    def close(self) -> None:
        self.over = True
        if self.freezing is not None:
            self.freezing.cancel()
        self._machine.clock.after(self._machine.host.kill_sec, self.group.remove)


class PlainCall:
    """A call in its session's cgroup."""

    oom_score_adj = 0

    def __init__(self, group: Group) -> None:
        self.group = group

    def entered(self, process: Process) -> None:
        pass

    def end(self, signal: int, judged: Callable[[Verdict], None]) -> None:
        judged(judge_plain(-signal))
