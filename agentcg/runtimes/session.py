# SPDX-License-Identifier: Apache-2.0
"""What every runtime needs: the session that its commands are calls of, and how the model reads what became of them."""

from __future__ import annotations

import contextlib
import time
from typing import Any

from agentcg.api.client import Client, RemoteError, connect
from agentcg.runtimes import RECONNECT_SEC
from agentcg.units import parse_size

__all__ = ["RuntimeSession", "refusal"]


class RuntimeSession:
    """A session that is closed with :meth:`close`, or with this process.

    :param name: its name; by default one is made up
    :param memory: what all commands may use together, such as 4G; by default what the policy grants
    :param protected: ``memory`` is set aside for it from the start
    :param socket: the daemon's; by default AGENTCG_SOCKET, or the system's
    :raises InvalidInput: if ``memory`` is no size
    :raises RemoteError: if the daemon refuses the session or cannot be reached
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        memory: str | None = None,
        protected: bool = False,
        socket: str | None = None,
    ) -> None:
        budget: dict[str, Any] = {} if memory is None else {"memory_max": parse_size("memory", memory)}
        self._client = connect(socket)
        self.socket = self._client.path
        """The daemon's."""
        self.name = self._client.session(name, protected=protected, **budget).name
        """Its full name."""

    def connect(self) -> Client:
        """Return a connection, to stand for one call. :raises RemoteError: after RECONNECT_SEC in vain"""
        give_up = time.monotonic() + RECONNECT_SEC
        while True:
            try:
                return connect(self.socket)
            except RemoteError:
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.2)

    def close(self) -> None:
        """Close the session. Safe to call twice."""
        self._client.close()
        # Of a daemon that was started since, that connection was not the lease, but this process is.
        with contextlib.suppress(RemoteError), connect(self.socket) as client:
            client.close_session(self.name)


def refusal(error: RemoteError) -> str:
    """Return the output of a command that was not run because its call was refused."""
    return f"agentcg: {error.message}" + (f" ({error.hint})" if error.hint else "")
