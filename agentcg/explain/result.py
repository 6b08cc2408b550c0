# SPDX-License-Identifier: Apache-2.0
"""What was seen of a call's tasks in a while, and how it is written as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

__all__ = ["MEANING", "Explanation", "Kind", "Stack"]


class Kind(IntEnum):
    """What a task's time goes to: ``enum kind`` of bpf/agentcg_explain.c, in its order."""

    RUN = 0
    QUEUE = 1
    RECLAIM = 2
    THROTTLED = 3
    IO = 4
    FROZEN = 5
    SLEEP = 6


MEANING: Mapping[Kind, str] = {
    Kind.RUN: "on a CPU",
    Kind.QUEUE: "waiting for a CPU",
    Kind.RECLAIM: "in direct reclaim",
    Kind.THROTTLED: "throttled at memory.high",
    Kind.IO: "waiting for I/O",
    Kind.FROZEN: "frozen",
    Kind.SLEEP: "sleeping: timers, locks, pipes, children",
}


@dataclass(frozen=True, slots=True)
class Stack:
    """Where tasks have left their CPUs to wait, and for how long."""

    kind: Kind
    seconds: float
    count: int
    """How often."""
    frames: tuple[str, ...]
    """Functions, the innermost first: the kernel's, then the program's own where its stack can be walked."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """A call's time, of all its tasks together."""

    call: str
    seconds: float
    """For how long it was looked at."""
    tasks: int
    """Threads that were there at the end."""
    spent: Mapping[Kind, float]
    """Task seconds: ten threads that sleep for a second sleep for ten seconds."""
    cpu_max_seconds: float | None = None
    """For how long it was held back by cpu.max meanwhile (``throttled_usec`` of cpu.stat)."""
    ended: bool = False
    """The call was over before the time was."""
    stacks: tuple[Stack, ...] = field(default=())
    """The longest waits, the longest first."""

    @property
    def total(self) -> float:
        """All task seconds."""
        return sum(self.spent.values())

    def share(self, kind: Kind) -> float:
        """Return the part of all task seconds that went to ``kind``, 0 to 1."""
        return self.spent[kind] / self.total if self.total > 0 else 0.0

    def to_wire(self) -> dict[str, Any]:
        """Return it as ``agentcg explain --json`` prints it."""
        return {
            "call": self.call,
            "seconds": round(self.seconds, 6),
            "tasks": self.tasks,
            "ended": self.ended,
            "taskSeconds": {kind.name.lower(): round(self.spent[kind], 6) for kind in Kind},
            "cpuMaxSeconds": self.cpu_max_seconds,
            "stacks": [
                {
                    "kind": stack.kind.name.lower(),
                    "seconds": round(stack.seconds, 6),
                    "count": stack.count,
                    "frames": list(stack.frames),
                }
                for stack in self.stacks
            ],
        }
