# SPDX-License-Identifier: Apache-2.0
"""What the daemon watches of a running call: its time, its memory events, and its end where nobody else sees it."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from agentcg.cgroup import files
from agentcg.control.live import LiveCall, LiveSession
from agentcg.units import format_size

if TYPE_CHECKING:
    from agentcg.control.registry import Registry

__all__ = ["GRACE_SEC", "memory_event", "throttled", "unwatch_call", "watch_call", "watch_session"]

GRACE_SEC = 5.0
"""How long an empty call waits for its runtime to report the exit status, where no connection stands for it."""


STALL_SEC, STALL_WINDOW_SEC = 0.2, 1.0
"""A session is told to be short of memory when its tasks waited for it this long within the window."""


def watch_session(registry: Registry, live: LiveSession) -> None:
    """Start watching a session's memory pressure; nothing happens where the kernel does not account it."""

    def pressed() -> None:
        stall = f"{STALL_SEC:g} s of {STALL_WINDOW_SEC:g} s"
        registry.bus.publish("session_pressure", live.session.ref, f"waited for memory for {stall} or more")

    live.pressure = registry.poll.watch_pressure(
        live.node.top.fd, "memory.pressure", pressed, stall_sec=STALL_SEC, window_sec=STALL_WINDOW_SEC
    )


def watch_call(registry: Registry, live: LiveCall) -> None:
    """Start watching a call."""
    loop = asyncio.get_running_loop()
    limit = live.call.limits.duration_max_sec
    if limit is not None:
        left = limit - (loop.time() - live.started)
        live.timers.append(loop.call_later(max(0.0, left), partial(registry.finish, live, timed_out=True)))
    watch = registry.poll.watch_file
    if not registry.kernel_tells:
        live.handles.append(watch(live.leaf.fd, "memory.events", lambda: memory_event(registry, live)))
    if live.lease is None or live.lease.resumed:
        live.handles.append(watch(live.leaf.fd, "cgroup.events", lambda: _maybe_over(registry, live)))


def unwatch_call(registry: Registry, live: LiveCall) -> None:
    """Stop watching a call."""
    for handle in live.handles:
        registry.poll.unwatch(handle)
    for timer in live.timers:
        timer.cancel()
    live.handles.clear()
    live.timers.clear()


def throttled(registry: Registry, live: LiveCall, at: float | None = None) -> None:
    """Tell once that a call is over its memory.high; ``at`` is when it happened, by default now."""
    if not live.throttle_told:
        live.throttle_told = True
        message = f"at {format_size(live.call.limits.memory_high)} of memory"
        registry.bus.publish("call_throttled", live.ref, message, at=at)


def memory_event(registry: Registry, live: LiveCall) -> None:
    """Tell what a call's memory.events has that was not told yet."""
    events = files.read_flat_keyed(live.leaf.fd, "memory.events")
    if events.get("high"):
        throttled(registry, live)
    kills = events.get("oom_kill", 0)
    if kills > live.ooms_told:
        live.ooms_told = kills
        registry.bus.publish("call_oom", live.ref, "the OOM killer ended it")


def _maybe_over(registry: Registry, live: LiveCall) -> None:
    """End a call whose last process is gone, after its runtime had time to say how that process ended."""
    if live.leaf.populated:
        return
    loop = asyncio.get_running_loop()
    live.timers.append(loop.call_later(GRACE_SEC, registry.finish_if_empty, live))
