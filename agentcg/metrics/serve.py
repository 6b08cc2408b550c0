# SPDX-License-Identifier: Apache-2.0
"""HTTP for whoever scrapes: one request a connection, ``GET /metrics``, answered on the daemon's own loop."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import socket
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING

from agentcg.errors import AgentcgError, InvalidInput, missing_extra

if TYPE_CHECKING:
    from agentcg.metrics.collect import Metrics

__all__ = ["Address", "Scrapes", "bind_address", "load_metrics", "parse_address"]

log = logging.getLogger(__name__)

REQUEST_SEC = 5.0
"""What a scraper is given to send its request and to take the answer."""
HEAD_MAX = 16_384
CLIENTS_MAX = 16
"""Connections at a time; one more is closed at once."""
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""prometheus.io/docs/instrumenting/exposition_formats."""

_HINT = "write 127.0.0.1:PORT or unix:PATH; nobody who scrapes is asked who he is"

Address = str | tuple[str, int]
"""The path of a Unix socket, or an address of this host and a port."""


def load_metrics() -> type[Metrics]:
    """Return the class that counts. :raises Unsupported: where the package that it takes is not installed"""
    try:
        from agentcg.metrics.collect import Metrics
    except ModuleNotFoundError as error:
        raise missing_extra("--metrics", error, "metrics") from error
    return Metrics


def parse_address(place: str, text: str) -> Address:
    """Read ``unix:PATH`` or ``HOST:PORT``, of this host only.

    :raises InvalidInput: for anything else
    """
    kind, _, path = text.partition(":")
    if kind == "unix" and path:
        return path
    host, _, port = text.rpartition(":")
    try:
        loopback = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
        if loopback.is_loopback and port.isascii() and port.isdigit() and int(port) < 65_536:
            return str(loopback), int(port)
    except ValueError:
        pass
    raise InvalidInput(place, f"{text[:80]!r} is not an address to listen on", hint=_HINT)


def bind_address(address: tuple[str, int]) -> socket.socket:
    """Return a socket bound to an address of this host. :raises AgentcgError: if somebody else has it"""
    host, port = address
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        message = f"cannot listen on {host} port {port}: {error.strerror or error}"
        raise AgentcgError(message, hint="name another address for --metrics") from error
    return sock


class Scrapes:
    """Answers scrapes on ``sock`` with what ``text`` returns, which is called on the loop."""

    def __init__(self, sock: socket.socket, text: Callable[[], bytes]) -> None:
        self._text = text
        self._clients: set[asyncio.Task[None]] = set()
        self._sock = sock
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen from now on."""
        start = asyncio.start_unix_server if self._sock.family == socket.AF_UNIX else asyncio.start_server
        self._server = await start(self._accept, sock=self._sock, limit=HEAD_MAX, backlog=CLIENTS_MAX)

    def close(self) -> None:
        """Stop listening, and hang up."""
        if self._sock.family == socket.AF_UNIX:
            os.unlink(self._sock.getsockname())
        if self._server is not None:
            self._server.close()
        for task in self._clients:
            task.cancel()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._clients) >= CLIENTS_MAX:
            writer.transport.abort()
            return
        task = asyncio.create_task(self._serve(reader, writer))
        self._clients.add(task)
        task.add_done_callback(self._clients.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_SEC):
                with contextlib.suppress(asyncio.IncompleteReadError, OSError):
                    writer.write(self._answer(await _head(reader)))
                    await writer.drain()
                    writer.write_eof()
                    await reader.read(HEAD_MAX)  # To close with input unread would reset what it has not read yet.
        except TimeoutError:
            log.info("a scraper was too slow")
        finally:
            writer.transport.abort()

    def _answer(self, head: bytes) -> bytes:
        method, _, rest = head.partition(b"\r\n")[0].partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        if method not in (b"GET", b"HEAD"):
            status, body = HTTPStatus.METHOD_NOT_ALLOWED, b"only GET is answered\n"
        elif path != b"/metrics":
            status, body = HTTPStatus.NOT_FOUND, b"it is in /metrics\n"
        else:
            try:
                status, body = HTTPStatus.OK, self._text()
            except OSError:
                log.exception("the metrics cannot be read")
                status, body = HTTPStatus.INTERNAL_SERVER_ERROR, b"see the daemon's log\n"
        fields = [
            f"HTTP/1.1 {status.value} {status.phrase}",
            f"Content-Type: {CONTENT_TYPE}",
            f"Content-Length: {len(body)}",
            "Allow: GET, HEAD",
            "Connection: close",
        ]
        return "\r\n".join([*fields, "", ""]).encode() + (b"" if method == b"HEAD" else body)


async def _head(reader: asyncio.StreamReader) -> bytes:
    """Return a request's line and fields; what is too long for one is none."""
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        return b""
