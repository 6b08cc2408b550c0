# SPDX-License-Identifier: Apache-2.0
"""The end of a call: deal with what is left, read the counters, judge, remove the cgroup."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from signal import SIGKILL
from typing import TYPE_CHECKING

from agentcg.cgroup.events import EventPoll
from agentcg.cgroup.node import Leaf, Node
from agentcg.cgroup.usage import read_usage
from agentcg.control import background
from agentcg.control.live import LiveCall
from agentcg.control.watch import tell_the_rest
from agentcg.journal import about
from agentcg.model import Verdict
from agentcg.verdict import Ending, judge

if TYPE_CHECKING:
    from agentcg.control.registry import Registry

__all__ = ["finish", "wait_empty"]

log = logging.getLogger(__name__)

KILL_TIMEOUT_SEC = 10.0
"""A killed process that has not gone by then hangs in the kernel; its cgroup is left to the next start."""
KILL_AGAIN_SEC = 0.5
"""cgroup.kill is for who is there. Who enters in that moment is killed by the next, until the cgroup is gone: a child
of a persistent shell, say, which in a frozen cgroup would stand still for ever, and the shell with it.
"""


async def finish(
    registry: Registry, live: LiveCall, *, exit_code: int | None, signal: int | None, reason: str, timed_out: bool
) -> Verdict:
    """End a call and return the verdict. Called once for each call, by :meth:`Registry.finish`."""
    frozen = live.still.sec(time.monotonic())
    ordinary = not (reason or timed_out) and (exit_code is not None or signal is not None)
    fate = registry.policy.background_of(live.call.call_class) if ordinary else "kill"
    if fate == "adopt":
        background.adopt(live)
    left = fate == "leave" and live.leaf.populated
    killed = 0
    if live.leaf.populated and not left:
        if exit_code is not None or signal is not None:
            # The process that has just ended may still be listed: it leaves its cgroup when it has left its CPU.
            ended = live.process[0] if live.process else None
            killed = sum(pid != ended for pid in live.leaf.pids())
        if not await _kill(registry.poll, live.leaf):
            log.error("%s: processes survive SIGKILL: %s", live.ref, live.leaf.pids(), extra=about(live.ref))
    refusals = live.refusals + registry.refused_in_kernel(live)
    usage = read_usage(live.leaf, time.monotonic() - live.started)
    usage = replace(usage, frozen_sec=frozen or None, left_behind=killed or None, refusals=refusals or None)
    usage = registry.network.counted(live.leaf, live.call.limits, usage)
    tell_the_rest(registry, live, usage)
    if signal == SIGKILL or (signal is None and exit_code in (None, 128 + SIGKILL)):
        reason = reason or live.doom
    ending = Ending(time.time(), exit_code=exit_code, signal=signal, timed_out=timed_out, reason=reason)
    verdict = judge(live.call, usage, ending)
    registry.keep_verdict(live, verdict)  # Before the cgroup goes: whenever we are killed, there is one or the other.
    if left:
        background.leave(registry, live.session, live.ref.call)
    elif not await registry.tree.remove_call(live.session.node, live.ref.call, live.leaf.kill):
        log.error("%s: its cgroup stays busy and will be removed at the next start", live.ref, extra=about(live.ref))
    registry.finished(live, verdict)
    return verdict


async def _kill(poll: EventPoll, leaf: Leaf) -> bool:
    """Kill all that runs in a call, also what enters it meanwhile. False if something does not go."""
    give_up = time.monotonic() + KILL_TIMEOUT_SEC
    while time.monotonic() < give_up:
        leaf.kill()
        if await wait_empty(poll, leaf, KILL_AGAIN_SEC):
            return True
    return False


async def wait_empty(poll: EventPoll, node: Node, timeout: float) -> bool:
    """Wait until no process is left in ``node``, at most ``timeout`` seconds."""
    changed = asyncio.Event()
    handle = poll.watch_file(node.fd, "cgroup.events", changed.set)
    try:
        async with asyncio.timeout(timeout):
            while node.populated:
                await changed.wait()
                changed.clear()
    except TimeoutError:
        return False
    finally:
        poll.unwatch(handle)
    return True
