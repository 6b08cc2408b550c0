# SPDX-License-Identifier: Apache-2.0
"""BPF type information: is a kernel function there, where is a variable, what does a structure look like."""

from __future__ import annotations

import ctypes
import struct
from typing import Any

__all__ = ["Btf"]

# linux/btf.h
_ENUM, _ENUM64, _FUNC, _STRUCT, _DATASEC = 6, 19, 12, 4, 15
_TYPE = struct.Struct("<III")  # name_off, info, size or type
_MEMBER = struct.Struct("<III")  # name_off, type, offset in bits
_VARIABLE = struct.Struct("<III")  # type, offset, size
_VALUE = struct.Struct("<Ii")  # name_off, value
_VALUE64 = struct.Struct("<Iq")  # name_off, value: its halves, lower one first, but not aligned


class Btf:
    """Types of a kernel or an object. Raises KeyError for what is not there."""

    def __init__(self, calls: Any, pointer: int, *, owned: bool) -> None:
        self._calls, self._pointer, self._owned = calls, pointer, owned

    def close(self) -> None:
        """Free it, if it is ours."""
        if self._owned:
            self._calls.btf__free(self._pointer)
            self._owned = False

    def has_function(self, name: str) -> bool:
        """Whether a function of that name can be hooked."""
        return bool(self._calls.btf__find_by_name_kind(self._pointer, name.encode(), _FUNC) > 0)

    def variable(self, section: str, name: str) -> tuple[int, int]:
        """Return offset and size of a variable in a section such as ``.rodata``, in bytes."""
        for type_id, offset, size in self._entries(section, _DATASEC, _VARIABLE):
            name_at, _, _ = _TYPE.unpack(ctypes.string_at(self._type(type_id), _TYPE.size))
            if self._name(name_at) == name:
                return offset, size
        raise KeyError(f"{section} has no variable {name}")

    def structure(self, name: str) -> dict[str, tuple[int, int]]:
        """Return the members of a structure in order: offset and size in bytes."""
        members = self._entries(name, _STRUCT, _MEMBER)
        return {
            self._name(at): (bits // 8, int(self._calls.btf__resolve_size(self._pointer, type_id)))
            for at, type_id, bits in members
        }

    def size(self, name: str) -> int:
        """Return the size of a structure in bytes."""
        return int(self._calls.btf__resolve_size(self._pointer, self._find(name, _STRUCT)))

    def enumeration(self, name: str) -> dict[str, int]:
        """Return the names and values of an enum."""
        try:
            entries = self._entries(name, _ENUM, _VALUE)
        except KeyError:
            entries = self._entries(name, _ENUM64, _VALUE64)
        return {self._name(at): value for at, value in entries}

    def _find(self, name: str, kind: int) -> int:
        found = int(self._calls.btf__find_by_name_kind(self._pointer, name.encode(), kind))
        if found <= 0:
            raise KeyError(f"there is no {name} of BTF kind {kind}")
        return found

    def _type(self, type_id: int) -> int:
        return int(self._calls.btf__type_by_id(self._pointer, type_id))

    def _name(self, offset: int) -> str:
        return str(self._calls.btf__name_by_offset(self._pointer, offset).decode())

    def _entries(self, name: str, kind: int, entry: struct.Struct) -> list[tuple[int, ...]]:
        at = self._type(self._find(name, kind))
        _, info, _ = _TYPE.unpack(ctypes.string_at(at, _TYPE.size))
        data = ctypes.string_at(at + _TYPE.size, (info & 0xFFFF) * entry.size)
        return list(entry.iter_unpack(data))
