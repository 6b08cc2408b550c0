# SPDX-License-Identifier: Apache-2.0
import contextlib
import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from agentcg.cgroup.node import Leaf
from agentcg.errors import Unsupported
from agentcg.kernel import build_bpf
from agentcg.kernel.sched_check import check_kernel

TOP = Path("/sys/fs/cgroup")


@pytest.fixture(scope="session")
def objects():
    """The compiled BPF programs: those of the checkout, or made now if they are older than their sources."""
    sources = Path(build_bpf.__file__).parents[2] / "bpf"
    newest = max(path.stat().st_mtime for path in sources.iterdir())
    made = build_bpf.object_path("agentcg_mem")
    if not made.exists() or made.stat().st_mtime < newest:
        build_bpf.build()
    return made.parent


@pytest.fixture
def _sched_ext(objects):
    """For tests of the scheduler: only where the kernel can have one. What is said elsewhere is tested by itself."""
    try:
        check_kernel()
    except Unsupported as error:
        pytest.skip(str(error))


@dataclass
class Cgroup:
    """A cgroup of a test, and the processes that the test put there."""

    path: Path
    children: list

    @property
    def id(self) -> int:
        return self.path.stat().st_ino

    def child(self, name: str, **limits: str) -> "Cgroup":
        (self.path / "cgroup.subtree_control").write_text("+memory")
        made = self.path / name
        made.mkdir()
        for file, value in limits.items():
            (made / file.replace("_", ".")).write_text(value)
        return Cgroup(made, self.children)

    def eat(self, size: str) -> subprocess.Popen:
        """Start a process here that wants ``size`` of anonymous memory at once."""
        return self.run("dd", "if=/dev/zero", "of=/dev/null", f"bs={size}", "count=1")

    def hog(self) -> subprocess.Popen:
        """Start a process here that computes for ever."""
        return self.run("sh", "-c", "while :; do :; done")

    def cpu_sec(self) -> float:
        """Return the CPU time used in here, in seconds."""
        words = (self.path / "cpu.stat").read_text().split()
        return int(words[words.index("usage_usec") + 1]) / 1e6

    def run(self, *command: str) -> subprocess.Popen:
        """Start a process here."""
        fd = os.open(self.path / "cgroup.procs", os.O_WRONLY)
        try:
            process = subprocess.Popen(command, preexec_fn=lambda: os.write(fd, b"0"), stderr=subprocess.DEVNULL)
        finally:
            os.close(fd)
        self.children.append(process)
        return process


@pytest.fixture
def cgroup(request):
    """A fresh cgroup one below the top; gone with all that runs in it after the test."""
    (TOP / "cgroup.subtree_control").write_text("+memory")
    path = TOP / f"agentcg-test-{os.getpid()}"
    path.mkdir()
    made = Cgroup(path, [])
    yield made
    (path / "cgroup.kill").write_text("1")
    for process in made.children:
        process.wait(timeout=30)
    with Leaf(os.open(path, os.O_RDONLY), path.name) as node:
        node.wait_empty(10)
    for folder in sorted((one for one in path.rglob("*") if one.is_dir()), reverse=True):
        folder.rmdir()
    path.rmdir()


@pytest.fixture
def daemon(tmp_path, objects):
    """Start a daemon with a socket, a root and a history of its own; it is killed after the test."""
    root = TOP / f"agentcg-daemon-{os.getpid()}"
    processes = []

    def start():
        log = tmp_path / "log"
        command = [
            *(shutil.which("agentcg"), "daemon", "--verbose", "--events", "--socket", str(tmp_path / "socket")),
            *("--history", str(tmp_path / "history"), "--root", str(root)),
        ]
        process = subprocess.Popen(command, stderr=log.open("wb"))
        processes.append(process)
        return process, log, str(tmp_path / "socket")

    yield start
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        process.wait(timeout=30)
    if (log := tmp_path / "log").exists():
        print(f"--- log of the daemon ---\n{log.read_text()[-8000:]}")
    if root.exists():
        (root / "cgroup.kill").write_text("1")
