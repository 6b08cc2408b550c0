# SPDX-License-Identifier: Apache-2.0
"""The events rung: what the kernel's memory paths tell of a call, published with the time at which it happened; and,
for the controller, that a protected session grows.

Where it holds, ``memory.events`` is read only after events were lost; where it does not, it is watched instead
(:mod:`agentcg.control.watch`). Nothing is published by both.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from agentcg.cgroup.delegate import Root, depth_of
from agentcg.control.live import LiveCall
from agentcg.control.pace import TICK_SEC
from agentcg.control.registry import Registry
from agentcg.control.view import Settings
from agentcg.control.watch import memory_event, throttled
from agentcg.errors import Unsupported
from agentcg.kernel.mem import NEVER, Kind, MemEvent, MemEvents
from agentcg.kernel.sched import HOLD_MAX_SEC

__all__ = ["KernelEvents", "start"]

log = logging.getLogger(__name__)

_NEEDED = frozenset((Kind.OVER_HIGH, Kind.OOM_KILL))
_SAME_KILL_SEC = 1.0  # The OOM killer ends a call's processes one after the other.


def start(registry: Registry, root: Root, *, hold: bool = False, yields: Settings | None = None) -> KernelEvents | None:
    """Start listening to the kernel, if it can be had; the log says what holds. None if it cannot be had.

    The parameters are those of :class:`KernelEvents`.
    """
    try:
        events = KernelEvents(registry, root, hold=hold, yields=yields)
    except Unsupported as error:
        log.info("memory events come from files: %s", error.line)
        log.debug("%s", error.message)
        return None
    log.info("memory events come from the kernel: %s", ", ".join(sorted(kind.name.lower() for kind in events.kinds)))
    return events


class KernelEvents:
    """Publishes throttling and OOM kills of calls. Belongs to the loop it was made on.

    :param hold: have the kernel's programs say in :attr:`holds` which calls are not to run while memory is short
    :param yields: listen for the growth of protected sessions, as these settings say; None where nobody yields to it
    :raises Unsupported: where the kernel does not tell both
    """

    def __init__(self, registry: Registry, root: Root, *, hold: bool = False, yields: Settings | None = None) -> None:
        level = depth_of(root.path)
        self._registry = registry
        self._calls: dict[int, LiveCall] = {}
        self._known = -1
        loop = asyncio.get_running_loop()
        growth = {}
        if yields is not None:
            growth = {"growth_bytes": yields.growth_min, "growth_us": _us(TICK_SEC)}
            growth["growth_hold_us"] = _us(yields.yield_quiet_sec) if hold else 0
        self.on_growth: Callable[[], None] = lambda: None
        """Called when a protected session has grown, every :data:`TICK_SEC` at most, where :attr:`kinds` says so."""
        self._events = MemEvents(
            root.node.id,
            level,
            loop,
            self._event,
            on_lost=self._lost,
            throttled_min_us=NEVER,  # Nobody here waits for the end of these: they are in the totals.
            reclaim_min_us=NEVER,
            stall_min_us=NEVER,
            protected_id=registry.tree.reserved.id,
            hold_us=_us(HOLD_MAX_SEC) if hold else 0,
            **growth,
        )
        self.holds = self._events.holds
        self.kinds = self._events.kinds
        if not self.kinds >= _NEEDED:
            self._events.close()
            raise Unsupported(
                f"this kernel has no {', '.join(self._events.missing)} to hook", hint="report its version"
            )
        registry.kernel_tells = True

    @property
    def lost(self) -> int:
        """Events of the kernel that were lost so far."""
        return self._events.lost

    def close(self) -> None:
        """Stop listening. Nothing is left attached."""
        self._events.close()

    def _call(self, cgroup_id: int) -> LiveCall | None:
        begun = self._registry.begun + self._registry.adopted
        if begun != self._known:
            self._known = begun
            self._calls = {live.leaf.id: live for live in self._registry.calls.values()}
        live = self._calls.get(cgroup_id)
        return live if live is not None and live.ref in self._registry.calls else None

    def _event(self, event: MemEvent) -> None:
        if event.kind == Kind.GROWING:
            self.on_growth()
            return
        if event.kind not in _NEEDED:
            return
        live = self._call(event.cgroup_id)
        if live is None:
            return
        at = time.time() - (time.monotonic_ns() - event.time_ns) / 1e9
        if event.kind == Kind.OVER_HIGH:
            if event.limit_id == event.cgroup_id:  # Otherwise it is the session's limit, or an outer one.
                throttled(self._registry, live, at)
            return
        live.ooms_told += 1
        if at - live.oom_at > _SAME_KILL_SEC:
            self._registry.bus.publish("call_oom", live.ref, "the OOM killer ended it", at=at)
        live.oom_at = at

    def _lost(self, total: int) -> None:
        """Look once into the files for what was lost."""
        log.warning("%d memory events of the kernel were lost so far: reading the files", total)
        for live in list(self._registry.calls.values()):
            if live.finishing is None:
                memory_event(self._registry, live)


def _us(seconds: float) -> int:
    return round(seconds * 1e6)
