# SPDX-License-Identifier: Apache-2.0
"""The daemon's own server and registry, in a thread, on a fake hierarchy."""

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from agentcg.api.client import Client
from agentcg.api.peer import Places
from agentcg.api.server import Server
from agentcg.api.service import Service
from agentcg.control.containers import Containers
from agentcg.control.registry import Registry
from agentcg.sandbox.docker import Engine


@dataclass
class Served:
    """A running server. ``cgroup`` is where every peer that connects from now on lives."""

    path: str
    cgroups: Any
    cgroup: str = "/elsewhere"
    registry: Registry = field(init=False)
    loop: asyncio.AbstractEventLoop = field(init=False)
    unhandled: list[dict[str, Any]] = field(default_factory=list)

    def connect(self, timeout: float = 10) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(timeout)
        sock.connect(self.path)
        return sock

    def client(self, cgroup: str = "/elsewhere") -> Client:
        """Connect as a process that lives in ``cgroup``; the server has seen it when this returns."""
        self.cgroup = cgroup
        client = Client(self.path)
        client.status()
        return client

    def say(self, *messages: bytes | dict[str, Any], expect: int | None = None) -> list[dict[str, Any]]:
        """Send messages on one connection and return the replies: as many as ``expect``, or all until it is closed."""
        with self.connect() as sock:
            try:
                for message in messages:
                    sock.sendall(message if isinstance(message, bytes) else json.dumps(message).encode() + b"\0")
                if expect is None:
                    sock.shutdown(socket.SHUT_WR)
            except BrokenPipeError:
                pass  # The server hung up before it had read everything; why is in its answer.
            return replies(sock, expect)

    def on_loop(self, work: Callable[[], Any]) -> Any:
        """Run ``work`` on the server's loop and return what it returns."""

        async def run() -> Any:
            return work()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(10)


def replies(sock: socket.socket, expect: int | None) -> list[dict[str, Any]]:
    data = b""
    try:
        while expect is None or data.count(b"\0") < expect:
            chunk = sock.recv(65_536)
            if not chunk:
                break
            data += chunk
    except ConnectionResetError:
        pass
    return [json.loads(part) for part in data.split(b"\0") if part]


@pytest.fixture
def served(  # type: ignore[no-untyped-def]
    cgroups, root, new_registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Served]:
    """Serve on a socket; at the end, fail if anything went wrong on the loop that nobody handled."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server = Served(str(tmp_path / "sock"), cgroups)
    sock.bind(server.path)
    monkeypatch.setattr("agentcg.api.peer.cgroup_of", lambda pid: server.cgroup)
    started, stop = threading.Event(), asyncio.Event()

    async def serve() -> None:
        server.loop = asyncio.get_running_loop()
        server.loop.set_exception_handler(lambda _, context: server.unhandled.append(context))
        registry = server.registry = new_registry()
        listening = Server(
            sock,
            Service(registry, Containers(registry, Engine())).interfaces,
            lambda peer: registry.drop_lease(peer.lease),
            places=Places(root.path),
            operators="agentcg-nobody-has-it",
        )
        started.set()
        await stop.wait()
        listening.close()
        await registry.settle()
        await asyncio.sleep(0)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert started.wait(10)
    yield server
    server.loop.call_soon_threadsafe(stop.set)
    thread.join(10)
    assert not thread.is_alive()
    assert not server.unhandled
