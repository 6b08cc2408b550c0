# SPDX-License-Identifier: Apache-2.0

"""systemd-oomd's prekill hook, ``io.systemd.oom.Prekill``: the host's own killer says what it is about to kill.

Since systemd 260, and only where oomd.conf has ``PrekillHookTimeoutSec=`` of 1 s or more, systemd-oomd calls
``Notify`` on every socket in :data:`agentcg.kernel.oomd.HOOKS` before it kills a cgroup, and waits for all answers or
that long. Then it kills, **whatever was answered**: oomd.conf(5) says that the hook is no way to avoid the kill. What
a hook can do is to act first: to note why a call is about to die, or to free memory elsewhere, so that no second kill
follows.
"""

# Annotations are not postponed here: asyncvarlink reads them as objects.

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable

from asyncvarlink import VarlinkInterface, VarlinkInterfaceRegistry, varlinkmethod
from asyncvarlink.serviceinterface import VarlinkServiceInterface

from agentcg import __version__
from agentcg.api.interfaces import Denied, ErrorInterface
from agentcg.api.peer import Peer, Places
from agentcg.api.server import Server
from agentcg.cgroup.delegate import Root
from agentcg.errors import InvalidInput
from agentcg.kernel.oomd import HOOKS, systemd_runs

__all__ = ["LIMIT_SEC", "Prekill", "PrekillInterface", "start"]

log = logging.getLogger(__name__)

LIMIT_SEC = 0.5
"""How long an answer takes at most: half of the shortest time that systemd-oomd can be told to wait."""

_URL = "https://pypi.org/project/agentcg/"

Relieve = Callable[[str], Awaitable[bool]]
"""Takes the cgroup that is about to be killed, as a path from the top of the hierarchy. True if it did something."""


class PrekillInterface(VarlinkInterface, name="io.systemd.oom.Prekill"):
    """Prekill notifications from systemd-oomd."""

    def __init__(self, notify: Callable[[str], Awaitable[None]]) -> None:
        self._notify = notify

    @varlinkmethod
    async def Notify(self, *, cgroup: str) -> None:
        """Notify about an imminent OOM kill of ``cgroup``."""
        await self._notify(cgroup)


def start(root: Root, relieve: Relieve, *, directory: str = HOOKS) -> "Prekill | None":
    """Serve the hook. None, and a line in the log, where there is no systemd or the socket cannot be made."""
    if not systemd_runs():
        log.debug("no prekill hook: systemd does not run here")
        return None
    try:
        return Prekill(root, relieve, directory=directory)
    except OSError as error:
        log.warning("systemd-oomd cannot tell what it kills: no socket in %s: %s", directory, error)
        return None


class Prekill:
    """Answers on a socket of its own until :meth:`close`. Belongs to the loop it was made on.

    :raises OSError: if the socket cannot be made
    """

    def __init__(self, root: Root, relieve: Relieve, *, directory: str = HOOKS) -> None:
        self._root_path, self._relieve = root.path, relieve
        self._tasks: set[asyncio.Task[None]] = set()
        # A root has one daemon, and each root a socket of its own: systemd-oomd asks them all.
        self.path = f"{directory}/dev.agentcg.{root.node.id}"
        os.makedirs(directory, mode=0o755, exist_ok=True)
        # No operators here: whoever can connect may tell.
        self._server = Server(
            _bind(self.path), self._interfaces, lambda peer: None, places=Places(root.path), operators="root"
        )

    def close(self) -> None:
        """Stop serving. What was begun to relieve the host goes on."""
        self._server.close()
        os.unlink(self.path)

    def _interfaces(self, peer: Peer) -> VarlinkInterfaceRegistry:
        async def notify(cgroup: str) -> None:
            if peer.session is not None:
                raise Denied(message=f"{peer} is not the host's OOM killer", hint="ask from outside the sessions")
            await self._notify(cgroup)

        interfaces = VarlinkInterfaceRegistry()
        interfaces.register_interface(VarlinkServiceInterface("agentcg", "agentcg", __version__, _URL, interfaces))
        interfaces.register_interface(ErrorInterface(None))
        interfaces.register_interface(PrekillInterface(notify))
        return interfaces

    async def _notify(self, cgroup: str) -> None:
        if not cgroup.startswith("/") or ".." in cgroup.split("/") or "\0" in cgroup or len(cgroup) > 4096:
            raise InvalidInput(
                "cgroup",
                f"{cgroup[:80]!r} is not the path of a cgroup",
                hint="begin with /, the top of the hierarchy, and go down from there",
            )
        ours = "ours" if f"{cgroup.rstrip('/')}/".startswith(f"{self._root_path.rstrip('/')}/") else "not ours"
        log.warning("systemd-oomd is about to kill %r, which is %s", cgroup, ours)
        task = asyncio.create_task(self._act(cgroup))
        self._tasks.add(task)  # The loop holds tasks weakly.
        task.add_done_callback(self._tasks.discard)
        if not (await asyncio.wait({task}, timeout=LIMIT_SEC))[0]:
            log.warning("what is done about %r takes longer than %g s: systemd-oomd goes on", cgroup, LIMIT_SEC)

    async def _act(self, cgroup: str) -> None:
        try:
            if await self._relieve(cgroup):
                log.info("something was done before systemd-oomd kills %r", cgroup)
        except Exception:
            log.exception("nothing could be done about %r", cgroup)  # systemd-oomd must not wait for that.


def _bind(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        if os.path.lexists(path):  # Of a daemon before this one, which did not come to remove it.
            os.unlink(path)
        sock.bind(path)
        # For root and for systemd-oomd, which has CAP_DAC_OVERRIDE. Nobody connects before the server listens.
        os.chmod(path, 0o600)
    except OSError:
        sock.close()
        raise
    return sock
