# SPDX-License-Identifier: Apache-2.0
"""libbpf itself: finding it, its functions with their types, and its log. For :mod:`agentcg.kernel.libbpf`."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import re
from ctypes import POINTER, c_bool, c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from typing import Any

from agentcg.errors import AgentcgError, Unsupported

__all__ = ["LIBBPF", "SAMPLE", "STRUCT_OPS", "TRACING", "BpfError", "ObjectOptions", "library", "require"]
__all__ += ["unsupported"]

LIBBPF = "libbpf.so.1"

TRACING = (1, 1)
"""The libbpf that tracing programs and ring buffers work with; older ones were not tried."""
STRUCT_OPS = (1, 3)
"""The first libbpf that is known to load and link struct_ops: 1.1.2 could not (ENOTSUPP)."""

_LOG_BYTES = 16 << 20  # Of address space: what is not written to is never backed.
_LOG_SHOWN = 4000

_PRINT = ctypes.CFUNCTYPE(c_int, c_int, c_char_p, c_void_p)
SAMPLE = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t)
"""What a ring buffer calls with each record: context, address, size."""


class ObjectOptions(ctypes.Structure):
    """The beginning of libbpf's struct bpf_object_open_opts; its first member says how much of it is there."""

    _fields_ = (("sz", c_size_t), ("object_name", c_char_p))


# name: (result, arguments). libbpf reports errors in errno, with a null pointer or a negative number as the result.
_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "libbpf_num_possible_cpus": (c_int, ()),
    "libbpf_set_print": (c_void_p, (_PRINT,)),
    "libbpf_version_string": (c_char_p, ()),
    "bpf_object__btf": (c_void_p, (c_void_p,)),
    "bpf_object__close": (None, (c_void_p,)),
    "bpf_object__load": (c_int, (c_void_p,)),
    "bpf_object__next_map": (c_void_p, (c_void_p, c_void_p)),
    "bpf_object__next_program": (c_void_p, (c_void_p, c_void_p)),
    "bpf_object__open_mem": (c_void_p, (c_char_p, c_size_t, POINTER(ObjectOptions))),
    "bpf_program__attach": (c_void_p, (c_void_p,)),
    "bpf_program__expected_attach_type": (c_int, (c_void_p,)),
    "bpf_program__fd": (c_int, (c_void_p,)),
    "bpf_program__name": (c_char_p, (c_void_p,)),
    "bpf_program__section_name": (c_char_p, (c_void_p,)),
    "bpf_program__set_autoload": (c_int, (c_void_p, c_bool)),
    "bpf_program__autoload": (c_bool, (c_void_p,)),
    "bpf_map__attach_struct_ops": (c_void_p, (c_void_p,)),
    "bpf_map__fd": (c_int, (c_void_p,)),
    "bpf_map__initial_value": (c_void_p, (c_void_p, POINTER(c_size_t))),
    "bpf_map__key_size": (c_uint32, (c_void_p,)),
    "bpf_map__max_entries": (c_uint32, (c_void_p,)),
    "bpf_map__name": (c_char_p, (c_void_p,)),
    "bpf_map__set_max_entries": (c_int, (c_void_p, c_uint32)),
    "bpf_map__reuse_fd": (c_int, (c_void_p, c_int)),
    "bpf_map__type": (c_int, (c_void_p,)),
    "bpf_map__value_size": (c_uint32, (c_void_p,)),
    "bpf_map_lookup_elem": (c_int, (c_int, c_void_p, c_void_p)),
    "bpf_map_update_elem": (c_int, (c_int, c_void_p, c_void_p, c_uint64)),
    "bpf_map_delete_elem": (c_int, (c_int, c_void_p)),
    "bpf_map_get_next_key": (c_int, (c_int, c_void_p, c_void_p)),
    "bpf_map_get_fd_by_id": (c_int, (c_uint32,)),
    "bpf_obj_get_info_by_fd": (c_int, (c_int, c_void_p, c_void_p)),
    "bpf_prog_attach": (c_int, (c_int, c_int, c_int, c_uint32)),
    "bpf_prog_detach2": (c_int, (c_int, c_int, c_int)),
    "bpf_prog_get_fd_by_id": (c_int, (c_uint32,)),
    "bpf_prog_query": (c_int, (c_int, c_int, c_uint32, c_void_p, c_void_p, c_void_p)),
    "bpf_link__destroy": (c_int, (c_void_p,)),
    "bpf_link__pin": (c_int, (c_void_p, c_char_p)),
    "ring_buffer__consume": (c_int, (c_void_p,)),
    "ring_buffer__epoll_fd": (c_int, (c_void_p,)),
    "ring_buffer__free": (None, (c_void_p,)),
    "ring_buffer__new": (c_void_p, (c_int, SAMPLE, c_void_p, c_void_p)),
    "btf__load_vmlinux_btf": (c_void_p, ()),
    "btf__free": (None, (c_void_p,)),
    "btf__find_by_name_kind": (c_int, (c_void_p, c_char_p, c_uint32)),
    "btf__name_by_offset": (c_char_p, (c_void_p, c_uint32)),
    "btf__resolve_size": (ctypes.c_int64, (c_void_p, c_uint32)),
    "btf__type_by_id": (c_void_p, (c_void_p, c_uint32)),
}


class BpfError(AgentcgError, OSError):
    """Something about BPF failed. ``errno`` is the kernel's; ``log`` is all that libbpf and the verifier said."""

    def __init__(self, doing: str, number: int = 0, log: str = "", *, hint: str = "") -> None:
        shown = log.strip()[-_LOG_SHOWN:]
        reason = f": {os.strerror(number)}" if number else ""
        super().__init__(f"{doing}{reason}{chr(10) if shown else ''}{shown}", hint=hint)
        self.errno = number
        self.log = log


def unsupported(error: OSError, what: str = "BPF") -> Unsupported:
    """Return ``error`` as the news that ``what`` cannot be had here."""
    if isinstance(error, BpfError):
        return Unsupported(error.message, hint=error.hint)
    return Unsupported(f"{what} cannot be used: {error}")


class _Log:
    """What libbpf said since it was last asked. It would go to standard error otherwise."""

    def __init__(self) -> None:
        self._said: list[str] = []
        self._format = ctypes.CDLL(None).vsnprintf
        self._format.argtypes = (c_void_p, c_size_t, c_char_p, c_void_p)
        self._buffer = (ctypes.c_char * _LOG_BYTES).from_buffer(mmap.mmap(-1, _LOG_BYTES))
        self.callback = _PRINT(self._print)

    def _print(self, level: int, text: bytes, arguments: int) -> int:
        # A va_list is passed by address on x86-64 and arm64. LIBBPF_DEBUG is 2.
        if level < 2:
            size = self._format(self._buffer, _LOG_BYTES, text, arguments)
            self._said.append(ctypes.string_at(self._buffer, min(size, _LOG_BYTES - 1)).decode(errors="replace"))
        return 0

    def take(self) -> str:
        said, self._said = "".join(self._said), []
        return said


class _Library:
    def __init__(self, name: str) -> None:
        fix = "install it (Debian: apt install libbpf1, Fedora: dnf install libbpf)"
        try:
            self.calls = ctypes.CDLL(name, use_errno=True)
            for function, (result, arguments) in _FUNCTIONS.items():
                call = getattr(self.calls, function)
                call.restype, call.argtypes = result, arguments
        except (OSError, AttributeError) as error:
            raise Unsupported(f"{name} cannot be used: {error}", hint=fix) from error
        text = self.calls.libbpf_version_string().decode()
        found = re.match(r"v?(\d+)\.(\d+)", text)
        self.version = (int(found[1]), int(found[2])) if found else (0, 0)
        self.log = _Log()
        self.calls.libbpf_set_print(self.log.callback)

    def call(self, doing: str, function: str, *arguments: Any) -> Any:
        """Call a function that returns a pointer or a number. :raises BpfError: saying what was being done"""
        self.log.take()
        ctypes.set_errno(0)
        result = getattr(self.calls, function)(*arguments)
        if result is None or result < 0:
            number = ctypes.get_errno() or (-result if result else 0)
            raise BpfError(doing, number, self.log.take(), hint=_hint(number))
        return result


def _hint(number: int) -> str:
    fix = "run as root, or with CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN"
    return fix if number in (errno.EPERM, errno.EACCES) else ""


_libraries: dict[str, _Library] = {}


def library(name: str = LIBBPF) -> _Library:
    """Return the library, loaded once. :raises Unsupported: if there is none that can be used"""
    if name not in _libraries:
        _libraries[name] = _Library(name)
    return _libraries[name]


def require(version: tuple[int, int], purpose: str, *, name: str = LIBBPF) -> str:
    """Return libbpf's version. :raises Unsupported: if it is older than ``version``, or missing"""
    found = library(name).version
    text = "{}.{}".format(*found)
    if found < version:
        raise Unsupported(
            f"libbpf {text} is too old for {purpose}, which needs {version[0]}.{version[1]}",
            hint="install a newer one: Debian 12 has one in bookworm-backports, Debian 13 and Ubuntu 24.04 as they are",
        )
    return text
