# SPDX-License-Identifier: Apache-2.0
"""Events of control files on an asyncio loop: cgroup.events, memory.events, and PSI triggers.

cgroupfs reports a change as POLLPRI (cgroup-v2.rst, "Un-populated Notification"; Documentation/accounting/psi.rst,
"Monitoring for pressure thresholds"), which asyncio cannot wait for. One epoll descriptor waits for it, and asyncio
waits for the epoll descriptor.
"""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Callable

__all__ = ["EventPoll"]


class EventPoll:
    """Calls back when a watched control file changes. Belongs to the loop it was made on."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[], None]] = {}
        loop.add_reader(self._epoll.fileno(), self._ready)

    def close(self) -> None:
        """Stop watching everything."""
        self._loop.remove_reader(self._epoll.fileno())
        for fd in list(self._callbacks):
            self.unwatch(fd)
        self._epoll.close()

    def watch_file(self, directory: int, name: str, callback: Callable[[], None]) -> int | None:
        """Call ``callback`` after every change of a control file. Returns a handle for :meth:`unwatch`.

        None if this kernel has no such file. The callback reads the file itself; a change between two calls may be
        reported once.
        """
        try:
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=directory)
        except FileNotFoundError:
            return None
        os.read(fd, 4096)  # Reading arms the notification (kernfs_generic_poll compares event counts).
        return self._watch(fd, callback)

    def watch_pressure(
        self, directory: int, name: str, callback: Callable[[], None], *, stall_sec: float, window_sec: float
    ) -> int | None:
        """Call ``callback`` when tasks stalled for ``stall_sec`` within ``window_sec`` (0.5 to 10 s), at most once a
        window. Returns a handle for :meth:`unwatch`, or None where pressure is not accounted.
        """
        try:
            fd = os.open(name, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=directory)
        except OSError:
            return None
        try:
            os.write(fd, f"some {round(stall_sec * 1e6)} {round(window_sec * 1e6)}\0".encode())
        except OSError:
            os.close(fd)
            return None
        return self._watch(fd, callback)

    def _watch(self, fd: int, callback: Callable[[], None]) -> int:
        self._epoll.register(fd, select.EPOLLPRI | select.EPOLLERR)
        self._callbacks[fd] = callback
        return fd

    def unwatch(self, handle: int | None) -> None:
        """Stop watching. Safe to call twice and with None."""
        if handle is not None and self._callbacks.pop(handle, None) is not None:
            self._epoll.unregister(handle)
            os.close(handle)

    def _ready(self) -> None:
        for fd, _ in self._epoll.poll(0):
            callback = self._callbacks.get(fd)
            if callback is None:
                continue
            try:
                os.pread(fd, 4096, 0)  # Arms the next one.
            except OSError:  # The cgroup was removed: ENODEV. That is an event too, the last.
                self.unwatch(fd)
            callback()
