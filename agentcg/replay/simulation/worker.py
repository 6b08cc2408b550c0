# SPDX-License-Identifier: Apache-2.0
"""A simulated program of one thread that others ask for something: the daemon, or whoever starts the processes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from agentcg.replay.simulation.group import Group
from agentcg.replay.simulation.machine import Machine
from agentcg.replay.simulation.process import Process

__all__ = ["Worker"]


class Worker:
    """Does what it is asked for, one after another.

    :param group: where it runs
    """

    def __init__(self, machine: Machine, group: Group) -> None:
        self._process = Process(machine, group, on_done=self._done)
        self._asked: deque[Callable[[], None]] = deque()
        self._cpu_sec = 0.0

    def ask(self, cpu_sec: float, then: Callable[[], None]) -> None:
        """Have ``cpu_sec`` of work done, behind what was asked for before, and ``then`` called."""
        if not cpu_sec and not self._asked:
            then()
            return
        self._asked.append(then)
        self._cpu_sec += cpu_sec
        self._process.follow([(0.0, 0, self._cpu_sec)])

    def _done(self) -> None:
        self._asked.popleft()()
