# SPDX-License-Identifier: Apache-2.0
"""The typed face of ``bpf/agentcg_confine.bpf.c``: calls stay in their cgroups, leave the tasks outside alone, and what
they try is counted. The program's own header says what is refused, and what is not.
"""

from __future__ import annotations

import ctypes
import enum
from ctypes import c_uint32, c_uint64
from pathlib import Path

from agentcg.errors import Unsupported
from agentcg.kernel import sys
from agentcg.kernel.build_bpf import object_path, require_object
from agentcg.kernel.libbpf import TRACING, Link, kernel_btf, opened, require

__all__ = ["STRUCTURES", "Config", "Confinement", "Kind", "check_lsm", "check_object"]

NAME = "agentcg_confine"

_LISTED = Path("/sys/kernel/security/lsm")
_SEES_TRACES = "__ptrace_may_access"


class Kind(enum.IntEnum):
    """What a task of a call was refused; enum agentcg_confine_kind."""

    FILE = 0
    DIRECTORY = 1
    CLONE = 2
    TRACE = 3
    UNREADABLE = 4


class Config(ctypes.Structure):
    """struct agentcg_confine_config: read-only once the programs are loaded."""

    _fields_ = (("call_level", c_uint32), ("trace_seen", c_uint32))


class RawRefused(ctypes.Structure):
    """struct agentcg_confine_refused."""

    _fields_ = (("kind", c_uint64 * len(Kind)),)


STRUCTURES: dict[str, type[ctypes.Structure]] = {
    "agentcg_confine_config": Config,
    "agentcg_confine_refused": RawRefused,
}
"""Ours, by the name that bpf/agentcg_confine.h has for them."""


def check_object() -> Path:
    """Return where the compiled programs are. :raises Unsupported: if they are not there"""
    return require_object(object_path(NAME))


def check_lsm(listed: Path = _LISTED) -> str:
    """Look whether the kernel asks BPF programs at its security hooks: where it does not, they can be attached all the
    same, and are never run.

    :raises Unsupported: saying why it does not
    """
    try:
        active = sys.LSM_ID_BPF in sys.security_modules()
    except OSError:  # A kernel before the system call.
        try:
            active = "bpf" in listed.read_text().strip().split(",")
        except OSError as error:
            hint = "mount -t securityfs none /sys/kernel/security"
            raise Unsupported(f"the active security modules are not known: {error}", hint=hint) from error
    if not active:
        hint = f"boot a kernel that has CONFIG_BPF_LSM=y with lsm= and what {_LISTED} has, and bpf"
        raise Unsupported("bpf is not among the active security modules", hint=hint)
    return "active"


class Confinement:
    """Confines the calls that it is told of, until :meth:`close`. Nothing outlives the process.

    :param root_level: the depth of agentcg's root in the initial cgroup namespace, 0 for the top
    :raises Unsupported: where BPF LSM, libbpf, the compiled programs, BTF or the right to use BPF are missing
    """

    def __init__(self, root_level: int) -> None:
        check_lsm()
        require(TRACING, "tracing")
        path = check_object()
        self._links: list[Link] = []
        with opened(path, undo=self.close) as self._object:
            self._object.check_structures(STRUCTURES)
            there = self._choose()
            self._object.configure(Config, call_level=root_level + 5, trace_seen=_SEES_TRACES in there)
            self._object.load()
            self._calls = self._object.map("calls", RawRefused)
            self._links += [one.attach() for one in self._object.programs.values() if one.autoload]

    def _choose(self) -> set[str]:
        """Leave out those that only count where this kernel has not their functions; return the functions of others."""
        types = kernel_btf()
        there = set()
        try:
            for program in self._object.programs.values():
                kind, _, function = program.section.partition("/")
                if kind == "fexit":
                    program.set_autoload(types.has_function(function))
                if program.autoload:
                    there.add(function)
        finally:
            types.close()
        return there

    def __enter__(self) -> Confinement:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Confine nobody any more. Safe to call twice."""
        for link in self._links:
            link.destroy()
        self._links.clear()
        self._object.close()

    def add(self, cgroup_id: int) -> None:
        """Confine a call. :raises BpfError: if there are too many"""
        self._calls.set(cgroup_id, RawRefused())

    def remove(self, cgroup_id: int) -> None:
        """A call is over, or is not to be confined any more."""
        self._calls.delete(cgroup_id)

    def refused(self, cgroup_id: int) -> dict[Kind, int]:
        """Return how often a call was refused what, without what it was not refused."""
        raw = self._calls.get(cgroup_id)
        return {} if raw is None else {kind: count for kind, count in zip(Kind, raw.kind, strict=True) if count}
