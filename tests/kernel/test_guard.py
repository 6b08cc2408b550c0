# SPDX-License-Identifier: Apache-2.0
"""The dead-man's switch on real cgroups: whatever becomes of who froze them, nothing stays frozen for 2 s."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentcg.control.guard import guard_path

TOP = Path("/sys/fs/cgroup/agentcg-guard-test")
CALLS = 200
RUNNING = 20  # Of them, with a process inside.
HOLDER = """
import asyncio, os, sys
from agentcg.control.guard import Guard

async def main():
    root = sys.argv[1]
    guard = Guard(os.open(root, os.O_RDONLY), on_thawed=lambda count: print("thawed", count, flush=True))
    guard.start()
    guard.arm(True)
    for directory, _, files in os.walk(f"{root}/calls"):
        if directory != f"{root}/calls":
            open(f"{directory}/cgroup.freeze", "w").write("1")
            guard.beat()
    print("frozen", guard.pid, flush=True)
    while True:
        await asyncio.sleep(0.1)
        guard.beat()

asyncio.run(main())
"""


class Calls:
    """A root with calls, one more frozen cgroup beside it, and processes in some of them."""

    def __init__(self) -> None:
        self.root, self.beside = TOP / "root", TOP / "beside"
        for path in (TOP, self.root, self.root / "supervisor", self.root / "calls", self.beside):
            path.mkdir()
        self.all = [self.root / "calls" / f"c{number}" for number in range(CALLS)]
        for path in self.all:
            path.mkdir()
        self.processes = [self.run(path, "sleep", "600") for path in (self.beside, *self.all[:RUNNING])]
        (self.beside / "cgroup.freeze").write_text("1")

    def run(self, path: Path, *command: str, **options: Any) -> "subprocess.Popen[bytes]":
        fd = os.open(path / "cgroup.procs", os.O_WRONLY)
        try:
            return subprocess.Popen(command, preexec_fn=lambda: os.write(fd, b"0"), **options)
        finally:
            os.close(fd)

    def hold(self) -> "tuple[subprocess.Popen[bytes], int]":
        """Freeze all calls in a process that guards them; return it and the pid of its guard."""
        command = (sys.executable, "-c", HOLDER, str(self.root))
        pipes = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
        holder = self.run(self.root / "supervisor", *command, start_new_session=True, **pipes)
        self.processes.append(holder)
        assert holder.stdout is not None
        word, pid = holder.stdout.readline().split()
        assert word == b"frozen"
        return holder, int(pid)

    def frozen(self) -> int:
        return sum((path / "cgroup.freeze").read_text() == "1\n" for path in self.all)

    def moving(self) -> bool:
        """Whether no call stands still, says the kernel."""
        return all("frozen 0" in (path / "cgroup.events").read_text() for path in self.all)


@pytest.fixture
def calls(tools: Any) -> Iterator[Calls]:
    made = Calls()
    yield made
    (TOP / "cgroup.kill").write_text("1")
    for process in made.processes:
        process.wait(30)
    tools.wait_for(lambda: tools.remove_cgroup(TOP))


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def thawed_after(calls: Calls, holder: "subprocess.Popen[bytes]", since: float) -> float:
    """Wait for the guard's word, which comes last, so that no look at 200 cgroups slows it down; then look."""
    assert holder.stderr is not None
    said = holder.stderr.readline()
    took = time.monotonic() - since
    assert said.startswith(b"agentcg-guard: "), said
    assert said.endswith(b": thawed %d cgroups\n" % CALLS)
    assert calls.frozen() == 0
    return took


def test_nothing_is_touched_while_the_holder_lives(calls: Calls) -> None:
    calls.hold()
    time.sleep(3)
    assert calls.frozen() == CALLS


@pytest.mark.parametrize("group", [False, True], ids=["holder", "process group"])
def test_killed(calls: Calls, tools: Any, group: bool) -> None:
    holder, guard = calls.hold()
    assert "/supervisor" in Path(f"/proc/{guard}/cgroup").read_text()
    assert calls.frozen() == CALLS
    began = time.monotonic()
    (os.killpg if group else os.kill)(holder.pid, signal.SIGKILL)
    took = thawed_after(calls, holder, began)
    print(f"{CALLS} cgroups thawed {1000 * took:.0f} ms after kill -9")
    assert took < 2
    tools.wait_for(calls.moving)
    tools.wait_for(lambda: gone(guard))
    assert (calls.beside / "cgroup.freeze").read_text() == "1\n"


def test_stopped(calls: Calls, tools: Any) -> None:
    holder, guard = calls.hold()
    began = time.monotonic()
    holder.send_signal(signal.SIGSTOP)
    took = thawed_after(calls, holder, began)
    print(f"{CALLS} cgroups thawed {1000 * took:.0f} ms after SIGSTOP")
    assert 0.8 < took < 2
    tools.wait_for(calls.moving)
    holder.send_signal(signal.SIGCONT)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"thawed %d\n" % CALLS
    assert not gone(guard)
    (calls.all[0] / "cgroup.freeze").write_text("1")  # It beats again, so this is its own.
    time.sleep(2)
    assert calls.frozen() == 1
    assert (calls.beside / "cgroup.freeze").read_text() == "1\n"


def test_memory(calls: Calls) -> None:
    for path in (TOP.parent, TOP):
        (path / "cgroup.subtree_control").write_text("+memory")
    alone = TOP / "alone"
    alone.mkdir()
    root = os.open(calls.root, os.O_RDONLY)
    guard = calls.run(alone, guard_path(), str(root), stdin=subprocess.PIPE, pass_fds=(root,))
    calls.processes.append(guard)
    os.close(root)
    time.sleep(1)
    used = int((alone / "memory.current").read_text())
    stat = dict(line.split() for line in (alone / "memory.stat").read_text().splitlines())
    cache = int(stat["file"])
    print(f"the guard uses {used / 1024:.0f} KiB, of which {cache / 1024:.0f} KiB are its program in the page cache")
    assert 0 < used - cache < 1 << 20
