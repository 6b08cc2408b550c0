# SPDX-License-Identifier: Apache-2.0
"""Who is at the other end of a connection, and what it may do.

The kernel says who: SO_PEERCRED for pid and uid, SO_PEERGROUPS, and /proc for the cgroup that the process lived in
when it connected. A process that lives in a session speaks for that session and no other, whatever its uid: an agent
that runs as root is still one agent. A process outside the tree speaks for the sessions of its own uid, and for all
if it is an operator: root, the daemon's own uid, or a member of the operators' group.
"""

from __future__ import annotations

import errno
import grp
import os
import select
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from agentcg.api.interfaces import Denied
from agentcg.cgroup.delegate import cgroup_of
from agentcg.control.lease import Lease
from agentcg.errors import InvalidInput
from agentcg.kernel import sys
from agentcg.model import CallRef, SessionRef

__all__ = ["Peer", "Places", "identify"]


@dataclass(eq=False)
class Peer:
    """One connection's other end."""

    pid: int
    uid: int
    operator: bool
    session: SessionRef | None
    """The session whose subtree the peer lives in."""
    call: CallRef | None
    """The call whose leaf the peer lives in."""
    lease: Lease = field(repr=False)

    @property
    def tenant(self) -> str:
        """The tenant that the peer's sessions belong to unless it says otherwise."""
        return self.session.tenant if self.session else f"u{self.uid}"

    def may_speak_for(self, session: SessionRef, owner_uid: int) -> bool:
        """Whether the peer may see and change a session of ``owner_uid`` and its calls."""
        if self.session is not None:
            return self.session == session
        return self.operator or self.uid == owner_uid

    def require(self, session: SessionRef, owner_uid: int) -> None:
        """:raises Denied: unless the peer may speak for the session"""
        if not self.may_speak_for(session, owner_uid):
            raise Denied(
                message=f"{self} may not speak for the session {session}",
                hint="a process in a session speaks for that one alone, one outside for those of its own uid; "
                "operators are root and the members of the operators' group",
            )

    def require_outside(self, what: str = "open or close sessions") -> None:
        """:raises Denied: if the peer lives in a session, and so may not do ``what``"""
        if self.session is not None:
            raise Denied(
                message=f"{self} may not {what}",
                hint="ask from outside, as an operator or the same user",
            )

    def __str__(self) -> str:
        where = f"in {self.call or self.session}" if self.session else "outside any session"
        return f"process {self.pid} (uid {self.uid}, {where})"


def identify(sock: socket.socket, places: Places, operators: str) -> Peer:
    """Return who connected ``sock``. ``operators`` is the name of a group.

    :raises OSError: if it cannot be known: a process that is gone may have lived in a session, and have left its
        connection to another there
    """
    credentials = sys.peer_credentials(sock)
    pidfd = sys.peer_pidfd(sock)
    try:
        cgroup = cgroup_of(credentials.pid) if credentials.pid > 0 else None
        gone = cgroup is None or cgroup.endswith(" (deleted)") or (pidfd is not None and _ended(pidfd))
    finally:
        if pidfd is not None:
            os.close(pidfd)
    if gone:
        raise ProcessLookupError(errno.ESRCH, f"process {credentials.pid} has ended")
    session, call = places.locate(cgroup)
    operator = session is None and (credentials.uid in (0, os.geteuid()) or _in_group(sock, credentials.gid, operators))
    return Peer(credentials.pid, credentials.uid, operator, session, call, Lease(credentials.pid))


def _ended(pidfd: int) -> bool:
    poll = select.poll()  # select() takes no descriptor above 1,023.
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def _in_group(sock: socket.socket, gid: int, group: str) -> bool:
    try:
        wanted = grp.getgrnam(group).gr_gid
    except KeyError:
        return False
    return wanted == gid or wanted in sys.peer_groups(sock)


@dataclass(frozen=True)
class Places:
    """Which cgroup is whose."""

    root: str
    """The tree's, as :func:`cgroup_of` prints it."""
    containers: Mapping[str, SessionRef] = field(default_factory=dict)
    """The session of each attached container, by its cgroup."""

    def locate(self, cgroup: str | None) -> tuple[SessionRef | None, CallRef | None]:
        """Return the session and the call that a cgroup path lies in.

        In the tree that is ROOT/GROUP/TENANT/SESSION/calls/CALL/…, in a container CONTAINER/calls/CALL/…
        """
        parts = (cgroup or "").split("/")
        root = self.root.rstrip("/").split("/")
        try:
            if parts[: len(root)] == root and len(parts) > len(root) + 2:
                tenant, session, *below = parts[len(root) + 1 :]
                return _located(SessionRef.parse("cgroup", f"{tenant}/{session}", tenant=""), below)
            for depth in range(len(parts), 1, -1):
                if found := self.containers.get("/".join(parts[:depth])):
                    return _located(found, parts[depth:])
        except InvalidInput:
            pass
        return None, None


def _located(session: SessionRef, below: Sequence[str]) -> tuple[SessionRef, CallRef | None]:
    inside = len(below) > 1 and below[0] == "calls"
    return session, CallRef.parse("cgroup", f"{session}/{below[1]}") if inside else None
