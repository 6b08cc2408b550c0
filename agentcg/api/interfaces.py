# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N803  parameter names are the wire's
"""The interfaces as promised: methods, their parameters, their errors.

A class here only declares, and hands every call on to the handler of the same name in :mod:`agentcg.api.service`.
A client needs no handler: it takes the types from here.

Varlink: one JSON object a message, a NUL byte behind it, on ``/run/agentcg/agentcg.sock``. A method whose reply has a
``procs`` field passes that file descriptor beside the message (SCM_RIGHTS), as systemd does.
"""

# Annotations are not postponed here: asyncvarlink reads them as objects.

from collections.abc import AsyncIterator
from typing import Any, TypedDict

from asyncvarlink import FileDescriptor, TypedVarlinkErrorReply, VarlinkInterface, varlinkmethod

from agentcg.api.types import (
    Budget,
    Event,
    Intent,
    KvEngine,
    KvEvent,
    KvQueue,
    KvSession,
    Limits,
    SessionInfo,
    SnapshotPart,
    Status,
    ToolCallInfo,
    Verdict,
)

__all__ = ["INTERFACES", "CallInterface", "ContainerInterface", "ErrorInterface", "KvInterface", "MonitorInterface"]
__all__ += ["SessionInterface"]
__all__ += ["Denied", "Failed", "Invalid", "NestedCall", "NoSuchCall", "NoSuchSession"]


class Invalid(TypedVarlinkErrorReply, name="dev.agentcg.Invalid"):
    """A parameter is not acceptable; ``place`` names it and ``hint`` says what would be."""

    class Parameters:
        place: str
        message: str
        hint: str


class Denied(TypedVarlinkErrorReply, name="dev.agentcg.Denied"):
    """The peer may not do this; ``hint`` says who may."""

    class Parameters:
        message: str
        hint: str


class NoSuchSession(TypedVarlinkErrorReply, name="dev.agentcg.NoSuchSession"):
    """There is no such session."""

    class Parameters:
        session: str


class NoSuchCall(TypedVarlinkErrorReply, name="dev.agentcg.NoSuchCall"):
    """There is no such call, or it has ended."""

    class Parameters:
        call: str


class NestedCall(TypedVarlinkErrorReply, name="dev.agentcg.NestedCall"):
    """The peer runs inside ``call`` already: what it starts stays in that call and under its limits."""

    class Parameters:
        call: str


class Failed(TypedVarlinkErrorReply, name="dev.agentcg.Failed"):
    """The kernel refused; the request was undone. ``message`` says what was tried."""

    class Parameters:
        message: str
        hint: str


_ERRORS = (Invalid, Denied, NoSuchSession, NoSuchCall, NestedCall, Failed)


class OpenResult(TypedDict):
    session: SessionInfo
    notes: list[str]
    procs: FileDescriptor | None


class BeginResult(TypedDict):
    call: str
    limits: Limits
    notes: list[str]
    environment: dict[str, str]
    oomScoreAdj: int
    procs: FileDescriptor | None


class AmendResult(TypedDict):
    limits: Limits
    notes: list[str]


class _Handled:
    def __init__(self, handler: Any) -> None:
        self._handler = handler


class SessionInterface(_Handled, VarlinkInterface, name="dev.agentcg.Sessions"):
    """Agent runs. A session has a budget; its tool calls share it."""

    errors = _ERRORS

    @varlinkmethod
    def Open(
        self,
        *,
        session: str | None = None,
        tenant: str | None = None,
        budget: Budget | None = None,
        protected: bool | None = None,
        leased: bool | None = None,
        agent: bool | None = None,
        transparent: bool | None = None,
    ) -> OpenResult:
        """Open a session. Without a name it gets one. ``leased`` closes it with this connection.
        With ``transparent``, what the agent's own processes execute becomes a call by itself, as the policy says.
        With ``agent`` the reply passes a root peer a descriptor of the cgroup.procs for the agent's own processes: a
        process that writes 0 to it lives in the session, outside its calls, and is not ended for their sake.
        Without it, such a process connects and calls Enter."""
        return self._handler.open(
            session, tenant, budget, bool(protected), bool(leased), bool(agent), bool(transparent)
        )

    @varlinkmethod
    def Enter(self, *, session: str) -> None:
        """Move the peer's process into the session, outside its calls."""
        self._handler.enter(session)

    @varlinkmethod(return_parameter="verdicts")
    async def Close(self, *, session: str) -> list[Verdict]:
        """End every call of a session and what else runs in it, and remove it. Returns what its calls came to."""
        return await self._handler.close(session)

    @varlinkmethod(return_parameter="state")
    def Freeze(self, *, session: str) -> str:
        """Stop all that runs in a session, until Thaw, the session's end or the daemon's. Returns its state."""
        return self._handler.freeze_session(session)

    @varlinkmethod(return_parameter="state")
    def Thaw(self, *, session: str) -> str:
        """Undo Freeze. A session that the controller has stopped as well stays frozen until that lets it go on."""
        return self._handler.thaw_session(session)

    @varlinkmethod(return_parameter="sessions")
    def List(self) -> list[SessionInfo]:
        """Every session that the peer may see."""
        return self._handler.list()


class CallInterface(_Handled, VarlinkInterface, name="dev.agentcg.Calls"):
    """Tool calls. Each gets a cgroup of its own, from Begin to End."""

    errors = _ERRORS

    @varlinkmethod
    def Begin(
        self,
        *,
        session: str | None = None,
        id: str | None = None,  # noqa: A002
        tool: str | None = None,
        command: list[str] | None = None,
        intent: Intent | None = None,
        hint: str | None = None,
        leased: bool | None = None,
    ) -> BeginResult:
        """Make the cgroup of a call. The command's first process enters it, writes ``oomScoreAdj`` to
        /proc/self/oom_score_adj, and executes with ``environment`` added. To enter it writes 0 to ``procs``, or where
        that is null, because the peer is not root, connects and calls Enter.
        Without a session it belongs to its user's session ``adhoc``, which is opened when needed.
        ``hint`` is the text of AGENT_RESOURCE_HINT; ``intent`` wins over it. ``notes`` say where the limits differ
        from what was declared. Unless ``leased`` is false the call is ended when this connection goes away."""
        return self._handler.begin(session, id, tool or "", command or [], intent, hint, leased is not False)

    @varlinkmethod
    def Enter(self, *, call: str) -> None:
        """Move the peer's process into a call. What it starts from then on is in the call."""
        self._handler.enter(call)

    @varlinkmethod
    def Amend(self, *, call: str, intent: Intent) -> AmendResult:
        """Change what a running call may use, within its session's budget. Fields left out stay as they are."""
        return self._handler.amend(call, intent)

    @varlinkmethod(return_parameter="verdict")
    async def End(self, *, call: str, exitCode: int | None = None, signal: int | None = None) -> Verdict:
        """The call is over: end what it left behind, remove its cgroup and say how it went."""
        return await self._handler.end(call, exitCode, signal)

    @varlinkmethod(return_parameter="verdict")
    async def Kill(self, *, call: str, reason: str) -> Verdict:
        """End a call from outside. The reason goes into its verdict."""
        return await self._handler.kill(call, reason)

    @varlinkmethod(return_parameter="state")
    def Freeze(self, *, call: str) -> str:
        """Stop a call, until Thaw, the call's end or the daemon's. Returns its state."""
        return self._handler.freeze_call(call)

    @varlinkmethod(return_parameter="state")
    def Thaw(self, *, call: str) -> str:
        """Undo Freeze. A call that the controller has stopped as well, or its session, stays frozen until then."""
        return self._handler.thaw_call(call)

    @varlinkmethod(return_parameter="calls")
    def List(self, *, session: str | None = None) -> list[ToolCallInfo]:
        """Every running call that the peer may see."""
        return self._handler.list(session)


class ContainerInterface(_Handled, VarlinkInterface, name="dev.agentcg.Containers"):
    """Containers as sessions. Only operators may attach them."""

    errors = _ERRORS

    @varlinkmethod(return_parameter="session")
    async def Attach(self, *, container: str) -> SessionInfo:
        """Make a running container, given by name or id, a session: ``init`` and ``calls`` are made inside its own
        cgroup, and its engine's limits are its budget. It is attached again when it restarts."""
        return await self._handler.attach(container)

    @varlinkmethod(return_parameter="verdicts")
    async def Detach(self, *, container: str) -> list[Verdict]:
        """End a container's calls, and leave it as it was found."""
        return await self._handler.detach(container)


class MonitorInterface(_Handled, VarlinkInterface, name="dev.agentcg.Monitor"):
    """What happens, as it happens."""

    errors = _ERRORS

    @varlinkmethod(return_parameter="status")
    def GetStatus(self) -> Status:
        """The daemon and what it can enforce here."""
        return self._handler.status()

    @varlinkmethod(return_parameter="part")
    async def GetSnapshot(self) -> AsyncIterator[SnapshotPart]:
        """All that the peer may see, in parts: the first has all but the calls, each further one some of these, so that
        nobody else waits for the answer as a whole."""
        async for part in self._handler.snapshot():
            yield part

    @varlinkmethod(return_parameter="event", delay_generator=False)
    async def Watch(self, *, session: str | None = None) -> AsyncIterator[Event]:
        """Every event from now on that the peer may see, of one session or of all. A reader that falls more than
        1,024 events behind is told so by an event of kind ``lost`` and misses the oldest."""
        async for event in self._handler.watch(session):
            yield event


class KvInterface(_Handled, VarlinkInterface, name="dev.agentcg.Kv"):
    """Between tool calls and the KV caches of LLM servers, the engines. Only operators may speak as one, or listen."""

    errors = _ERRORS

    @varlinkmethod
    def Hello(self, *, engine: str, totalBlocks: int, blockBytes: int) -> None:
        """This connection is an engine's, with so large a cache. What was said before under its name, or on this
        connection, is forgotten; so is what it says when the connection goes away."""
        self._handler.hello(engine, totalBlocks, blockBytes)

    @varlinkmethod(return_parameter="unknown")
    def Report(self, *, sessions: list[KvSession] | None = None, queue: KvQueue | None = None) -> list[str]:
        """How it is now with some sessions, each named once, and with the queue. A session without bytes and turns is
        forgotten; what is left out stays as it was said. Ten seconds without a report, and the queue is taken to be
        empty. Returns the sessions that are not known here. Of a report that is refused, nothing counts."""
        return self._handler.report(sessions or [], queue)

    @varlinkmethod(return_parameter="engines")
    def List(self) -> list[KvEngine]:
        """Every engine that has said hello, with what it has said."""
        return self._handler.list()

    @varlinkmethod(return_parameter="event", delay_generator=False)
    async def Listen(self) -> AsyncIterator[KvEvent]:
        """Every call that runs, as if it began now, and then what happens to calls, until the connection is closed. A
        reader that falls more than 1,024 events behind gets one of kind ``lost``, and should listen anew."""
        async for event in self._handler.listen():
            yield event


class ErrorInterface(_Handled, VarlinkInterface, name="dev.agentcg"):
    """The errors that every interface of agentcg answers with."""

    errors = _ERRORS


INTERFACES = (ErrorInterface, SessionInterface, CallInterface, ContainerInterface, MonitorInterface, KvInterface)
