# SPDX-License-Identifier: Apache-2.0
"""The launcher as it is shipped, run against a real Varlink server whose handlers are the test's."""

import array
import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from asyncvarlink import AnnotatedResult, FileDescriptor, VarlinkInterfaceRegistry, create_unix_server

from agentcg.api.interfaces import CallInterface
from agentcg.api.types import Intent, Limits, Usage, Verdict
from agentcg.errors import Unsupported
from agentcg.launcher import build

CALL = "me/work/c1"


def verdict(**given: Any) -> Verdict:
    """A verdict in which nothing happened, save for what is given."""
    fields: dict[str, Any] = {
        "call": CALL,
        "outcome": "ok",
        "usage": Usage(durationSec=0.1),
        "limits": Limits(cpuWeight=100, ioWeight=100),
        "started": 1.0,
        "ended": 2.0,
        "tool": "",
        "command": "",
        "callClass": "",
        "reason": "",
        "throttled": False,
        "advice": "",
    }
    return Verdict(**(fields | given))


@dataclass
class Daemon:
    """A server on ``path`` in a thread of its own. A handler may be replaced, and may raise a Varlink error."""

    path: str
    procs: Path
    environment: dict[str, str] = field(default_factory=dict)
    begun: list[dict[str, Any]] = field(default_factory=list)
    ended: list[dict[str, Any]] = field(default_factory=list)
    begin_error: Exception | None = None
    oom_score_adj: int = 500
    procs_flags: int = os.O_WRONLY
    passes_procs: bool = True
    entered: list[str] = field(default_factory=list)
    enter_error: Exception | None = None
    verdict: Verdict = field(default_factory=verdict)

    def begin(
        self,
        session: str | None,
        name: str | None,
        tool: str,
        command: list[str],
        intent: Intent | None,
        hint: str | None,
        leased: bool,
    ) -> AnnotatedResult:
        self.begun.append(
            {"session": session, "id": name, "tool": tool, "command": command, "intent": intent, "hint": hint}
        )
        if self.begin_error:
            raise self.begin_error
        return AnnotatedResult(
            {
                "call": CALL,
                "limits": Limits(cpuWeight=100, ioWeight=100),
                "notes": [],
                "environment": self.environment,
                "oomScoreAdj": self.oom_score_adj,
                "procs": FileDescriptor(os.open(self.procs, self.procs_flags), should_close=True)
                if self.passes_procs
                else None,
            }
        )

    def enter(self, call: str) -> None:
        if self.enter_error:
            raise self.enter_error
        self.entered.append(call)
        self.procs.write_text("asked")

    async def end(self, call: str, exit_code: int | None, signal: int | None) -> AnnotatedResult:
        self.ended.append({"call": call, "exitCode": exit_code, "signal": signal})
        return AnnotatedResult({"verdict": self.verdict})

    @contextlib.contextmanager
    def serving(self) -> Iterator["Daemon"]:
        loop = asyncio.new_event_loop()
        registry = VarlinkInterfaceRegistry()
        registry.register_interface(CallInterface(self))
        server = loop.run_until_complete(create_unix_server(registry.protocol_factory, self.path))
        thread = threading.Thread(target=loop.run_forever)
        thread.start()

        async def stop() -> None:
            server.close()
            server.abort_clients()
            await asyncio.sleep(0.01)
            loop.stop()

        try:
            yield self
        finally:
            asyncio.run_coroutine_threadsafe(stop(), loop)
            thread.join()
            loop.close()


@contextlib.contextmanager
def scripted(path: str, talk: Callable[[socket.socket], None]) -> Iterator[None]:
    """A server that does ``talk`` once on its first connection and keeps it open until the end of the test."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(8)
        listener.settimeout(10)
        connections = []

        def serve() -> None:
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                connections.append(connection)
                connection.settimeout(10)
                talk(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in connections:
                connection.close()
            os.unlink(path)


def read_message(connection: socket.socket) -> bytes:
    """One message, without its NUL."""
    data = b""
    while not data.endswith(b"\0"):
        part = connection.recv(65536)
        if not part:
            raise OSError("closed")
        data += part
    return data[:-1]


def send_with_fd(connection: socket.socket, data: bytes, *descriptors: int) -> None:
    connection.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))])


@pytest.fixture(scope="session")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> str:
    if not os.environ.get("CC") and not any(shutil.which(name) for name in ("cc", "gcc", "clang")):
        pytest.skip("no C compiler")
    return str(build(tmp_path_factory.mktemp("bin")))


@pytest.fixture(scope="session")
def checked_launcher(launcher: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The launcher with every bad access and undefined operation turned into exit status 99."""
    flags = ("-std=c11", "-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    try:
        return str(build(tmp_path_factory.mktemp("checked"), flags=flags))
    except Unsupported as error:
        pytest.skip(f"no sanitizers: {error}")


@pytest.fixture
def socket_path(tmp_path: Path) -> str:
    return str(tmp_path / "s")


@pytest.fixture
def daemon(tmp_path: Path, socket_path: str) -> Iterator[Daemon]:
    procs = tmp_path / "procs"
    procs.touch()
    with Daemon(socket_path, procs).serving() as daemon:
        yield daemon


@pytest.fixture
def environment(socket_path: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "AGENTCG_SOCKET": socket_path}


@pytest.fixture
def run(launcher: str, environment: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the launcher with the given arguments and variables, and return what came out."""

    def run(*arguments: str | bytes, env: dict[str, str] | None = None, **options: Any) -> Any:
        options = {"capture_output": True, "text": True, "timeout": 30, "stdin": subprocess.DEVNULL} | options
        if "input" in options:
            del options["stdin"]
        return subprocess.run([launcher, *arguments], env=environment | (env or {}), **options)

    return run


@pytest.fixture
def tools() -> SimpleNamespace:
    """The helpers above, for test modules that cannot import them."""

    return SimpleNamespace(
        CALL=CALL,
        Daemon=Daemon,
        verdict=verdict,
        scripted=scripted,
        read_message=read_message,
        send_with_fd=send_with_fd,
    )
