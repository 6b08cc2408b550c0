# SPDX-License-Identifier: Apache-2.0
"""A container's own cgroup as a session: ``<container>/{init,calls/<id>}``.

What lives in the container moves into ``init``, because a cgroup that hands controllers down holds no processes. The
engine goes on using the container's cgroup as before: its limits, its counters and its end are those of all below it.
runc puts an exec that can no longer enter there where the container's first process is, which is ``init``.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
from collections.abc import Iterable

from agentcg.cgroup import files
from agentcg.cgroup.node import Inner, Leaf
from agentcg.cgroup.tree import SessionNode
from agentcg.errors import Unsupported
from agentcg.model import Budget

__all__ = ["AGENT", "budget_of", "enter", "leave", "reopen"]

AGENT = "init"
"""The leaf of all that is not a call."""
_ATTEMPTS = 100
"""A process may be started between two looks: they all have to move, and then some."""


def enter(directory: str, path: str, controllers: Iterable[str]) -> SessionNode:
    """Make the cgroups below a container's own, and move what lives in it.

    :param directory: where its cgroup is in the file system
    :param path: where it is in the hierarchy, from its top
    :raises Unsupported: if it manages cgroups of its own, or there is no room; it is as it was then
    """
    with Inner.open_root(directory) as top:
        if strange := sorted(set(top.children()) - {AGENT, "calls"}):
            raise Unsupported(
                f"it makes cgroups of its own: {', '.join(strange[:3])}",
                hint="what runs systemd or containers inside cannot be attached",
            )
        try:
            with top.make_leaf(AGENT) as agent:
                handed = _hand_down(top, agent, controllers)
            with top.make_inner("calls") as calls:
                calls.enable(handed)
        except OSError as error:
            leave(top)
            raise Unsupported(
                f"no cgroup can be made in it: {error.strerror or error}",
                hint=f"see cgroup.max.descendants and memory.max in {directory}",
            ) from error
    return reopen(directory, path)


def _hand_down(top: Inner, agent: Leaf, controllers: Iterable[str]) -> frozenset[str]:
    for _ in range(_ATTEMPTS):
        _move(top.fd, agent)
        try:
            return top.enable(controllers)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
    raise OSError(errno.EBUSY, "processes are started faster than they can be moved")


def reopen(directory: str, path: str) -> SessionNode:
    """Open the cgroups that :func:`enter` made. :raises FileNotFoundError: if they are not there"""
    top = Inner.open_root(directory)
    try:
        agent = top.open_leaf(AGENT)
        try:
            return SessionNode(None, directory, path, top, agent, top.open_inner("calls"))
        except BaseException:
            agent.close()
            raise
    except BaseException:
        top.close()
        raise


def leave(top: Inner) -> bool:
    """Give a container its cgroup back as it was. True if it is, or the container is gone; no call may run in it."""
    try:
        if not top.remove_tree("calls"):
            return False
        top.disable(files.read_words(top.fd, "cgroup.subtree_control") or ())
        gone = not top.has_child(AGENT) or _dissolve(top)
        top.remove_record()
        return gone
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV):
            return True
        raise


def _dissolve(top: Inner) -> bool:
    with Leaf(os.dup(top.fd), top.name) as whole, top.open_leaf(AGENT) as agent:
        for _ in range(_ATTEMPTS):
            _move(agent.fd, whole)
            if top.remove(AGENT):
                return True
    return False


def _move(source: int, target: Leaf) -> None:
    for pid in files.read_words(source, "cgroup.procs") or ():
        with contextlib.suppress(ProcessLookupError):
            target.place(int(pid))


def budget_of(top: Inner) -> Budget:
    """Return what the engine lets a container use; it may change that at any time."""

    def limit(name: str) -> int | None:
        value = files.read_int(top.fd, name)
        return None if value is None or value == math.inf else int(value)

    quota, period = (files.read_words(top.fd, "cpu.max") or ["max", "100000"])[:2]
    return Budget(
        memory_max=limit("memory.max"),
        swap_max=limit("memory.swap.max"),
        pids_max=limit("pids.max"),
        cpu_weight=limit("cpu.weight") or 100,
        cpu_cores=None if quota == "max" else int(quota) / int(period),
    )
