# SPDX-License-Identifier: Apache-2.0
"""Between a client and its server.

A server that dies in a ``tools/call``, of its limit say, is started again: the requests that it leaves are answered
with what is known of its end, and it is told what the client said at the beginning (``initialize``, which there is up
to revision 2025-11-25 of the protocol). One that dies before it has answered anything is not.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Sequence
from typing import Any, TypeAlias

from agentcg.api.client import RemoteError
from agentcg.errors import AgentcgError
from agentcg.runtimes.mcp import messages
from agentcg.runtimes.mcp.calls import Calls, start_alone
from agentcg.runtimes.mcp.server import LAST_SEC, Server
from agentcg.runtimes.mcp.streams import lines, say, send
from agentcg.sandbox.agent import exit_status
from agentcg.verdict import one_line

__all__ = ["Proxy"]

CANCEL_SEC = 2.0
"""For how long a server may go on in the call of a request that was cancelled."""
_AGAIN = "agentcg-initialize"  # The id of our own request, when a server is started again.
MISTAKES = frozenset(f"dev.agentcg.{name}" for name in ("Invalid", "Denied", "NoSuchSession"))
NESTED = "dev.agentcg.NestedCall"  # It is in a call already, and stays there.

Key: TypeAlias = str | int
"""The id of a request."""


class Proxy:
    """Between the client, at ``reader`` and ``writer``, and the server ``command``.

    :param calls: makes calls of its ``tools/call``; None if there is no daemon
    :param strict: where there is no daemon any more, nothing is run
    """

    def __init__(
        self,
        command: Sequence[str],
        calls: Calls | None,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        strict: bool,
    ) -> None:
        self._command, self._calls, self._strict = command, calls, strict
        self._reader, self._writer = reader, writer
        self._server: Server
        self._pending: dict[Key, dict[str, Any]] = {}
        """The client's requests that are not answered, by id."""
        self._hints: dict[str, Any] = {}
        """Those in the definitions of tools, by tool."""
        self._initialize: dict[str, Any] | None = None
        self._initialized: bytes | None = None
        """What the client said at the beginning, where the server agreed."""
        self._ready = asyncio.Event()
        """The server knows its client."""
        self._answered = False
        """The server has answered a request since it was started."""
        self._over = False
        """A server that ends now is not started again."""
        self._abandoned: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        """Pass messages, and signals, on until the server has ended for good; return its exit status.

        :raises OSError: if the server cannot be executed
        :raises RemoteError: if the daemon refuses to have it run
        """
        await self._start()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, self._stop, number)
        async with asyncio.TaskGroup() as self._tasks:
            reading = self._tasks.create_task(self._from_client())
            while True:
                status = await self._server.listen(self._from_server)
                self._ready.clear()
                if not await self._bury(status):
                    break
            for task in (reading, *self._abandoned):
                task.cancel()
        self._writer.close()
        with contextlib.suppress(ConnectionError, TimeoutError):
            await asyncio.wait_for(self._writer.wait_closed(), LAST_SEC)
        return exit_status(status)

    def _stop(self, number: int) -> None:
        self._over = True
        self._server.signal(number)

    # The server's life

    async def _start(self) -> None:
        self._server, self._answered = await self._new_server(), False
        if self._over:
            self._server.hang_up()
        elif self._initialize is None:
            self._ready.set()
        else:
            await self._server.send(messages.write(self._initialize | {"id": _AGAIN}))

    async def _new_server(self) -> Server:
        if self._calls is not None:
            try:
                return await self._calls.start(self._command)
            except RemoteError as error:
                if not self._may_go_without(error):
                    raise
        return await start_alone(self._command)

    async def _bury(self, status: int) -> bool:
        """Answer what a server has left, and start it again. False if it is not to be."""
        verdict = None if self._calls is None else await self._calls.ended(status)
        left, self._pending = self._pending, {}
        again = not self._over and (self._answered or any(map(messages.is_call, left.values())))
        if not left and (self._over or status == 0):
            return False  # That is how one of them hangs up.
        how = f"the server ended with status {status}" if status >= 0 else f"the server was ended by signal {-status}"
        if again:
            how += " and is started again, without what it held in memory"
        elif not self._over:
            how += " and is not started again: it had answered nothing"
        say(how)
        for request in left.values():
            await send(self._writer, messages.write(messages.lost(request, how, verdict)))
        if again:
            try:
                await self._start()
            except (OSError, AgentcgError) as error:
                say(f"the server cannot be started again: {error}")
                return False
        return again

    def _may_go_without(self, error: AgentcgError) -> bool:
        """Whether what could not be made a call is run all the same; says so."""
        if not isinstance(error, RemoteError) or error.name in MISTAKES:
            return False
        if error.name != NESTED and not self._strict:
            say(f"{error}: running unmanaged")
        return error.name == NESTED or not self._strict

    # From the client to the server

    async def _from_client(self) -> None:
        async for line in lines(self._reader, "the client"):
            message = messages.read(line)
            if isinstance(message, dict):
                passed = await self._admit(message, line)
            else:
                await self._ready.wait()
                passed = True
            if passed:
                await self._server.send(line)
        self._over = True
        await self._ready.wait()
        self._server.hang_up()

    async def _admit(self, message: dict[str, Any], line: bytes) -> bool:
        """Prepare for a message. Return whether the server is to have it, and not answered for it already."""
        method, key = message.get("method"), _key(message, "id")
        if method is None or key is None:
            await self._ready.wait()
        else:
            self._pending[key] = message
            await self._ready.wait()
            if messages.is_call(message) and self._calls is not None and key in self._pending:
                await self._enter(self._calls, key, message)
            if key not in self._pending:
                return False
        if method == "notifications/initialized":
            self._initialized = line
        elif method == "notifications/cancelled":
            self._abandon(message.get("params"))
        return True

    async def _enter(self, calls: Calls, key: Key, request: dict[str, Any]) -> None:
        """Have a ``tools/call`` run in a call, or answer it with why it cannot."""
        params = request.get("params")
        if not isinstance(params, dict) or "task" in params:  # It goes on after it is answered: it is no call.
            return
        tool = str(params.get("name"))
        try:
            intent = messages.intent_of(tool, params, self._hints.get(tool))
            await calls.enter(key, self._server.pid, one_line(tool, 64), intent)
        except AgentcgError as error:
            if not self._may_go_without(error) and self._pending.pop(key, None) is not None:
                refusal = messages.tool_error(request, f"agentcg: {error}: it was not run")
                await send(self._writer, messages.write(refusal))
        if key not in self._pending:  # The server has ended meanwhile.
            await self._leave(key, cancelled=True)

    def _abandon(self, params: object) -> None:
        """A request is cancelled. The server need not answer it, but has some time to end what it started for it."""

        async def give_up(key: Key) -> None:
            await asyncio.sleep(CANCEL_SEC)
            if self._pending.pop(key, None) is not None:
                await self._leave(key, cancelled=True)

        key = _key(params, "requestId")
        if key in self._pending:
            task = self._tasks.create_task(give_up(key))
            self._abandoned.add(task)
            task.add_done_callback(self._abandoned.discard)

    # From the server to the client

    async def _from_server(self, line: bytes) -> None:
        message = messages.read(line)
        if message is None:
            if line.strip():
                say(f"the server wrote what is no message: {one_line(line.decode(errors='replace'), 200)}")
            return
        if isinstance(message, dict) and "method" not in message:
            if message.get("id") == _AGAIN:
                await self._introduced(message)
                return
            line = await self._answer(message, line)
        await send(self._writer, line if line.endswith(b"\n") else line + b"\n")

    async def _introduced(self, message: dict[str, Any]) -> None:
        """A server that was started again has heard of its client."""
        if "error" in message:
            say(f"the server refuses what it accepted before: {one_line(str(message['error']), 200)}")
        if self._initialized is not None:
            await self._server.send(self._initialized)
        self._ready.set()

    async def _answer(self, message: dict[str, Any], line: bytes) -> bytes:
        """Return the line for the client to read, of an answer that the server has given in ``line``."""
        key = _key(message, "id")
        request = None if key is None else self._pending.pop(key, None)
        if key is None or request is None:
            return line
        self._answered = True
        result = message.get("result")
        if request["method"] == "initialize" and result is not None:
            self._initialize = request
        elif request["method"] == "tools/list":
            self._hints |= messages.hints_of(result)
        failed = not isinstance(result, dict) or result.get("isError") is True
        verdict = await self._leave(key, failed=failed)
        if verdict is None:
            return line
        messages.add_verdict(message, verdict)
        return messages.write(message)

    async def _leave(self, key: Key, *, failed: bool = False, cancelled: bool = False) -> dict[str, Any] | None:
        return await self._calls.leave(key, failed=failed, cancelled=cancelled) if self._calls is not None else None


def _key(value: object, name: str) -> Key | None:
    """Return the id of a request that stands in a message, or None if there is none."""
    found = value.get(name) if isinstance(value, dict) else None
    return found if isinstance(found, str | int) else None
