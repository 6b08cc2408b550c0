# SPDX-License-Identifier: Apache-2.0
"""What the sessions of an arm hold and use, and which limits they have, looked at while they run."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager

import msgspec

from agentcg.cgroup import files
from agentcg.cgroup.node import Inner
from agentcg.cgroup.usage import cpu_sec, memory_current
from agentcg.replay.arms import ObservedArm
from agentcg.replay.event_log import EventLog
from agentcg.replay.events import Limits, Sample

__all__ = ["Samples", "sampled"]

PERIOD_SEC = 0.1
MOST = 600
"""Samples of one arm: when there is one more, every second one is dropped, and the period doubles."""


class Samples:
    """Samples that cover however long it takes, evenly."""

    def __init__(self) -> None:
        self.period_sec = PERIOD_SEC
        self.kept: list[Sample] = []

    def add(self, sample: Sample) -> None:
        """Add what came a period after the last one; what came sooner is dropped."""
        if self.kept and sample.t < self.kept[-1].t + self.period_sec - PERIOD_SEC / 2:
            return
        self.kept.append(sample)
        if len(self.kept) > MOST:
            self.kept = self.kept[::2]  # The first and the last stay.
            self.period_sec *= 2


@asynccontextmanager
async def sampled(arm: ObservedArm, sessions: Sequence[str], log: EventLog) -> AsyncIterator[None]:
    """While this is entered, look at an arm that has been entered; tell of the limits whenever they have changed, and
    of the samples at the end."""
    samples = Samples()
    looking = asyncio.create_task(_look_on(arm, sessions, log, samples))
    try:
        yield
    finally:
        looking.cancel()
        await asyncio.wait({looking})
        log.events += samples.kept
    if not looking.cancelled():
        looking.result()


async def _look_on(arm: ObservedArm, sessions: Sequence[str], log: EventLog, samples: Samples) -> None:
    loop = asyncio.get_running_loop()
    before: Limits | None = None
    due = loop.time()
    while True:
        sample, limits = _look(arm, sessions, log.now())
        samples.add(sample)
        # Times differ always.
        if before is None or msgspec.structs.replace(limits, t=before.t) != before:
            log.tell(limits)
            before = limits
        due = max(due + samples.period_sec, loop.time())
        await asyncio.sleep(due - loop.time())


def _look(arm: ObservedArm, sessions: Sequence[str], now: float) -> tuple[Sample, Limits]:
    memory: dict[str, int] = {}
    cpu: dict[str, float] = {}
    high: dict[str, int | None] = {}
    maximum: dict[str, int | None] = {}
    reserved = 0
    with ExitStack() as stack:
        for name in sessions:
            node = _open(arm, name)
            if node is None:
                continue
            stack.enter_context(node)
            memory[name], cpu[name] = memory_current(node) or 0, round(cpu_sec(node) or 0.0, 6)
            high[name], maximum[name] = _limit(node, "memory.high"), _limit(node, "memory.max")
            reserved += _limit(node, "memory.low") or 0
        wall = _limit(stack.enter_context(arm.node.open_inner(arm.wall)), "memory.max")
    total = memory_current(arm.node) or 0
    return Sample(now, memory, cpu, total), Limits(now, wall, high, maximum, reserved)


def _open(arm: ObservedArm, session: str) -> Inner | None:
    path = arm.cgroup_of(session)
    try:
        return None if path is None else arm.node.open_inner(path)
    except FileNotFoundError:
        return None


def _limit(node: Inner, name: str) -> int | None:
    value = files.read_int(node.fd, name)
    return None if value is None or value == math.inf else int(value)
