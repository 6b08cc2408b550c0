# SPDX-License-Identifier: Apache-2.0
"""A proxy before a server whose answers are written byte by byte."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from agentcg.gateway.proxy import Proxy
from agentcg.gateway.turns import EngineName, Turns
from agentcg.kv.engines.llamacpp.driver import Driver

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Upstream:
    """What was asked, as it came, and what is to be answered."""

    answer: Answer
    heads: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.heads.append(head)
            self.bodies.append(await read_body(head, reader))
            await self.answer(writer)
            await writer.drain()
            writer.write_eof()
            await reader.read()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.hung_up.set()
            writer.close()


async def read_body(head: str, reader: asyncio.StreamReader) -> bytes:
    lower = head.lower()
    if "content-length:" in lower:
        return await reader.readexactly(int(lower.partition("content-length:")[2].split()[0]))
    body = b""
    if "transfer-encoding: chunked" in lower:
        while size := int(await reader.readline(), 16):
            body += await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
    return body


def raw(text: bytes) -> Answer:
    """Return what answers with these bytes."""

    async def write(writer: asyncio.StreamWriter) -> None:
        writer.write(text)

    return write


def reply(body: bytes, *headers: str, status: str = "200 OK") -> Answer:
    """Return what answers with a body."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return raw("\r\n".join(lines).encode() + b"\r\n\r\n" + body)


@dataclass
class Gateway:
    """A proxy that serves."""

    url: str
    http: aiohttp.ClientSession
    upstream: Upstream
    driver: Driver | None

    async def post(self, body: Any, path: str = "/v1/chat/completions", **options: Any) -> tuple[int, bytes]:
        options |= {"json": body} if isinstance(body, dict) else {"data": body}
        async with self.http.post(self.url + path, **options) as answer:
            return answer.status, await answer.read()


@asynccontextmanager
async def gateway(
    answer: Answer, *, engine: EngineName = "none", driver: Callable[[str], Driver] | None = None, url: str = ""
) -> AsyncIterator[Gateway]:
    """Serve in front of a server that answers so, or in front of ``url``."""
    upstream = Upstream(answer)
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0, limit=1 << 26)
    upstream.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    beside = driver(url or upstream.url) if driver is not None else None
    proxy = Proxy(url or upstream.url, Turns(engine, beside))
    port = await proxy.start("127.0.0.1", 0)
    try:
        async with aiohttp.ClientSession(auto_decompress=False, timeout=aiohttp.ClientTimeout(total=20)) as http:
            yield Gateway(f"http://127.0.0.1:{port}", http, upstream, beside)
    finally:
        await proxy.stop()
        if beside is not None:
            await beside.close()
        server.close()
