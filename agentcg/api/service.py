# SPDX-License-Identifier: Apache-2.0
"""The handlers of the interfaces, one set a connection: who asks is decided here, what is done in control."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from asyncvarlink import FileDescriptor, VarlinkInterfaceRegistry
from asyncvarlink.serviceinterface import VarlinkServiceInterface

from agentcg import __version__, model
from agentcg.api import interfaces as wire
from agentcg.api import types
from agentcg.api.peer import Peer
from agentcg.api.types import from_wire, to_wire
from agentcg.cgroup.node import Leaf
from agentcg.cgroup.usage import cpu_sec, memory_current, memory_high, memory_pressure, pids_current
from agentcg.control.bus import Event
from agentcg.control.containers import Containers
from agentcg.control.kv import Coordinator
from agentcg.control.live import LiveCall, LiveSession, oom_score_adj
from agentcg.control.registry import NoSuchCall, NoSuchSession, Registry
from agentcg.control.stops import Stops
from agentcg.errors import InvalidInput
from agentcg.kv.reports import Engine, Queue, SessionReport
from agentcg.model import CallRef, SessionRef, validate_command, validate_name
from agentcg.policy.hint import parse_hint
from agentcg.verdict import one_line

__all__ = ["Service"]

SNAPSHOT_CALLS = 16  # In a part: about a millisecond's work.


class Service:
    """What all connections share."""

    def __init__(self, registry: Registry, containers: Containers, coordinator: Coordinator, stops: Stops) -> None:
        self.registry, self.containers, self.coordinator, self.stops = registry, containers, coordinator, stops
        self.started = time.time()

    def lost(self, peer: Peer) -> None:
        """A peer has hung up: end and forget what stood under its name."""
        self.registry.drop_lease(peer.lease)
        self.coordinator.dropped(peer.lease)

    def interfaces(self, peer: Peer) -> VarlinkInterfaceRegistry:
        """Return the interfaces as ``peer`` sees them."""
        interfaces = VarlinkInterfaceRegistry()
        url = "https://pypi.org/project/agentcg/"
        interfaces.register_interface(VarlinkServiceInterface("agentcg", "agentcg", __version__, url, interfaces))
        interfaces.register_interface(wire.ErrorInterface(None))
        interfaces.register_interface(wire.SessionInterface(_Sessions(self, peer)))
        interfaces.register_interface(wire.CallInterface(_Calls(self, peer)))
        interfaces.register_interface(wire.ContainerInterface(_Containers(self, peer)))
        interfaces.register_interface(wire.MonitorInterface(_Monitor(self, peer)))
        interfaces.register_interface(wire.KvInterface(_Kv(self, peer)))
        return interfaces


class _Handler:
    def __init__(self, service: Service, peer: Peer) -> None:
        self.service, self.registry, self.peer = service, service.registry, peer

    def session(self, name: str) -> LiveSession:
        """Return the session that the peer names. What it may not see does not exist for it."""
        ref = SessionRef.parse("session", name, tenant=self.peer.tenant)
        try:
            live = self.registry.session(ref)
        except NoSuchSession:
            if self.peer.session is not None and self.peer.session != ref:
                self.refuse(ref, -1)
            raise
        self.refuse(ref, live.session.owner_uid)
        return live

    def call(self, name: str) -> CallRef:
        """Return the full name of a call that the peer may change."""
        ref = CallRef.parse("call", name)
        live = self.registry.calls.get(ref)
        owner = live.call.owner_uid if live else self.registry.ended_owner(ref)
        if owner is None and self.peer.session in (None, ref.session):
            raise NoSuchCall(ref)
        self.refuse(ref.session, -1 if owner is None else owner)
        return ref

    def refuse(self, session: SessionRef, owner_uid: int) -> None:
        """:raises Denied: unless the peer may speak for the session; counted and told"""
        try:
            self.peer.require(session, owner_uid)
        except wire.Denied as denied:
            self.refused(session, denied.parameters["message"])
            raise

    def require_outside(self, what: str = "open or close sessions") -> None:
        """:raises Denied: if the peer lives in a session; counted and told"""
        try:
            self.peer.require_outside(what)
        except wire.Denied as denied:
            self.refused(self.peer.session, denied.parameters["message"])
            raise

    def require_operator(self, what: str) -> None:
        """:raises Denied: if the peer is no operator"""
        if not self.peer.operator:
            raise wire.Denied(
                message=f"{self.peer} may not {what}",
                hint="operators are root and the members of the operators' group, outside any session",
            )

    def refused(self, subject: object, message: str) -> None:
        """Count a request that is refused, also in the verdict on the call that the peer lives in, and tell."""
        self.registry.refused += 1
        if self.peer.call is not None and (live := self.registry.calls.get(self.peer.call)):
            live.refusals += 1
        self.registry.bus.publish("refused", subject, message)

    def freeze(self, live: LiveCall | LiveSession) -> str:
        """Freeze by hand; return the state. :raises Denied: if the peer lives in a session, be it this one"""
        self.require_outside("freeze or thaw")
        self.service.stops.freeze(live, str(self.peer))
        return live.state

    def thaw(self, live: LiveCall | LiveSession) -> str:
        """Thaw what is frozen by hand; return the state. :raises Denied: if the peer lives in a session"""
        self.require_outside("freeze or thaw")
        self.service.stops.thaw(live)
        return live.state

    def procs(self, leaf: Leaf) -> FileDescriptor | None:
        """Return the way into a leaf for a peer that may move any process anyway, which is what its holder can do:

        the kernel judges a write to cgroup.procs by the rights of who opened it.
        """
        return FileDescriptor(leaf.open_procs(), should_close=True) if self.peer.uid == 0 else None

    def place(self, leaf: Leaf) -> None:
        """Move the peer's own process into a leaf."""
        if self.peer.call is not None:
            self.refused(self.peer.call, f"{self.peer} may not leave it")
            raise wire.NestedCall(call=str(self.peer.call))
        if not self.peer.lease.holds():
            raise wire.Denied(message=f"{self.peer} has ended", hint="the process that connects is the one that enters")
        leaf.place(self.peer.pid)


class _Sessions(_Handler):
    def open(
        self,
        session: str | None,
        tenant: str | None,
        budget: types.Budget | None,
        protected: bool,
        leased: bool,
        agent: bool,
        transparent: bool,
    ) -> wire.OpenResult:
        self.require_outside()
        tenant = self._tenant(tenant)
        ref = None if session is None else SessionRef(tenant, validate_name("session", session))
        live, notes = self.registry.open_session(
            ref,
            tenant=tenant,
            owner_uid=self.peer.uid,
            budget=_budget(budget) if budget else None,
            protected=protected,
            lease=self.peer.lease if leased else None,
            transparent=transparent,
        )
        procs = self.procs(live.node.agent) if agent else None
        return {"session": _session_info(live), "notes": notes, "procs": procs}

    def _tenant(self, tenant: str | None) -> str:
        if tenant is None or tenant == self.peer.tenant:
            return self.peer.tenant
        if not self.peer.operator:
            raise wire.Denied(
                message=f"{self.peer} may not open a session for the tenant {tenant[:80]!r}",
                hint=f"only operators name a tenant; yours is {self.peer.tenant}",
            )
        return validate_name("tenant", tenant)

    def enter(self, session: str) -> None:
        self.place(self.session(session).node.agent)

    async def close(self, session: str) -> list[types.Verdict]:
        live = self.session(session)
        self.require_outside()
        ended = await self.registry.close_session(live.session.ref, "it was closed")
        return [types.verdict_to_wire(verdict) for verdict in ended]

    def freeze_session(self, session: str) -> str:
        return self.freeze(self.session(session))

    def thaw_session(self, session: str) -> str:
        return self.thaw(self.session(session))

    def list(self) -> list[types.SessionInfo]:
        return [
            _session_info(live)
            for live in self.registry.sessions.values()
            if self.peer.may_speak_for(live.session.ref, live.session.owner_uid)
        ]


class _Calls(_Handler):
    def begin(
        self,
        session: str | None,
        name: str | None,
        tool: str,
        command: Sequence[str],
        intent: types.Intent | None,
        hint: str | None,
        leased: bool,
    ) -> wire.BeginResult:
        if self.peer.call is not None:
            if session is not None:
                self.session(session)  # In its own name it is an ordinary launcher in a launcher's call.
            raise wire.NestedCall(call=str(self.peer.call))
        if len(tool) > 64 or not tool.isprintable():
            raise InvalidInput(
                "tool", f"{tool[:80]!r} is not a tool's name", hint="use at most 64 printable characters"
            )
        name = None if name is None else validate_name("id", name)
        line = validate_command("command", command) if command else ""
        declared = from_wire(model.Intent, intent).validate() if intent else model.Intent()
        hinted = parse_hint(hint) if hint else model.Intent()
        live = self._session(session)
        try:
            made, decision = self.registry.begin(
                live,
                owner_uid=self.peer.uid,
                name=name,
                tool=tool,
                command=line,
                intent=declared,
                hint=hinted,
                lease=self.peer.lease if leased else None,
            )
        except BaseException:
            self.registry.close_when_idle(live)
            raise
        # Standard, and needs no library of ours: systemd's PRESSURE.md. Its reader wants "some" by default.
        pressure = f"{made.directory}/memory.pressure"
        return {
            "call": str(made.ref),
            "limits": to_wire(types.Limits, made.call.limits),
            "notes": list(decision.notes),
            "environment": {"AGENTCG_CALL": str(made.ref), "MEMORY_PRESSURE_WATCH": pressure},
            "oomScoreAdj": oom_score_adj(live.session.protected, made.call.intent.priority),
            "procs": self.procs(made.leaf),
        }

    def _session(self, name: str | None) -> LiveSession:
        if name is not None:
            return self.session(name)
        if self.peer.session is not None:
            return self.registry.session(self.peer.session)
        return self.registry.adhoc_session(self.peer.tenant, self.peer.uid)

    def enter(self, call: str) -> None:
        self.place(self.registry.call(self.call(call)).leaf)

    def amend(self, call: str, intent: types.Intent) -> wire.AmendResult:
        ref = self.call(call)
        self._require_not_inside(ref)
        decision = self.registry.amend(ref, from_wire(model.Intent, intent))
        return {"limits": to_wire(types.Limits, decision.limits), "notes": list(decision.notes)}

    async def end(self, call: str, exit_code: int | None, signal: int | None) -> types.Verdict:
        ref = self.call(call)
        self._require_not_inside(ref)
        if exit_code is not None and not 0 <= exit_code <= 255:
            raise InvalidInput("exitCode", f"{exit_code} is not between 0 and 255")
        if signal is not None and not 1 <= signal <= 64:
            raise InvalidInput("signal", f"{signal} is not between 1 and 64")
        return types.verdict_to_wire(await asyncio.shield(self.registry.end(ref, exit_code=exit_code, signal=signal)))

    async def kill(self, call: str, reason: str) -> types.Verdict:
        ref = self.call(call)
        self._require_not_inside(ref)
        reason = one_line(reason, 500) or "no reason was given"
        return types.verdict_to_wire(await asyncio.shield(self.registry.kill(ref, reason)))

    def freeze_call(self, call: str) -> str:
        return self.freeze(self.registry.call(self.call(call)))

    def thaw_call(self, call: str) -> str:
        return self.thaw(self.registry.call(self.call(call)))

    def _require_not_inside(self, ref: CallRef) -> None:
        if self.peer.call is not None:
            message = f"{self.peer} may not change calls from inside one"
            self.refused(ref, message)
            raise wire.Denied(message=message, hint=f"ask from outside {ref}")

    def list(self, session: str | None) -> list[types.ToolCallInfo]:
        lives = self.session(session).calls.values() if session is not None else self.registry.calls.values()
        return [_call_info(live) for live in lives if self.peer.may_speak_for(live.ref.session, live.call.owner_uid)]


class _Containers(_Handler):
    async def attach(self, container: str) -> types.SessionInfo:
        self.require_operator("attach or detach containers")
        attaching = self.service.containers.attach(container, owner_uid=self.peer.uid)
        return _session_info(await asyncio.shield(attaching))

    async def detach(self, container: str) -> list[types.Verdict]:
        self.require_operator("attach or detach containers")
        ended = await asyncio.shield(self.service.containers.detach(container))
        return [types.verdict_to_wire(verdict) for verdict in ended]


class _Monitor(_Handler):
    def status(self) -> types.Status:
        registry, root = self.registry, self.registry.tree.root
        return types.Status(
            version=__version__,
            pid=os.getpid(),
            started=self.service.started,
            root=root.path,
            policy=registry.policy.name,
            controllers=sorted(root.controllers),
            missing=list(root.missing),
            sessions=len(registry.sessions),
            calls=len(registry.calls),
            callsBegun=registry.begun,
            callsEnded=registry.ended,
            callsAdopted=registry.adopted,
            refused=registry.refused,
        )

    async def snapshot(self) -> AsyncIterator[types.SnapshotPart]:
        now, may_see = time.time(), self.peer.may_speak_for
        sessions = _Sessions(self.service, self.peer).list()
        recent = [one for owner_uid, one in reversed(self.registry.recent) if may_see(one.ref.session, owner_uid)]
        verdicts = [types.verdict_to_wire(verdict) for verdict in recent]
        yield types.SnapshotPart(now, self.status(), sessions, [], verdicts, self._kv_sessions(sessions))
        visible = [live for live in self.registry.calls.values() if may_see(live.ref.session, live.call.owner_uid)]
        for first in range(0, len(visible), SNAPSHOT_CALLS):
            await asyncio.sleep(0)
            some = [live for live in visible[first : first + SNAPSHOT_CALLS] if live.ref in self.registry.calls]
            yield types.SnapshotPart(now, None, [], [_call_info(live) for live in some], [])

    def _kv_sessions(self, sessions: Sequence[types.SessionInfo]) -> list[types.KvSession] | None:
        engines, now = self.service.coordinator.engines(), time.monotonic()
        names = {one.session for one in sessions}
        held = (one for engine in engines for one in _kv_sessions(engine, now) if one.session in names)
        return list(held) if engines else None

    async def watch(self, session: str | None) -> AsyncIterator[types.Event]:
        only = str(self.session(session).session.ref) if session is not None else None

        def wanted(event: Event) -> bool:
            return (only is None or f"{event.subject}/".startswith(f"{only}/")) and self._may_see(event)

        async for event in self.registry.bus.listen(wanted):
            yield to_wire(types.Event, event, verdict=types.verdict_to_wire(event.verdict) if event.verdict else None)

    def _may_see(self, event: Event) -> bool:
        if self.peer.operator:
            return True
        tenant, session, *_ = event.subject.split("/")
        ref = SessionRef(tenant, session)
        live = self.registry.sessions.get(ref)
        return self.peer.may_speak_for(ref, live.session.owner_uid if live else -1)


class _Kv(_Handler):
    def hello(self, engine: str, blocks: int, block_bytes: int) -> None:
        self._require()
        self.service.coordinator.hello(self.peer.lease, validate_name("engine", engine), blocks, block_bytes)

    def report(self, sessions: Sequence[types.KvSession], queue: types.KvQueue | None) -> list[str]:
        self._require()
        given = [
            SessionReport(
                SessionRef.parse(f"sessions[{index}].session", one.session, tenant=self.peer.tenant),
                one.tokens,
                one.bytes,
                one.turns or 0,
                one.pinnedSec,
                one.hit,
            )
            for index, one in enumerate(sessions)
        ]
        kept = Queue(queue.waiting, queue.freeBlocks) if queue else None
        return [str(ref) for ref in self.service.coordinator.report(self.peer.lease, given, kept)]

    def list(self) -> list[types.KvEngine]:
        self._require()
        return [_engine_info(engine) for engine in self.service.coordinator.engines()]

    async def listen(self) -> AsyncIterator[types.KvEvent]:
        self._require()
        async for news in self.service.coordinator.listen():
            yield types.KvEvent(
                news.kind,
                session=str(news.session) if news.session else None,
                call=str(news.call) if news.call else None,
                forecast=types.KvForecast(*news.forecast) if news.forecast else None,
                missed=news.missed,
            )

    def _require(self) -> None:
        self.require_operator("speak or listen as an engine")


def _engine_info(engine: Engine) -> types.KvEngine:
    now = time.monotonic()
    return types.KvEngine(
        engine=engine.name,
        totalBlocks=engine.blocks,
        blockBytes=engine.block_bytes,
        queue=types.KvQueue(engine.queue.waiting, engine.queue.free_blocks),
        pressure=engine.pressure(now),
        hits=engine.hits,
        misses=engine.misses,
        sessions=_kv_sessions(engine, now),
    )


def _kv_sessions(engine: Engine, now: float) -> list[types.KvSession]:
    return [
        types.KvSession(
            str(ref),
            held.tokens,
            held.bytes,
            held.turns,
            held.pinned_until - now if held.pinned_until > now else None,
        )
        for ref, held in engine.holdings.items()
    ]


def _budget(budget: types.Budget) -> model.Budget:
    # What is left out is for the policy to say, so it must not become the default of a Budget: no swap.
    return replace(from_wire(model.Budget, budget), swap_max=budget.swapMax).validate()


def _session_info(live: LiveSession) -> types.SessionInfo:
    return to_wire(
        types.SessionInfo,
        live.session,
        session=str(live.session.ref),
        budget=to_wire(types.Budget, live.session.budget),
        calls=len(live.calls),
        memoryCurrent=memory_current(live.node.top),
        cpuSec=cpu_sec(live.node.top),
        state=live.state,
        frozenByHand=live.by_hand is not None or None,
        memoryHigh=memory_high(live.node.top),
        memoryReserved=live.reserve or None,
        memoryPressure=memory_pressure(live.node.top),
    )


def _call_info(live: LiveCall) -> types.ToolCallInfo:
    return to_wire(
        types.ToolCallInfo,
        live.call,
        call=str(live.ref),
        intent=to_wire(types.Intent, live.call.intent),
        limits=to_wire(types.Limits, live.call.limits),
        memoryCurrent=memory_current(live.leaf),
        pidsCurrent=pids_current(live.leaf),
        cpuSec=cpu_sec(live.leaf),
        state=live.state,
        frozenByHand=live.by_hand is not None or None,
        stoppedSec=live.still.sec(time.monotonic()) or None,
        durationPredictedSec=live.expected_sec,
        cgroup=live.directory,
        memoryPressure=memory_pressure(live.leaf),
    )
