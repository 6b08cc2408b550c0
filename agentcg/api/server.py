# SPDX-License-Identifier: Apache-2.0
"""The socket: accepts connections, and finds out who is at the other end of each."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable

from asyncvarlink import VarlinkInterfaceRegistry

from agentcg.api.connection import Connection
from agentcg.api.peer import Peer, Places, identify

__all__ = ["Server"]

log = logging.getLogger(__name__)

BACKLOG = 4096

Interfaces = Callable[[Peer], VarlinkInterfaceRegistry]


class Server:
    """Listens on one Unix socket."""

    def __init__(
        self,
        sock: socket.socket,
        interfaces: Interfaces,
        lost: Callable[[Peer], None],
        *,
        places: Places,
        operators: str,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock, self._interfaces, self._lost = sock, interfaces, lost
        self._places, self._operators = places, operators
        self._connections: set[Connection] = set()
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
            peer = identify(connection, self._places, self._operators)
        except OSError as error:
            log.warning("a peer cannot be identified: %s", error)
            connection.close()
            return

        def closed(ended: Connection) -> None:
            self._connections.discard(ended)
            self._lost(peer)

        self._connections.add(Connection(connection, self._interfaces(peer), closed))

    def close(self) -> None:
        """Stop listening and hang up on everybody, without taking that for the end of their leases."""
        self._loop.remove_reader(self._sock)
        self._sock.close()
        self._lost = lambda peer: None
        for connection in list(self._connections):
            connection.close()
