# SPDX-License-Identifier: Apache-2.0
"""The socket: accepts connections, bounds what a peer may send, and hands its calls to the interfaces.

asyncvarlink speaks the protocol. What is added here is what a service that anybody may connect to needs: a bound on
messages, an answer to what is not a message at all, and errors that name the place.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable

from asyncvarlink import (
    FileDescriptorArray,
    VarlinkErrorReply,
    VarlinkInterfaceRegistry,
    VarlinkInterfaceServerProtocol,
    VarlinkMethodCall,
    VarlinkTransport,
)
from asyncvarlink.conversion import ConversionError
from asyncvarlink.serviceerrors import InvalidParameter

from agentcg.api import interfaces as wire
from agentcg.api.peer import Peer, identify
from agentcg.control.registry import NoSuchCall, NoSuchSession
from agentcg.errors import AgentcgError, InvalidInput

__all__ = ["MESSAGE_MAX", "Server", "to_reply"]

log = logging.getLogger(__name__)

MESSAGE_MAX = 256 * 1024
"""The longest message in bytes. The longest that makes sense, a command of 128 KiB, fits."""
BACKLOG = 4096

Interfaces = Callable[[Peer], VarlinkInterfaceRegistry]


class Connection(VarlinkInterfaceServerProtocol):
    """One peer's connection."""

    def __init__(self, interfaces: VarlinkInterfaceRegistry, closed: Callable[[], None]) -> None:
        super().__init__(interfaces)
        self._closed = closed
        self._broken = False

    def message_received(self, data: bytes, fds: FileDescriptorArray | None) -> None:
        """Bound the message, and turn what the JSON parser may throw besides JSONDecodeError into an answer."""
        if self._broken:
            return
        if len(self._recv_buffer) + len(data) > MESSAGE_MAX:
            self._violation(f"the message is longer than {MESSAGE_MAX} bytes")
            return
        try:
            super().message_received(data, fds)
        except (ValueError, RecursionError) as error:
            # Not UTF-8, a number of thousands of digits, or brackets nested beyond the interpreter's depth.
            self._violation(f"the message cannot be read: {error}")

    def error_received(self, err: Exception, data: bytes, fds: FileDescriptorArray | None) -> None:
        """Answer a message that is not a JSON object."""
        self._violation(f"the message is not a JSON object: {err}")

    def _violation(self, message: str) -> None:
        # After this nobody knows where the next message starts: answer, and hang up.
        self._broken = True
        self._recv_buffer = b""
        error = wire.Invalid(place="message", message=message, hint="send one JSON object with a NUL byte behind it")
        self.send_error(error).add_done_callback(lambda _: self.close())

    def call_received(self, call: VarlinkMethodCall, fds: FileDescriptorArray | None) -> asyncio.Future[None] | None:
        """Name the whole path of a parameter that is of the wrong type."""
        try:
            future: asyncio.Future[None] | None = super().call_received(call, fds)
            return future
        except InvalidParameter as error:
            cause = error.__cause__
            if not isinstance(cause, ConversionError):
                raise
            place = ".".join(str(step) for step in cause.location)
            hint = f"see `varlinkctl introspect` of {call.method_interface}"
            raise wire.Invalid(place=place, message=cause.message, hint=hint) from error

    def handle_call_exception(self, exc: BaseException, oneway: bool) -> None:
        """Turn what a handler raised into an answer."""
        raise to_reply(exc) from exc

    def connection_lost(self, exc: Exception | None) -> None:
        """The peer is gone, and its lease with it."""
        super().connection_lost(exc)
        self._closed()


def to_reply(error: BaseException) -> VarlinkErrorReply:
    """Return the answer to a request that failed with ``error``; what nobody expected goes to the log as well."""
    match error:
        case VarlinkErrorReply():
            return error
        case NoSuchSession():
            return wire.NoSuchSession(session=str(error.ref))
        case NoSuchCall():
            return wire.NoSuchCall(call=str(error.ref))
        case InvalidInput():
            return wire.Invalid(place=error.place, message=error.detail, hint=error.hint)
        case AgentcgError():
            return wire.Failed(message=error.message, hint=error.hint)
        case OSError():
            log.warning("the kernel refused: %s", error)
            return wire.Failed(message=str(error), hint="see the daemon's log")
    log.error("a request failed in a way that nobody foresaw", exc_info=error)
    return wire.Failed(message=f"internal error: {type(error).__name__}: {error}", hint="see the daemon's log")


class Server:
    """Listens on one Unix socket."""

    def __init__(
        self,
        sock: socket.socket,
        interfaces: Interfaces,
        lost: Callable[[Peer], None],
        *,
        root_path: str,
        operators: str,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock, self._interfaces, self._lost = sock, interfaces, lost
        self._root_path, self._operators = root_path, operators
        self._transports: set[VarlinkTransport] = set()
        sock.setblocking(False)
        sock.listen(BACKLOG)
        self._loop.add_reader(sock, self._accept)

    def _accept(self) -> None:
        try:
            connection, _ = self._sock.accept()
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS):
                raise
            # The connection stays in the backlog; asking again at once would spin.
            log.error("cannot accept a connection: %s", os.strerror(error.errno))
            self._loop.remove_reader(self._sock)
            self._loop.call_later(0.1, self._loop.add_reader, self._sock, self._accept)
            return
        try:
            peer = identify(connection, self._root_path, self._operators)
        except OSError as error:
            log.warning("a peer cannot be identified: %s", error)
            connection.close()
            return
        transport: VarlinkTransport

        def closed() -> None:
            self._transports.discard(transport)
            self._lost(peer)

        protocol = Connection(self._interfaces(peer), closed)
        transport = VarlinkTransport(self._loop, connection, connection, protocol)
        self._transports.add(transport)

    def close(self) -> None:
        """Stop listening and hang up on everybody, without taking that for the end of their leases."""
        self._loop.remove_reader(self._sock)
        self._sock.close()
        self._lost = lambda peer: None
        for transport in list(self._transports):
            transport.abort()
