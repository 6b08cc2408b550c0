# SPDX-License-Identifier: Apache-2.0
"""The typed face of ``bpf/agentcg_exec.bpf.c``: what agents execute is stopped before its first instruction, and told.

The program's own header explains what is stopped, and the limits.
"""

from __future__ import annotations

import asyncio
import ctypes
import enum
import os
from collections.abc import Callable, Iterable, Mapping
from ctypes import c_uint32, c_uint64
from dataclasses import dataclass
from pathlib import Path

from agentcg.errors import Unsupported
from agentcg.kernel.build_bpf import object_path, require_object
from agentcg.kernel.libbpf import TRACING, Link, Map, RingBuffer, opened, require

__all__ = ["NAME_BYTES", "STRUCTURES", "Config", "Ended", "Executions", "Kind", "Match", "Stopped", "check_object"]
__all__ += ["check_pid_namespace"]

NAME = "agentcg_exec"
NAME_BYTES = 15
"""By how much of its name a program is known."""

_INITIAL_PID_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO of linux/proc_ns.h


class Kind(enum.IntEnum):
    """What happened; enum agentcg_exec_kind."""

    STOPPED = 0
    ENDED = 1


class Match(enum.IntEnum):
    """Which executions of a program are calls; enum agentcg_exec_match."""

    ALWAYS = 0
    WITH_COMMAND = 1
    """A shell's, with ``-c`` among its options."""


class Config(ctypes.Structure):
    """struct agentcg_exec_config: read-only once the programs are loaded."""

    _fields_ = (("new_session", c_uint32),)


class RawAgent(ctypes.Structure):
    """struct agentcg_exec_agent."""

    _fields_ = (("unmanaged", c_uint64),)


class RawEvent(ctypes.Structure):
    """struct agentcg_exec_event."""

    _fields_ = (
        ("time_ns", c_uint64),
        ("cgroup_id", c_uint64),
        ("pid", c_uint32),
        ("kind", c_uint32),
        ("status", c_uint32),
        ("unused", c_uint32),
    )


STRUCTURES: dict[str, type[ctypes.Structure]] = {
    "agentcg_exec_config": Config,
    "agentcg_exec_agent": RawAgent,
    "agentcg_exec_event": RawEvent,
}
"""Ours, by the name that bpf/agentcg_exec.h has for them."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """A process stands at the first instruction of what is to be a call."""

    pid: int
    cgroup_id: int
    """Where the agent lives."""
    time_ns: int
    """Since when it is stopped, on the monotonic clock."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A process that was told as stopped has ended."""

    pid: int
    status: int
    """As wait(2) has it."""
    time_ns: int


def check_object() -> Path:
    """Return where the compiled programs are. :raises Unsupported: if they are not there"""
    return require_object(object_path(NAME))


def check_pid_namespace() -> str:
    """Return which pid namespace this is. :raises Unsupported: where processes have other numbers than on the host"""
    if os.stat("/proc/self/ns/pid").st_ino != _INITIAL_PID_NAMESPACE:
        raise Unsupported(
            "in a pid namespace the processes that the kernel tells of are not known",
            hint="run the daemon on the host, or the container with --pid=host",
        )
    return "the host's"


class Executions:
    """Stops what agents execute, and tells of it on the event loop, until :meth:`close`.

    Nothing outlives the process but what is stopped then: see :mod:`agentcg.control.guard`.

    :param programs: which executions are calls, by the program's name
    :param new_session: whatever leads a session of its own is a call as well
    :param told: called for each event
    :param on_unmanaged: called with an agent's cgroup id and the number of its executions that were let pass for want
        of room, when that has grown
    :param ring_bytes: size of the ring buffer, a power of two and at least a page; by default the program's own
    :raises Unsupported: where libbpf, the compiled programs, BTF or the right to use BPF are missing
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        told: Callable[[Stopped | Ended], None],
        *,
        programs: Mapping[str, Match],
        new_session: bool = False,
        on_unmanaged: Callable[[int, int], None] = lambda cgroup_id, count: None,
        ring_bytes: int | None = None,
    ) -> None:
        require(TRACING, "tracing")
        check_pid_namespace()
        path = check_object()
        self._loop, self._told, self._on_unmanaged = loop, told, on_unmanaged
        self._unmanaged: dict[int, int] = {}
        self._links: list[Link] = []
        self._ring: RingBuffer | None = None
        with opened(path, undo=self.close) as self._object:
            self._object.check_structures(STRUCTURES)
            self._object.configure(Config, new_session=int(new_session))
            events = self._object.map("events", c_uint64)
            if ring_bytes is not None:
                events.set_max_entries(ring_bytes)
            self._object.load()
            self.agents = self._object.map("agents", RawAgent)
            self.stopped = self._object.map("stopped", c_uint64)
            self._watched = self._object.map("watched", c_uint32)
            _fill(self._object.map("programs", c_uint32), programs.items())
            self._ring = RingBuffer(events, self._record)
            self._links += [program.attach() for program in self._object.programs.values()]
        loop.add_reader(self._ring.epoll_fd, self.consume)

    def __enter__(self) -> Executions:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Detach everything. What is stopped stays so until the guard lets it go on. Safe to call twice."""
        for link in self._links:
            link.destroy()
        self._links.clear()
        if self._ring is not None:
            self._loop.remove_reader(self._ring.epoll_fd)
            self._ring.close()
            self._ring = None
        self._object.close()

    def add_agent(self, cgroup_id: int) -> None:
        """Stop, from now on, what processes of this cgroup execute."""
        self._unmanaged[cgroup_id] = 0
        self.agents.set(cgroup_id, RawAgent())

    def remove_agent(self, cgroup_id: int) -> None:
        """Stop nothing of this cgroup any more."""
        self._unmanaged.pop(cgroup_id, None)
        self.agents.delete(cgroup_id)

    def is_stopped(self, event: Stopped) -> bool:
        """Whether the process of an event still is that process, and nobody has let it go on."""
        since = self.stopped.get(event.pid)
        return since is not None and since.value == event.time_ns

    def released(self, pid: int) -> None:
        """A process was let go on."""
        self.stopped.delete(pid)

    def watch(self, pid: int) -> None:
        """Tell of the end of a process that was stopped by somebody before us."""
        self._watched.set(pid, c_uint32(0))  # None of its executions was told here.

    def consume(self) -> None:
        """Tell at once of all that has happened."""
        if self._ring is None:
            return
        self._ring.consume()
        # Want of room means events that nobody has read yet, and those are followed by a look: nothing passes unseen.
        for cgroup_id, before in list(self._unmanaged.items()):
            agent = self.agents.get(cgroup_id)
            if agent is not None and agent.unmanaged > before:
                self._unmanaged[cgroup_id] = agent.unmanaged
                self._on_unmanaged(cgroup_id, agent.unmanaged - before)

    def _record(self, data: bytes) -> None:
        raw = RawEvent.from_buffer_copy(data)
        if raw.kind == Kind.STOPPED:
            self._told(Stopped(raw.pid, raw.cgroup_id, raw.time_ns))
        else:
            self._told(Ended(raw.pid, raw.status, raw.time_ns))


def _fill(table: Map[c_uint32], programs: Iterable[tuple[str, Match]]) -> None:
    for name, match in programs:
        table.set(int.from_bytes(name.encode()[:NAME_BYTES], "little"), c_uint32(match))
