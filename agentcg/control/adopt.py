# SPDX-License-Identifier: Apache-2.0
"""After a restart: find every session and call in the tree, take the live ones over, sweep the rest.

Nothing that runs is ended here. What a cgroup is for is read from the record on it; one without a readable record is
ended only if nothing runs in it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from typing import Any, TypeAlias

from agentcg.cgroup.container import reopen
from agentcg.cgroup.node import Inner, Leaf
from agentcg.cgroup.tree import Group, SessionNode
from agentcg.control.background import leave
from agentcg.control.lease import Lease
from agentcg.control.live import LiveCall, LiveSession, read_call, read_process, read_session
from agentcg.control.registry import Registry
from agentcg.control.watch import GRACE_SEC, await_report, tell_adopted, watch_call, watch_session
from agentcg.journal import about
from agentcg.model import CallRef, Session, SessionRef

__all__ = ["adopt"]

log = logging.getLogger(__name__)

_Leases: TypeAlias = dict[tuple[int, int], Lease]
"""By the holder's process: its pid and when it started."""


async def adopt(registry: Registry, containers: Iterable[tuple[str, str]] = ()) -> None:
    """Take over what a daemon before this one left in the tree, and in the cgroups of containers.

    :param containers: where these are, in the file system and in the hierarchy; those that are gone are passed over
    """
    leases: _Leases = {}
    registry.tree.shared.thaw()
    for group, ref, top in list(registry.tree.sessions()):
        top.thaw()  # Also of what nobody knows: whoever froze it is gone.
        record = top.read_record()
        session = read_session(record)
        if session is None or session.ref != ref:
            await _sweep_session(registry, group, ref, top)
            continue
        node = registry.tree.session_node(group, ref, top, top.make_leaf("agent"), top.make_inner("calls"))
        node.calls.enable(registry.tree.root.controllers)
        registry.tree.release(node)
        _adopt_session(registry, session, node, record or {}, leases)
    for directory, path in containers:
        _adopt_container(registry, directory, path, leases)
    registry.reserves.rebalance()
    # A lease whose holder ended meanwhile: its calls get the time that a runtime needs to come back and report.
    loop = asyncio.get_running_loop()
    for lease in leases.values():
        if not lease.alive:
            loop.call_later(GRACE_SEC, registry.drop_lease, lease)
    for live in list(registry.sessions.values()):
        if live.implicit and not live.calls:
            await registry.close_session(live.session.ref, "its call was over before the restart")


def _adopt_session(
    registry: Registry, session: Session, node: SessionNode, record: dict[str, Any], leases: _Leases
) -> None:
    lease = _lease(registry, record, leases) if session.leased else None
    live = LiveSession(session, node, lease, registry.pauses_of(node), implicit=bool(record.get("implicit")))
    registry.sessions[session.ref] = live
    if node.group is not None:
        registry.tree.weigh_session(node, live.cpu_weight)
    claim = record.get("claim")
    live.claim = claim if type(claim) is int and claim > 0 else None
    watch_session(registry, live)
    registry.told_of(live)
    for name in list(node.calls.children()):
        _adopt_call(registry, live, name, leases)
    registry.bus.publish("session_adopted", session.ref, f"with {len(live.calls)} calls")


def _adopt_container(registry: Registry, directory: str, path: str, leases: _Leases) -> None:
    try:
        node = reopen(directory, path)
    except OSError as error:
        log.info("the container in %s is not taken over: %s", path, error.strerror or error)
        return
    record = node.top.read_record()
    session = read_session(record)
    if session is None or not session.container or session.ref in registry.sessions:
        log.warning("%s has no record that can be read: left alone", path)
        node.close()
        return
    _adopt_session(registry, session, node, record or {}, leases)


def _lease(registry: Registry, record: dict[str, object] | None, leases: _Leases) -> Lease:
    """Return the lease of a record; one for each holder, so that what it held together ends together."""
    written = (record or {}).get("lease")
    key = Lease.holder(written)
    if key not in leases:
        leases[key] = Lease.resume(written, registry.drop_lease)
    return leases[key]


def _adopt_call(registry: Registry, session: LiveSession, name: str, leases: _Leases) -> None:
    leaf = session.node.calls.open_leaf(name)
    leaf.thaw()
    record = leaf.read_record()
    call = read_call(record)
    if (record or {}).get("left"):
        leaf.close()
        leave(registry, session, name)
        return
    if call is None or call.ref != CallRef(session.session.ref, name):
        _sweep_leaf(session.node.calls, leaf)
        return
    lease = _lease(registry, record, leases) if call.leased else None
    written = (record or {}).get("started")
    started = float(written) if isinstance(written, (int, float)) else time.monotonic()
    live = LiveCall(call, leaf, session, lease, started)
    registry.expect(live, registry.history_of(call.tool, call.command))
    live.entered = leaf.populated
    live.process = read_process(record)
    session.calls[name] = registry.calls[call.ref] = live
    registry.adopted += 1
    registry.network.adopt(leaf, call.limits)
    watch_call(registry, live)
    if not leaf.populated:
        # Its process ended while nobody looked: the runtime may still come and say how.
        await_report(registry, live)
    for observer in registry.observers_of(session):
        observer.begun(live)
    registry.bus.publish("call_adopted", call.ref, repr(call.command[:200]))
    tell_adopted(registry, live)


def _sweep_leaf(calls: Inner, leaf: Leaf) -> None:
    if leaf.populated:
        log.warning("calls/%s has no record that can be read, but processes: left alone", leaf.name)
    elif calls.remove_tree(leaf.name):
        log.info("removed an empty cgroup without a record: calls/%s", leaf.name)
    leaf.close()


async def _sweep_session(registry: Registry, group: Group, ref: SessionRef, top: Inner) -> None:
    with top:
        if top.populated:
            log.warning("%s has no record that can be read, but processes: left alone", ref, extra=about(ref))
            return
    await registry.tree.remove_session(group, ref)
    log.info("removed an empty session without a record: %s", ref, extra=about(ref))
