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
from dataclasses import dataclass, field

from agentcg.api.interfaces import Denied
from agentcg.cgroup.delegate import cgroup_of
from agentcg.control.lease import Lease
from agentcg.errors import InvalidInput
from agentcg.kernel import sys
from agentcg.model import CallRef, SessionRef

__all__ = ["Peer", "identify"]


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

    def require_outside(self) -> None:
        """:raises Denied: if the peer lives in a session, and so may not open or close any"""
        if self.session is not None:
            raise Denied(
                message=f"{self} may not open or close sessions",
                hint="ask from outside, as an operator or the same user",
            )

    def __str__(self) -> str:
        where = f"in {self.call or self.session}" if self.session else "outside any session"
        return f"process {self.pid} (uid {self.uid}, {where})"


def identify(sock: socket.socket, root_path: str, operators: str) -> Peer:
    """Return who connected ``sock``. ``root_path`` is the tree's cgroup, ``operators`` the name of a group.

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
    session, call = locate(cgroup, root_path)
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


def locate(cgroup: str | None, root_path: str) -> tuple[SessionRef | None, CallRef | None]:
    """Return the session and the call that a cgroup path lies in: ROOT/GROUP/TENANT/SESSION/calls/CALL/…"""
    prefix = root_path.rstrip("/") + "/"
    if cgroup is None or not cgroup.startswith(prefix):
        return None, None
    parts = cgroup[len(prefix) :].split("/")
    if len(parts) < 3:
        return None, None
    try:
        session = SessionRef.parse("cgroup", f"{parts[1]}/{parts[2]}", tenant="")
        call = CallRef.parse("cgroup", f"{session}/{parts[4]}") if len(parts) > 4 and parts[3] == "calls" else None
    except InvalidInput:
        return None, None
    return session, call
