# SPDX-License-Identifier: Apache-2.0
"""What agentcg.cgroup and agentcg.kernel believe of the kernel, asked of the kernel."""

import asyncio
import errno
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentcg.cgroup import files
from agentcg.cgroup.events import EventPoll
from agentcg.cgroup.node import Inner, Leaf
from agentcg.cgroup.usage import read_usage
from agentcg.kernel import sys

TOP = Path("/sys/fs/cgroup/agentcg-test")


@pytest.fixture
def top(tools: Any) -> Iterator[Inner]:
    with Inner.open_root("/sys/fs/cgroup") as above:
        above.enable(("memory", "pids", "cpu", "io"))
        with above.make_inner(TOP.name) as node:
            node.enable(("memory", "pids", "cpu", "io"))
            yield node
    (TOP / "cgroup.kill").write_text("1")
    tools.wait_for(lambda: tools.remove_cgroup(TOP))


def fork(leaf: Leaf) -> int:
    """Return a process that sleeps in ``leaf``."""
    pid, pidfd = sys.clone_into_cgroup(leaf.fd)
    if not pid:
        signal.pause()
        os._exit(0)
    os.close(pidfd)
    return pid


def test_a_child_is_born_in_its_cgroup(top: Inner) -> None:
    with top.make_leaf("c1") as leaf:
        pid = fork(leaf)
        assert leaf.pids() == [pid]
        assert leaf.populated
        assert Path(f"/proc/{pid}/cgroup").read_text() == "0::/agentcg-test/c1\n"
        leaf.kill()
        assert leaf.wait_empty(5)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -9
    assert top.remove_tree("c1")


def test_the_kernel_refuses_a_process_where_controllers_are_handed_down(top: Inner) -> None:
    with pytest.raises(OSError, match="writing") as caught:
        files.write(top.fd, "cgroup.procs", str(os.getpid()))
    assert caught.value.errno in (errno.EBUSY, errno.EOPNOTSUPP)
    with pytest.raises(OSError, match="clone3") as caught:
        sys.clone_into_cgroup(top.fd)
    assert caught.value.errno == errno.EBUSY


def test_an_inner_node_with_processes_hands_nothing_down(top: Inner) -> None:
    with top.make_leaf("c1") as leaf:
        pid = fork(leaf)
        with top.open_inner("c1") as inner, pytest.raises(OSError, match="subtree_control") as caught:
            inner.enable(("memory",))
        assert caught.value.errno == errno.EBUSY
        leaf.kill()
        os.waitpid(pid, 0)


def test_a_frozen_process_stops_and_dies_all_the_same(top: Inner, tools: Any) -> None:
    with top.make_leaf("c1") as leaf:
        pid = fork(leaf)
        assert leaf.freeze()
        tools.wait_for(lambda: leaf.frozen)
        leaf.thaw()
        tools.wait_for(lambda: not leaf.frozen)
        leaf.freeze()
        leaf.kill()
        assert leaf.wait_empty(5)
        os.waitpid(pid, 0)


def test_a_removed_cgroup_is_a_value(top: Inner) -> None:
    with top.make_leaf("c1") as leaf:
        held = os.open("cgroup.procs", os.O_RDONLY, dir_fd=leaf.fd)
        assert top.remove("c1")
        assert leaf.populated is False
        assert leaf.pids() == []
        assert files.read(leaf.fd, "memory.max") is None
        assert files.write(leaf.fd, "cgroup.kill", "1") is False
        assert read_usage(leaf, 1.0).memory_peak is None
        with pytest.raises(OSError, match="No such device"):
            os.read(held, 1)
        os.close(held)


def test_no_file_is_made(top: Inner) -> None:
    before = set(os.listdir(TOP))
    assert files.write(top.fd, "memory.such", "1") is False
    assert set(os.listdir(TOP)) == before


def test_records_live_on_cgroups(top: Inner) -> None:
    with top.make_leaf("c1") as leaf:
        assert leaf.read_record() is None
        leaf.write_record({"command": "x" * 4096, "other": "\x1b\n" * 1000})
        with top.open_leaf("c1") as again:
            assert again.read_record() == {"command": "x" * 4096, "other": "\x1b\n" * 1000}
            assert again.id == leaf.id


def test_many_processes_are_all_listed(top: Inner) -> None:
    # The kernel gives cgroup.procs a page at a time: here more than one, with pids of five digits.
    count = 700
    Path("/proc/sys/kernel/ns_last_pid").write_text("20000")
    with top.make_leaf("c1") as leaf:
        pid, pidfd = sys.clone_into_cgroup(leaf.fd)
        if not pid:
            code = f"import os, signal\nfor _ in range({count - 1}):\n    if not os.fork(): break\nsignal.pause()"
            os.execvp("python3", ["python3", "-S", "-c", code])  # Smaller than this process: quicker to fork.
        os.close(pidfd)
        deadline = time.monotonic() + 60
        while int((TOP / "c1/pids.current").read_text()) < count and time.monotonic() < deadline:
            time.sleep(0.1)
        found = leaf.pids()
        leaf.kill()
        os.waitpid(pid, 0)
        assert leaf.wait_empty(10)
    assert len(found) == len(set(found)) == count


def test_events_and_their_last(top: Inner) -> None:
    heard: list[bool] = []

    async def run(leaf: Leaf) -> None:
        poll = EventPoll(asyncio.get_running_loop())
        handle = poll.watch_file(leaf.fd, "cgroup.events", lambda: heard.append(leaf.populated))
        assert poll.watch_file(leaf.fd, "memory.such", lambda: None) is None
        fork(leaf)
        await asyncio.sleep(0.3)
        assert heard == [True]
        leaf.kill()
        await asyncio.sleep(0.3)
        assert heard == [True, False]
        assert top.remove("c1")
        await asyncio.sleep(0.1)
        poll.unwatch(handle)
        poll.close()

    with top.make_leaf("c1") as leaf:
        asyncio.run(run(leaf))


def test_a_deep_hierarchy_can_be_removed(top: Inner) -> None:
    # What runs as root in a call may nest as it likes.
    here = os.getcwd()
    os.chdir(TOP)
    try:
        os.mkdir("c1")
        os.chdir("c1")
        for _ in range(1100):
            os.mkdir("n")
            os.chdir("n")
    finally:
        os.chdir(here)
    try:
        assert top.remove_tree("c1", attempts=1)
    finally:
        if (TOP / "c1").is_dir():  # It failed: by steps, since the path is too long for one call.
            os.chdir(TOP / "c1")
            while os.path.isdir("n"):
                os.chdir("n")
            while os.getcwd() != str(TOP):
                name = os.path.basename(os.getcwd())
                os.chdir("..")
                os.rmdir(name)
            os.chdir(here)
