# SPDX-License-Identifier: Apache-2.0
"""The calls of a server of the Model Context Protocol, which is one process for all of them.

The server lives in a session, beside its calls. For a ``tools/call`` a call is begun and the server moved into it, with
all its threads and descendants; when it is answered the server is moved back. What was started meanwhile stays, and is
ended with the call. Memory stays charged where it was allocated (cgroup-v2.rst, "Memory Ownership").

One that comes while another runs shares its call: they run in one process, so nothing tells apart what they use.

To move a process takes the rights of root. Without them, or where it is asked for, the server is one call for as long
as it runs, and each ``tools/call`` shares that.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Hashable, Sequence
from dataclasses import asdict
from typing import Any

from asyncvarlink import VarlinkInterface

from agentcg.api import interfaces as wire
from agentcg.api import types
from agentcg.api.aclient import AsyncCall, AsyncClient, aconnect
from agentcg.api.client import RemoteError, declare, default_socket, enter_session, placer
from agentcg.cgroup.delegate import open_own_procs
from agentcg.errors import AgentcgError, InvalidInput
from agentcg.model import Intent
from agentcg.runtimes.mcp.moved import Moved
from agentcg.runtimes.mcp.server import PIPES, Server
from agentcg.runtimes.mcp.streams import say

__all__ = ["Calls", "open_calls", "start_alone"]

RECONNECT_SEC, RECONNECT_PAUSE_SEC = 10.0, 0.1
"""For how long a daemon that is started again is waited for."""
_LONGEST_SEC = 31_536_000.0  # What an intent may declare at most.


async def start_alone(command: Sequence[str]) -> Server:
    """Start a server where this process is."""
    return Server(await asyncio.create_subprocess_exec(*command, **PIPES))


@contextlib.asynccontextmanager
async def open_calls(socket: str | None, *, memory_max: int | None, one: bool) -> AsyncIterator[Calls]:
    """Open a session for a server, or use the one that this process lives in. One that was opened ends with this.

    :param memory_max: what the session may use in all, in bytes; None is what the policy gives
    :param one: the server is one call
    :raises RemoteError: if the daemon refuses or cannot be reached
    :raises InvalidInput: if ``memory_max`` is given for a session that is there
    """
    client = await aconnect(socket or default_socket())
    try:
        budget: dict[str, Any] = {} if memory_max is None else {"memory_max": memory_max}
        session = await client.session(agent=True, **budget)
        name, back = session.name, session.procs
        for note in session.notes:
            say(note)
    except RemoteError as error:
        if error.name != "dev.agentcg.Denied":
            raise
        if memory_max is not None:
            message = "this process lives in a session, which has its budget"
            raise InvalidInput("--memory", message, hint="leave it out") from error
        name, back = None, _own_procs()
    calls = Calls(client, name, None if one else back)
    try:
        yield calls
    finally:
        calls.close()  # The connection stands for the session.
        if back is not None:
            os.close(back)


def _own_procs() -> int | None:
    try:
        return open_own_procs()
    except OSError:
        return None


class Calls:
    """The call that a server is in, if it is in one.

    :param session: the full name of the session; None if this process lives in it
    :param back: the cgroup.procs that the server is moved back to after a call; None if it is one call
    """

    def __init__(self, client: AsyncClient, session: str | None, back: int | None) -> None:
        self._path = client.path
        self._client: AsyncClient | None = client
        self._session, self._back = session, back
        self._lock = asyncio.Lock()
        self._call: AsyncCall | None = None
        self._sharing: set[Hashable] = set()
        self._shared = False
        self._moved = Moved()

    @property
    def one(self) -> bool:
        """Whether the server is one call."""
        return self._back is None

    async def start(self, command: Sequence[str]) -> Server:
        """Start the server.

        :raises OSError: if ``command`` cannot be executed
        :raises RemoteError: if it is to be a call and the daemon refuses that, or cannot be reached
        """
        if self._back is None:
            self._call = await self._begin("", command, Intent(duration_max_sec=_LONGEST_SEC))
            return Server(await self._call.start(**PIPES))
        if self._session is None:
            return await start_alone(command)
        environment = os.environ | {"AGENTCG_SESSION": self._session, "AGENTCG_SOCKET": self._path}
        place = placer(self._path, enter_session(self._session), self._back, 0)
        return Server(await asyncio.create_subprocess_exec(*command, env=environment, preexec_fn=place, **PIPES))

    async def enter(self, key: Hashable, pid: int, tool: str, intent: Intent) -> None:
        """Have a ``tools/call`` run in a call: one of its own, or the one that there is, with memory for both.

        :param key: names it until :meth:`leave`
        :param pid: the server's
        :raises RemoteError: if the daemon refuses or cannot be reached
        :raises AgentcgError: if the kernel refuses
        """
        async with self._lock:
            if self._call is not None:
                await self._raise_memory(self._call, intent.memory_max)
                self._shared = True
            elif self._back is None:
                return  # It could not be made a call when it was started.
            else:
                self._call = await self._begin(tool, [], intent)
                try:
                    self._moved.move(pid, self._call.procs, self._call.oom_score_adj)
                except OSError as error:
                    self._moved.move_back(self._back)
                    await self._end(self._call, "Kill", reason="the server could not be moved into it")
                    raise AgentcgError(f"the server cannot be moved into its call: {error.strerror}") from error
            self._sharing.add(key)

    async def leave(self, key: Hashable, *, failed: bool = False, cancelled: bool = False) -> dict[str, Any] | None:
        """A ``tools/call`` is over: return the verdict on its call, or, while others share it, its name."""
        async with self._lock:
            if self._call is None or key not in self._sharing:
                return None
            self._sharing.remove(key)
            if self._back is None or self._sharing:
                return {"call": self._call.name, "shared": True}
            self._moved.move_back(self._back)
            if cancelled:
                return await self._end(self._call, "Kill", reason="the client cancelled it")
            return await self._end(self._call, "End", exitCode=int(failed))

    async def ended(self, status: int) -> dict[str, Any] | None:
        """The server has ended: return the verdict on the call that it was in, if it was in one.

        :param status: negative for a signal
        """
        async with self._lock:
            self._sharing.clear()
            self._moved = Moved()
            if self._call is None:
                return None
            return await self._end(self._call, "End", **({"exitCode": status} if status >= 0 else {"signal": -status}))

    def close(self) -> None:
        """Hang up. What this connection stands for is ended."""
        if self._client is not None:
            self._client.close()

    async def _begin(self, tool: str, command: Sequence[str], intent: Intent) -> AsyncCall:
        declared = {name: value for name, value in asdict(intent).items() if value is not None}
        client, reply = await self._ask(
            wire.CallInterface,
            "Begin",
            session=self._session,
            tool=tool,
            command=list(command),
            intent=declare(declared),
        )
        return AsyncCall(client, list(command), reply)

    async def _raise_memory(self, call: AsyncCall, memory_max: int | None) -> None:
        limit = call.limits.memoryMax
        if memory_max is not None and limit is not None and memory_max > limit:
            intent = types.Intent(memoryMax=memory_max)
            _, reply = await self._ask(wire.CallInterface, "Amend", call=call.name, intent=intent)
            call.limits = reply["limits"]

    async def _end(self, call: AsyncCall, method: str, **how: Any) -> dict[str, Any] | None:
        shared = {"shared": True} if self._shared else {}
        self._call, self._shared = None, False
        if call.procs >= 0:
            os.close(call.procs)
        try:
            _, reply = await self._ask(wire.CallInterface, method, call=call.name, **how)
        except RemoteError as error:
            say(f"there is no verdict on {call.name}: {error}")
            return None
        return asdict(reply["verdict"]) | shared

    async def _ask(
        self, interface: type[VarlinkInterface], method: str, **parameters: Any
    ) -> tuple[AsyncClient, dict[str, Any]]:
        """Ask the daemon, and return who was asked and the reply. A daemon that has gone away is waited for, once."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + (0.0 if self._client is None else RECONNECT_SEC)
        while True:
            client = self._client
            try:
                client = self._client = client or await aconnect(self._path)
                return client, await client.invoke(interface, method, **parameters)
            except RemoteError as error:
                if error.name:  # It has answered.
                    raise
                self.close()
                self._client = None
                if loop.time() >= give_up:
                    raise
            await asyncio.sleep(RECONNECT_PAUSE_SEC)
