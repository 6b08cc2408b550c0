# SPDX-License-Identifier: Apache-2.0
"""The typed face of ``bpf/agentcg_mem.bpf.c``: who is over memory.high, reclaims, stalls or is OOM-killed, as it
happens. The program's own header explains the events and their limits.
"""

from __future__ import annotations

import asyncio
import ctypes
import enum
import os
from collections.abc import Callable
from ctypes import c_uint32, c_uint64
from dataclasses import dataclass
from pathlib import Path

from agentcg.errors import Unsupported
from agentcg.kernel.build_bpf import object_path, require_object
from agentcg.kernel.libbpf import TRACING, Link, RingBuffer, kernel_btf, opened, require

__all__ = ["NEVER", "STRUCTURES", "Config", "Kind", "MemEvent", "MemEvents", "Stat", "Total", "check_object", "hooks"]

NAME = "agentcg_mem"

NEVER = 0xFFFFFFFF
"""As a least duration: count them, send none."""


class Kind(enum.IntEnum):
    """What happened; enum agentcg_mem_kind."""

    OVER_HIGH = 0
    THROTTLED = 1
    RECLAIM = 2
    STALL = 3
    OOM = 4
    OOM_KILL = 5
    GROWING = 6


class Stat(enum.IntEnum):
    """What the programs count about themselves; enum agentcg_mem_stat."""

    SENT = 0
    LOST = 1
    HUSHED = 2
    UNTIMED = 3
    HELD = 4


class Config(ctypes.Structure):
    """struct agentcg_mem_config: read-only once the programs are loaded."""

    _fields_ = (
        ("root_id", c_uint64),
        ("protected_id", c_uint64),
        ("growth_bytes", c_uint64),
        ("root_level", c_uint32),
        ("session_level", c_uint32),
        ("page_shift", c_uint32),
        ("over_high_gap_us", c_uint32),
        ("throttled_min_us", c_uint32),
        ("reclaim_min_us", c_uint32),
        ("stall_min_us", c_uint32),
        ("hold_us", c_uint32),
        ("growth_us", c_uint32),
        ("growth_hold_us", c_uint32),
    )


class RawEvent(ctypes.Structure):
    """struct agentcg_mem_event."""

    _fields_ = (
        ("time_ns", c_uint64),
        ("cgroup_id", c_uint64),
        ("session_id", c_uint64),
        ("limit_id", c_uint64),
        ("bytes", c_uint64),
        ("duration_us", c_uint64),
        ("pid", c_uint32),
        ("kind", c_uint32),
    )


class RawTotal(ctypes.Structure):
    """struct agentcg_mem_total."""

    _fields_ = (("count", c_uint64), ("duration_us", c_uint64), ("bytes", c_uint64))


class RawTotals(ctypes.Structure):
    """struct agentcg_mem_totals."""

    _fields_ = (("kind", RawTotal * len(Kind)), ("over_high_sent_ns", c_uint64))


STRUCTURES: dict[str, type[ctypes.Structure]] = {
    "agentcg_mem_config": Config,
    "agentcg_mem_event": RawEvent,
    "agentcg_mem_total": RawTotal,
    "agentcg_mem_totals": RawTotals,
}
"""Ours, by the name that bpf/agentcg_mem.h has for them."""


@dataclass(frozen=True, slots=True)
class MemEvent:
    """One event. An id is 0 where there is none."""

    kind: Kind
    cgroup_id: int
    """Where the task lives."""
    session_id: int
    """Its session."""
    limit_id: int
    """Whose memory.high or memory.max it was: the leaf's own, or an ancestor's. GROWING: none."""
    pid: int
    time_ns: int
    """When it was sent, on the monotonic clock."""
    duration_us: int
    """How long it took, of kinds that are sent at their end."""
    bytes: int
    """OVER_HIGH: charged in one go; RECLAIM: given back; GROWING: by how much the session grew."""


@dataclass(frozen=True, slots=True)
class Total:
    """All events of a kind in a cgroup, those that were too small to be sent included."""

    count: int
    duration_us: int
    bytes: int


# Which kinds a function's programs give. A kernel has one of the first two.
_HOOKS = {
    "mem_cgroup_handle_over_high": (Kind.OVER_HIGH, Kind.THROTTLED),
    "__mem_cgroup_handle_over_high": (Kind.OVER_HIGH, Kind.THROTTLED),
    "try_to_free_mem_cgroup_pages": (Kind.RECLAIM,),
    "psi_memstall_enter": (Kind.STALL,),
    "psi_memstall_leave": (Kind.STALL,),
    "mem_cgroup_out_of_memory": (Kind.OOM,),
    "__oom_kill_process": (Kind.OOM_KILL,),
    "page_counter_try_charge": (Kind.GROWING,),
}


def hooks() -> dict[str, tuple[Kind, ...]]:
    """Return the kernel functions that are hooked where they are there, and the kinds of event that each gives."""
    return dict(_HOOKS)


def check_object() -> Path:
    """Return where the compiled programs are. :raises Unsupported: if they are not there"""
    return require_object(object_path(NAME))


class MemEvents:
    """Runs ``callback`` on the event loop for each event in the subtree of one cgroup, until :meth:`close`.

    Nothing outlives the process. ``kinds`` are those that this kernel tells, GROWING only with ``growth_bytes``.
    What ``callback`` raises goes to the loop's exception handler; the events after that one are still delivered.

    :param root_id: the subtree's cgroup id
    :param root_level: its depth in the initial cgroup namespace, 0 for the top
    :param session_level: the depth of sessions; by default three below the root
    :param on_lost: called with the number of all events lost so far, when it has grown
    :param settings: other members of :class:`Config`
    :param ring_bytes: size of the ring buffer, a power of two and at least a page; by default the program's own
    :raises Unsupported: where libbpf, the compiled programs, BTF or the right to use BPF are missing
    """

    def __init__(
        self,
        root_id: int,
        root_level: int,
        loop: asyncio.AbstractEventLoop,
        callback: Callable[[MemEvent], None],
        *,
        session_level: int | None = None,
        ring_bytes: int | None = None,
        on_lost: Callable[[int], None] | None = None,
        **settings: int,
    ) -> None:
        require(TRACING, "tracing")
        path = check_object()
        self._loop, self._callback, self._on_lost = loop, callback, on_lost
        self._lost = 0
        self._links: list[Link] = []
        self._ring: RingBuffer | None = None
        with opened(path, undo=self.close) as self._object:
            self._object.check_structures(STRUCTURES)
            config = {
                "root_id": root_id,
                "root_level": root_level,
                "session_level": root_level + 3 if session_level is None else session_level,
                "page_shift": os.sysconf("SC_PAGE_SIZE").bit_length() - 1,
            }
            self._object.configure(Config, **config | settings)
            self._choose(growing=bool(settings.get("growth_bytes")))
            events = self._object.map("events", ctypes.c_uint64)
            if ring_bytes is not None:
                events.set_max_entries(ring_bytes)
            self._object.load()
            self._totals = self._object.map("totals", RawTotals)
            self.holds = self._object.map("holds", c_uint64)
            """Until when each call is not to run; written here, read by a scheduler that is given it."""
            self._stats = self._object.map("stats", c_uint64)
            self._ring = RingBuffer(events, self._record)
            self._links += [one.attach() for one in self._object.programs.values() if one.autoload]
        loop.add_reader(self._ring.epoll_fd, self._ready)

    def _choose(self, *, growing: bool) -> None:
        """Leave out the programs whose functions this kernel has not, and what is on the path of every charge unless
        somebody wants it."""
        wanted = {name: kinds for name, kinds in _HOOKS.items() if growing or Kind.GROWING not in kinds}
        types = kernel_btf()
        try:
            there = {name for name in wanted if types.has_function(name)}
        finally:
            types.close()
        for program in self._object.programs.values():
            program.set_autoload(program.section.partition("/")[2] in there)
        # A kind holds if every function that it needs is there; of the first two, one is enough.
        both = {"mem_cgroup_handle_over_high", "__mem_cgroup_handle_over_high"}
        missing = wanted.keys() - there - (both if there & both else set())
        self.kinds = frozenset(kind for kinds in wanted.values() for kind in kinds)
        self.kinds -= {kind for name in missing for kind in wanted[name]}
        self.missing = tuple(sorted(missing))
        if not self.kinds:
            raise Unsupported("this kernel has none of the functions that are hooked", hint="report its version")

    def __enter__(self) -> MemEvents:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Detach everything. Safe to call twice."""
        if self._ring is not None:
            self._loop.remove_reader(self._ring.epoll_fd)
            self._ring.close()
            self._ring = None
        for link in self._links:
            link.destroy()
        self._links.clear()
        self._object.close()

    def totals(self, cgroup_id: int) -> dict[Kind, Total]:
        """Return all that happened in a leaf or in a session's leaves; empty if nothing has."""
        raw = self._totals.get(cgroup_id)
        if raw is None:
            return {}
        return {kind: Total(one.count, one.duration_us, one.bytes) for kind, one in zip(Kind, raw.kind, strict=True)}

    def stats(self) -> dict[Stat, int]:
        """Return what the programs counted about themselves, all CPUs together."""
        return {stat: sum(one.value for one in self._stats.get_all(stat) or ()) for stat in Stat}

    @property
    def lost(self) -> int:
        """Events for which the ring buffer had no room."""
        return self.stats()[Stat.LOST]

    def _ready(self) -> None:
        if self._ring is None:
            return
        self._ring.consume()
        # A loss means a full buffer, and a full buffer is followed by a look at it: there is no loss unseen.
        if self._on_lost is not None and (lost := self.lost) > self._lost:
            self._lost = lost
            self._on_lost(lost)

    def _record(self, data: bytes) -> None:
        raw = RawEvent.from_buffer_copy(data)
        self._callback(
            MemEvent(
                Kind(raw.kind),
                raw.cgroup_id,
                raw.session_id,
                raw.limit_id,
                raw.pid,
                raw.time_ns,
                raw.duration_us,
                raw.bytes,
            )
        )
