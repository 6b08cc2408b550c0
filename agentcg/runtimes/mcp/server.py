# SPDX-License-Identifier: Apache-2.0
"""The process of a server."""

from __future__ import annotations

import asyncio
import contextlib
import os
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable
from typing import Any

from agentcg.runtimes.mcp.messages import MESSAGE_MAX
from agentcg.runtimes.mcp.streams import lines, send

__all__ = ["PIPES", "Server"]

PIPES: dict[str, Any] = {"stdin": PIPE, "stdout": PIPE, "limit": MESSAGE_MAX}
"""How it is to be started: options of :func:`asyncio.create_subprocess_exec`."""
LAST_SEC = 2.0
"""For how long a server is waited for that has hung up and not ended, or ended and not hung up."""
LOOK_SEC = 0.001


class Server:
    """A server that was started with :data:`PIPES`."""

    def __init__(self, process: Process) -> None:
        self.pid = process.pid
        self._process = process
        self._stdin: Any = process.stdin
        self._stdout: Any = process.stdout
        self.leaving = False
        """It was asked to end, and takes the time that it needs."""

    async def send(self, line: bytes) -> None:
        """Write a line to it. It is lost if the server has ended."""
        await send(self._stdin, line)

    def hang_up(self) -> None:
        """Tell it that no more lines will come: it is to end."""
        self.leaving = True
        self._stdin.close()

    def signal(self, number: int) -> None:
        """Send it a signal, by which it is to end."""
        self.leaving = True
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def listen(self, hear: Callable[[bytes], Awaitable[None]]) -> int:
        """Pass on the lines that it writes until it has ended; return its status, negative for a signal."""
        hearing, ending = asyncio.create_task(self._hear(hear)), asyncio.create_task(self._end())
        await asyncio.wait((hearing, ending), return_when=asyncio.FIRST_COMPLETED)
        if ending.done() or not self.leaving:
            await asyncio.wait((hearing, ending), timeout=LAST_SEC)
        if not (ending.done() or self.leaving):
            self._process.kill()
        status = await ending
        hearing.cancel()
        await asyncio.wait((hearing,))
        self._process._transport.close()  # type: ignore[attr-defined]  # Others may hold its pipes: nothing public does.
        if not hearing.cancelled():
            hearing.result()
        return status

    async def _hear(self, hear: Callable[[bytes], Awaitable[None]]) -> None:
        async for line in lines(self._stdout, "the server"):
            await hear(line)

    async def _end(self) -> int:
        """Wait for the end of the process alone: :meth:`Process.wait` waits for all that hold its pipes, too."""
        ended, loop = asyncio.Event(), asyncio.get_running_loop()
        with contextlib.suppress(ProcessLookupError):
            pidfd = os.pidfd_open(self.pid)
            loop.add_reader(pidfd, ended.set)
            try:
                await ended.wait()
            finally:
                loop.remove_reader(pidfd)
                os.close(pidfd)
        while (status := self._process.returncode) is None:  # noqa: ASYNC110  nothing but Process.wait tells of it
            await asyncio.sleep(LOOK_SEC)
        return status
