# SPDX-License-Identifier: Apache-2.0
"""Programs that are attached to a cgroup already, and their maps: found by the kernel's ids, without any pin."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import c_char, c_uint8, c_uint32, c_uint64
from typing import TypeVar

from agentcg.kernel.libbpf import library

__all__ = ["AttachedMap", "attached_maps"]

_PROGRAMS_MAX = 64  # BPF_CGROUP_MAX_PROGS
_MAPS_MAX = 64  # MAX_USED_MAPS
_NAME_BYTES = 16  # BPF_OBJ_NAME_LEN

_T = TypeVar("_T", bound=ctypes.Structure)


class _ProgramInfo(ctypes.Structure):
    """The beginning of struct bpf_prog_info."""

    _fields_ = (
        ("type", c_uint32),
        ("id", c_uint32),
        ("tag", c_uint8 * 8),
        ("jited_prog_len", c_uint32),
        ("xlated_prog_len", c_uint32),
        ("jited_prog_insns", c_uint64),
        ("xlated_prog_insns", c_uint64),
        ("load_time", c_uint64),
        ("created_by_uid", c_uint32),
        ("nr_map_ids", c_uint32),
        ("map_ids", c_uint64),
        ("name", c_char * _NAME_BYTES),
    )


class _MapInfo(ctypes.Structure):
    """The beginning of struct bpf_map_info."""

    _fields_ = (
        ("type", c_uint32),
        ("id", c_uint32),
        ("key_size", c_uint32),
        ("value_size", c_uint32),
        ("max_entries", c_uint32),
        ("map_flags", c_uint32),
        ("name", c_char * _NAME_BYTES),
    )


class AttachedMap:
    """A map of an attached program. ``fd`` is closed by :func:`attached_maps`."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        info = _info("a map", fd, _MapInfo())
        self.name: str = info.name.decode()
        self.value_size: int = info.value_size


@contextmanager
def attached_maps(cgroup: int, attach_type: int, name: str) -> Iterator[list[AttachedMap]]:
    """Give the maps of the programs ``name`` that are attached to a cgroup itself.

    :param cgroup: its directory
    :param attach_type: enum bpf_attach_type
    :raises BpfError: EPERM without CAP_SYS_ADMIN, which it takes to look at other processes' programs
    """
    fds: list[int] = []
    try:
        for program_id in _programs(cgroup, attach_type):
            fds.append(program := _open("bpf_prog_get_fd_by_id", program_id))
            ids = (c_uint32 * _MAPS_MAX)()
            info = _info("a program", program, _ProgramInfo(nr_map_ids=_MAPS_MAX, map_ids=ctypes.addressof(ids)))
            if info.name.decode() == name:
                maps = [_open("bpf_map_get_fd_by_id", one) for one in ids[: info.nr_map_ids]]
                fds += maps
                yield [AttachedMap(fd) for fd in maps]
                return
        yield []
    finally:
        for fd in fds:
            os.close(fd)


def _programs(cgroup: int, attach_type: int) -> list[int]:
    ids, count = (c_uint32 * _PROGRAMS_MAX)(), c_uint32(_PROGRAMS_MAX)
    doing = "asking for the programs of a cgroup"
    library().call(doing, "bpf_prog_query", cgroup, attach_type, 0, None, ids, ctypes.byref(count))
    return list(ids[: count.value])


def _open(function: str, number: int) -> int:
    return int(library().call(f"opening a program or map by its id {number}", function, number))


def _info(what: str, fd: int, info: _T) -> _T:
    size = c_uint32(ctypes.sizeof(info))
    library().call(f"looking at {what}", "bpf_obj_get_info_by_fd", fd, ctypes.byref(info), ctypes.byref(size))
    return info
