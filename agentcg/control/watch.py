# SPDX-License-Identifier: Apache-2.0
"""What the daemon watches of a running call: its time, its memory events, and its end where nobody else sees it."""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING

from agentcg.cgroup import files
from agentcg.control.live import LiveCall, LiveSession
from agentcg.model import Usage
from agentcg.units import format_size

if TYPE_CHECKING:
    from agentcg.control.registry import Registry

__all__ = ["GRACE_SEC", "await_report", "go_on", "memory_event", "stand_still", "tell_adopted", "tell_the_rest"]
__all__ += ["throttled", "unwatch_call", "watch_call", "watch_duration", "watch_session"]

GRACE_SEC = 5.0
"""How long an empty call waits for its runtime to report the exit status, where no connection stands for it."""


SLOWED_SEC = 5.0
"""How often a call that has come to its memory.high is looked at: one that mostly waits there goes on to its limit."""

DEADLINE_STEP_SEC = 0.01
"""How often a call whose group is stopped just before its time is up is looked at."""

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
    watch_duration(registry, live)
    watch = registry.poll.watch_file
    if not registry.kernel_tells:
        live.handles.append(watch(live.leaf.fd, "memory.events", lambda: memory_event(registry, live)))
    if live.lease is None or live.lease.resumed:
        live.handles.append(watch(live.leaf.fd, "cgroup.events", lambda: _maybe_over(registry, live)))


def watch_duration(registry: Registry, live: LiveCall) -> None:
    """End a call when its time is up; once more after that limit has changed. Time for which it is stopped is free."""
    _pause_duration(live)
    if live.still.since is None and (left := _time_left(live)) < math.inf:
        loop = asyncio.get_running_loop()
        live.deadline = loop.call_later(max(left, DEADLINE_STEP_SEC), _time_is_up, registry, live)


def _time_left(live: LiveCall) -> float:
    limit, now = live.call.limits.duration_max_sec, time.monotonic()
    return math.inf if limit is None else limit - (now - live.started - live.still.sec(now))


def _time_is_up(registry: Registry, live: LiveCall) -> None:
    """End a call, unless all of its group were stopped meanwhile: no timer is stopped with them."""
    if _time_left(live) > 0:
        watch_duration(registry, live)
    else:
        registry.finish(live, timed_out=True)


def _pause_duration(live: LiveCall) -> None:
    """Let a call's time stand still until :func:`watch_duration`."""
    if live.deadline is not None:
        live.deadline.cancel()
        live.deadline = None


def stand_still(live: LiveCall, since: float) -> None:
    """A call is stopped since ``since``, on the monotonic clock: its time stands still."""
    live.still.begin(since)
    _pause_duration(live)


def go_on(registry: Registry, live: LiveCall) -> None:
    """A call runs again, and so does its time."""
    live.still.end(time.monotonic())
    watch_duration(registry, live)


def await_report(registry: Registry, live: LiveCall) -> None:
    """End a call in which nothing runs any more, after its runtime had time to say how its process ended."""
    if live.grace is None:
        live.grace = asyncio.get_running_loop().call_later(GRACE_SEC, _over, registry, live)


def _over(registry: Registry, live: LiveCall) -> None:
    live.grace = None
    registry.finish_if_empty(live)


def unwatch_call(registry: Registry, live: LiveCall) -> None:
    """Stop watching a call."""
    for handle in live.handles:
        registry.poll.unwatch(handle)
    for timer in (live.deadline, live.grace, live.relief):
        if timer is not None:
            timer.cancel()
    live.handles.clear()


def throttled(registry: Registry, live: LiveCall, at: float | None = None) -> None:
    """Tell once that a call is over its memory.high; ``at`` is when it happened, by default now."""
    if not live.throttle_told:
        live.throttle_told = True
        message = f"at {format_size(live.call.limits.memory_high)} of memory"
        registry.bus.publish("call_throttled", live.ref, message, at=at)
        if live.finishing is None:
            _relieve_later(registry, live, _stalled_sec(live))


def _stalled_sec(live: LiveCall) -> float:
    pressure = files.read_pressure(live.leaf.fd, "memory.pressure")
    return math.inf if pressure is None else pressure.some.total_sec


def _relieve_later(registry: Registry, live: LiveCall, before: float) -> None:
    live.relief = asyncio.get_running_loop().call_later(SLOWED_SEC, _relieve, registry, live, before)


def _relieve(registry: Registry, live: LiveCall, before: float) -> None:
    """Let a call that mostly waits at its memory.high go on to its limit: there it ends, and its agent is told why.

    Time there is for an agent to ask for more; but the way to the limit, some seconds on v7.3, was more than a minute
    on v6.12.
    """
    if live.finishing is not None or live.ref not in registry.calls:
        return
    stalled = _stalled_sec(live)
    waits = stalled == math.inf or stalled - before > SLOWED_SEC / 2
    if waits and files.read_int(live.leaf.fd, "memory.high") not in (None, math.inf):
        files.write_limit(live.leaf.fd, "memory.high", None, wait=False)
        registry.bus.publish("call_throttled", live.ref, "for so long that it goes on to its limit")
    _relieve_later(registry, live, stalled)


def memory_event(registry: Registry, live: LiveCall) -> None:
    """Tell what a call's memory.events has that was not told yet."""
    events = files.read_flat_keyed(live.leaf.fd, "memory.events")
    _tell(registry, live, events.get("high", 0), events.get("oom_kill", 0))


def tell_the_rest(registry: Registry, live: LiveCall, usage: Usage) -> None:
    """Tell at a call's end what it came to and nobody has said: its counters are exact, their notices may be late."""
    _tell(registry, live, usage.memory_high_events or 0, usage.oom_kills or 0)


def tell_adopted(registry: Registry, live: LiveCall) -> None:
    """Tell how a call of an earlier daemon is; whom the OOM killer ended in it was told by that one."""
    events = files.read_flat_keyed(live.leaf.fd, "memory.events")
    live.ooms_told = events.get("oom_kill", 0)
    _tell(registry, live, events.get("high", 0), live.ooms_told)


def _tell(registry: Registry, live: LiveCall, high: int, kills: int) -> None:
    if high:
        throttled(registry, live)
    if kills > live.ooms_told:
        live.ooms_told = kills
        registry.bus.publish("call_oom", live.ref, "the OOM killer ended it")


def _maybe_over(registry: Registry, live: LiveCall) -> None:
    if not live.leaf.populated:
        await_report(registry, live)
