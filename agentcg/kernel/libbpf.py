# SPDX-License-Identifier: Apache-2.0
"""libbpf by ctypes: objects, programs, maps, links, the ring buffer.

Everything raises :class:`BpfError`, an OSError that says what was being done and carries libbpf's own log with the
verifier's. ctypes releases the GIL in calls; one object belongs to one thread.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Generic, Self, TypeVar, cast

from agentcg.errors import Unsupported
from agentcg.kernel.btf import Btf
from agentcg.kernel.libbpf_calls import (
    LIBBPF,
    SAMPLE,
    STRUCT_OPS,
    TRACING,
    BpfError,
    ObjectOptions,
    library,
    require,
    unsupported,
)

__all__ = ["LIBBPF", "STRUCT_OPS", "TRACING", "BpfError", "Link", "Map", "Object", "Program", "RingBuffer"]
__all__ += ["kernel_btf", "library", "opened", "require", "unsupported"]

V = TypeVar("V")

# linux/bpf.h
_ANY, _NOEXIST = 0, 1  # BPF_ANY, BPF_NOEXIST
_ALLOW_MULTI = 2  # BPF_F_ALLOW_MULTI
_PER_CPU = (5, 6, 10, 21)  # BPF_MAP_TYPE_PERCPU_HASH, _PERCPU_ARRAY, _LRU_PERCPU_HASH, _PERCPU_CGROUP_STORAGE
_NO_VALUES = (26, 27)  # BPF_MAP_TYPE_STRUCT_OPS, _RINGBUF


def kernel_btf() -> Btf:
    """Return the running kernel's types. :raises Unsupported: if it has none"""
    lib = library()
    try:
        return Btf(lib.calls, lib.call("reading the kernel's BTF", "btf__load_vmlinux_btf"), owned=True)
    except BpfError as error:
        raise Unsupported("the kernel has no BTF", hint="use one with CONFIG_DEBUG_INFO_BTF=y") from error


class Link:
    """An attachment. It ends with :meth:`destroy` or with the process, unless it is pinned."""

    def __init__(self, pointer: int, what: str) -> None:
        self._pointer: int | None = pointer
        self.what = what

    def pin(self, path: str) -> None:
        """Keep it in the BPF file system beyond this process, until ``path`` is unlinked."""
        library().call(f"pinning {self.what} at {path}", "bpf_link__pin", self._pointer, os.fsencode(path))

    def destroy(self) -> None:
        """Detach, unless it is pinned. Safe to call twice."""
        if self._pointer is not None:
            library().calls.bpf_link__destroy(self._pointer)
            self._pointer = None


class Program:
    """A program of an object. ``section`` says what it is and what it hooks, such as ``fentry/schedule``."""

    def __init__(self, pointer: int) -> None:
        calls = library().calls
        self._pointer = pointer
        self.name: str = calls.bpf_program__name(pointer).decode()
        self.section: str = calls.bpf_program__section_name(pointer).decode()

    @property
    def autoload(self) -> bool:
        """Whether it is loaded with its object."""
        return bool(library().calls.bpf_program__autoload(self._pointer))

    def set_autoload(self, wanted: bool) -> None:
        """Load it with its object or leave it out. To be decided before the object is loaded."""
        library().call(f"choosing {self.name}", "bpf_program__set_autoload", self._pointer, wanted)

    def attach(self) -> Link:
        """Attach it where its section says."""
        doing = f"attaching {self.name} to {self.section}"
        return Link(library().call(doing, "bpf_program__attach", self._pointer), self.name)

    def attach_cgroup(self, directory: int) -> None:
        """Attach it to a cgroup, beside other programs, until that is gone: the attachment outlives this process."""
        self._cgroup("attaching", "bpf_prog_attach", directory, _ALLOW_MULTI)

    def detach_cgroup(self, directory: int) -> None:
        """Undo :meth:`attach_cgroup`."""
        self._cgroup("detaching", "bpf_prog_detach2", directory)

    def _cgroup(self, doing: str, function: str, directory: int, *flags: int) -> None:
        calls = library().calls
        fd, kind = calls.bpf_program__fd(self._pointer), calls.bpf_program__expected_attach_type(self._pointer)
        library().call(f"{doing} {self.name} as {self.section}", function, fd, directory, kind, *flags)


class Map(Generic[V]):
    """A map. Keys are ints of its key's width; values are of the ctypes type that :meth:`Object.map` was given."""

    def __init__(self, pointer: int, value: type[V]) -> None:
        calls = library().calls
        self._pointer, self._value = pointer, cast("type[Any]", value)
        self.name: str = calls.bpf_map__name(pointer).decode()
        self.per_cpu = calls.bpf_map__type(pointer) in _PER_CPU
        self._key_size = calls.bpf_map__key_size(pointer)
        size = calls.bpf_map__value_size(pointer)
        if size != ctypes.sizeof(self._value) and calls.bpf_map__type(pointer) not in _NO_VALUES:
            raise BpfError(f"map {self.name} holds values of {size} bytes, not of {ctypes.sizeof(self._value)}")
        self.value_size = size
        # The kernel copies each CPU's value at a multiple of 8 bytes.
        self._stride = -(-size // 8) * 8
        self._cpus = library().call("counting CPUs", "libbpf_num_possible_cpus") if self.per_cpu else 1

    @property
    def fd(self) -> int:
        """Its descriptor, which belongs to the object."""
        return int(library().call(f"map {self.name} before it is loaded", "bpf_map__fd", self._pointer))

    def set_max_entries(self, entries: int) -> None:
        """Size it, before the object is loaded; a ring buffer in bytes: a power of two, at least a page."""
        library().call(f"sizing map {self.name}", "bpf_map__set_max_entries", self._pointer, entries)

    def reuse(self, fd: int) -> None:
        """Be the map of descriptor ``fd``, which is of the same kind, before the object is loaded."""
        library().call(f"using a map that is there as {self.name}", "bpf_map__reuse_fd", self._pointer, fd)

    def attach_struct_ops(self) -> Link:
        """Register a struct_ops map with the kernel. :raises Unsupported: where libbpf is too old"""
        require(STRUCT_OPS, "struct_ops")
        return Link(library().call(f"registering {self.name}", "bpf_map__attach_struct_ops", self._pointer), self.name)

    def get_all(self, key: int) -> list[V] | None:
        """Return the values of all possible CPUs, or the only one. None if there is no such key."""
        buffer = ctypes.create_string_buffer(max(self._stride * self._cpus, 1))
        try:
            self._call("reading", "bpf_map_lookup_elem", key, buffer)
        except FileNotFoundError:
            return None
        return [self._value.from_buffer_copy(buffer, cpu * self._stride) for cpu in range(self._cpus)]

    def get(self, key: int) -> V | None:
        """Return the value of a key, of the first CPU in a per-CPU map. None if there is no such key."""
        values = self.get_all(key)
        return values[0] if values else None

    def set(self, key: int, value: V) -> None:
        """Set the value of a key, on every CPU."""
        self._update(key, value, _ANY)

    def add(self, key: int, value: V) -> bool:
        """Set the value of a key that is not there yet. False if it is."""
        try:
            self._update(key, value, _NOEXIST)
        except BpfError as error:
            if error.errno != errno.EEXIST:
                raise
            return False
        return True

    def _update(self, key: int, value: V, flags: int) -> None:
        data = bytes(cast("Any", value)).ljust(self._stride, b"\0") * self._cpus
        self._call("writing", "bpf_map_update_elem", key, ctypes.create_string_buffer(data, len(data)), flags)

    def delete(self, key: int) -> bool:
        """Remove a key. False if there was none."""
        try:
            self._call("deleting from", "bpf_map_delete_elem", key)
        except FileNotFoundError:
            return False
        return True

    def items(self) -> Iterator[tuple[int, list[V]]]:
        """Yield keys and values as they are now; one that comes or goes meanwhile may be missed or seen twice."""
        following = ctypes.create_string_buffer(self._key_size)
        key: bytes | None = None
        # Bounded: when the present key is deleted, the kernel starts again with the first.
        for _ in range(2 * library().calls.bpf_map__max_entries(self._pointer)):
            ctypes.set_errno(0)
            if library().calls.bpf_map_get_next_key(self.fd, key, following) < 0:
                return
            key = following.raw
            number = int.from_bytes(key, "little")
            values = self.get_all(number)
            if values is not None:
                yield number, values

    def _call(self, doing: str, function: str, key: int, *arguments: Any) -> None:
        packed = key.to_bytes(self._key_size, "little")
        try:
            library().call(f"{doing} map {self.name}, key {key}", function, self.fd, packed, *arguments)
        except BpfError as error:
            if error.errno == errno.ENOENT:
                raise FileNotFoundError(error.errno, error.message) from error
            raise


class Object:
    """A compiled BPF object, from its bytes. Set it up, :meth:`load` it, attach its programs, :meth:`close` it."""

    def __init__(self, data: bytes, name: str) -> None:
        lib = library()
        self.name = name
        self._data = data  # libbpf reads from it until close.
        options = ObjectOptions(ctypes.sizeof(ObjectOptions), name.partition(".")[0].encode())
        self._pointer = lib.call(f"opening BPF object {name}", "bpf_object__open_mem", data, len(data), options)
        self.programs = {one.name: one for one in map(Program, self._each("bpf_object__next_program"))}
        self._maps = {lib.calls.bpf_map__name(one).decode(): one for one in self._each("bpf_object__next_map")}
        self.btf = Btf(lib.calls, lib.call(f"reading BTF of {name}", "bpf_object__btf", self._pointer), owned=False)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Open an object file. :raises Unsupported: if it is not there"""
        try:
            with open(path, "rb") as file:
                return cls(file.read(), os.path.basename(path))
        except FileNotFoundError as error:
            hint = "build it: python -m agentcg.kernel.build_bpf"
            raise Unsupported(f"there is no BPF object {os.fspath(path)}", hint=hint) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Unload everything that nothing else holds; destroy links before. Safe to call twice."""
        if self._pointer is not None:
            library().calls.bpf_object__close(self._pointer)
            self._pointer = None

    def _each(self, function: str) -> Iterator[int]:
        following = getattr(library().calls, function)
        found = following(self._pointer, None)
        while found:
            yield found
            found = following(self._pointer, found)

    def check_structures(self, structures: Mapping[str, type[ctypes.Structure]]) -> None:
        """Compare the sizes of its structures with ours. :raises Unsupported: naming those that differ"""
        try:
            differ = [name for name, ours in structures.items() if self.btf.size(name) != ctypes.sizeof(ours)]
        except KeyError as error:
            differ = [str(error.args[0])]
        if differ:
            raise Unsupported(
                f"{self.name} is not of this version of agentcg: {', '.join(differ)}",
                hint="build it again: python -m agentcg.kernel.build_bpf",
            )

    def rodata(self, offset: int, size: int) -> bytes:
        """Return read-only data as it was compiled or set."""
        return ctypes.string_at(self._rodata() + offset, size)

    def set_rodata(self, name: str, value: int | ctypes.Structure) -> None:
        """Set a ``const volatile`` variable, before :meth:`load`."""
        offset, size = self.btf.variable(".rodata", name)
        data = bytes(value) if isinstance(value, ctypes.Structure) else value.to_bytes(size, "little", signed=value < 0)
        if len(data) != size:
            raise BpfError(f"{self.name}: {name} has {size} bytes, not {len(data)}")
        ctypes.memmove(self._rodata() + offset, data, size)

    def configure(self, kind: type[ctypes.Structure], **members: int) -> None:
        """Set members of the variable ``config``, as :meth:`set_rodata`; what is left out stays as it was compiled."""
        offset, size = self.btf.variable(".rodata", "config")
        config = kind.from_buffer_copy(self.rodata(offset, size))
        for name, value in members.items():
            setattr(config, name, value)
        self.set_rodata("config", config)

    def _rodata(self) -> int:
        section = next((one for known, one in self._maps.items() if known.endswith(".rodata")), None)
        if section is None:
            raise BpfError(f"BPF object {self.name} has no read-only data", errno.ENOENT)
        size = ctypes.c_size_t()
        return int(library().call("finding .rodata", "bpf_map__initial_value", section, ctypes.byref(size)))

    def load(self) -> None:
        """Load what is to be loaded into the kernel. :raises BpfError: with the verifier's log"""
        library().call(f"loading BPF object {self.name}", "bpf_object__load", self._pointer)

    def map(self, name: str, value: type[V]) -> Map[V]:
        """Return a map whose values are of the ctypes type ``value``. :raises BpfError: if there is none"""
        if name not in self._maps:
            raise BpfError(f"BPF object {self.name} has no map {name}", errno.ENOENT)
        return Map(self._maps[name], value)


class RingBuffer:
    """The reading end of a ring buffer map. Give :attr:`epoll_fd` to the event loop, and :meth:`consume` when ready."""

    def __init__(self, ring: Map[Any], callback: Callable[[bytes], None]) -> None:
        self._callback = callback
        self._error: BaseException | None = None
        self._sample = SAMPLE(self._record)  # Must live as long as the buffer.
        self._pointer = library().call(f"opening {ring.name}", "ring_buffer__new", ring.fd, self._sample, None, None)
        self.epoll_fd: int = library().call("ring buffer", "ring_buffer__epoll_fd", self._pointer)

    def _record(self, context: int, data: int, size: int) -> int:
        try:
            self._callback(ctypes.string_at(data, size))
        except BaseException as error:  # ctypes would print and forget it.
            self._error = error
            return -errno.ECANCELED
        return 0

    def consume(self) -> int:
        """Hand every waiting record to the callback and return their number.

        What the callback raises is raised here; that record is gone, the next ones are still there.
        """
        try:
            return int(library().call("reading the ring buffer", "ring_buffer__consume", self._pointer))
        except BpfError:
            error, self._error = self._error, None
            if error is not None:
                raise error from None
            raise

    def close(self) -> None:
        """Stop reading. Safe to call twice."""
        if self._pointer is not None:
            library().calls.ring_buffer__free(self._pointer)
            self._pointer = None


@contextmanager
def opened(
    path: str | os.PathLike[str], what: str = "the BPF programs", *, undo: Callable[[], None]
) -> Iterator[Object]:
    """Open an object file for a block that sets it up; if that fails, ``undo`` is called, which is to close it.

    :raises Unsupported: if the file is not there, or the kernel or libbpf refuse something: ``what`` cannot be had
    """
    try:
        found = Object.open(path)
        try:
            yield found
        except BaseException:
            undo()
            raise
    except OSError as error:
        raise unsupported(error, what) from error
