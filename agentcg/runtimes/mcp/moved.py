# SPDX-License-Identifier: Apache-2.0
"""Processes that are moved into a call while they run, and back."""

from __future__ import annotations

import contextlib
import os

import psutil

from agentcg.cgroup.delegate import cgroup_of

__all__ = ["Moved"]


class Moved:
    """A process, its threads and its descendants, as far as they live where it does.

    What one of them forks is where that one is by then: there already, or found by the next look.
    """

    def __init__(self) -> None:
        self._before: dict[int, tuple[psutil.Process, str]] = {}
        """Who was moved, and their oom_score_adj before that."""

    def move(self, pid: int, procs: int, oom_score_adj: int) -> None:
        """Move the process ``pid`` to the cgroup of the descriptor ``procs``; one that has ended is nobody.

        :param oom_score_adj: what they have there, where we may set it
        :raises OSError: if the kernel refuses to move one
        """
        home = cgroup_of(pid)
        while fresh := [one for one in _family(pid) if one.pid not in self._before and cgroup_of(one.pid) == home]:
            for one in fresh:
                self._before[one.pid] = (one, _set_oom_score_adj(one.pid, str(oom_score_adj)))
                _move(one.pid, procs)

    def move_back(self, procs: int) -> None:
        """Move those that still run to the cgroup of the descriptor ``procs``."""
        for process, oom_score_adj in self._before.values():
            if process.is_running():
                _move(process.pid, procs)
                _set_oom_score_adj(process.pid, oom_score_adj)
        self._before.clear()


def _family(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _move(pid: int, procs: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.write(procs, str(pid).encode())


def _set_oom_score_adj(pid: int, value: str) -> str:
    """Set a process's oom_score_adj where we may, and return what it was."""
    try:
        with open(f"/proc/{pid}/oom_score_adj", "r+") as file:
            before = file.read()
            file.seek(0)
            file.write(value)
    except OSError:
        return value
    return before
