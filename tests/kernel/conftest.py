# SPDX-License-Identifier: Apache-2.0
"""Real cgroups and real daemons, in the machine of `scripts/vm test`."""

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from ctypes import c_uint64
from pathlib import Path
from typing import Any

import pytest

from agentcg.api.client import Client
from agentcg.errors import AgentcgError
from agentcg.kernel import build_bpf
from agentcg.kernel import sys as system
from agentcg.kernel.libbpf import Object

CGROUPS = Path("/sys/fs/cgroup")
SYSTEMD = Path("/run/systemd/system")


def pytest_configure(config: pytest.Config) -> None:
    # These make cgroups, run out of memory and kill: not on somebody's own machine.
    if not os.environ.get("AGENTCG_VM"):
        raise pytest.UsageError("tests/kernel runs in the test machine: scripts/vm test -- tests/kernel")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "kernel" in Path(item.fspath).parts:
            item.add_marker(pytest.mark.kernel)


def wait_for(what: Callable[[], Any], timeout: float = 20, *, pause: float = 0.02) -> Any:
    """Return the first true answer of ``what``; fail after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not (found := what()):
        if time.monotonic() > deadline:
            pytest.fail(f"waited {timeout:g} s in vain")
        time.sleep(pause)
    return found


class Daemon:
    """An `agentcg daemon` on a root, a socket and a history of its own."""

    def __init__(self, directory: Path, name: str | None, *options: str) -> None:
        self.directory, self.name = directory, name
        # Below /run, where every uid may go; what belongs to a test is for root alone.
        self.socket, self.log = f"/run/{name or 'agentcg-scope'}.sock", directory / "log"
        self.options = ["--socket", self.socket, "--history", str(directory / "history.sqlite"), *options]
        if name:
            self.options += ["--root", str(CGROUPS / name)]
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def top(self) -> Path:
        """The cgroup of everything."""
        with self.client() as client:
            return CGROUPS / client.status().root.lstrip("/")

    def start(self) -> "Daemon":
        """Start it, and return when it answers."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                ["agentcg", "daemon", "-v", *self.options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_for(self._answers, 60)
        return self

    def _answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            pytest.fail(f"the daemon ended with {self.process.returncode}: {self.log.read_text()}")
        try:
            with self.client() as client:
                return client.status().pid == self.process.pid
        except AgentcgError:
            return False

    def client(self) -> Client:
        return Client(self.socket)

    def signal(self, number: int) -> None:
        """Send a signal, and wait for its end where it ends it."""
        assert self.process is not None
        self.process.send_signal(number)
        if number in (signal.SIGKILL, signal.SIGTERM):
            self.process.wait(30)

    def left(self) -> list[str]:
        """Return what is in the tree besides the daemon and sessions `adhoc` that wait for their next call."""
        top = self.top
        found = {path.relative_to(top).as_posix() for path in top.rglob("*") if path.is_dir()}
        found -= {"shared", "reserved", "supervisor"}
        found -= {path for path in found if re.fullmatch(r"shared/u\d+/adhoc(/agent|/calls)?", path)}
        # A tenant counts when there is something in it.
        return sorted(
            path for path in found if path.count("/") > 1 or any(other.startswith(f"{path}/") for other in found)
        )

    def clear(self) -> None:
        """Wait until nothing is left in the tree."""
        wait_for(lambda: not self.left())

    def remove(self) -> list[str]:
        """End everything by hand; return what was still there, by path, before that."""
        if self.process is not None and self.process.poll() is None:
            found = self.left()
            self.process.kill()
            self.process.wait(30)
        else:
            found = []
        if self.name:
            top = CGROUPS / self.name
            with contextlib.suppress(FileNotFoundError):
                (top / "cgroup.kill").write_text("1")
            wait_for(lambda: remove_cgroup(top))
        return found


def remove_cgroup(top: Path) -> bool:
    """Remove a cgroup and all below it; False while it is busy."""
    if not top.is_dir():
        return True
    try:
        for path in sorted((path for path in top.rglob("*") if path.is_dir()), reverse=True):
            path.rmdir()
        top.rmdir()
    except OSError:
        return False
    return True


def text(path: Path, name: str) -> str:
    return (path / name).read_text().strip()


def keyed(path: Path, name: str) -> dict[str, int]:
    return {key: int(value) for key, value in (line.split() for line in text(path, name).splitlines())}


def in_cgroup(path: Path, work: Callable[[], Any], *, uid: int = 0) -> int:
    """Run ``work`` in a process born in the cgroup ``path``; return its exit status, 0 if nothing was raised."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    pid, pidfd = system.clone_into_cgroup(directory)
    if not pid:
        status = 1
        try:
            if uid:
                os.setgroups([])
                os.setgid(uid)
                os.setuid(uid)
                system.libc.prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: its files in /proc are its own, as after an exec.
            work()
            status = 0
        except BaseException as error:
            os.write(2, f"in {path}: {type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(status)
    os.close(directory)
    os.close(pidfd)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.fixture
def tools() -> Any:
    """Return the helpers above, which a test module cannot import."""

    class Tools:
        pass

    found = Tools()
    for helper in (wait_for, remove_cgroup, text, keyed, in_cgroup):
        setattr(found, helper.__name__, helper)
    return found


def _daemon(directory: Path, name: str | None, *options: str) -> Iterator[Daemon]:
    made = Daemon(directory, name, *options)
    try:
        yield made.start()
    finally:
        print(f"--- log of the daemon ---\n{made.log.read_text()[-8000:]}")
        left = made.remove()
    assert left == []
    unexpected = [line for line in made.log.read_text().splitlines() if "Traceback" in line or "nobody foresaw" in line]
    assert unexpected == [], made.log.read_text()


@pytest.fixture(scope="session")
def shared_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    yield from _daemon(tmp_path_factory.mktemp("daemon"), "agentcg-shared")


@pytest.fixture
def daemon(shared_daemon: Daemon) -> Iterator[Daemon]:
    """Return a daemon that other tests use too, with nothing left in its tree before and after."""
    shared_daemon.clear()
    start = shared_daemon.log.stat().st_size
    yield shared_daemon
    print(f"--- log of the daemon ---\n{shared_daemon.log.read_text()[start:][-8000:]}")
    shared_daemon.clear()


@pytest.fixture(scope="session")
def confined_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Return a daemon that has its calls kept in their cgroups by BPF programs."""
    yield from _daemon(tmp_path_factory.mktemp("daemon"), "agentcg-confined", "--confine")


@pytest.fixture
def own_daemon(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """Return a daemon of this test's own; its options are the fixture's parameter."""
    yield from _daemon(tmp_path, "agentcg-own", *getattr(request, "param", ()))


@pytest.fixture
def first_instructions(tmp_path: Path) -> Iterator[Callable[[int], Callable[[], dict[str, int]]]]:
    """Return a function that has the shells in a cgroup, by its id, looked at by exec_check.bpf.c, a program of the
    tests' own; it returns another for what that has counted.
    """
    (built,) = build_bpf.build(Path(__file__).parent / "bpf", tmp_path / "check")
    with Object.open(built) as loaded:
        loaded.load()
        links = [program.attach() for program in loaded.programs.values()]
        counts, names = loaded.map("results", c_uint64), loaded.btf.enumeration("result")

        def results() -> dict[str, int]:
            found = {name.lower(): counts.get(number) for name, number in names.items()}
            return {name: count.value for name, count in found.items() if count is not None}

        def look(cgroup_id: int) -> Callable[[], dict[str, int]]:
            loaded.map("agents", c_uint64).set(cgroup_id, c_uint64(1))
            return results

        yield look
        for link in links:
            link.destroy()


@pytest.fixture(scope="session")
def minisweagent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Have mini-swe-agent say nothing, and keep its settings away from anybody's home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MSWEA_SILENT_STARTUP", "1")
        patch.setenv("MSWEA_GLOBAL_CONFIG_DIR", str(tmp_path_factory.mktemp("mswea")))
        yield


@pytest.fixture
def agent(minisweagent: None, tmp_path: Path) -> Callable[[Any, Callable[[list[str]], str]], Any]:
    """Return a function that makes mini-swe-agent's agent, whose model is a script.

    The model's n-th command is what the script makes of all that it has read so far.
    """
    from minisweagent.agents.default import DefaultAgent
    from minisweagent.models.test_models import DeterministicModel, make_output

    def make(environment: Any, decide: Callable[[list[str]], str]) -> Any:
        class Scripted(DeterministicModel):
            def query(self, messages: list[dict[str, Any]], **kwargs: Any) -> dict[str, Any]:
                said = [str(message["content"]) for message in messages if message["role"] == "user"]
                return make_output("next", [{"command": decide(said[1:])}], cost=0.0)

        return DefaultAgent(
            Scripted(outputs=[]),
            environment,
            system_template="You act.",
            instance_template="{{task}}",
            output_path=tmp_path / "trajectory.json",
        )

    return make
