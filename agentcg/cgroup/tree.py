# SPDX-License-Identifier: Apache-2.0
"""The tree: ``<root>/{shared,reserved}/<tenant>/<session>/{agent,calls/<id>}``.

Protected sessions are in ``reserved``, all others in ``shared``: one write to ``shared`` bounds everybody whose memory
is not reserved. Tenants and sessions are inner nodes with a budget, ``agent`` and each call are leaves. A call's
limits are written before anything can enter it. What a session or call is for is kept on its directory
(:meth:`Node.write_record`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from agentcg.cgroup import files
from agentcg.cgroup.delegate import Root
from agentcg.cgroup.node import Inner, Leaf, Node
from agentcg.model import Budget, Limits, SessionRef

__all__ = ["FIRST_SHARE", "PLAIN_WEIGHT", "WEIGHT_MAX", "Group", "SessionNode", "Tree", "write_limits"]

Group = Literal["shared", "reserved"]

WEIGHT_MAX = 10_000  # cpu.weight
PLAIN_WEIGHT = 100
"""cpu.weight of a cgroup, and of a task in one, unless something else is said."""
FIRST_SHARE = 100
"""How many times the CPU time of all others together protected sessions get, if both want all there is."""
_IDLE_WEIGHT = 3 / 1024 * PLAIN_WEIGHT  # Of an idle cgroup: WEIGHT_IDLEPRIO, kernel/sched/sched.h.
_CPU_PERIOD_USEC = 100_000  # The kernel's default period of cpu.max.


def _cpu_max(cores: float | None) -> str:
    # A quota below 1 ms is refused by the kernel (min_cfs_quota_period).
    return f"{'max' if cores is None else max(1000, round(cores * _CPU_PERIOD_USEC))} {_CPU_PERIOD_USEC}"


def _write_budget(node: Inner, budget: Budget) -> None:
    files.write_limit(node.fd, "memory.max", budget.memory_max)
    files.write_limit(node.fd, "memory.swap.max", budget.swap_max)
    files.write_limit(node.fd, "pids.max", budget.pids_max)
    files.write(node.fd, "cpu.weight", str(budget.cpu_weight))
    files.write(node.fd, "cpu.max", _cpu_max(budget.cpu_cores))


def write_limits(leaf: Leaf, limits: Limits, before: Limits | None = None) -> None:
    """Write the limits of a call: all that differ from ``before``, or from those of a new cgroup.

    memory.high is written before memory.max, so that a limit that comes down reclaims before it kills.
    """
    old = before or Limits(swap_max=None)
    if limits.memory_low != old.memory_low:
        files.write(leaf.fd, "memory.low", str(limits.memory_low or 0))
    if limits.memory_high != old.memory_high:
        files.write_limit(leaf.fd, "memory.high", limits.memory_high)
    if limits.memory_max != old.memory_max:
        files.write_limit(leaf.fd, "memory.max", limits.memory_max)
    if limits.swap_max != old.swap_max:
        files.write_limit(leaf.fd, "memory.swap.max", limits.swap_max)
    if limits.pids_max != old.pids_max:
        files.write_limit(leaf.fd, "pids.max", limits.pids_max)
    if limits.cpu_weight != old.cpu_weight:
        files.write(leaf.fd, "cpu.weight", str(limits.cpu_weight))
    if limits.cpu_cores != old.cpu_cores:
        files.write(leaf.fd, "cpu.max", _cpu_max(limits.cpu_cores))
    if limits.io_weight != old.io_weight:
        files.write(leaf.fd, "io.weight", f"default {limits.io_weight}")


@dataclass(slots=True)
class SessionNode:
    """The cgroups of one session."""

    group: Group | None
    """None where it is not in the tree, but the own cgroup of a container (:mod:`agentcg.cgroup.container`)."""
    directory: str
    """Where it is in the file system."""
    path: str
    """Where it is in the hierarchy, from its top."""
    top: Inner
    agent: Leaf
    calls: Inner

    def close(self) -> None:
        """Close the descriptors."""
        for node in (self.agent, self.calls, self.top):
            node.close()


class Tree:
    """The tree below a root. The nodes it returns belong to the caller."""

    def __init__(self, root: Root) -> None:
        self.root = root
        self._groups: dict[Group, Inner] = {}
        groups: tuple[Group, ...] = ("shared", "reserved")
        for group in groups:
            node = self._groups[group] = root.node.make_inner(group)
            node.enable(root.controllers)
        if root.node.has_child("supervisor"):
            with root.node.open_leaf("supervisor") as daemon:  # Beside protected sessions it must not be late.
                files.write(daemon.fd, "cpu.weight", str(WEIGHT_MAX))
        self.favour(first=False)  # As a daemon before us may have left it.

    def close(self) -> None:
        """Close the descriptors. The cgroups stay."""
        for node in self._groups.values():
            node.close()

    @property
    def shared(self) -> Node:
        """The group of all sessions whose memory is not reserved."""
        return self._groups["shared"]

    @property
    def reserved(self) -> Node:
        """The group of all protected sessions."""
        return self._groups["reserved"]

    def bound(self, node: Node, *, high: int | None, maximum: int | None) -> None:
        """Set the memory limits of a group or of the root, memory.high first."""
        files.write_limit(node.fd, "memory.high", high, wait=False)
        files.write_limit(node.fd, "memory.max", maximum)

    def release(self, session: SessionNode) -> None:
        """Let a session go on as fast as it will: what a controller has done about it is undone."""
        session.top.thaw()
        files.write_limit(session.top.fd, "memory.high", None)

    def trip(self, session: SessionNode, high: int | None) -> None:
        """Set a session's memory.high, in bytes. What it holds above that is left to it where the kernel allows."""
        files.write_limit(session.top.fd, "memory.high", high, wait=False)

    def favour(self, *, first: bool) -> None:
        """Let the protected have the CPUs first, :data:`FIRST_SHARE` to 1, or all alike.

        All others are idle to them then (cpu.idle, Linux commit 304000390f88, "sched: Cgroup SCHED_IDLE support"): who
        wakes goes on at once, and does not wait for the end of a slice; so does the daemon. A kernel without that file
        has the weights alone.
        """
        idle = files.write(self.shared.fd, "cpu.idle", str(int(first)))
        weight = FIRST_SHARE * (_IDLE_WEIGHT if idle else PLAIN_WEIGHT) if first else PLAIN_WEIGHT
        files.write(self.reserved.fd, "cpu.weight", str(round(weight)))

    def weigh_session(self, session: SessionNode, weight: int) -> None:
        """Set a session's cpu.weight, 1 to 10000, against the others of its tenant."""
        files.write(session.top.fd, "cpu.weight", str(weight))

    def protect(self, node: Node, low: int) -> None:
        """Keep ``low`` bytes of a node from being reclaimed for others (memory.low)."""
        files.write(node.fd, "memory.low", str(low))

    def open_session(self, group: Group, ref: SessionRef, tenant: Budget, budget: Budget) -> SessionNode:
        """Make a session's cgroups, or open them if they are there, and write both budgets."""
        nodes: list[Node] = []
        try:
            with self._groups[group].make_inner(ref.tenant) as tenant_node:
                _write_budget(tenant_node, tenant)
                tenant_node.enable(self.root.controllers)
                nodes.append(top := tenant_node.make_inner(ref.session))
            _write_budget(top, budget)
            top.enable(self.root.controllers)
            nodes.append(agent := top.make_leaf("agent"))
            nodes.append(calls := top.make_inner("calls"))
            calls.enable(self.root.controllers)
        except BaseException:
            for node in nodes:
                node.close()
            self._discard_session(group, ref)
            raise
        return self.session_node(group, ref, top, agent, calls)

    def session_node(self, group: Group, ref: SessionRef, top: Inner, agent: Leaf, calls: Inner) -> SessionNode:
        """Return a session of the tree by its cgroups."""
        below = f"{group}/{ref}"
        path = f"{self.root.path.rstrip('/')}/{below}"
        return SessionNode(group, f"{self.root.directory}/{below}", path, top, agent, calls)

    def _discard_session(self, group: Group, ref: SessionRef) -> None:
        """Remove what there is of a session that did not come about, unless something else lives there."""
        with contextlib.suppress(FileNotFoundError):
            with self._groups[group].open_inner(ref.tenant) as tenant_node:
                tenant_node.remove_tree(ref.session, attempts=1)
                last = not any(tenant_node.children())
            if last:
                self._groups[group].remove(ref.tenant)

    def protect_tenant(self, group: Group, tenant: str, low: int) -> None:
        """Set a tenant's memory.low: a session's own can take effect only within it."""
        with self._groups[group].open_inner(tenant) as node:
            self.protect(node, low)

    def sessions(self) -> Iterator[tuple[Group, SessionRef, Inner]]:
        """Yield every session that has a cgroup, with its top node open."""
        for group, node in self._groups.items():
            for tenant in sorted(node.children()):
                with node.open_inner(tenant) as tenant_node:
                    for session in sorted(tenant_node.children()):
                        yield group, SessionRef(tenant, session), tenant_node.open_inner(session)

    def make_call(self, session: SessionNode, name: str, limits: Limits) -> Leaf:
        """Make the leaf of a call with its limits in place; nothing is left behind if one of them is refused.

        :raises FileExistsError: if a call of that name is running
        :raises OSError: what the kernel refused
        """
        leaf = session.calls.make_leaf(name, exist_ok=False)
        try:
            # The whole call ends, not the one process that the OOM killer would like best: Linux commit
            # 3d8b38eb81ca ("mm, oom: introduce memory.oom.group"), v4.19.
            files.write(leaf.fd, "memory.oom.group", "1")
            write_limits(leaf, limits)
        except BaseException:
            self.discard_call(session, leaf)
            raise
        return leaf

    def discard_call(self, session: SessionNode, leaf: Leaf) -> None:
        """Remove the leaf of a call that did not come about: nothing ever ran in it."""
        leaf.close()
        session.calls.remove(leaf.name)

    async def remove_call(self, session: SessionNode, name: str, busy: Callable[[], None] = lambda: None) -> bool:
        """Remove the leaf of a call in which nothing runs any more. False if it stayed busy for about 4 s.

        :param busy: is called each time that it was: somebody may have entered it
        """
        return await _remove(session.calls, name, busy)

    async def remove_session(self, group: Group, ref: SessionRef) -> bool:
        """Remove the cgroups of a session in which nothing runs any more, and its tenant's if that was its last."""
        try:
            tenant = self._groups[group].open_inner(ref.tenant)
        except FileNotFoundError:
            return True
        with tenant:
            gone = await _remove(tenant, ref.session)
            last = not any(tenant.children())
        if last:
            self._groups[group].remove(ref.tenant)
        return gone


async def _remove(parent: Inner, name: str, busy: Callable[[], None] = lambda: None) -> bool:
    if parent.remove(name):  # The ordinary case, in one system call.
        return True
    pause = 0.001
    while pause < 2:
        busy()
        if parent.remove_tree(name, attempts=1):
            return True
        await asyncio.sleep(pause)
        pause *= 2
    return not parent.has_child(name)
