# SPDX-License-Identifier: Apache-2.0
"""The typed face of ``bpf/agentcg_sched.bpf.c``, a sched_ext scheduler for the tasks in calls. The program's own header
explains how it shares CPUs, and where its limits are.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections import Counter
from collections.abc import Callable
from ctypes import c_uint64

from agentcg.kernel.libbpf import STRUCT_OPS, Link, Map, RingBuffer, opened, require
from agentcg.kernel.sched_abi import (
    STRUCTURES,
    Config,
    Exit,
    Kind,
    Latency,
    RawCall,
    RawEvent,
    RawExit,
    RawFlow,
    RawGroup,
    Stat,
)
from agentcg.kernel.sched_check import check_kernel, check_object, check_types

__all__ = ["CAPACITY", "HOLD_MAX_SEC", "SCHED_EXT", "Exit", "Latency", "Scheduler", "Stat", "check_kernel"]
__all__ += ["check_object"]

log = logging.getLogger(__name__)

SCHED_EXT = 7  # linux/sched.h
HOLD_MAX_SEC = 0.05
"""A hold ends after this, whatever was asked for, and the next begins after as long a time again."""
HOLD_ALL = 0
"""Stands for all calls in the map of holds."""
CAPACITY = 16384
"""Calls, and sessions and tenants together, that it can know at a time."""


class Scheduler:
    """Runs the tasks of the calls it is told of, until :meth:`close`, the end of this process, or its own failure.

    Belongs to the loop that it was made on. All other tasks stay with the kernel's scheduler, unless ``full``.

    :param root_level: the depth of agentcg's root in the initial cgroup namespace, 0 for the top
    :param on_exit: called when it has ended by itself; :meth:`close` it then
    :param full: take every ordinary task of the machine; those in no known call are served first
    :param holds: until when each call is not to run, in the place of a map of its own: others write it too, such as
        :class:`~agentcg.kernel.mem.MemEvents`
    :param settings: other members of :class:`Config`
    :raises Unsupported: where the kernel, libbpf, the compiled programs or the right to use them are missing, or
        another scheduler is loaded
    """

    def __init__(
        self,
        root_level: int,
        loop: asyncio.AbstractEventLoop,
        on_exit: Callable[[Exit], None],
        *,
        full: bool = False,
        holds: Map[c_uint64] | None = None,
        **settings: int,
    ) -> None:
        check_kernel()
        require(STRUCT_OPS, "sched_ext")
        path = check_object()
        self._loop, self._on_exit = loop, on_exit
        self._known: dict[int, RawCall] = {}
        self._members: Counter[int] = Counter()  # Of each group.
        self._gone: set[int] = set()
        self._links: list[Link] = []
        self._ring: RingBuffer | None = None
        self.full = full
        self.refused = 0
        """Tasks that could not be made SCHED_EXT."""
        with opened(path, "the scheduler", undo=self.close) as self._object:
            self._object.check_structures(STRUCTURES)
            check_types(self._object)
            config = {"call_level": root_level + 5, "favour_unknown": int(full), "cpus": os.cpu_count() or 1}
            self._object.configure(Config, **config | settings)
            self._holds: Map[c_uint64] = self._object.map("holds", c_uint64)
            if holds is not None:
                self._holds.reuse(holds.fd)
            self._object.load()
            self._calls: Map[RawCall] = self._object.map("calls", RawCall)
            self._flows: Map[RawFlow] = self._object.map("flows", RawFlow)
            self._groups: Map[RawGroup] = self._object.map("groups", RawGroup)
            for cgroup_id, _ in list(self._holds.items()):  # Of a scheduler before this one.
                self._holds.delete(cgroup_id)
            self._holds.set(HOLD_ALL, c_uint64(0))
            self._stats: Map[c_uint64] = self._object.map("stats", c_uint64)
            self._exits: Map[RawExit] = self._object.map("exits", RawExit)
            self._ring = RingBuffer(self._object.map("events", c_uint64), self._record)
            self._links += [self._object.map("full" if full else "partial", c_uint64).attach_struct_ops()]
            self._links += [self._object.programs[name].attach() for name in ("attach_task", "process_fork")]
        loop.add_reader(self._ring.epoll_fd, self._ready)

    def __enter__(self) -> Scheduler:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give every task back to the kernel's scheduler. Safe to call twice."""
        if self._ring is not None:
            self._loop.remove_reader(self._ring.epoll_fd)
            self._ring.close()
            self._ring = None
        for link in reversed(self._links):
            link.destroy()
        self._links.clear()
        self._object.close()

    # What it is told

    def set_call(
        self,
        cgroup_id: int,
        *,
        session: int,
        tenant: int,
        weight: int = 100,
        session_weight: int = 100,
        tenant_weight: int = 100,
        latency: Latency = Latency.NORMAL,
    ) -> None:
        """Make a call known, or its weights and class others. Tasks that enter it from now on are taken by themselves.

        :param session: any number that its session has for itself, such as a cgroup id; tenants have others
        :raises BpfError: E2BIG beyond :data:`CAPACITY` calls
        """
        self._forget_gone()
        self._gone.discard(cgroup_id)
        known = self._known.get(cgroup_id)
        raw = RawCall(session, tenant, 0, weight, session_weight, tenant_weight, 100, latency)
        if known is not None:
            raw.boost_until_ns, raw.boost_percent = known.boost_until_ns, known.boost_percent
        for group in (session, tenant):
            self._groups.add(group, RawGroup())
        self._flows.add(cgroup_id, RawFlow())
        self._calls.set(cgroup_id, raw)
        self._holds.add(cgroup_id, c_uint64(0))
        self._known[cgroup_id] = raw
        if known is None:
            self._members.update((session, tenant))

    def forget(self, cgroup_id: int) -> None:
        """A call is over. What is kept of it goes as soon as its last task is gone."""
        if cgroup_id in self._known:
            self._gone.add(cgroup_id)
        self._forget_gone()

    def _forget_gone(self) -> None:
        for cgroup_id in list(self._gone):
            flow = self._flows.get(cgroup_id)
            if flow is not None and (flow.runnable > 0 or flow.counted):
                continue  # Its weight is in its session's sum: only the programs can take it out.
            self._gone.discard(cgroup_id)
            call = self._known.pop(cgroup_id)
            self._calls.delete(cgroup_id)
            self._flows.delete(cgroup_id)
            self._holds.delete(cgroup_id)
            self._members.subtract((call.session, call.tenant))
            for group in (call.session, call.tenant):
                if not self._members[group]:
                    del self._members[group]
                    self._groups.delete(group)

    def boost(self, cgroup_id: int, factor: float, seconds: float) -> None:
        """Multiply a call's weight by ``factor``, 0.01 to 100, for a time."""
        call = self._known.get(cgroup_id)
        if call is None:
            return
        call.boost_percent = round(min(max(factor, 0.01), 100.0) * 100)
        call.boost_until_ns = time.monotonic_ns() + round(seconds * 1e9)
        self._calls.set(cgroup_id, call)

    def hold(self, cgroup_id: int, seconds: float) -> None:
        """Let nothing of a call run for a time, at most :data:`HOLD_MAX_SEC` in one go; 0 spares what still runs.

        Tasks are stopped wherever they are, inside the kernel too: another one that waits for a lock of theirs waits as
        long. For more, freeze the cgroup.
        """
        if cgroup_id in self._known:
            until = time.monotonic_ns() + round(seconds * 1e9) if seconds > 0 else 0
            self._holds.set(cgroup_id, c_uint64(until))

    def take(self, pid: int) -> None:
        """Give a process that is in a known call already to the scheduler, with all its threads."""
        self._set_policy(_threads(pid), SCHED_EXT)

    def give_back(self, pid: int) -> None:
        """Give a process back to the kernel's scheduler. Do so with all of a call before it is forgotten alive."""
        self._set_policy(_threads(pid), os.SCHED_OTHER)

    # What it tells

    def stats(self) -> dict[Stat, int]:
        """Return what the scheduler counted, all CPUs together."""
        return {stat: sum(one.value for one in self._stats.get_all(stat) or ()) for stat in Stat}

    def used_sec(self, cgroup_id: int) -> float:
        """Return the CPU time that a known call used under this scheduler."""
        flow = self._flows.get(cgroup_id)
        return 0.0 if flow is None else flow.used_ns / 1e9

    def ended(self) -> Exit | None:
        """Return why it has ended; None while it runs."""
        raw = self._exits.get(0)
        if raw is None or not raw.kind:
            return None
        return Exit(raw.kind, raw.code, raw.reason.decode(errors="replace"), raw.message.decode(errors="replace"))

    def _ready(self) -> None:
        if self._ring is not None:
            self._ring.consume()

    def _record(self, data: bytes) -> None:
        event = RawEvent.from_buffer_copy(data)
        if event.kind == Kind.EXITED:
            if (end := self.ended()) is not None:
                # Not from here: the ring buffer is being read, and is to be closed.
                self._loop.call_soon(self._on_exit, end)
            return
        threads = _threads(event.pid) if event.whole else [event.pid]
        self._set_policy(threads, SCHED_EXT if event.kind == Kind.ENTERED else os.SCHED_OTHER)

    def _set_policy(self, threads: list[int], policy: int) -> None:
        for thread in threads:
            with contextlib.suppress(ProcessLookupError):
                try:
                    os.sched_setscheduler(thread, policy, os.sched_param(0))
                except OSError as error:
                    if isinstance(error, ProcessLookupError):
                        raise
                    self.refused += 1
                    log.debug("thread %d stays with its scheduler: %s", thread, error)


def _threads(pid: int) -> list[int]:
    try:
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    except (FileNotFoundError, ProcessLookupError):
        return []
