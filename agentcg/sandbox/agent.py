# SPDX-License-Identifier: Apache-2.0
"""An agent as a plain process in a session of its own, which is closed when the agent ends."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from agentcg.api import interfaces as wire
from agentcg.api import types
from agentcg.api.client import Client, enter_session, placer

__all__ = ["AgentSession", "exit_status"]


class AgentSession:
    """A session with an agent in it; a context manager that closes it, and ends what is left in it.

    The session is leased: it is closed too when the process that holds ``client`` ends.

    :param memory_max: what it may use in all, bytes; None is what the policy gives
    :param transparent: what the agent executes by itself becomes a call, as the policy says
    :raises RemoteError: if the daemon refuses
    """

    def __init__(
        self,
        client: Client,
        name: str | None = None,
        *,
        memory_max: int | None = None,
        protected: bool = False,
        transparent: bool = False,
        tenant: str | None = None,
    ) -> None:
        self._client = client
        reply = client.invoke(
            wire.SessionInterface,
            "Open",
            session=name,
            tenant=tenant,
            budget=types.Budget(memoryMax=memory_max) if memory_max else None,
            protected=protected,
            leased=True,
            agent=True,
            transparent=transparent,
        )
        self._procs: int = -1 if reply["procs"] is None else reply["procs"]
        self.name: str = reply["session"].session
        self.notes: list[str] = reply["notes"]
        """Where its budget differs from what was asked."""

    def __enter__(self) -> AgentSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._procs >= 0:
            os.close(self._procs)
        self._client.close_session(self.name)

    def start(self, command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start the agent; ``options`` are those of :class:`subprocess.Popen`.

        The agent lives beside its calls and is not ended for their sake. AGENTCG_SESSION tells it, and every launcher
        below it, which session is theirs.

        :raises OSError: if ``command`` cannot be executed
        """
        environment = dict(options.pop("env", None) or os.environ)
        environment |= {"AGENTCG_SESSION": self.name, "AGENTCG_SOCKET": self._client.path}
        place = placer(self._client.path, enter_session(self.name), self._procs, 0)
        return subprocess.Popen(command, env=environment, preexec_fn=place, **options)


def exit_status(returncode: int) -> int:
    """Return the exit status that a shell would report for a process."""
    return returncode if returncode >= 0 else 128 - returncode
