# SPDX-License-Identifier: Apache-2.0
"""Transparent sessions: what an agent executes by itself becomes a call, and the agent knows nothing of it.

The kernel's programs stop a process before the first instruction of what is to be a call
(:mod:`agentcg.kernel.executions`). Here it is given its leaf, moved there and let go on, in the order in which they
came. When it ends, so does the call, with the status that its parent gets. What does not come about is told by an
event, ``call_unmanaged``: the process goes on all the same, where the agent lives.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections import deque
from dataclasses import dataclass

from agentcg.control.executed import read_command
from agentcg.control.guard import WAITING_SEC, ProcessGuard
from agentcg.control.live import LiveCall, LiveSession, oom_score_adj
from agentcg.control.registry import Registry
from agentcg.errors import AgentcgError, Unsupported
from agentcg.journal import about
from agentcg.kernel import process
from agentcg.kernel.executions import Ended, Executions, Match, Stopped
from agentcg.policy.schema import TransparentRules

__all__ = ["TOOL", "Transparent", "programs_of"]

log = logging.getLogger(__name__)

TOOL = "transparent"
"""The tool of these calls."""
STATUS_SEC = 1.0
"""For how long the status of a process that has ended is waited for. It is written before anybody can see the end; but
a task that is preempted while it writes to the ring buffer holds up what is behind it (Documentation/bpf/ringbuf.rst).
"""
_LOOK_SEC = 0.02


def programs_of(rules: TransparentRules) -> dict[str, Match]:
    """Return which executions are calls, by the program's name."""
    return dict.fromkeys(rules.shells, Match.WITH_COMMAND) | dict.fromkeys(rules.programs, Match.ALWAYS)


@dataclass(slots=True)
class _Followed:
    """A process that is a call."""

    live: LiveCall
    pidfd: int
    status: int | None = None
    """As wait(2) has it, when it has ended."""


class Transparent:
    """Begins and ends the calls of transparent sessions, as an observer. Belongs to the loop it was made on.

    The programs are loaded for the first such session, and stay until :meth:`close`.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._loop = asyncio.get_running_loop()
        self._executions: Executions | None = None
        self._guard: ProcessGuard | None = None
        self._agents: dict[int, LiveSession] = {}
        self._waiting: deque[Stopped] = deque()
        self._followed: dict[int, _Followed] = {}
        registry.observers.append(self)
        registry.require_transparent = self.start

    def start(self) -> None:
        """See to it that sessions can be transparent. :raises Unsupported: saying why they cannot"""
        if self._executions is None or self._guard is None:
            rules = self._registry.policy.transparent
            self._executions = Executions(
                self._loop,
                self._told,
                programs=programs_of(rules),
                new_session=rules.new_session,
                on_unmanaged=self._no_room,
            )
            self._guard = ProcessGuard(
                self._executions.stopped.fd, self._executions.agents.fd, on_ended=self._unguarded
            )
        if self._guard.pid is None:
            self._guard.start()

    def close(self) -> None:
        """Stop nothing any more. The guard lets go on what is stopped; the next start takes the calls over."""
        if self._executions is not None:
            self._executions.close()
        if self._guard is not None:
            self._guard.close()
        self._waiting.clear()
        for pid in list(self._followed):
            self._unfollow(pid)

    # As an observer

    def opened(self, live: LiveSession) -> None:
        """Have what its agent executes stopped, if it is to be."""
        if not live.session.transparent:
            return
        self._agents[live.node.agent.id] = live
        try:
            self.start()  # Nobody has, for one that is adopted.
            if self._executions is not None:
                self._executions.add_agent(live.node.agent.id)
        except (Unsupported, OSError) as error:
            self._unmanaged(live, f"nothing that its agent executes becomes a call: {error}")

    def closed(self, live: LiveSession) -> None:
        """Forget a session."""
        if self._agents.pop(live.node.agent.id, None) is not None and self._executions is not None:
            self._executions.remove_agent(live.node.agent.id)

    def begun(self, live: LiveCall) -> None:
        """Follow the process of a call that a daemon before this one has begun."""
        if live.process is None:
            return
        pid, start = live.process
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:  # It has ended: so will the call, when it is seen to be empty.
            return
        if process.start_time(pid) != start:
            os.close(pidfd)
            return
        if self._executions is not None:
            with contextlib.suppress(OSError):
                self._executions.watch(pid)
        self._follow(live, pid, pidfd)

    def amended(self, live: LiveCall) -> None:
        """Nothing to do: it is the same process."""

    def finished(self, live: LiveCall) -> None:
        """Forget a call."""
        pid = live.process[0] if live.process else 0
        if pid in self._followed and self._followed[pid].live is live:
            self._unfollow(pid)

    # What the kernel tells

    def _told(self, event: Stopped | Ended) -> None:
        if isinstance(event, Ended):
            if event.pid in self._followed:
                self._followed[event.pid].status = event.status
            return
        # One for each turn of the loop: a storm of them must not keep it from the rest.
        self._waiting.append(event)
        if len(self._waiting) == 1:
            self._loop.call_soon(self._next)

    def _no_room(self, cgroup_id: int, count: int) -> None:
        if live := self._agents.get(cgroup_id):
            self._unmanaged(live, f"{count} commands were not stopped: too many wait already")

    def _unguarded(self, reason: str) -> None:
        """Nobody would let go on what is stopped: start another guard, or stop nothing more."""
        try:
            self.start()
        except Unsupported as error:
            for cgroup_id, live in self._agents.items():
                if self._executions is not None:
                    self._executions.remove_agent(cgroup_id)
                self._unmanaged(live, f"nothing more that its agent executes becomes a call: {error}")

    def _unmanaged(self, live: LiveSession, why: str) -> None:
        log.warning("%s: %s", live.session.ref, why, extra=about(live.session.ref))
        self._registry.bus.publish("call_unmanaged", live.session.ref, why)

    # A call's beginning

    def _next(self) -> None:
        if not self._waiting or self._executions is None:
            return
        event = self._waiting.popleft()
        if self._waiting:
            self._loop.call_soon(self._next)
        if event.pid in self._followed:  # Another process had that number: what is told of its end was told before.
            self._finish(event.pid, self._followed[event.pid], give_up=0)
        session = self._agents.get(event.cgroup_id)
        problem = self._handle(self._executions, event, session)
        if problem and session is not None:
            self._unmanaged(session, f"process {event.pid} ran in its agent's cgroup: {problem}")

    def _handle(self, executions: Executions, event: Stopped, session: LiveSession | None) -> str:
        """Make a call of a process and let it go on. Returns why it became none, empty if it did or died before."""
        try:
            pidfd = os.pidfd_open(event.pid)
        except ProcessLookupError:
            return _late(event)
        except OSError as error:  # The guard lets it go on.
            return str(error)
        try:
            if not executions.is_stopped(event):  # Otherwise the pidfd is of that process, and of none after it.
                return _late(event)
            problem = "" if session is None or session.closing else self._begin(session, event.pid, pidfd)
            if not problem and not executions.is_stopped(event):
                problem = _late(event)
            # The signal first: should we be killed here, the guard sends it once more.
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGCONT)
            executions.released(event.pid)
            return problem
        finally:
            if event.pid not in self._followed:
                os.close(pidfd)

    def _begin(self, session: LiveSession, pid: int, pidfd: int) -> str:
        """Begin the call of a process that stands still. Returns why it did not come about, empty if it did."""
        try:
            command, hint = read_command(pid)
            owner = session.session.owner_uid
            live, _ = self._registry.begin(session, owner_uid=owner, tool=TOOL, command=command, hint=hint)
        except (AgentcgError, OSError) as error:
            return "" if process.has_ended(pidfd) else str(error)
        start = process.start_time(pid)
        if start is not None:
            live.process = pid, start
        self._follow(live, pid, pidfd)
        try:
            live.write()
            process.set_oom_score_adj(pid, oom_score_adj(session.session.protected, live.call.intent.priority))
            live.leaf.place(pid)
        except OSError as error:
            self._registry.finish(live, reason=f"its process could not be moved: {error}")
            return "" if process.has_ended(pidfd) else str(error)
        return ""

    # Its end

    def _follow(self, live: LiveCall, pid: int, pidfd: int) -> None:
        self._followed[pid] = _Followed(live, pidfd)
        self._loop.add_reader(pidfd, self._ended, pid)

    def _unfollow(self, pid: int) -> _Followed:
        found = self._followed.pop(pid)
        self._loop.remove_reader(found.pidfd)
        os.close(found.pidfd)
        return found

    def _ended(self, pid: int) -> None:
        """A process has ended. Its call does, too, with the status that the kernel tells, unless it had no room."""
        self._loop.remove_reader(self._followed[pid].pidfd)
        self._finish(pid, self._followed[pid], self._loop.time() + STATUS_SEC)

    def _finish(self, pid: int, found: _Followed, give_up: float) -> None:
        if self._followed.get(pid) is not found:  # Its call was ended meanwhile.
            return
        if self._executions is not None:
            self._executions.consume()
        if found.status is None and self._loop.time() < give_up:
            self._loop.call_later(_LOOK_SEC, self._finish, pid, found, give_up)
            return
        self._unfollow(pid)
        code = None if found.status is None else os.waitstatus_to_exitcode(found.status)
        if code is not None and code < 0:
            self._registry.finish(found.live, signal=-code)
        else:
            self._registry.finish(found.live, exit_code=code)


def _late(event: Stopped) -> str:
    """Return what became of a process that is not stopped any more: the guard has let it go on, or it was killed."""
    waited = (time.monotonic_ns() - event.time_ns) / 1e9
    return f"it waited for more than {WAITING_SEC:g} s" if waited > WAITING_SEC else ""
