# SPDX-License-Identifier: Apache-2.0
"""The typed face of ``bpf/agentcg_memcg.bpf.c``, which is experimental and was never run: no kernel has what it needs.

The program's own header says what it does, and which version of an RFC it is written against.
"""

from __future__ import annotations

import ctypes
from ctypes import c_size_t, c_uint32, c_uint64, c_void_p

from agentcg.errors import Unsupported
from agentcg.kernel.btf import Btf
from agentcg.kernel.build_bpf import object_path, require_object
from agentcg.kernel.libbpf import STRUCT_OPS, Link, Map, kernel_btf, library, opened, require

__all__ = ["MEMBERS", "STRUCTURE", "MemcgOps", "Urgent", "check_kernel", "check_types"]

NAME = "agentcg_memcg"
STRUCTURE = "memcg_bpf_ops"
MEMBERS = ("below_low", "get_high_delay_ms")
"""What the kernel's structure must have."""

_ATTACH = "bpf_map__attach_struct_ops_opts"  # Comes with the RFC: no released libbpf has it.


class Urgent(ctypes.Structure):
    """struct agentcg_memcg_urgent."""

    _fields_ = (("until_ns", c_uint64), ("delay_ms", c_uint32), ("reserved", c_uint32))


class _AttachOptions(ctypes.Structure):
    """The RFC's struct bpf_struct_ops_opts."""

    _fields_ = (("sz", c_size_t), ("flags", c_uint32), ("relative_fd", c_uint32), ("expected_revision", c_uint64))


def check_types(types: Btf) -> None:
    """:raises Unsupported: unless ``types`` have the structure with the very members that are set"""
    try:
        there = types.structure(STRUCTURE)
    except KeyError as error:
        hint = "no released kernel has it yet: it is an RFC on the linux-mm list"
        raise Unsupported(f"the kernel has no struct {STRUCTURE}", hint=hint) from error
    missing = [name for name in MEMBERS if name not in there]
    if missing:
        raise Unsupported(
            f"the kernel's struct {STRUCTURE} has no {', '.join(missing)}", hint="it is of another version of the RFC"
        )


def check_kernel() -> None:
    """:raises Unsupported: unless this kernel and this libbpf can take the programs"""
    require(STRUCT_OPS, "struct_ops")
    types = kernel_btf()
    try:
        check_types(types)
    finally:
        types.close()
    if not hasattr(library().calls, _ATTACH):
        raise Unsupported(f"libbpf has no {_ATTACH}", hint="build libbpf from the tree that has the RFC")


class MemcgOps:
    """Spares one cgroup and slows another down, with all below them, while it is urgent; until :meth:`close`.

    Nothing outlives the process.

    :param reserved: the directory of the group to be spared
    :param shared: the directory of the group to be slowed down
    :raises Unsupported: where the kernel, libbpf, the compiled programs or the right to use BPF are missing
    """

    def __init__(self, reserved: int, shared: int) -> None:
        check_kernel()
        self._links: list[Link] = []
        with opened(require_object(object_path(NAME)), undo=self.close) as self._object:
            self._object.load()
            self._urgent: Map[Urgent] = self._object.map("urgent", Urgent)
            self._attach("spared", reserved)
            self._attach("slowed", shared)

    def _attach(self, name: str, directory: int) -> None:
        lib = library()
        attach = getattr(lib.calls, _ATTACH)
        attach.restype, attach.argtypes = c_void_p, (c_void_p, c_void_p)
        options = _AttachOptions(ctypes.sizeof(_AttachOptions), 0, directory, 0)
        pointer = self._object.map(name, c_uint64)._pointer
        self._links.append(Link(lib.call(f"attaching {name}", _ATTACH, pointer, ctypes.byref(options)), name))

    def urgent(self, until_ns: int, delay_ms: int) -> None:
        """Spare and slow down until ``until_ns`` on CLOCK_MONOTONIC; the others wait ``delay_ms``, at most 50."""
        self._urgent.set(0, Urgent(until_ns, delay_ms))

    def close(self) -> None:
        """Detach. Safe to call twice."""
        for link in self._links:
            link.destroy()
        self._links.clear()
        self._object.close()
