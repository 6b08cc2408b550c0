# SPDX-License-Identifier: Apache-2.0
"""Lines in and out."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import sys
from collections.abc import AsyncIterator

from agentcg.errors import AgentcgError
from agentcg.runtimes.mcp.messages import MESSAGE_MAX
from agentcg.units import format_size

__all__ = ["lines", "open_standard_streams", "say", "send"]


def say(text: str) -> None:
    """Tell people: standard output is the protocol's."""
    with contextlib.suppress(OSError):
        print(f"agentcg: {text}", file=sys.stderr, flush=True)


async def open_standard_streams() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Return standard input and output. :raises AgentcgError: where they are something that cannot be waited for"""
    for file in (sys.stdin, sys.stdout):
        mode = os.fstat(file.fileno()).st_mode
        if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or file.isatty()):
            raise AgentcgError(
                f"{file.name} is not a pipe, a socket or a terminal",
                hint="a client of the Model Context Protocol is to start this",
            )
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(MESSAGE_MAX)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    # The writer's protocol is that of a reader, which nothing reads: there is no other that is public.
    pipe, protocol = await loop.connect_write_pipe(
        lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader()), sys.stdout
    )
    return reader, asyncio.StreamWriter(pipe, protocol, None, loop)


async def lines(reader: asyncio.StreamReader, who: str) -> AsyncIterator[bytes]:
    """Yield lines until there are no more, or there is one of more than :data:`MESSAGE_MAX`."""
    while True:
        try:
            line = await reader.readline()
        except ValueError:
            say(f"{who} wrote a message of more than {format_size(MESSAGE_MAX)}, and is not heard any more")
            return
        if not line:
            return
        yield line


async def send(writer: asyncio.StreamWriter, line: bytes) -> None:
    """Write a line. It is lost if nobody is there to read it."""
    writer.write(line)
    with contextlib.suppress(ConnectionError):
        await writer.drain()
