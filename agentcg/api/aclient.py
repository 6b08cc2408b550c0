# SPDX-License-Identifier: Apache-2.0
"""The client for asyncio.

::

    async with await agentcg.aconnect() as client, await client.session("fix-123") as session:
        async with await session.call(["pytest", "-x"], memory_max=1 << 30) as call:
            await call.run()
        print(call.verdict.outcome, call.verdict.advice)

Requests may be made concurrently; they are answered in order on one connection.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from typing import Any

from asyncvarlink import (
    VarlinkClientProtocol,
    VarlinkErrorReply,
    VarlinkInterface,
    VarlinkTransport,
    connect_unix_varlink,
)

from agentcg.api import interfaces as wire
from agentcg.api import types
from agentcg.api.client import ENTRY_LOOK_SEC, ENTRY_SEC, BegunCall, declare, default_socket, explain_error, unreachable
from agentcg.model import cut_command

__all__ = ["AsyncCall", "AsyncClient", "AsyncSession", "aconnect"]


class AsyncClient:
    """A connection to the daemon. :raises RemoteError: whenever the daemon refuses or cannot be reached"""

    def __init__(self, path: str, transport: VarlinkTransport, protocol: VarlinkClientProtocol) -> None:
        self.path = path
        self._transport, self._protocol = transport, protocol

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up. Calls and sessions that this connection stands for are ended."""
        self._transport.close()

    async def invoke(self, interface: type[VarlinkInterface], method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method and return its reply, with descriptors that now belong to the caller."""
        proxied = getattr(self._protocol.make_proxy(interface), method)
        try:
            reply = await proxied(**parameters)
        except VarlinkErrorReply as error:
            raise explain_error(error) from error
        except OSError as error:
            raise unreachable(self.path, error) from error
        if isinstance(reply, dict):
            return reply
        with reply as passing:  # A reply with descriptors owns them until it is left.
            result: dict[str, Any] = {
                name: value.take() if hasattr(value, "take") else value for name, value in passing.items()
            }
        return result

    async def session(
        self,
        name: str | None = None,
        *,
        tenant: str | None = None,
        protected: bool = False,
        leased: bool = True,
        agent: bool = False,
        transparent: bool = False,
        **budget: Any,
    ) -> AsyncSession:
        """Open a session: see :meth:`agentcg.api.client.Client.session`.

        With ``agent`` the session has ``procs``, the cgroup.procs of the agent's own processes.
        """
        reply = await self.invoke(
            wire.SessionInterface,
            "Open",
            session=name,
            tenant=tenant,
            budget=types.camel(types.Budget, budget) if budget else None,
            protected=protected,
            leased=leased,
            agent=agent,
            transparent=transparent,
        )
        return AsyncSession(self, reply["session"].session, reply["notes"], reply.get("procs"))

    async def call(
        self,
        command: Sequence[str],
        *,
        session: str | None = None,
        id: str | None = None,  # noqa: A002
        tool: str | None = None,
        hint: str | None = None,
        leased: bool = True,
        **intent: Any,
    ) -> AsyncCall:
        """Begin a call: see :meth:`agentcg.api.client.Client.call`."""
        reply = await self.invoke(
            wire.CallInterface,
            "Begin",
            session=session,
            id=id,
            tool=tool,
            command=cut_command(command),
            intent=declare(intent),
            hint=hint,
            leased=leased,
        )
        return AsyncCall(self, list(command), reply)

    async def sessions(self) -> list[types.SessionInfo]:
        """Return every session that we may see."""
        found: list[types.SessionInfo] = (await self.invoke(wire.SessionInterface, "List"))["sessions"]
        return found

    async def calls(self, session: str | None = None) -> list[types.ToolCallInfo]:
        """Return every running call that we may see."""
        found: list[types.ToolCallInfo] = (await self.invoke(wire.CallInterface, "List", session=session))["calls"]
        return found

    async def close_session(self, session: str) -> list[types.Verdict]:
        """End all that runs in a session, and remove it."""
        ended: list[types.Verdict] = (await self.invoke(wire.SessionInterface, "Close", session=session))["verdicts"]
        return ended

    async def kill(self, call: str, reason: str) -> types.Verdict:
        """End a call from outside."""
        verdict: types.Verdict = (await self.invoke(wire.CallInterface, "Kill", call=call, reason=reason))["verdict"]
        return verdict

    async def status(self) -> types.Status:
        """Return what the daemon says of itself."""
        status: types.Status = (await self.invoke(wire.MonitorInterface, "GetStatus"))["status"]
        return status

    async def kv_hello(self, engine: str, *, total_blocks: int, block_bytes: int) -> None:
        """Speak as an engine: see :meth:`agentcg.api.client.Client.kv_hello`."""
        await self.invoke(wire.KvInterface, "Hello", engine=engine, totalBlocks=total_blocks, blockBytes=block_bytes)

    async def kv_report(
        self, sessions: Sequence[types.KvSession] = (), queue: types.KvQueue | None = None
    ) -> list[str]:
        """Say what sessions have in the cache: see :meth:`agentcg.api.client.Client.kv_report`."""
        reply = await self.invoke(wire.KvInterface, "Report", sessions=list(sessions), queue=queue)
        unknown: list[str] = reply["unknown"]
        return unknown

    async def kv_listen(self) -> AsyncIterator[types.KvEvent]:
        """Yield what an engine is told of calls. The connection can do nothing else from here on."""
        async for reply in self._stream(wire.KvInterface, "Listen"):
            yield reply["event"]

    async def watch(self, session: str | None = None) -> AsyncIterator[types.Event]:
        """Yield events as they happen. The connection can do nothing else from here on."""
        async for reply in self._stream(wire.MonitorInterface, "Watch", session=session):
            yield reply["event"]

    async def _stream(
        self, interface: type[VarlinkInterface], method: str, **parameters: Any
    ) -> AsyncIterator[dict[str, Any]]:
        try:
            async for reply in getattr(self._protocol.make_proxy(interface), method)(**parameters):
                yield reply
        except VarlinkErrorReply as error:
            raise explain_error(error) from error
        except OSError as error:
            raise unreachable(self.path, error) from error


class AsyncSession:
    """An open session; a context manager that closes it."""

    def __init__(self, client: AsyncClient, name: str, notes: list[str], procs: int | None) -> None:
        self.client, self.name, self.notes, self.procs = client, name, notes, procs

    async def __aenter__(self) -> AsyncSession:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def call(self, command: Sequence[str], **options: Any) -> AsyncCall:
        """Begin a call in this session: see :meth:`AsyncClient.call`."""
        return await self.client.call(command, session=self.name, **options)

    async def close(self) -> list[types.Verdict]:
        """End all that runs in it, and remove it."""
        if self.procs is not None:
            os.close(self.procs)
            self.procs = None
        return await self.client.close_session(self.name)


class AsyncCall(BegunCall):
    """A begun call; a context manager that ends it and then has its ``verdict``."""

    def __init__(self, client: AsyncClient, command: list[str], reply: dict[str, Any]) -> None:
        super().__init__(client.path, command, reply)
        self._client = client

    async def __aenter__(self) -> AsyncCall:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.verdict is None:
            await self.end()

    async def start(self, command: Sequence[str] | None = None, **options: Any) -> asyncio.subprocess.Process:
        """Start a process in the call; ``options`` are those of :func:`asyncio.create_subprocess_exec`."""
        joining, options = self._start(command, options)
        self._process = process = await asyncio.create_subprocess_exec(*joining, **options)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + ENTRY_SEC
        while not self._entered(process.pid) and process.returncode is None and loop.time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(ENTRY_LOOK_SEC)  # No descriptor tells of it.
        return process

    async def run(self, **options: Any) -> int:
        """Run the command to its end in the call and return its status, negative for a signal."""
        process = await self.start(**options)
        return await process.wait()

    async def amend(self, **intent: Any) -> types.Limits:
        """Change what the running call may use; returns the limits in force."""
        changed = declare(intent) or types.Intent()
        reply = await self._client.invoke(wire.CallInterface, "Amend", call=self.name, intent=changed)
        self.limits, self.notes = reply["limits"], reply["notes"]
        return self.limits

    async def end(self, *, exit_code: int | None = None, signal: int | None = None) -> types.Verdict:
        """Report the end. Without arguments, that of the process last started in it, if it was waited for."""
        exit_code, signal = self._leave(exit_code, signal)
        reply = await self._client.invoke(wire.CallInterface, "End", call=self.name, exitCode=exit_code, signal=signal)
        self.verdict = reply["verdict"]
        return reply["verdict"]  # type: ignore[no-any-return]


async def aconnect(path: str | None = None) -> AsyncClient:
    """Connect to the daemon. :raises RemoteError: if there is none"""
    path = path or default_socket()
    try:
        transport, protocol = await connect_unix_varlink(VarlinkClientProtocol, path)
    except OSError as error:
        raise unreachable(path, error) from error
    return AsyncClient(path, transport, protocol)
