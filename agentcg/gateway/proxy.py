# SPDX-License-Identifier: Apache-2.0
"""Passes requests on and answers back, byte by byte as they come.

What comes back is what the server answered: its status, its headers and its body, compressed or not. Only headers that
are about one connection (RFC 9110, section 7.6.1) are not passed, and no upgrade to another protocol is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from agentcg.gateway.turns import Managed, Turns

__all__ = ["Proxy"]

log = logging.getLogger(__name__)

BODY_MAX = 32 << 20
"""A request that is larger is passed on without being read."""
_HEADERS_MAX = 1 << 16
_CONNECT_SEC = 30.0
_KEPT_SEC = 4.0
"""An idle connection is used again for so long: llama.cpp's server closes it after five."""
_STOP_SEC = 10.0
_OWN_TO_A_CONNECTION = {
    "connection",
    "expect",  # It was done already when the body was read.
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}
_NOT_ADDED = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")

Body = bytes | AsyncIterator[bytes] | None


class Proxy:
    """Serves on an address, in front of one server. :param upstream: its URL, that of its root"""

    def __init__(self, upstream: str, turns: Turns) -> None:
        self._upstream, self._turns = upstream.rstrip("/"), turns
        self._stack = AsyncExitStack()
        self._http: aiohttp.ClientSession

    async def start(self, host: str, port: int) -> int:
        """Serve; return the port. :raises OSError: if nobody can listen there"""
        self._http = await self._stack.enter_async_context(
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEPT_SEC),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SEC),
                skip_auto_headers=_NOT_ADDED,
                auto_decompress=False,
                max_line_size=_HEADERS_MAX,
                max_field_size=_HEADERS_MAX,
            )
        )
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(
            app,
            handler_cancellation=True,  # Who hangs up waits for nothing any more.
            auto_decompress=False,
            access_log=None,
            shutdown_timeout=_STOP_SEC,
            max_line_size=_HEADERS_MAX,
            max_field_size=_HEADERS_MAX,
        )
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, host, port)
        await site.start()
        address: tuple[str, int] = runner.addresses[0]
        return address[1]

    async def stop(self) -> None:
        """Serve no more; answers that are on their way have ten seconds."""
        await self._stack.aclose()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await _read(request)
        managed = None
        if isinstance(body, bytes) and request.method == "POST" and "Content-Encoding" not in request.headers:
            managed = await self._turns.begin(request.path, request.headers, body)
        whole = False
        try:
            response = await self._pass(request, body, managed)
            whole = True
            return response
        finally:
            if managed is not None:
                managed.over(whole=whole)

    async def _pass(self, request: web.Request, body: Body, managed: Managed | None) -> web.StreamResponse:
        headers = _passed(request.headers)
        headers.popall("Host", None)
        if managed is not None:
            headers.update(managed.headers)
        try:
            upstream = await self._send(request, headers, body if managed is None else managed.body)
            if managed is not None and managed.body != body and upstream.status >= 400:
                # Should what was added be the reason, the client must not notice.
                upstream.release()
                upstream = await self._send(request, headers, body)
        except (aiohttp.ClientError, TimeoutError) as error:
            self._turns.lost()
            reason = f"{self._upstream} does not answer: {type(error).__name__}"
            log.warning("%s", reason)
            return web.json_response({"error": {"message": reason, "type": "bad_gateway", "code": 502}}, status=502)
        async with upstream:
            if managed is not None:
                managed.answer(upstream.status, upstream.headers)
            return await self._answer(request, upstream, managed)

    async def _send(self, request: web.Request, headers: CIMultiDict[str], body: Body) -> aiohttp.ClientResponse:
        url = URL(self._upstream + request.raw_path, encoded=True)
        if isinstance(body, bytes):
            headers = headers.copy()
            headers["Content-Length"] = str(len(body))
        for last in (False, True):
            try:
                return await self._http.request(request.method, url, headers=headers, data=body, allow_redirects=False)
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
                # It may have closed a connection that was kept while we began to use it.
                if last or isinstance(error, aiohttp.ClientConnectorError) or not isinstance(body, bytes | None):
                    raise
        raise AssertionError

    async def _answer(
        self, request: web.Request, upstream: aiohttp.ClientResponse, managed: Managed | None
    ) -> web.StreamResponse:
        response = web.StreamResponse(status=upstream.status, reason=upstream.reason, headers=_passed(upstream.headers))
        await response.prepare(request)
        try:
            async for chunk in upstream.content.iter_any():
                await response.write(chunk)
                if managed is not None:
                    managed.feed(chunk)
        except aiohttp.ClientConnectionResetError as error:
            raise asyncio.CancelledError from error  # The client hung up.
        except (aiohttp.ClientError, TimeoutError) as error:
            # What the client has is not all of it; that must not look as if it were.
            self._turns.lost()
            log.warning("%s broke off an answer: %s", self._upstream, type(error).__name__)
            if request.transport is not None:
                request.transport.abort()
            raise asyncio.CancelledError from error
        await response.write_eof()
        return response


def _passed(headers: Mapping[str, str]) -> CIMultiDict[str]:
    """Return the headers that are not about one connection."""
    own = {name.strip().lower() for name in headers.get("Connection", "").split(",")} | _OWN_TO_A_CONNECTION
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in own)


async def _read(request: web.Request) -> Body:
    """Return a request's body: whole, or as it comes if it is large; None if there is none."""
    if not request.body_exists:
        return None
    begin = bytearray()
    if (request.content_length or 0) <= BODY_MAX:
        async for chunk in request.content.iter_any():
            begin += chunk
            if len(begin) > BODY_MAX:
                break
        else:
            return bytes(begin)

    async def rest() -> AsyncIterator[bytes]:
        if begin:
            yield bytes(begin)
        async for chunk in request.content.iter_any():
            yield chunk

    return rest()
