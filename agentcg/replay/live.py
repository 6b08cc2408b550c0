# SPDX-License-Identifier: Apache-2.0
"""Recorded sessions side by side, with real processes, under one limit: once for each arm of each round."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from agentcg.cgroup import files
from agentcg.cgroup.usage import read_usage
from agentcg.errors import AgentcgError
from agentcg.replay.agentcg_arm import AgentcgArm
from agentcg.replay.arm_spec import ArmSpec, title_of
from agentcg.replay.arms import Arm, ObservedArm, Scene
from agentcg.replay.event_log import EventLog
from agentcg.replay.host import own_cgroup, warm_up
from agentcg.replay.load import load_path
from agentcg.replay.plain_arms import KnobArm, LoopArm, PlainArm, high_only, static
from agentcg.replay.plan import SessionPlan
from agentcg.replay.result import ArmName, ArmResult
from agentcg.replay.rounds import Progress, round_of, turns
from agentcg.replay.run_folder import FinishedArm, RunFolder
from agentcg.replay.sampler import sampled
from agentcg.replay.served import in_loop
from agentcg.replay.served.options import ServerOptions
from agentcg.replay.session import SessionReplay

if TYPE_CHECKING:
    from agentcg.replay.served.loop import Loop, Talk

__all__ = ["Options", "replay", "run_arm"]

_TOLD_SEC = 0.5


@dataclass(frozen=True, slots=True)
class Options:
    """How a replay runs."""

    memory_max: int
    """What all sessions have together, bytes."""
    arms: tuple[ArmSpec, ...] = ()
    rounds: int = 1
    seed: int = 0
    """Of the order of the arms."""
    speed: float = 20.0
    """Recorded seconds, and CPU seconds, per second."""
    timeout_sec: float = 600.0
    """For each arm."""
    warm_up: bool = False
    load_options: tuple[str, ...] = ()
    """More options of ``agentcg-load``."""
    server: ServerOptions | None = None
    """Which LLM server takes the turns; None: they are pauses."""


def replay(
    plans: Sequence[SessionPlan],
    options: Options,
    folder: RunFolder,
    progress: Progress = lambda text, share: None,
) -> None:
    """Replay the sessions under each arm in each round, except what has finished already, and put how that went into
    ``folder``. Everything made for it is removed.

    :raises Unsupported: where this host cannot enforce limits
    :raises AgentcgError: if an arm cannot be set up, or it was interrupted by SIGTERM, or the LLM server is not there
    """
    due = turns(options.arms, options.rounds, options.seed)
    if all(folder.has(number, arm.name) for number, arm in due):
        return
    program = load_path()
    with own_cgroup() as (parent, directory):
        if options.warm_up:
            warm_up(program, lambda text: progress(text, 0.0))
        scene = Scene(parent, directory, options.memory_max, plans)
        asyncio.run(_take_turns(due, scene, options, program, folder, progress))


async def _take_turns(
    due: Sequence[tuple[int, ArmSpec]],
    scene: Scene,
    options: Options,
    program: str,
    folder: RunFolder,
    progress: Progress,
) -> None:
    if (task := asyncio.current_task()) is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    loop: AbstractAsyncContextManager[Loop | None] = nullcontext()
    if options.server is not None:
        loop = in_loop(options.server, scene.plans, options.seed)
    try:
        async with loop as server:
            for at, (number, spec) in enumerate(due):
                if not folder.has(number, spec.name):
                    share = partial(_share_of_all, progress, at, len(due), round_of(number, options.rounds))
                    await _take_turn(number, spec, scene, options, program, folder, share, server)
    except asyncio.CancelledError:
        message = "the replay was interrupted; what it had made is removed"
        raise AgentcgError(message, hint=folder.resume_hint) from None


def _share_of_all(progress: Progress, at: int, count: int, where: str, text: str, share: float) -> None:
    progress(where + text, (at + share) / count)


async def _take_turn(
    number: int,
    spec: ArmSpec,
    scene: Scene,
    options: Options,
    program: str,
    folder: RunFolder,
    progress: Progress,
    server: Loop | None,
) -> None:
    began = time.monotonic()
    arm = make_arm(spec, scene)
    async with arm:
        talks: AbstractAsyncContextManager[Talk | None] = nullcontext()
        if server is not None:
            talks = server.under(number, spec.name, arm.socket, arm.name_of)
        async with talks as talk:
            log = EventLog()
            async with sampled(arm, [plan.name for plan in scene.plans], log):
                result = await run_arm(spec.name, arm, scene.plans, options, program, progress, log, talk)
    arm.tell_controls(log)
    if not scene.parent.remove_tree(arm.node.name):
        raise AgentcgError(f"{scene.directory}/{arm.node.name} stays busy", hint="see which processes are in it")
    folder.append(FinishedArm(number, spec.name, result, time.monotonic() - began), log.events)


def make_arm(spec: ArmSpec, scene: Scene) -> ObservedArm:
    """Return the arm that was asked for."""
    match spec.kind:
        case "none":
            return PlainArm(scene)
        case "static":
            return KnobArm(scene, static)
        case "high-only":
            return KnobArm(scene, high_only)
        case "psi-loop":
            return LoopArm(scene, by_pressure=True)
        case "agentcg":
            return AgentcgArm(scene, spec.policy, watches=True)


async def run_arm(
    name: ArmName,
    arm: Arm,
    plans: Sequence[SessionPlan],
    options: Options,
    program: str,
    progress: Progress = lambda text, share: None,
    log: EventLog | None = None,
    talk: Talk | None = None,
) -> ArmResult:
    """Replay the sessions side by side in an arm that has been entered, and return how that went.

    :param program: the path of ``agentcg-load``
    :param log: is told what happens
    :param talk: begins the sessions' conversations with an LLM server, if one is in the loop
    """
    log = log or EventLog()
    loop = asyncio.get_running_loop()
    began = loop.time()
    sessions = [
        SessionReplay(
            plan,
            speed=options.speed,
            program=program,
            log=log,
            options=options.load_options,
            talk=None if talk is None else partial(talk, plan),
        )
        for plan in plans
    ]
    tasks = [asyncio.create_task(session.run(arm)) for session in sessions]
    try:
        left = set(tasks)
        while left and loop.time() - began < options.timeout_sec:
            _, left = await asyncio.wait(left, timeout=_TOLD_SEC)
            progress(title_of(name), min(session.shown() for session in sessions))
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
