# SPDX-License-Identifier: Apache-2.0
"""A bash that a runtime keeps for many commands, each of which becomes a call.

What the shell forks goes into the call of the command that it runs, by a builtin that it loads
(:mod:`agentcg.runtimes.bash_builtin`). The shell itself stays in its session, beside the calls: whatever ends a call
does not end the shell, and its directory, variables and functions are kept from one command to the next.

The runtime talks to its shell as always. This says what else it has to tell it, and when.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentcg.api.client import Call, Client, RemoteError, enter_call, enter_session
from agentcg.cgroup import files
from agentcg.cgroup.delegate import cgroup_of
from agentcg.cgroup.node import Leaf
from agentcg.errors import Unsupported
from agentcg.policy.hint import take_hint
from agentcg.runtimes.bash_builtin import BUILTIN, NAME, ORDER_BYTES, library_path
from agentcg.runtimes.session import RuntimeSession
from agentcg.verdict import one_line

__all__ = ["PersistentShell"]

ENDING_SEC = 0.1
"""How long the processes of a command may take to go after it, before they are taken for left in the background."""


@dataclass(eq=False)
class _Command:
    call: Call
    client: Client
    """Stands for the call."""
    leaf: Leaf
    status: dict[str, int] = field(default_factory=dict)

    def is_left(self, wait_sec: float) -> bool:
        """Whether something of it goes on. After an OOM kill nothing does, be it that it takes its time to go."""
        killed = files.read_flat_keyed(self.leaf.fd, "memory.events").get("oom_kill", 0)
        return not killed and not self.leaf.wait_empty(wait_sec)


class PersistentShell:
    """The commands of one shell. For one thread at a time."""

    def __init__(self, session: RuntimeSession) -> None:
        self._session = session
        self._command: _Command | None = None
        self._left: list[_Command] = []
        self._file = os.memfd_create(BUILTIN)
        os.truncate(self._file, ORDER_BYTES)
        self._order = mmap.mmap(self._file, ORDER_BYTES)

    def is_loaded(self, pid: int) -> bool:
        """Whether the shell ``pid`` has the builtin and is in its session.

        It may be another one by now, or have executed something else in its own place.
        """
        try:
            in_session = f"/{self._session.name}/" in f"{cgroup_of(pid)}/"
            return in_session and NAME in Path(f"/proc/{pid}/maps").read_text()
        except OSError:
            return False

    def loading(self) -> str:
        """Return the line that the shell is to run first, at its prompt. Then :meth:`loaded` says whether it did.

        :raises Unsupported: if the builtin was not compiled
        """
        line = f"enable -f {shlex.quote(library_path())} {BUILTIN} && {BUILTIN} /proc/{os.getpid()}/fd/{self._file}"
        self._send(enter_session(self._session.name))
        return line

    def loaded(self, pid: int, output: str) -> None:
        """The line has run, and the shell said ``output``. :raises Unsupported: unless ``pid`` is loaded"""
        self._stay()
        if not self.is_loaded(pid):
            raise Unsupported(
                f"the shell (process {pid}) cannot load {NAME}: {one_line(output, 500)}",
                hint="use a bash of the distribution's, which is linked dynamically and has loadable builtins",
            )

    @property
    def running(self) -> bool:
        """Whether a command has begun and is not over. What the shell is given meanwhile is that one's input."""
        return self._command is not None

    def begin(self, command: str) -> str:
        """Begin the call of a command and return the command without the hint that may stand at its head.

        :raises RemoteError: if the call is refused, and then the command must not run, or the daemon is not reached
        :raises Unsupported: if the call's cgroup is not to be seen from here
        """
        hint, command = take_hint(command)
        client = self._session.connect()
        try:
            call = client.call([command], session=self._session.name, tool="bash", hint=hint)
            # Where the kernel tells of its memory's pressure, there it is.
            folder = os.path.dirname(call.environment["MEMORY_PRESSURE_WATCH"])
            leaf = Leaf(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), call.name)
        except OSError as error:
            client.close()
            raise Unsupported(
                f"{error.filename}: {error.strerror}", hint="mount cgroup2 where the daemon has it"
            ) from error
        except BaseException:
            client.close()
            raise
        self._command = _Command(call, client, leaf)
        self._send(enter_call(call.name), procs=f"{folder}/cgroup.procs", oom_score_adj=str(call.oom_score_adj))
        return command

    def end(self, *, exit_code: int | None = None, signal: int | None = None, whole: bool = False) -> str:
        """The command is over: the shell is at its prompt again, or gone. Returns what is advised, if anything is.

        What it has left in the background goes on, and so does its call. What is advised on that comes with the end of
        a later command.

        :param whole: nothing of it is to go on
        :raises RemoteError: if the daemon cannot be reached
        """
        self._stay()
        command, self._command = self._command, None
        over = [one for one in self._left if not one.is_left(0)]
        if command is not None:
            command.status = {"exit_code": exit_code} if exit_code is not None else {"signal": signal} if signal else {}
            (self._left if not whole and command.is_left(ENDING_SEC) else over).append(command)
        self._left = [one for one in self._left if one not in over]
        return " ".join(advice for advice in map(self._finish, over) if advice)

    def release(self) -> None:
        """To be called before a command is interrupted.

        If it is held or frozen it would not notice the signal, so its call is ended.

        :raises RemoteError: if the daemon cannot be reached
        """
        if self._command is not None and self._command.leaf.frozen:
            with self._session.connect() as client:
                client.kill(self._command.call.name, "it was interrupted while it stood still, for want of memory")

    def close(self) -> None:
        """The shell is gone: what it has left running is ended. Safe to call twice."""
        self._left += [self._command] if self._command is not None else []
        left, self._left, self._command = self._left, [], None
        for command in left:
            with contextlib.suppress(RemoteError):
                self._finish(command)
        if self._file >= 0:
            self._order.close()
            os.close(self._file)
            self._file = -1

    def _finish(self, command: _Command) -> str:
        with command.client, command.leaf:
            try:
                verdict = command.call.end(**command.status)
            except RemoteError:  # The daemon was started again since, and has the call all the same.
                with self._session.connect() as client:
                    verdict = client.end(command.call.name, **command.status)
        return verdict.advice

    def _send(self, request: Mapping[str, Any], *, procs: str = "", oom_score_adj: str = "") -> None:
        """Say where to go: see builtin.c."""
        order = "\n".join((oom_score_adj, procs, self._session.socket, json.dumps(request))).encode() + b"\0"
        self._order[: len(order)] = order

    def _stay(self) -> None:
        self._order[0] = 0
