# SPDX-License-Identifier: Apache-2.0
"""The dead-man's switch on a tree of plain files."""

import asyncio
import fcntl
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from agentcg import native
from agentcg.control import guard as guard_module
from agentcg.control.guard import Guard, build, guard_path
from agentcg.errors import Unsupported

pytestmark = pytest.mark.skipif(not (shutil.which("cc") or shutil.which("clang")), reason="no C compiler")

CALLS = [f"shared/t/s/calls/c{number}" for number in range(5)]


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return str(build(tmp_path_factory.mktemp("bin")))


class Tree:
    def __init__(self, top):
        self.top = top
        top.mkdir()
        self.freeze("")
        for path in ("supervisor", *CALLS):
            self.make(path)

    def make(self, path):
        at = self.top
        for part in path.split("/"):
            at = at / part
            if not at.exists():
                at.mkdir()
                (at / "cgroup.freeze").write_text("0\n")

    def freeze(self, *paths):
        for path in paths:
            (self.top / path / "cgroup.freeze").write_text("1\n")

    @property
    def frozen(self):
        found = (file for file in self.top.rglob("cgroup.freeze") if file.is_file() and file.read_text()[0] == "1")
        return sorted(str(file.parent.relative_to(self.top)) for file in found)


@pytest.fixture
def tree(tmp_path):
    """A root that is frozen itself, as a sign: only what is below it may be touched."""
    return Tree(tmp_path / "root")


@pytest.fixture
def start(program, tree):
    """Start the program with a pipe in our hand; it is killed after the test."""
    started = []

    def run():
        fd = os.open(tree.top, os.O_RDONLY)
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        process = subprocess.Popen([program, str(fd)], pass_fds=(fd,), bufsize=0, **pipes)
        os.close(fd)
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate(timeout=10)


def wait_for(condition, timeout=10):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def finish(process):
    out, error = process.communicate(timeout=10)
    return process.returncode, out.decode(), error.decode()


def test_when_the_pipe_ends_everything_below_the_root_is_thawed_and_it_says_so(tree, start):
    tree.freeze(CALLS[0], CALLS[3], "shared/t/s")
    before = (tree.top / CALLS[1] / "cgroup.freeze").stat().st_mtime_ns
    said = "agentcg-guard: the daemon has gone away: thawed 3 cgroups\n"
    assert finish(start()) == (0, "3\n", said)
    assert tree.frozen == ["."]
    assert (tree.top / CALLS[1] / "cgroup.freeze").stat().st_mtime_ns == before


def test_with_nothing_frozen_it_ends_without_a_word(tree, start):
    process = start()
    process.stdin.write(b"ft")
    assert finish(process) == (0, "", "")


def test_a_second_of_silence_thaws_and_it_goes_on(tree, start):
    process = start()
    tree.freeze(CALLS[0])
    began = time.monotonic()
    process.stdin.write(b"f")
    wait_for(lambda: tree.frozen == ["."])
    assert 0.9 < time.monotonic() - began < 2
    tree.freeze(CALLS[1])  # Whoever hangs may still get one out: it looks again.
    wait_for(lambda: tree.frozen == ["."])
    code, out, error = finish(process)
    assert (code, out) == (0, "1\n1\n")
    assert error == 2 * "agentcg-guard: the daemon was silent for a second: thawed 1 cgroup\n"


def test_a_daemon_that_beats_or_has_nothing_frozen_is_left_alone(tree, start):
    process = start()
    tree.freeze(CALLS[0])
    for _ in range(15):
        process.stdin.write(b"f")
        time.sleep(0.1)
    process.stdin.write(b"t")
    time.sleep(1.3)
    assert tree.frozen == [".", CALLS[0]]


def test_signals_for_the_daemon_do_not_end_it(tree, start):
    process = start()
    tree.freeze(CALLS[0])
    process.stdin.write(b"f")
    wait_for(lambda: os.getsid(process.pid) == process.pid)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1):
        process.send_signal(number)
    time.sleep(0.1)
    assert process.poll() is None
    assert finish(process)[:2] == (0, "1\n")


def test_no_link_leads_out_of_the_tree(tree, start, tmp_path):
    outside = Tree(tmp_path / "outside")
    outside.freeze(CALLS[0])
    (tree.top / "shared/way-out").symlink_to(outside.top)
    victim = tree.top / CALLS[1] / "cgroup.freeze"
    victim.unlink()
    victim.symlink_to(outside.top / CALLS[0] / "cgroup.freeze")
    tree.freeze(CALLS[4])
    code, out, error = finish(start())
    assert (code, out) == (1, "1\n")  # The link is something that it could not thaw.
    assert "1 cgroups cannot be thawed: Too many levels of symbolic links" in error
    assert outside.frozen == [".", CALLS[0]]


def test_a_deep_and_wide_tree(tree, start):
    deep = "/".join("d" * 60)
    wide = [f"shared/t/s/calls/{'x' * 60}-{number}" for number in range(300)]
    for path in (deep, *wide):
        tree.make(path)
    tree.freeze(deep, *wide)
    assert finish(start())[1] == "301\n"
    assert tree.frozen == ["."]


def test_it_costs_less_than_a_megabyte(tree, start):
    process = start()
    process.stdin.write(b"f")
    wait_for(lambda: tree.frozen == ["."])
    time.sleep(0.2)
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    assert pages * os.sysconf("SC_PAGE_SIZE") < 1 << 20


@pytest.mark.parametrize("arguments", [[], ["x"], ["77"], ["3", "4"], ["0", "x"], ["0", "1", "2"]])
def test_wrong_arguments(program, arguments):
    done = subprocess.run([program, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=10)
    assert done.returncode == 2
    assert "usage: agentcg-guard FD" in done.stderr


def test_without_the_program_the_fix_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(native, "BIN", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unsupported, match=r"agentcg-guard is neither in .* nor on PATH \(install a C compiler"):
        Guard(0).start()
    (tmp_path / "agentcg-guard").write_text("not a program")
    (tmp_path / "agentcg-guard").chmod(0o755)
    with pytest.raises(Unsupported, match=r"agentcg-guard cannot be run: .* \(install agentcg again"):
        Guard(os.open(tmp_path, os.O_RDONLY)).start()


@pytest.fixture
def with_guard(program, tree, monkeypatch):
    """Run a coroutine with a started guard and what its callbacks were told."""
    monkeypatch.setattr(native, "BIN", Path(program).parent)
    assert guard_path() == program

    def run(body):
        async def main():
            told = []
            fd = os.open(tree.top, os.O_RDONLY)
            guard = Guard(fd, on_thawed=told.append, on_ended=told.append)
            guard.start()
            try:
                await body(guard, told)
            finally:
                guard.close()
                guard.close()
                os.close(fd)

        asyncio.run(main())

    return run


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  of another process
            await asyncio.sleep(0.01)


def gone(pid):
    return not os.path.exists(f"/proc/{pid}")


def test_a_daemon_that_hung_is_told_what_is_no_longer_frozen(tree, with_guard):
    async def body(guard, told):
        guard.arm(True)
        tree.freeze(*CALLS[:2])
        for _ in range(8):
            await asyncio.sleep(0.2)
            guard.beat()
        assert tree.frozen == [".", *CALLS[:2]]
        time.sleep(1.5)  # noqa: ASYNC251  it hangs
        guard.beat()
        await until(lambda: told)
        assert told == [2]
        guard.arm(False)
        guard.beat()  # Says nothing: nothing is frozen.
        tree.freeze(CALLS[0])
        await asyncio.sleep(1.3)
        assert tree.frozen == [".", CALLS[0]]

    with_guard(body)


def test_it_hears_that_the_daemon_is_alive_as_long_as_its_loop_runs(tree, with_guard):
    async def body(guard, told):
        guard.arm(True)
        tree.freeze(CALLS[0])
        await asyncio.sleep(2.5)
        assert tree.frozen == [".", CALLS[0]]
        assert told == []

    with_guard(body)


def test_closing_thaws_what_is_left_and_is_not_taken_for_a_fault(tree, with_guard):
    async def body(guard, told):
        guard.arm(True)
        tree.freeze(CALLS[2])
        pid = guard.pid
        guard.close()
        assert guard.pid is None
        guard.beat()
        await until(lambda: gone(pid))
        assert tree.frozen == ["."]
        assert told == []

    with_guard(body)


def test_a_guard_that_was_killed_or_hangs_is_told_once_and_another_can_be_started(tree, with_guard, monkeypatch):
    monkeypatch.setattr(guard_module, "GUARD_SEC", 0)

    async def body(guard, told):
        os.kill(guard.pid, signal.SIGKILL)
        await until(lambda: told)
        assert told == ["it was killed by signal 9"]
        guard.beat()
        guard.start()
        pid = guard.pid
        os.kill(pid, signal.SIGSTOP)
        guard.arm(True)
        for _ in range(70_000):
            guard.beat()
        await until(lambda: len(told) > 1)
        assert told == ["it was killed by signal 9"] * 2
        assert gone(pid)

    with_guard(body)


def test_a_guard_that_ends_at_once_is_not_started_again(tree, with_guard):
    async def body(guard, told):
        os.kill(guard.pid, signal.SIGKILL)
        await until(lambda: told)
        with pytest.raises(Unsupported, match="the guard ends as soon as it is started"):
            guard.start()
        assert guard.pid is None

    with_guard(body)


def test_the_daemons_lock_on_the_root_does_not_live_on_in_the_guard(tree, with_guard):
    async def body(guard, told):
        fd = os.open(tree.top, os.O_RDONLY)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        second = Guard(fd)
        second.start()
        os.close(fd)
        fd = os.open(tree.top, os.O_RDONLY)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(fd)
        assert not gone(second.pid)
        second.close()

    with_guard(body)
