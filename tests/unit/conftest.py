# SPDX-License-Identifier: Apache-2.0
"""A cgroup hierarchy made of plain directories, for everything that does not need the kernel to act, and the daemon's
own registry and server on it."""

import asyncio
import json
import os
import pty
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from benches.llamacpp import LlamaServer, free_port, write_random_model

from agentcg.api.client import Client
from agentcg.api.peer import Places
from agentcg.api.server import Server
from agentcg.api.service import Service
from agentcg.cgroup import files
from agentcg.cgroup.delegate import CONTROLLERS, Root
from agentcg.cgroup.node import Inner, Node
from agentcg.cgroup.tree import Tree
from agentcg.control.bus import Bus, Event
from agentcg.control.containers import Containers
from agentcg.control.kv import Coordinator
from agentcg.control.registry import Registry
from agentcg.control.stops import Stops
from agentcg.errors import Unsupported
from agentcg.kernel.sys import CGROUP2_SUPER_MAGIC
from agentcg.kv.engines.llamacpp.costs import Costs
from agentcg.policy.load import load
from agentcg.policy.schema import Policy
from agentcg.predict.history import Store
from agentcg.sandbox.docker import Engine

CONTROL_FILES = {
    "cgroup.controllers": "cpu io memory pids\n",
    "cgroup.events": "populated 0\nfrozen 0\n",
    "cgroup.freeze": "0\n",
    "cgroup.kill": "",
    "cgroup.procs": "",
    "cgroup.subtree_control": "",
    "cpu.max": "max 100000\n",
    "cpu.stat": "usage_usec 0\nuser_usec 0\nsystem_usec 0\nnr_throttled 0\nthrottled_usec 0\n",
    "cpu.idle": "0\n",
    "cpu.weight": "100\n",
    "io.weight": "default 100\n",
    "memory.current": "0\n",
    "memory.events": "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\noom_group_kill 0\n",
    "memory.events.local": "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\noom_group_kill 0\n",
    "memory.high": "max\n",
    "memory.low": "0\n",
    "memory.max": "max\n",
    "memory.min": "0\n",
    "memory.oom.group": "0\n",
    "memory.peak": "0\n",
    "memory.reclaim": "",
    "memory.stat": "",
    "memory.swap.max": "max\n",
    "pids.current": "0\n",
    "pids.events": "max 0\n",
    "pids.max": "max\n",
    "pids.peak": "0\n",
}


class FakePoll:
    """Stands for EventPoll: a plain file cannot be waited for, so :meth:`FakeCgroups.set` says what has changed."""

    def __init__(self) -> None:
        self._watched: dict[int, tuple[int, str, Callable[[], None]]] = {}
        self._next = 0

    def watch_file(self, directory: int, name: str, callback: Callable[[], None]) -> int | None:
        if files.read(directory, name) is None:
            return None
        self._next += 1
        self._watched[self._next] = (os.fstat(directory).st_ino, name, callback)
        return self._next

    def watch_pressure(
        self, directory: int, name: str, callback: Callable[[], None], *, stall_sec: float, window_sec: float
    ) -> int | None:
        return self.watch_file(directory, name, callback)

    def unwatch(self, handle: int | None) -> None:
        if handle is not None:
            self._watched.pop(handle, None)

    def forget(self) -> None:
        """The process that watched is gone."""
        self._watched.clear()

    def changed(self, inode: int, name: str) -> None:
        for node, watched, callback in list(self._watched.values()):
            if (node, watched) == (inode, name):
                callback()


class FakeCgroups:
    """A hierarchy below ``top`` that behaves as far as code without a kernel can tell."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.poll = FakePoll()
        self.refuse: dict[str, OSError] = {}
        """What the kernel answers to a write, by the control file's name."""
        self.populate(top)

    def populate(self, directory: Path) -> Path:
        for name, text in CONTROL_FILES.items():
            (directory / name).write_text(text)
        return directory

    def make(self, path: str) -> Path:
        """Make a cgroup and its parents by hand."""
        directory = self.top
        for part in path.split("/"):
            directory = directory / part
            if not directory.is_dir():
                directory.mkdir()
                self.populate(directory)
        return directory

    def text(self, path: str, name: str) -> str:
        return (self.top / path / name).read_text().strip()

    def set(self, path: str, name: str, text: str) -> None:
        """Change a control file as the kernel would, and wake whoever waits for it."""
        directory = self.top / path
        (directory / name).write_text(text)
        self.poll.changed(directory.stat().st_ino, name)

    def enter(self, path: str) -> None:
        """Something runs in a cgroup from now on."""
        self.set(path, "cgroup.events", "populated 1\nfrozen 0\n")

    def leave(self, path: str) -> None:
        """Nothing runs in a cgroup any more."""
        self.set(path, "cgroup.events", "populated 0\nfrozen 0\n")

    def wrote(self, directory: int, name: str, text: str) -> None:
        """Do what a write does in the kernel."""
        path = Path(os.readlink(f"/proc/self/fd/{directory}"))
        if name == "cgroup.kill":
            for below in [path, *(item for item in path.rglob("*") if item.is_dir())]:
                self.leave(str(below.relative_to(self.top)))
        elif name == "cgroup.subtree_control":
            now = set((path / name).read_text().split())
            for word in text.split():
                now = now | {word[1:]} if word[0] == "+" else now - {word[1:]}
            (path / name).write_text(" ".join(sorted(now)))
        elif name == "cgroup.procs":
            for directory in [self.top, *(item for item in self.top.rglob("*") if item.is_dir())]:
                inside = (directory / name).read_text().split()
                if directory == path:
                    inside.append(text)
                elif text in inside:
                    inside.remove(text)
                (directory / name).write_text("".join(f"{pid}\n" for pid in inside))
        else:
            (path / name).write_text(f"{text}\n")


@pytest.fixture
def cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCgroups:
    """Return a fake hierarchy, and have agentcg.cgroup believe in it."""
    top = tmp_path / "cgroup"
    top.mkdir()
    fake = FakeCgroups(top)
    write, make, remove = files.write, Inner._make, Inner.remove

    def fake_write(directory: int, name: str, text: str, *, wait: bool = True) -> bool:
        if name in fake.refuse:
            raise fake.refuse[name]
        # Of these two, what stands there already counts.
        if name in ("cgroup.procs", "cgroup.subtree_control"):
            if not files.exists(directory, name):
                return False
        elif not write(directory, name, text, wait=wait):
            return False
        fake.wrote(directory, name, text)
        return True

    def fake_make(self: Inner, name: str, *, exist_ok: bool = True) -> int:
        new = not self.has_child(name)
        fd = make(self, name, exist_ok=exist_ok)
        if new:
            fake.populate(Path(os.readlink(f"/proc/self/fd/{fd}")))
        return fd

    def fake_remove(self: Inner, name: str) -> bool:
        directory = Path(os.readlink(f"/proc/self/fd/{self.fd}"), name)
        if directory.is_dir():
            busy = "populated 1" in (directory / "cgroup.events").read_text()
            if busy or any(item.is_dir() for item in directory.iterdir()):
                return False
            for item in directory.iterdir():
                item.unlink()
        return remove(self, name)

    monkeypatch.setattr(files, "write", fake_write)
    monkeypatch.setattr(Inner, "_make", fake_make)
    monkeypatch.setattr(Inner, "remove", fake_remove)
    monkeypatch.setattr("agentcg.cgroup.node.fs_type", lambda fd: CGROUP2_SUPER_MAGIC)
    return fake


@pytest.fixture
def root(cgroups: FakeCgroups) -> Iterator[Root]:
    """Return a root on the fake hierarchy."""
    with Inner.open_root(str(cgroups.top)) as node:
        yield Root(node, str(cgroups.top), "/fake", frozenset(CONTROLLERS), ())


class Heard(Bus):
    """A bus that keeps what was said."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Event] = []

    def publish(self, kind, subject, message, verdict=None, *, at=None) -> None:  # type: ignore[no-untyped-def]
        super().publish(kind, subject, message, verdict, at=at)
        self.events.append(Event(self._sequence, 0.0, kind, str(subject), message, verdict))

    def kinds(self, subject: object = None) -> list[str]:
        return [event.kind for event in self.events if subject is None or event.subject == str(subject)]


@pytest.fixture
def new_registry(cgroups: FakeCgroups, root: Root) -> Iterator[Callable[..., Registry]]:
    """Return a function that starts a registry on the fake hierarchy, as a daemon's start would."""
    made: list[Registry] = []

    def new(
        *,
        policy: Policy | None = None,
        capacity: int | None = 8 << 30,
        limited: bool = False,
        store: Store | None = None,
    ) -> Registry:
        poll: Any = cgroups.poll
        kept = store or Store(":memory:")
        tree, rules = Tree(root), policy or load("default")
        made.append(Registry(tree, rules, kept, poll, Heard(), capacity=capacity, limited=limited))
        return made[-1]

    yield new
    for registry in made:
        for call in registry.calls.values():
            call.leaf.close()
        for session in registry.sessions.values():
            session.node.close()
        registry.tree.close()


@pytest.fixture
def node_at(cgroups: FakeCgroups) -> Iterator[Callable[[str], Node]]:
    """Return a function that opens a node of the fake hierarchy."""
    opened: list[Node] = []

    def open_node(path: str) -> Node:
        opened.append(Inner.open_root(str(cgroups.top / path)))
        return opened[-1]

    yield open_node
    for node in opened:
        node.close()


class FakeGuard:
    """Stands for the process that thaws if we die: knows whether it is armed."""

    missing = False

    def __init__(self, root_fd: int, *, on_thawed: Callable[[int], None], on_ended: Callable[[str], None]) -> None:
        self.on_thawed, self.on_ended = on_thawed, on_ended
        self.pid: int | None = None
        self.started = 0
        self.armed = False

    def start(self) -> None:
        if self.missing:
            raise Unsupported("agentcg-guard is not on PATH", hint="install it")
        self.pid = 1
        self.started += 1

    def arm(self, frozen: bool) -> None:
        self.armed = frozen and self.pid is not None

    def end(self) -> None:
        """It is gone."""
        self.close()
        self.on_ended("killed")

    def close(self) -> None:
        self.pid, self.armed = None, False


@pytest.fixture
def guard(monkeypatch: pytest.MonkeyPatch) -> type[FakeGuard]:
    """Return the class of the guards in this test."""
    kind = type("FakeGuard", (FakeGuard,), {})
    monkeypatch.setattr("agentcg.control.stops.Guard", kind)
    return kind


@dataclass
class Served:
    """A running server. ``cgroup`` is where every peer that connects from now on lives."""

    path: str
    cgroups: Any
    cgroup: str = "/elsewhere"
    registry: Registry = field(init=False)
    coordinator: Coordinator = field(init=False)
    stops: Stops = field(init=False)
    listening: Server = field(init=False)
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
    cgroups, root, new_registry, guard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
        coordinator = server.coordinator = Coordinator(registry, registry.policy.kv)
        stops = server.stops = Stops(registry)
        registry.observers.append(stops)
        service = Service(registry, Containers(registry, Engine()), coordinator, stops)
        listening = server.listening = Server(
            sock,
            service.interfaces,
            service.lost,
            places=Places(root.path),
            operators="agentcg-nobody-has-it",
        )
        started.set()
        await stop.wait()
        listening.close()
        await registry.settle()
        coordinator.close()
        stops.close()
        await asyncio.sleep(0)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert started.wait(10)
    yield server
    server.loop.call_soon_threadsafe(stop.set)
    thread.join(10)
    assert not thread.is_alive()
    assert not server.unhandled


class Terminal:
    """A program as the leader of a terminal's session."""

    def __init__(self, argv: list[str], environment: dict[str, str]) -> None:
        self.pid, self.fd = pty.fork()
        if not self.pid:
            os.execvpe(argv[0], argv, environment)
        self.seen = ""
        self.over = False

    def read(self, deadline: float) -> bool:
        """Read some more until ``deadline``, on the monotonic clock. False if there is nothing more to read."""
        ready, _, _ = select.select([self.fd], [], [], max(0, deadline - time.monotonic()))
        if not ready:
            return False
        try:
            self.seen += os.read(self.fd, 65_536).decode(errors="replace")
        except OSError:  # the other side is closed
            return False
        return True

    def expect(self, text: str) -> str:
        """Wait for a text, and return what came before it."""
        deadline = time.monotonic() + 10
        while text not in self.seen:
            assert self.read(deadline), f"no {text!r} in {self.seen!r}"
        head, self.seen = self.seen.split(text, 1)
        return head

    def type(self, keys: bytes) -> None:
        os.write(self.fd, keys)

    def wait(self) -> int:
        """Wait for the program's end and return its status, as :attr:`subprocess.Popen.returncode`."""
        _, status = os.waitpid(self.pid, 0)
        self.over = True
        os.close(self.fd)
        return os.waitstatus_to_exitcode(status)

    def hang_up(self) -> int:
        """Take the terminal away, and wait for the program's end."""
        os.close(self.fd)
        self.fd = os.open(os.devnull, os.O_RDONLY)
        return self.wait()


@pytest.fixture
def open_terminal() -> Iterator[Callable[[list[str], dict[str, str]], Terminal]]:
    """Return what runs a program at a terminal; what still runs at the end is killed."""
    opened: list[Terminal] = []

    def run(argv: list[str], environment: dict[str, str]) -> Terminal:
        opened.append(Terminal(argv, environment))
        return opened[-1]

    yield run
    for terminal in opened:
        if not terminal.over:
            os.kill(terminal.pid, signal.SIGKILL)
            terminal.wait()


@pytest.fixture
def await_words() -> Callable[[int], None]:
    """Return what waits until a process that was just started has its words.

    Its parent goes on when the new program has its memory (vfork), and that is before they are there.
    """

    def wait(pid: int) -> None:
        deadline = time.monotonic() + 10
        while not Path(f"/proc/{pid}/cmdline").read_bytes():
            assert time.monotonic() < deadline
            time.sleep(0.005)

    return wait


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model for llama.cpp, that talks nonsense."""
    path = tmp_path_factory.mktemp("model") / "random.gguf"
    write_random_model(path)
    return path


@pytest.fixture
def llama(random_model: Path, tmp_path: Path) -> Iterator[LlamaServer]:
    """Serve it: llama.cpp's own server with three slots of 8192 tokens."""
    folder = tmp_path / "slots"
    folder.mkdir()
    server = LlamaServer(random_model, folder, slots=3, context=3 * 8192, port=free_port())
    server.start()
    yield server
    server.stop()


@pytest.fixture
def slow_prefill(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a token's prefill be learned as 2 ms. Then saving a slot pays, however busy this machine is."""
    learn = Costs.computed
    monkeypatch.setattr(Costs, "computed", lambda self, tokens, sec: learn(self, tokens, 0.002 * tokens))
