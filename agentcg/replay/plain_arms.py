# SPDX-License-Identifier: Apache-2.0
"""A host without agentcg: as it is, with some of the kernel's knobs set once, and with a loop that freezes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import psutil

from agentcg.cgroup import files
from agentcg.cgroup.node import Leaf
from agentcg.errors import AgentcgError, Unsupported
from agentcg.kernel.sys import set_parent_death_signal
from agentcg.replay.arms import Place, Scene, Verdict, judge_plain
from agentcg.replay.event_log import EventLog
from agentcg.replay.events import Frozen, Thawed
from agentcg.replay.follower import Placement
from agentcg.replay.plan import PlannedCall, SessionPlan

__all__ = ["KnobArm", "Knobs", "LoopArm", "PlainArm", "high_only", "static"]

READY_SEC = 30.0

Knobs: TypeAlias = Callable[[Scene, SessionPlan], Mapping[str, int]]
"""For a session, the control files to write and the numbers."""


class PlainArm:
    """One limit for all, and a plain cgroup for each session with agent and calls in it."""

    wall = "."
    socket: str | None = None

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self._opened: set[str] = set()

    @property
    def directory(self) -> str:
        """The cgroup that all sessions are in."""
        return f"{self.scene.directory}/{self.node.name}"

    async def __aenter__(self) -> PlainArm:
        self.node = self.scene.parent.make_inner("none")
        files.write_limit(self.node.fd, "memory.max", self.scene.memory_max)
        files.write_limit(self.node.fd, "memory.swap.max", self.scene.swap_max)
        self.node.enable(self.scene.parent.controllers)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.node.populated:
            self.node.kill()
        self.node.close()

    async def open(self, plan: SessionPlan) -> Place:
        place = PlainPlace(self.node.make_leaf(plan.name))
        self._opened.add(plan.name)
        return place

    def name_of(self, session: str) -> str:
        return session

    def cgroup_of(self, session: str) -> str | None:
        return session if session in self._opened else None

    def tell_controls(self, log: EventLog) -> None:
        """Nothing is done to anybody."""


class PlainPlace:
    """A session's cgroup without agentcg."""

    def __init__(self, leaf: Leaf) -> None:
        self._leaf = leaf
        self._procs = leaf.open_procs()
        self.agent = Placement(self._procs)

    async def begin(self, call: PlannedCall) -> PlainCall:
        return PlainCall(self.agent)

    async def close(self) -> None:
        os.close(self._procs)
        if self._leaf.populated:
            self._leaf.kill()
        self._leaf.close()


@dataclass
class PlainCall:
    """A call without agentcg: a process beside its agent."""

    placement: Placement

    async def end(self, status: int) -> Verdict:
        return judge_plain(status)


class KnobArm(PlainArm):
    """A plain host with some of the kernel's knobs set once for each session."""

    def __init__(self, scene: Scene, knobs: Knobs) -> None:
        super().__init__(scene)
        self.knobs = knobs

    async def open(self, plan: SessionPlan) -> Place:
        place = await super().open(plan)
        with self.node.open_leaf(plan.name) as leaf:
            for name, value in self.knobs(self.scene, plan).items():
                files.write_limit(leaf.fd, name, value)
        return place


def static(scene: Scene, plan: SessionPlan) -> Mapping[str, int]:
    """An equal part for each."""
    return {"memory.max": scene.memory_max // len(scene.plans)}


def high_only(scene: Scene, plan: SessionPlan) -> Mapping[str, int]:
    """memory.high on those that are not protected: an equal part of what is not reserved."""
    if plan.reserve is not None:
        return {}
    reserved = sum(other.reserve or 0 for other in scene.plans)
    others = sum(other.reserve is None for other in scene.plans)
    return {"memory.high": max(scene.memory_max - reserved, 0) // others}


class LoopArm(PlainArm):
    """A plain host with the 10 ms loop of :mod:`agentcg.replay.freeze_loop`.

    :param by_pressure: it looks at memory.pressure, too
    """

    def __init__(self, scene: Scene, *, by_pressure: bool = False) -> None:
        super().__init__(scene)
        self._by_pressure = by_pressure
        self._said: list[bytes] = []

    async def __aenter__(self) -> LoopArm:
        await super().__aenter__()
        try:
            await self._start()
        except BaseException:
            await super().__aexit__()
            raise
        return self

    async def _start(self) -> None:
        if self._by_pressure and files.read_pressure(self.node.fd, "memory.pressure") is None:
            raise Unsupported("psi-loop needs memory.pressure, which this kernel does not have", hint="boot with psi=1")
        plans = sorted(self.scene.plans, key=lambda plan: plan.reserve is None)
        protected = sum(plan.reserve is not None for plan in plans)
        self._loop = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "agentcg.replay.freeze_loop", self.directory, str(self.scene.memory_max)),
            *("pressure" if self._by_pressure else "current", str(protected), *(plan.name for plan in plans)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for us: it goes on until the sessions are over.
            preexec_fn=lambda: set_parent_death_signal(signal.SIGKILL),
        )
        self._ready = asyncio.Event()
        self._listening = asyncio.create_task(self._listen())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ready.wait(), READY_SEC)
        if not self._said:
            await self._end()
            raise AgentcgError("the loop of the arm did not start", hint="what it printed stands above")
        self._idle = self._total_cpu()

    async def _listen(self) -> None:
        if self._loop.stdout is not None:
            async for line in self._loop.stdout:
                self._said.append(line)
                self._ready.set()
        self._ready.set()

    async def _end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._loop.kill()
        await self._loop.wait()
        await self._listening

    async def __aexit__(self, *error: object) -> None:
        await self._end()
        await super().__aexit__(*error)

    def _total_cpu(self) -> float:
        times = psutil.Process(self._loop.pid).cpu_times()
        return times.user + times.system

    def cpu_sec(self) -> float:
        """CPU seconds that the loop has used since it was ready. :raises psutil.NoSuchProcess: if it has ended"""
        return self._total_cpu() - self._idle

    def tell_controls(self, log: EventLog) -> None:
        for line in self._said[1:]:
            if line.endswith(b"\n"):  # The last may be torn: it was ended at any time.
                moment, freeze, name = line.decode().split()
                log.tell((Frozen if freeze == "1" else Thawed)(log.at(float(moment)), name, None, "by the loop"))
