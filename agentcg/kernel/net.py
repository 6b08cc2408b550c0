# SPDX-License-Identifier: Apache-2.0
"""The typed face of ``bpf/agentcg_net.bpf.c``: what the sockets of a cgroup may send, and what they did.

The program's own header explains how, and where its limits are.
"""

from __future__ import annotations

import ctypes
from ctypes import c_uint32, c_uint64
from dataclasses import dataclass
from pathlib import Path

from agentcg.kernel.attached import attached_maps
from agentcg.kernel.build_bpf import object_path, require_object
from agentcg.kernel.libbpf import TRACING, BpfError, Map, Program, opened, require

__all__ = ["STRUCTURES", "Counters", "NetworkPrograms", "check_object"]

NAME = "agentcg_net"

_EGRESS = 1  # BPF_CGROUP_INET_EGRESS, linux/bpf.h


class RawLimit(ctypes.Structure):
    """struct agentcg_net_limit."""

    _fields_ = (("rate", c_uint64), ("free_ns", c_uint64), ("lock", c_uint32), ("reserved", c_uint32))


class RawCounters(ctypes.Structure):
    """struct agentcg_net_counters."""

    _fields_ = (
        ("sent_bytes", c_uint64),
        ("received_bytes", c_uint64),
        ("dropped_packets", c_uint64),
        ("refused", c_uint64),
    )


STRUCTURES: dict[str, type[ctypes.Structure]] = {"agentcg_net_limit": RawLimit, "agentcg_net_counters": RawCounters}
"""Ours, by the name that bpf/agentcg_net.h has for them."""


@dataclass(frozen=True, slots=True)
class Counters:
    """What went over the network, loopback left out."""

    sent_bytes: int
    received_bytes: int
    dropped_packets: int
    """Above the rate, or sent to a cgroup that may use none of the network."""
    refused: int
    """Connections, datagrams and packets of a cgroup that may use none of the network."""


def check_object() -> Path:
    """Return where the compiled programs are. :raises Unsupported: if they are not there"""
    return require_object(object_path(NAME))


class NetworkPrograms:
    """Limits cgroups. What is limited stays so until the cgroup is gone, beyond :meth:`close` and this process.

    :param beside: the directory of a cgroup that a process before this one has limited: what that one has limited is
        known here then
    :raises Unsupported: where the kernel, libbpf, the compiled programs or the right to use BPF are missing
    """

    def __init__(self, beside: int | None = None) -> None:
        require(TRACING, "programs of cgroups")
        path = check_object()
        self._refused: set[int] = set()
        """Cgroups that refused a program: what the first of them had been given there stays until they are gone."""
        with opened(path, undo=self.close) as self._object:
            self._object.check_structures(STRUCTURES)
            self._limits: Map[RawLimit] = self._object.map("net_limits", RawLimit)
            self._counters: Map[RawCounters] = self._object.map("net_counters", RawCounters)
            if beside is not None:
                self._share(beside)
            self._object.load()

    def _share(self, beside: int) -> None:
        """Use the maps that are there, unless they are of another version of agentcg."""
        with attached_maps(beside, _EGRESS, "net_egress") as there:
            for one in (self._limits, self._counters):
                for found in there:
                    if (found.name, found.value_size) == (one.name, one.value_size):
                        one.reuse(found.fd)

    def close(self) -> None:
        """Forget the programs. Those that are attached stay. Safe to call twice."""
        self._object.close()

    def limit(self, directory: int, cgroup_id: int, rate: int) -> None:
        """Let the sockets of a cgroup and all below it send ``rate`` bytes a second; 0: nothing but over loopback.

        :raises BpfError: what the kernel refused; the cgroup is as before
        """
        if cgroup_id in self._refused or self._limits.get(cgroup_id) is None:
            self._attach(directory, cgroup_id)
        self._limits.set(cgroup_id, RawLimit(rate=rate))

    def _attach(self, directory: int, cgroup_id: int) -> None:
        attached: list[Program] = []
        try:
            for program in self._object.programs.values():
                program.attach_cgroup(directory)
                attached.append(program)
        except BpfError:
            self._refused.add(cgroup_id)
            for program in attached:
                program.detach_cgroup(directory)
            raise
        self._refused.discard(cgroup_id)

    def counters(self, cgroup_id: int) -> Counters | None:
        """Return what a cgroup and all below it have sent and received since it was limited; None if it is not."""
        values = None if cgroup_id in self._refused else self._counters.get_all(cgroup_id)
        if values is None:
            return None
        return Counters(*(sum(getattr(one, name) for one in values) for name, _ in RawCounters._fields_))
