# SPDX-License-Identifier: Apache-2.0
"""Who stands for a call: the connection that began it, or, after a restart, the process that held that connection."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

from agentcg.kernel.process import start_time

__all__ = ["Lease"]


class Lease:
    """Lives as long as its holder. What was begun under it ends with it.

    :param pid: the holder's process, 0 if it is not known
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.alive = True
        self.resumed = False
        """Found again after a restart: there is a process to watch, and no connection."""
        self._start = start_time(pid)
        self._pidfd: int | None = None

    def holds(self) -> bool:
        """Whether the holder's process is still the one it was."""
        return self._start is not None and self._start == start_time(self.pid)

    def record(self) -> dict[str, Any]:
        """Return what is kept on a cgroup so that :meth:`resume` finds the holder again."""
        return {"pid": self.pid, "start": self._start}

    @staticmethod
    def holder(record: object) -> tuple[int, int]:
        """Return the pid and the start time of a recorded holder, 0 where the record does not say."""
        fields = record if isinstance(record, dict) else {}
        pid, start = fields.get("pid"), fields.get("start")
        if isinstance(pid, int) and isinstance(start, int) and 0 < pid < 1 << 31:
            return pid, start
        return 0, 0

    @classmethod
    def resume(cls, record: object, ended: Callable[[Lease], None]) -> Lease:
        """Return the lease of a recorded holder and call ``ended`` when that process ends.

        A process that has ended already, or whose pid somebody else has now, is an ended lease.
        """
        pid, start = cls.holder(record)
        lease = cls(pid)
        lease.resumed = True
        lease.alive = lease._start is not None and lease._start == start
        if lease.alive:
            try:
                lease._watch(ended)
            except OSError:  # It ended between the look and the watch.
                lease.alive = False
        return lease

    def _watch(self, ended: Callable[[Lease], None]) -> None:
        pidfd = self._pidfd = os.pidfd_open(self.pid)
        loop = asyncio.get_running_loop()

        def gone() -> None:
            self.release()
            self.alive = False
            ended(self)

        loop.add_reader(pidfd, gone)

    def release(self) -> None:
        """Stop watching the holder."""
        if self._pidfd is not None:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None
