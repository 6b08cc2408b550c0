# SPDX-License-Identifier: Apache-2.0
"""A cgroup by its directory descriptor.

A cgroup v2 directory either hands controllers to its children or holds processes, never both (cgroup-v2.rst, "No
Internal Process Constraint"). Here that rule is in the types: an :class:`Inner` has children and no way to place a
process, a :class:`Leaf` holds processes and has no children.

A node is known by its id, the inode number of its directory: a path may have been removed and made again.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self

import msgspec

from agentcg.cgroup import files
from agentcg.kernel.sys import CGROUP2_SUPER_MAGIC, fs_type

__all__ = ["Inner", "Leaf", "Node"]

_RECORD = "user.agentcg"  # In the user namespace of xattrs: bpf_cgroup_read_xattr reads no other.


class Node:
    """Any cgroup. Owns its directory descriptor: close it, or use it as a context manager."""

    def __init__(self, fd: int, name: str) -> None:
        self.fd = fd
        self.name = name
        self.id = os.fstat(fd).st_ino
        """The cgroup id, as BPF programs and the kernel's tracepoints name it."""

    @classmethod
    def _open(cls, name: str, directory: int | None) -> int:
        return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=directory)

    def close(self) -> None:
        """Close the descriptor. The cgroup stays."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Records: what the cgroup is for, kept on the cgroup itself so that it survives the daemon.

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Keep ``record`` as JSON in an xattr of the directory; its values may be dataclasses."""
        os.setxattr(self.fd, _RECORD, msgspec.json.encode(record))

    def read_record(self) -> dict[str, Any] | None:
        """Return the record, or None if there is none or it cannot be read as one."""
        try:
            record = msgspec.json.decode(os.getxattr(self.fd, _RECORD))
        except (OSError, ValueError, RecursionError):  # Whoever may write there may write anything.
            return None
        return record if isinstance(record, dict) else None

    def remove_record(self) -> None:
        """Forget the record. Without one, nothing happens."""
        try:
            os.removexattr(self.fd, _RECORD)
        except OSError as error:
            if error.errno != errno.ENODATA:
                raise

    # State of the whole subtree.

    @property
    def populated(self) -> bool:
        """Whether any process lives in the subtree. False too once the cgroup is gone."""
        return files.read_flat_keyed(self.fd, "cgroup.events").get("populated", 0) == 1

    @property
    def frozen(self) -> bool:
        """Whether the subtree has really stopped, which comes some time after :meth:`freeze`."""
        return files.read_flat_keyed(self.fd, "cgroup.events").get("frozen", 0) == 1

    def freeze(self) -> bool:
        """Ask for every process of the subtree to stop at the border to user space. False if this kernel cannot."""
        return files.write(self.fd, "cgroup.freeze", "1")

    def thaw(self) -> bool:
        """Let the subtree go on, unless an ancestor is frozen."""
        return files.write(self.fd, "cgroup.freeze", "0")

    def kill(self) -> None:
        """Send SIGKILL to every process of the subtree, forks in flight included. Frozen ones die too.

        Linux commit 661ee6281931 ("cgroup: introduce cgroup.kill"), v5.14.
        """
        files.write(self.fd, "cgroup.kill", "1")

    def wait_empty(self, timeout: float) -> bool:
        """Block until no process is left, at most ``timeout`` seconds. For code without an event loop."""
        deadline = time.monotonic() + timeout
        while self.populated:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.002)
        return True


class Leaf(Node):
    """A cgroup that holds processes."""

    def open_procs(self) -> int:
        """Return a write-only descriptor of cgroup.procs: whoever writes ``0`` to it moves itself here."""
        return os.open("cgroup.procs", os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self.fd)

    def place(self, pid: int) -> None:
        """Move a process here, with all its threads. 0 is the caller. Its memory stays charged where it was."""
        files.write(self.fd, "cgroup.procs", str(pid))

    def pids(self) -> list[int]:
        """Return the processes as they are now. A pid may have been recycled by the time it is used."""
        return [int(word) for word in files.read_words(self.fd, "cgroup.procs") or ()]


class Inner(Node):
    """A cgroup that hands controllers to its children."""

    @classmethod
    def open_root(cls, path: str) -> Inner:
        """Open a cgroup by path. :raises NotADirectoryError: if ``path`` is not on a cgroup v2 file system"""
        fd = cls._open(path, None)
        if fs_type(fd) != CGROUP2_SUPER_MAGIC:
            os.close(fd)
            raise NotADirectoryError(errno.ENOTDIR, "not a cgroup v2 directory", path)
        return cls(fd, path)

    @property
    def controllers(self) -> frozenset[str]:
        """Controllers that the parent hands to this cgroup."""
        return frozenset(files.read_words(self.fd, "cgroup.controllers") or ())

    def enable(self, controllers: Iterable[str]) -> frozenset[str]:
        """Hand ``controllers`` to the children, as far as the kernel will. Returns those that they have now.

        :raises OSError: EBUSY if processes live in this cgroup
        """
        have = frozenset(files.read_words(self.fd, "cgroup.subtree_control") or ())
        wanted = sorted(frozenset(controllers) & self.controllers - have)
        if wanted:
            files.write(self.fd, "cgroup.subtree_control", " ".join(f"+{name}" for name in wanted))
        return have | frozenset(wanted)

    def disable(self, controllers: Iterable[str]) -> None:
        """Take ``controllers`` back from the children. What was charged to these is charged to this cgroup then."""
        if taken := sorted(controllers):
            files.write(self.fd, "cgroup.subtree_control", " ".join(f"-{name}" for name in taken))

    def make_inner(self, name: str) -> Inner:
        """Open the child ``name`` that will have children itself; make it if need be."""
        return Inner(self._make(name), name)

    def make_leaf(self, name: str, *, exist_ok: bool = True) -> Leaf:
        """Open the child ``name`` that will hold processes; make it if need be.

        :raises FileExistsError: without ``exist_ok``, if it is there already
        """
        return Leaf(self._make(name, exist_ok=exist_ok), name)

    def has_child(self, name: str) -> bool:
        """Whether the child ``name`` is there."""
        try:
            os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except OSError:
            return False
        return True

    def _make(self, name: str, *, exist_ok: bool = True) -> int:
        try:
            os.mkdir(name, 0o755, dir_fd=self.fd)
        except FileExistsError:
            if not exist_ok:
                raise
        return self._open(name, self.fd)

    def open_inner(self, name: str) -> Inner:
        """Open the existing child ``name``. :raises FileNotFoundError: if there is none"""
        return Inner(self._open(name, self.fd), name)

    def open_leaf(self, name: str) -> Leaf:
        """Open the existing child ``name``. :raises FileNotFoundError: if there is none"""
        return Leaf(self._open(name, self.fd), name)

    def children(self) -> Iterator[str]:
        """Yield the names of the child cgroups."""
        with os.scandir(self.fd) as entries:
            yield from (entry.name for entry in entries if entry.is_dir(follow_symlinks=False))

    def remove(self, name: str) -> bool:
        """Remove the empty child ``name``. True if it is gone; False while the kernel still finds it busy.

        A cgroup whose last process has just died can be busy for a moment; try again a little later.
        """
        try:
            os.rmdir(name, dir_fd=self.fd)
        except FileNotFoundError:
            return True
        except OSError as error:
            if error.errno in (errno.EBUSY, errno.ENOTEMPTY):
                return False
            raise
        return True

    def remove_tree(self, name: str, *, attempts: int = 50, pause: float = 0.01) -> bool:
        """Remove the child ``name`` and all below it, none of which may hold a process. False if it stayed busy."""
        # One descriptor and no recursion: what runs in a call may nest cgroups a thousand deep.
        names, node = [name], self
        try:
            node = self.open_inner(name)
            while True:
                deeper = next(node.children(), None)
                if deeper is not None:
                    names.append(deeper)
                    node, above = node.open_inner(deeper), node
                    above.close()
                    continue
                node, empty = node.open_inner(".."), node
                empty.close()
                if not node._remove_soon(names.pop(), attempts, pause):
                    return False
                if not names:
                    return True
        except FileNotFoundError:
            return not self.has_child(name)
        finally:
            if node is not self:
                node.close()

    def _remove_soon(self, name: str, attempts: int, pause: float) -> bool:
        for attempt in range(attempts):
            if attempt:
                time.sleep(pause)
            if self.remove(name):
                return True
        return False
