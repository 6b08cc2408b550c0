# SPDX-License-Identifier: Apache-2.0
"""A replay without processes: the same sessions, the same arms, and a model of the host in their place."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import inf
from random import Random

import msgspec

from agentcg.policy.load import load
from agentcg.replay.arm_spec import ArmSpec
from agentcg.replay.events import Event, Limits, Sample, Tell, Throttled
from agentcg.replay.plan import SessionPlan
from agentcg.replay.result import ArmResult
from agentcg.replay.simulation.daemon import AgentcgArm
from agentcg.replay.simulation.group import Group
from agentcg.replay.simulation.host import SimulatedHost
from agentcg.replay.simulation.loop import LoopArm
from agentcg.replay.simulation.machine import Machine
from agentcg.replay.simulation.place import SimulatedArm
from agentcg.replay.simulation.plain import PlainArm
from agentcg.replay.simulation.session import Run, SimulatedSession
from agentcg.replay.simulation.worker import Worker

__all__ = ["simulate"]

SAMPLE_SEC = 0.1
SAMPLES = 600
"""After so many samples, those that follow are twice as far apart."""


def simulate(
    plans: Sequence[SessionPlan],
    arm: ArmSpec,
    host: SimulatedHost,
    *,
    speed: float = 1.0,
    seed: int = 0,
    tell: Tell | None = None,
    starts: Sequence[float] = (),
    timeout_sec: float = inf,
) -> ArmResult:
    """Simulate the replay of sessions side by side in one arm. The same input gives the same result.

    :param seed: of what is left to chance: how long a process takes to start
    :param tell: told of everything that happens
    :param starts: when each session begins, seconds; all at once if left out
    :param timeout_sec: what has not finished by then counts as ``timed_out``
    :raises InvalidInput: if the arm's policy cannot be read
    """
    machine = Machine(host)
    heard = tell or _nobody
    clock = machine.clock
    machine.on_slowed = lambda process: heard(Throttled(clock.now, *process.name, "it came to a memory.high"))
    simulated = _arm(machine, plans, arm, heard)
    starter = Worker(machine, Group("replay", machine.root))
    run = Run(machine, simulated, starter, Random(seed), speed, heard)  # noqa: S311  not for secrets
    sessions = [SimulatedSession(plan, run) for plan in plans]
    for index, session in enumerate(sessions):
        clock.at(starts[index] if starts else 0.0, session.start)
    if tell is not None:
        _sample(run, sessions)
    machine.run(timeout_sec)
    for session in sessions:
        session.stop()
    return ArmResult(
        arm=arm.name,
        memory_max=host.memory_max,
        speed=speed,
        wall_sec=max((session.ended for session in sessions), default=0.0),
        sessions=[session.result() for session in sessions],
        memory_peak=round(simulated.node.peak),
        oom_kills=machine.oom_kills,
    )


def _nobody(event: Event) -> None:
    pass


def _sample(run: Run, sessions: Sequence[SimulatedSession], number: int = 0, before: Limits | None = None) -> None:
    """Tell what everybody holds, and the limits when they have changed, now and then until all are over."""
    limits = run.arm.limits()
    if before is None or msgspec.structs.replace(before, t=limits.t) != limits:
        run.tell(limits)
    left = [session for session in sessions if not session.over]
    groups = {session.plan.name: session.place.group for session in left if session.place is not None}
    memory = {name: round(group.usage) for name, group in groups.items()}
    cpu = {name: round(group.all_cpu_sec(), 6) for name, group in groups.items()}
    clock = run.machine.clock
    run.tell(Sample(clock.now, memory, cpu, round(run.arm.node.usage)))
    if left:
        clock.after(SAMPLE_SEC * 2 ** (number // SAMPLES), partial(_sample, run, left, number + 1, limits))


def _arm(machine: Machine, plans: Sequence[SessionPlan], arm: ArmSpec, tell: Tell) -> SimulatedArm:
    if arm.kind == "agentcg":
        return AgentcgArm(machine, load(arm.policy), tell)
    if arm.kind == "psi-loop":
        return LoopArm(machine, plans, tell)
    return PlainArm(machine, plans, arm.kind)
