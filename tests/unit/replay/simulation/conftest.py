# SPDX-License-Identifier: Apache-2.0
"""A host whose figures are round: 100 MiB a second for a CPU, and nothing takes time that is not said."""

from collections.abc import Callable
from typing import Any

import pytest

from agentcg.replay.plan import Piece, PlannedCall, SessionPlan
from agentcg.replay.simulation import SimulatedHost
from agentcg.replay.simulation.machine import Machine
from agentcg.trace.profile import Profile

MIB = 1 << 20


@pytest.fixture
def host() -> Callable[..., SimulatedHost]:
    def make(**figures: Any) -> SimulatedHost:
        plain = {"cpus": 2.0, "growth_rate": 100.0 * MIB, "start_sec": 0.0, "boundary_sec": 0.0, "look_sec": 0.0}
        plain |= {"freeze_sec": 0.0, "kill_sec": 0.5, "oom_wait_sec": 1.0, "jitter": 0.0}
        return SimulatedHost(**{"memory_max": 1024 * MIB, **plain, **figures})

    return make


@pytest.fixture
def machine(host: Callable[..., SimulatedHost]) -> Machine:
    return Machine(host())


@pytest.fixture
def call() -> Callable[..., PlannedCall]:
    def make(name: str, start: float, end: float, mib: float = 0, cpu: float = 0) -> PlannedCall:
        """One that holds so much from its start to its end, and uses so much CPU, steadily."""
        memory = Profile(((start, mib * MIB), (end, mib * MIB)))
        used = Profile(((start, 0.0), (end, float(cpu))))
        return PlannedCall(name, "Bash", f"run {name}", start, end, memory, used)

    return make


@pytest.fixture
def plan() -> Callable[..., SessionPlan]:
    def make(
        name: str, *calls: PlannedCall, agent: float = 0, duration: float = 0, reserve: float | None = None
    ) -> SessionPlan:
        """A session whose agent holds so much from the start, in MiB."""
        length = max([duration, *(one.end_sec for one in calls)])
        peak = round(agent * MIB + sum(one.memory.peak for one in calls))
        pieces = (Piece(0.0, 0.0, round(agent * MIB), 0.0),)
        reserved = None if reserve is None else round(reserve * MIB)
        return SessionPlan(name, name, tuple(calls), pieces, length, peak, reserved)

    return make
