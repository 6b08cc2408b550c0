# SPDX-License-Identifier: Apache-2.0
"""The scheduler rung: calls of unprotected sessions are run by :mod:`agentcg.kernel.sched`, below everything else.

Left to the kernel's own scheduler are protected sessions, agents, and calls under a cpu.max, which the kernel enforces
for its own scheduler only.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import time
from ctypes import c_uint64

from agentcg.cgroup import files
from agentcg.cgroup.delegate import Root, depth_of
from agentcg.control.live import LiveCall, LiveSession
from agentcg.control.registry import Registry
from agentcg.errors import Unsupported
from agentcg.journal import about
from agentcg.kernel.libbpf import BpfError, Map
from agentcg.kernel.sched import Exit, Latency, Scheduler
from agentcg.model import CpuClass
from agentcg.policy.schema import CallClass

__all__ = ["Scheduling", "start"]

log = logging.getLogger(__name__)

RETRY_SEC = 30.0
RETRY_MAX_SEC = 600.0
"""How long it waits before the next attempt, at most; and how long it must have run to be trusted anew."""

_LATENCY: dict[CpuClass, Latency] = {
    "interactive": Latency.INTERACTIVE,
    "normal": Latency.NORMAL,
    "batch": Latency.BATCH,
}


def start(registry: Registry, root: Root, holds: Map[c_uint64] | None = None) -> Scheduling | None:
    """Load the scheduler, if it can be had, and observe ``registry``; the log says what holds. None otherwise."""
    try:
        scheduling = Scheduling(registry, root, holds)
    except Unsupported as error:
        log.info("calls are scheduled by the kernel alone: %s", error.line)
        log.debug("%s", error.message)
        return None
    log.info("calls of unprotected sessions are scheduled by agentcg")
    if holds is not None:
        log.info("the kernel's programs hold them for moments while memory is short")
    registry.observers.append(scheduling)
    for live in registry.calls.values():
        scheduling.begun(live)
    return scheduling


class Scheduling:
    """Tells the scheduler of calls, and loads it again when it was thrown out. Belongs to the loop it was made on.

    :param holds: until when each call is not to run, where the kernel's programs say so
    :raises Unsupported: where it cannot be had
    """

    def __init__(self, registry: Registry, root: Root, holds: Map[c_uint64] | None = None) -> None:
        self._level = depth_of(root.path)
        _check_unlimited(root)
        self._registry, self._holds = registry, holds
        self._loop = asyncio.get_running_loop()
        self._told: set[int] = set()
        self._retry: asyncio.TimerHandle | None = None
        self._delay = RETRY_SEC
        self._full_told = False
        self._scheduler: Scheduler | None = None
        self._load()

    @property
    def active(self) -> bool:
        """Whether it is loaded now."""
        return self._scheduler is not None

    def close(self) -> None:
        """Unload it: every task goes on with the kernel's scheduler."""
        if self._retry is not None:
            self._retry.cancel()
        if self._scheduler is not None:
            self._scheduler.close()
            self._scheduler = None

    def hold(self, live: LiveCall, seconds: float) -> None:
        """Let nothing of a call run for a moment, if it is scheduled here: see :meth:`Scheduler.hold`."""
        if self._scheduler is not None and live.leaf.id in self._told:
            self._scheduler.hold(live.leaf.id, seconds)

    def boost(self, live: LiveCall, factor: float, seconds: float) -> None:
        """Multiply a call's weight for a time, if it is scheduled here."""
        if self._scheduler is not None and live.leaf.id in self._told:
            self._scheduler.boost(live.leaf.id, factor, seconds)

    def weigh(self, live: LiveSession) -> None:
        """A session has another share: tell the scheduler of it with each of its calls that is scheduled here."""
        for call in live.calls.values():
            if call.leaf.id in self._told:
                self._tell(call)

    # As an observer

    def opened(self, live: LiveSession) -> None:
        """Nothing to do: a session is known by its calls."""

    def closed(self, live: LiveSession) -> None:
        """Nothing to do, in the same way."""

    def begun(self, live: LiveCall) -> None:
        """Have the scheduler take what enters the call, and what is there already."""
        if self._tell(live):
            self._take(live)

    def amended(self, live: LiveCall) -> None:
        """Tell the scheduler of its new weight and class; give it back if it is not to be scheduled here any more."""
        known = live.leaf.id in self._told
        if self._tell(live):
            if not known:
                self._take(live)
        elif known and self._scheduler is not None:
            self._told.discard(live.leaf.id)
            for pid in live.leaf.pids():
                self._scheduler.give_back(pid)
            self._scheduler.forget(live.leaf.id)

    def finished(self, live: LiveCall) -> None:
        """Forget it."""
        self._told.discard(live.leaf.id)
        if self._scheduler is not None:
            self._scheduler.forget(live.leaf.id)

    def _tell(self, live: LiveCall) -> bool:
        if self._scheduler is None or not self._is_ours(live):
            return False
        session, policy = live.session, self._registry.policy
        declared = live.call.intent.cpu_class or policy.classes.get(live.call.call_class, CallClass()).cpu
        try:
            self._scheduler.set_call(
                live.leaf.id,
                session=session.node.top.id,
                tenant=_tenant_key(live.ref.session.tenant),
                weight=live.call.limits.cpu_weight,
                session_weight=session.cpu_weight,
                tenant_weight=policy.tenant.cpu_weight,
                latency=_LATENCY[declared],
            )
        except BpfError as error:
            if not self._full_told:
                log.warning(
                    "the call %s and others are scheduled by the kernel: %s",
                    live.ref,
                    error.message,
                    extra=about(live.ref),
                )
            self._full_told = True
            return False
        self._told.add(live.leaf.id)
        return True

    def _take(self, live: LiveCall) -> None:
        if self._scheduler is not None:
            for pid in live.leaf.pids():
                self._scheduler.take(pid)

    def _is_ours(self, live: LiveCall) -> bool:
        session = live.session.session
        bounds = (live.call.limits.cpu_cores, session.budget.cpu_cores, self._registry.policy.tenant.cpu_cores)
        return not session.protected and all(bound is None for bound in bounds)

    # Its life

    def _load(self) -> None:
        self._scheduler = Scheduler(self._level, self._loop, self._exited, holds=self._holds)
        self._loaded = time.monotonic()

    def _exited(self, end: Exit) -> None:
        if self._scheduler is not None:
            self._scheduler.close()
            self._scheduler = None
        self._told.clear()
        if time.monotonic() - self._loaded > RETRY_MAX_SEC:
            self._delay = RETRY_SEC
        log.warning("the scheduler was ended: %s; calls go on with the kernel's", end)
        self._later()

    def _later(self) -> None:
        log.info("the scheduler is loaded again in %.0f s", self._delay)
        self._retry = self._loop.call_later(self._delay, self._again)
        self._delay = min(2 * self._delay, RETRY_MAX_SEC)

    def _again(self) -> None:
        self._retry = None
        try:
            self._load()
        except Unsupported as error:
            log.warning("the scheduler cannot be loaded: %s", error.line)
            log.debug("%s", error.message)
            self._later()
            return
        log.info("the scheduler is loaded again")
        for live in list(self._registry.calls.values()):
            self.begun(live)


def _tenant_key(tenant: str) -> int:
    # Sessions are known by their cgroup ids, which are far smaller.
    return 1 << 63 | int.from_bytes(hashlib.blake2b(tenant.encode(), digest_size=8).digest())


def _check_unlimited(root: Root) -> None:
    """:raises Unsupported: if there is a cpu.max on the root or above it"""
    fd = os.dup(root.node.fd)
    try:
        # The top of the hierarchy has none.
        while (words := files.read_words(fd, "cpu.max")) is not None:
            if words[0] != "max":
                raise Unsupported(
                    f"there is a cpu.max on {root.path} or above it, which the kernel would not enforce",
                    hint="take it away (CPUQuota= in a unit), or leave the scheduler off",
                )
            above = os.open("..", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
            os.close(fd)
            fd = above
    finally:
        os.close(fd)
