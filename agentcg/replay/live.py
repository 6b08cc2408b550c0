# SPDX-License-Identifier: Apache-2.0
"""Recorded sessions side by side, with real processes, under one limit: once for each arm."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agentcg.cgroup import files
from agentcg.cgroup.node import Inner
from agentcg.cgroup.usage import read_usage
from agentcg.errors import AgentcgError
from agentcg.replay.arms import AgentcgArm, Arm, NoArm
from agentcg.replay.host import own_cgroup, warm_up
from agentcg.replay.load import load_path
from agentcg.replay.plan import SessionPlan
from agentcg.replay.result import ArmName, ArmResult
from agentcg.replay.session import SessionReplay

__all__ = ["Options", "Progress", "replay", "run_arm"]

Progress = Callable[[str, float], None]
"""Told what is going on, and how far it has come, from 0 to 1."""

_TOLD_SEC = 0.5


@dataclass(frozen=True, slots=True)
class Options:
    """How a replay runs."""

    memory_max: int
    """What all sessions have together, bytes."""
    arms: tuple[ArmName, ...] = ("none", "agentcg")
    speed: float = 20.0
    """Recorded seconds, and CPU seconds, per second."""
    policy: str = "default"
    timeout_sec: float = 600.0
    """For each arm."""
    warm_up: bool = False
    load_options: tuple[str, ...] = ()
    """More options of ``agentcg-load``."""


def replay(
    plans: Sequence[SessionPlan], options: Options, progress: Progress = lambda text, share: None
) -> list[ArmResult]:
    """Replay the sessions under each arm in turn, and return how that went. Everything made for it is removed.

    :raises Unsupported: where this host cannot enforce limits
    :raises AgentcgError: if an arm cannot be set up, or it was interrupted by SIGTERM
    """
    program = load_path()
    with own_cgroup() as (parent, directory):
        if options.warm_up:
            warm_up(program, lambda text: progress(text, 0.0))
        return asyncio.run(_arms(parent, directory, plans, options, program, progress))


async def _arms(
    parent: Inner,
    directory: str,
    plans: Sequence[SessionPlan],
    options: Options,
    program: str,
    progress: Progress,
) -> list[ArmResult]:
    if (task := asyncio.current_task()) is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    results = []
    try:
        for name in options.arms:
            arm: Arm = (
                AgentcgArm(parent, directory, options.memory_max, options.policy)
                if name == "agentcg"
                else NoArm(parent, options.memory_max)
            )
            async with arm:
                results.append(await run_arm(name, arm, plans, options, program, progress))
            if not parent.remove_tree(name):
                raise AgentcgError(f"{directory}/{name} stays busy", hint="see which processes are in it")
    except asyncio.CancelledError:
        raise AgentcgError("the replay was interrupted; what it had made is removed") from None
    return results


async def run_arm(
    name: ArmName,
    arm: Arm,
    plans: Sequence[SessionPlan],
    options: Options,
    program: str,
    progress: Progress = lambda text, share: None,
) -> ArmResult:
    """Replay the sessions side by side in an arm that has been entered, and return how that went.

    :param program: the path of ``agentcg-load``
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    sessions = [
        SessionReplay(plan, speed=options.speed, program=program, options=options.load_options) for plan in plans
    ]
    tasks = [asyncio.create_task(session.run(arm)) for session in sessions]
    try:
        left = set(tasks)
        while left and loop.time() - began < options.timeout_sec:
            _, left = await asyncio.wait(left, timeout=_TOLD_SEC)
            progress(_label(name), min(session.shown() for session in sessions))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in tasks:
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error
    peak = files.read_int(arm.node.fd, "memory.peak")
    return ArmResult(
        arm=name,
        memory_max=options.memory_max,
        speed=options.speed,
        wall_sec=loop.time() - began,
        sessions=[session.result() for session in sessions],
        memory_peak=None if peak is None else int(peak),
        oom_kills=read_usage(arm.node, 0.0).oom_kills,
    )


def _label(name: ArmName) -> str:
    return {"agentcg": "with agentcg", "none": "without agentcg"}.get(name, name)
