# SPDX-License-Identifier: Apache-2.0
"""The client, for programs that make tool calls.

::

    with agentcg.connect() as client, client.session("fix-123", memory_max=4 << 30) as session:
        with session.call(["pytest", "-x"], tool="Bash", memory_max=1 << 30) as call:
            call.run()
        print(call.verdict.outcome, call.verdict.advice)

Blocking, on one connection, for one thread at a time. :mod:`agentcg.api.aclient` is the same for asyncio.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from asyncvarlink import FileDescriptorArray, VarlinkErrorReply, VarlinkInterface, VarlinkMethodReply, varlinksignature
from asyncvarlink.conversion import ConversionError, FileDescriptorVarlinkType

from agentcg.api import interfaces as wire
from agentcg.api import types
from agentcg.cgroup.delegate import cgroup_of
from agentcg.errors import AgentcgError, InvalidInput, Unsupported
from agentcg.launcher import launcher_path
from agentcg.model import cut_command

if TYPE_CHECKING:
    from asyncio.subprocess import Process

__all__ = [
    "BegunCall",
    "Call",
    "Client",
    "RemoteError",
    "Session",
    "connect",
    "default_socket",
    "enter_call",
    "enter_session",
]
__all__ += ["explain_error", "placer"]

_METHOD_TIMEOUT_SEC = 30.0
ENTRY_SEC, ENTRY_LOOK_SEC = 30.0, 0.0005
"""How long a process is given to enter its call, and how often it is looked whether it has."""


class RemoteError(AgentcgError):
    """The daemon refused a request, or cannot be reached. ``name`` is the Varlink error, empty if there is none."""

    def __init__(self, message: str, *, hint: str = "", name: str = "") -> None:
        super().__init__(message, hint=hint)
        self.name = name


def default_socket() -> str:
    """Return the socket to speak to: AGENTCG_SOCKET, or the system's."""
    return os.environ.get("AGENTCG_SOCKET", "/run/agentcg/agentcg.sock")


def explain_error(error: VarlinkErrorReply) -> RemoteError:
    """Return what the daemon answered as an error that a person can read."""
    given: Mapping[str, Any] = getattr(error, "parameters", {})
    subject = given.get("session") or given.get("call") or given.get("parameter") or given.get("method") or ""
    message = given.get("message") or f"{error.name.rpartition('.')[2]} {subject}".strip()
    if given.get("place"):
        message = f"{given['place']}: {message}"
    return RemoteError(message, hint=given.get("hint", ""), name=error.name)


def unreachable(path: str, error: OSError) -> RemoteError:
    """Return the error for a daemon that does not answer."""
    hint = "start it with `agentcg daemon`, or name its socket in AGENTCG_SOCKET"
    return RemoteError(f"no daemon at {path}: {error.strerror or error}", hint=hint)


def placer(path: str, enter: Mapping[str, Any], procs: int, oom_score_adj: int) -> Callable[[], None]:
    """Return what a child has to do before it executes: move itself into its call, and stand to be chosen first.

    :param path: the daemon's socket
    :param enter: the request that moves the process that makes it, for when ``procs`` is -1
    """
    request = json.dumps(enter).encode() + b"\0"

    def place() -> None:
        if procs >= 0:
            os.write(procs, b"0")
        else:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock:
                sock.settimeout(_METHOD_TIMEOUT_SEC)
                sock.connect(path)
                sock.sendall(request)
                reply = b""
                while not reply.endswith(b"\0"):
                    reply += sock.recv(65_536) or b"{}\0"
            if b'"error"' in reply:
                raise PermissionError(reply.decode(errors="replace"))
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write(str(oom_score_adj))

    return place


def enter_call(name: str) -> dict[str, Any]:
    """Return the request by which a process moves itself into a call."""
    return {"method": "dev.agentcg.Calls.Enter", "parameters": {"call": name}}


def enter_session(name: str) -> dict[str, Any]:
    """Return the request by which a process moves itself into a session, outside its calls."""
    return {"method": "dev.agentcg.Sessions.Enter", "parameters": {"session": name}}


_SPECIAL = frozenset(("executable", "preexec_fn", "shell"))
"""Options of a process that say themselves what is to be executed, or what comes before."""


def _launcher() -> str | None:
    try:
        return launcher_path()
    except Unsupported:
        return None


def _require_program(name: str, options: Mapping[str, Any]) -> None:
    """:raises OSError: what executing ``name`` with ``options`` would, if it is not there or no program"""
    path = os.path.join(options.get("cwd") or "", name) if os.path.dirname(name) else name
    if shutil.which(path, path=options["env"].get("PATH")) is None:
        number = errno.EACCES if os.path.dirname(name) and os.path.exists(path) else errno.ENOENT
        raise OSError(number, os.strerror(number), name)


def declare(intent: Mapping[str, Any]) -> types.Intent | None:
    """Return an intent from keyword arguments named as in :class:`agentcg.model.Intent`."""
    return types.camel(types.Intent, intent) if intent else None


class Client:
    """A connection to the daemon. :raises RemoteError: whenever the daemon refuses or cannot be reached"""

    def __init__(self, path: str | None = None) -> None:
        self.path = path or default_socket()
        self._buffer = b""
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._sock.settimeout(_METHOD_TIMEOUT_SEC)
        try:
            self._sock.connect(self.path)
        except OSError as error:
            self._sock.close()
            raise unreachable(self.path, error) from error

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up. Calls and sessions that this connection stands for are ended."""
        self._sock.close()

    def interrupt(self) -> None:
        """Hang up, on another thread than the one that waits for an answer: that one gets a RemoteError."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def invoke(self, interface: type[VarlinkInterface], method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method and return its reply, with descriptors that now belong to the caller."""
        return next(self._exchange(interface, method, parameters, more=False))

    def _exchange(
        self, interface: type[VarlinkInterface], method: str, parameters: dict[str, Any], *, more: bool
    ) -> Iterator[dict[str, Any]]:
        signature = varlinksignature(getattr(interface, method))
        if signature is None:
            raise AttributeError(f"{interface.name} has no method {method}")
        try:
            converted = signature.parameter_type.tojson(parameters)
        except ConversionError as error:
            raise InvalidInput(".".join(map(str, error.location)) or method, error.message) from error
        for reply, fds in self._ask(interface, method, converted, more=more):
            with FileDescriptorArray.new_managed() as array:
                for fd in fds:
                    array.add(fd)
                result: dict[str, Any] = signature.return_type.fromjson(
                    reply.parameters, {FileDescriptorVarlinkType: array}
                )
                for key, value in result.items():
                    if hasattr(value, "take"):
                        result[key] = value.take()
            yield result

    def _ask(
        self, interface: type[VarlinkInterface], method: str, parameters: Mapping[str, Any], *, more: bool
    ) -> Iterator[tuple[VarlinkMethodReply, list[int]]]:
        """Send a request and yield each reply as it is, with the descriptors that came with it."""
        message: dict[str, Any] = {"method": f"{interface.name}.{method}", "parameters": parameters}
        try:
            self._sock.sendall(json.dumps(message | ({"more": True} if more else {})).encode() + b"\0")
            while True:
                text, fds = self._receive()
                reply = VarlinkMethodReply.fromjson(json.loads(text))
                if reply.error is not None:
                    interface.raise_error(reply)
                yield reply, fds
                if not reply.continues:
                    return
        except VarlinkErrorReply as error:
            raise explain_error(error) from error
        except OSError as error:
            raise unreachable(self.path, error) from error

    def _receive(self) -> tuple[bytes, list[int]]:
        passed: list[int] = []
        while b"\0" not in self._buffer:
            data, fds, _, _ = socket.recv_fds(self._sock, 65_536, 4)
            passed += fds
            if not data:
                for fd in passed:
                    os.close(fd)
                raise ConnectionResetError("the daemon hung up")
            self._buffer += data
        text, _, self._buffer = self._buffer.partition(b"\0")
        return text, passed

    def session(
        self,
        name: str | None = None,
        *,
        tenant: str | None = None,
        protected: bool = False,
        leased: bool = True,
        transparent: bool = False,
        **budget: Any,
    ) -> Session:
        """Open a session. ``budget`` is keyword arguments named as in :class:`agentcg.model.Budget`.

        ``protected`` reserves its memory_max from the start. ``leased`` closes it with this connection.
        ``transparent`` makes calls of what the agent's own processes execute, as the policy says.
        """
        reply = self.invoke(
            wire.SessionInterface,
            "Open",
            session=name,
            tenant=tenant,
            budget=types.camel(types.Budget, budget) if budget else None,
            protected=protected,
            leased=leased,
            transparent=transparent,
        )
        return Session(self, reply["session"].session)

    def call(
        self,
        command: Sequence[str],
        *,
        session: str | None = None,
        id: str | None = None,  # noqa: A002
        tool: str | None = None,
        hint: str | None = None,
        leased: bool = True,
        **intent: Any,
    ) -> Call:
        """Begin a call. ``intent`` is keyword arguments named as in :class:`agentcg.model.Intent`."""
        reply = self.invoke(
            wire.CallInterface,
            "Begin",
            session=session,
            id=id,
            tool=tool,
            command=cut_command(command),
            intent=declare(intent),
            hint=hint,
            leased=leased,
        )
        return Call(self, list(command), reply)

    def sessions(self) -> list[types.SessionInfo]:
        """Return every session that we may see."""
        found: list[types.SessionInfo] = self.invoke(wire.SessionInterface, "List")["sessions"]
        return found

    def close_session(self, session: str) -> list[types.Verdict]:
        """End all that runs in a session, and remove it."""
        ended: list[types.Verdict] = self.invoke(wire.SessionInterface, "Close", session=session)["verdicts"]
        return ended

    def calls(self, session: str | None = None) -> list[types.ToolCallInfo]:
        """Return every running call that we may see."""
        found: list[types.ToolCallInfo] = self.invoke(wire.CallInterface, "List", session=session)["calls"]
        return found

    def end(self, call: str, *, exit_code: int | None = None, signal: int | None = None) -> types.Verdict:
        """Report the end of a call by its full name, one begun on another connection, say."""
        reply = self.invoke(wire.CallInterface, "End", call=call, exitCode=exit_code, signal=signal)
        verdict: types.Verdict = reply["verdict"]
        return verdict

    def kill(self, call: str, reason: str) -> types.Verdict:
        """End a call from outside."""
        verdict: types.Verdict = self.invoke(wire.CallInterface, "Kill", call=call, reason=reason)["verdict"]
        return verdict

    def freeze(self, name: str) -> str:
        """Stop a call or a session, by its full name, until :meth:`thaw`; return its state."""
        return self._by_hand("Freeze", name)

    def thaw(self, name: str) -> str:
        """Undo :meth:`freeze`; return the state: the controller may have stopped it, too."""
        return self._by_hand("Thaw", name)

    def _by_hand(self, method: str, name: str) -> str:
        if name.count("/") == 2:
            reply = self.invoke(wire.CallInterface, method, call=name)
        else:
            reply = self.invoke(wire.SessionInterface, method, session=name)
        state: str = reply["state"]
        return state

    def amend(self, call: str, **intent: Any) -> tuple[types.Limits, list[str]]:
        """Change what a running call may use, by its full name. Returns the limits in force, and notes on them."""
        reply = self.invoke(wire.CallInterface, "Amend", call=call, intent=declare(intent) or types.Intent())
        return reply["limits"], reply["notes"]

    def attach(self, container: str) -> types.SessionInfo:
        """Make a running Docker container, by name or id, a session."""
        session: types.SessionInfo = self.invoke(wire.ContainerInterface, "Attach", container=container)["session"]
        return session

    def detach(self, container: str) -> list[types.Verdict]:
        """End a container's calls, and leave it as it was found."""
        ended: list[types.Verdict] = self.invoke(wire.ContainerInterface, "Detach", container=container)["verdicts"]
        return ended

    def status(self) -> types.Status:
        """Return what the daemon says of itself."""
        status: types.Status = self.invoke(wire.MonitorInterface, "GetStatus")["status"]
        return status

    def snapshot(self) -> types.SnapshotPart:
        """Return all that we may see, put together."""
        parts = [
            msgspec.convert(reply.parameters["part"], types.SnapshotPart)
            for reply, _ in self._ask(wire.MonitorInterface, "GetSnapshot", {}, more=True)
        ]
        for part in parts[1:]:
            parts[0].calls += part.calls
        return parts[0]

    def watch(self, session: str | None = None) -> Iterator[types.Event]:
        """Yield events as they happen. The connection can do nothing else from here on."""
        self._sock.settimeout(None)
        for reply in self._exchange(wire.MonitorInterface, "Watch", {"session": session}, more=True):
            yield reply["event"]

    def kv_hello(self, engine: str, *, total_blocks: int, block_bytes: int) -> None:
        """Speak as an engine from here on: an LLM server with a KV cache of so many blocks."""
        self.invoke(wire.KvInterface, "Hello", engine=engine, totalBlocks=total_blocks, blockBytes=block_bytes)

    def kv_report(self, sessions: Sequence[types.KvSession] = (), queue: types.KvQueue | None = None) -> list[str]:
        """Say what sessions have in the cache now, and who waits; return the sessions that are not known."""
        unknown: list[str] = self.invoke(wire.KvInterface, "Report", sessions=list(sessions), queue=queue)["unknown"]
        return unknown

    def kv_engines(self) -> list[types.KvEngine]:
        """Return every engine that has said hello."""
        engines: list[types.KvEngine] = self.invoke(wire.KvInterface, "List")["engines"]
        return engines

    def kv_listen(self) -> Iterator[types.KvEvent]:
        """Yield what an engine is told of calls. The connection can do nothing else from here on."""
        self._sock.settimeout(None)
        for reply in self._exchange(wire.KvInterface, "Listen", {}, more=True):
            yield reply["event"]


class Session:
    """An open session; a context manager that closes it."""

    def __init__(self, client: Client, name: str) -> None:
        self.client, self.name = client, name

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(self, command: Sequence[str], **options: Any) -> Call:
        """Begin a call in this session: see :meth:`Client.call`."""
        return self.client.call(command, session=self.name, **options)

    def close(self) -> list[types.Verdict]:
        """End all that runs in it, and remove it."""
        return self.client.close_session(self.name)


class BegunCall:
    """What a blocking and an asynchronous call have in common: what Begin answered, and what became of it."""

    def __init__(self, path: str, command: list[str], reply: dict[str, Any]) -> None:
        self._path = path
        self.procs: int = -1 if reply["procs"] is None else reply["procs"]
        """Whoever writes ``0`` or a pid to this descriptor moves that process into the call; -1 where there is none."""
        self.command = command
        self.name: str = reply["call"]
        self.limits: types.Limits = reply["limits"]
        self.notes: list[str] = reply["notes"]
        self.environment: dict[str, str] = reply["environment"]
        self.oom_score_adj: int = reply["oomScoreAdj"]
        self.verdict: types.Verdict | None = None
        self._process: subprocess.Popen[Any] | Process | None = None

    def _start(self, command: Sequence[str] | None, options: dict[str, Any]) -> tuple[list[str], dict[str, Any]]:
        """Return what to execute to run ``command`` in the call, and with which options.

        A call may be held or frozen, and whoever enters it then waits. So it is best entered by a small program of its
        own: a fork of ours would wait before its exec, and :class:`subprocess.Popen` for that.

        :raises OSError: if there is no such command, or it may not be executed
        """
        command = list(command or self.command)
        options = options | {"env": dict(options.get("env") or os.environ) | self.environment}
        launcher = None if _SPECIAL & options.keys() else _launcher()
        if launcher is None:
            place = placer(self._path, enter_call(self.name), self.procs, self.oom_score_adj)
            return command, options | {"preexec_fn": place}
        _require_program(command[0], options)
        joining = [launcher, "--socket", self._path, "--join", self.name, "--oom-score-adj", str(self.oom_score_adj)]
        if self.procs >= 0:
            joining += ["--procs", str(self.procs)]
            options["pass_fds"] = (*options.get("pass_fds", ()), self.procs)
        return [*joining, "--", *command], options

    def _entered(self, pid: int) -> bool:
        """Whether a process is in the call by now, be it that it stands still there, or that it is over."""
        tenant, session, call = self.name.split("/")
        path = cgroup_of(pid)
        return path is None or f"/{tenant}/{session}/calls/{call}/" in f"{path.removesuffix(' (deleted)')}/"

    def _leave(self, exit_code: int | None, signal: int | None) -> tuple[int | None, int | None]:
        """Close the way in, and return how the call ended: as given, or else as its process was seen to end."""
        status = None if self._process is None else self._process.returncode
        if exit_code is None and signal is None and status is not None:
            exit_code, signal = (status, None) if status >= 0 else (None, -status)
        if self.procs >= 0:
            os.close(self.procs)
            self.procs = -1
        return exit_code, signal


class Call(BegunCall):
    """A begun call; a context manager that ends it and then has its ``verdict``."""

    def __init__(self, client: Client, command: list[str], reply: dict[str, Any]) -> None:
        super().__init__(client.path, command, reply)
        self._client = client

    def __enter__(self) -> Call:
        return self

    def __exit__(self, *_: object) -> None:
        if self.verdict is None:
            self.end()

    def popen(self, command: Sequence[str] | None = None, **options: Any) -> subprocess.Popen[Any]:
        """Start a process in the call; ``options`` are those of :class:`subprocess.Popen`.

        It is in the call when this returns. Where the call is held or frozen, it goes on from there later.
        """
        joining, options = self._start(command, options)
        self._process = process = subprocess.Popen(joining, **options)
        deadline = time.monotonic() + ENTRY_SEC
        while not self._entered(process.pid) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(ENTRY_LOOK_SEC)
        return process

    def run(self, **options: Any) -> int:
        """Run the command to its end in the call and return its status, as :attr:`subprocess.Popen.returncode`."""
        with self.popen(**options) as process:
            return process.wait()

    def amend(self, **intent: Any) -> types.Limits:
        """Change what the running call may use; returns the limits in force."""
        self.limits, self.notes = self._client.amend(self.name, **intent)
        return self.limits

    def end(self, *, exit_code: int | None = None, signal: int | None = None) -> types.Verdict:
        """Report the end. Without arguments, that of the process last started in it, if it was waited for."""
        exit_code, signal = self._leave(exit_code, signal)
        self.verdict = self._client.end(self.name, exit_code=exit_code, signal=signal)
        return self.verdict


def connect(path: str | None = None) -> Client:
    """Connect to the daemon. :raises RemoteError: if there is none"""
    return Client(path)
