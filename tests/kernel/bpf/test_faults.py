# SPDX-License-Identifier: Apache-2.0
"""The events rung when something is wrong: it says what, steps down, and leaves nothing behind in the kernel."""

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import agentcg
from agentcg.errors import Unsupported
from agentcg.kernel import build_bpf, libbpf_calls, mem
from agentcg.kernel.mem import Kind, MemEvents, RawTotals

pytestmark = pytest.mark.kernel

SECONDS = 40  # The machine is emulated.
TOP = Path("/sys/fs/cgroup")
# Everything as it is, but for the compiled programs.
WITH_OBJECT = """
import sys
from pathlib import Path
from agentcg.kernel import mem
mem.object_path = lambda name, path=Path(sys.argv.pop(1)): path
from agentcg.cli import main
main()
"""
OURS = {"oom", "oom_kill", "reclaim_entry", "stall_enter"}


def wait_for(condition, what):
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.05)


def bpftool(kind):
    return json.loads(subprocess.run(["bpftool", "-j", kind], capture_output=True, check=True).stdout)


def held():
    """Return what the kernel holds of BPF: the ids of links and maps, and of programs by name."""
    return {kind: sorted((one["id"], one.get("name", "")) for one in bpftool(kind)) for kind in ("link", "prog", "map")}


def ours():
    """Return how often each of some programs of ours is there."""
    names = [one.get("name") for one in bpftool("prog")]
    return {name: names.count(name) for name in OURS}


def new_since(before):
    """What the kernel holds and did not then. What it held may go at any time: it lets go of maps late."""
    return {kind: more for kind, there in held().items() if (more := [one for one in there if one not in before[kind]])}


@pytest.fixture
def before(objects):
    """What the kernel held before the test, without what a test before it has only just let go of."""
    wait_for(lambda: set(ours().values()) == {0}, ours)
    return held()


@pytest.fixture
def start(tmp_path):
    """Start daemons, each with a name of its own; they are killed after the test."""
    processes, roots = [], []

    def run(name, *command):
        log, root = tmp_path / f"{name}.log", TOP / f"agentcg-{name}-{os.getpid()}"
        options = ["--verbose", "--events", "--socket", str(tmp_path / name), "--root", str(root)]
        options += ["--history", str(tmp_path / f"{name}.history")]
        processes.append(subprocess.Popen([*command, "daemon", *options], stderr=log.open("wb")))
        roots.append(root)
        wait_for(lambda: "listening on" in log.read_text(), log.read_text)
        return processes[-1], log, str(tmp_path / name)

    yield run
    for process in processes:
        process.kill()
        process.wait(timeout=30)
    for root in roots:
        with contextlib.suppress(FileNotFoundError):
            (root / "cgroup.kill").write_text("1")


def run_into_the_limit(socket):
    with agentcg.connect(socket) as client, client.session("s", memory_max=64 << 20) as session:
        with session.call(["dd", "if=/dev/zero", "of=/dev/null", "bs=48M", "count=1"], memory_max=16 << 20) as call:
            call.run()
        assert call.verdict.outcome == "memory_limit"


def other_kernel(tmp_path):
    """Return our programs, compiled for a kernel in which a member that they need has another name."""
    sources = Path(build_bpf.__file__).parents[2] / "bpf"
    changed = tmp_path / "bpf"
    changed.mkdir()
    for name in ("agentcg_mem.bpf.c", "agentcg_mem.h", "compat.h", "holds.h"):
        text = (sources / name).read_text()
        assert name != "agentcg_mem.bpf.c" or "memcg_nr_pages_over_high" in text
        (changed / name).write_text(text.replace("memcg_nr_pages_over_high", "memcg_nr_pages_over_the_moon"))
    return build_bpf.build(changed, tmp_path / "built")[0]


def garbage(tmp_path):
    path = tmp_path / "garbage.bpf.o"
    path.write_bytes(random.Random(1).randbytes(20_000))
    return path


def half(tmp_path):
    path = tmp_path / "half.bpf.o"
    whole = build_bpf.object_path("agentcg_mem").read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return path


@pytest.mark.parametrize("make", [other_kernel, garbage, half])
def test_an_object_that_cannot_be_used_is_refused_with_its_name(make, before, tmp_path, monkeypatch):
    path = make(tmp_path)
    monkeypatch.setattr(mem, "object_path", lambda name: path)

    async def main():
        MemEvents(1, 0, asyncio.get_running_loop(), print)

    with pytest.raises(Unsupported, match=path.name.partition(".")[0]):
        asyncio.run(main())
    wait_for(lambda: not new_since(before), held)


def test_a_daemon_with_an_object_for_another_kernel_goes_on_with_files(before, start, tmp_path):
    path = other_kernel(tmp_path)
    _, log, socket = start("other", sys.executable, "-c", WITH_OBJECT, str(path))
    first = next(line for line in log.read_text().splitlines() if "memory events come from files" in line)
    assert "loading BPF object agentcg_mem.bpf.o" in first
    run_into_the_limit(socket)
    wait_for(lambda: not new_since(before), held)


def test_a_daemon_on_a_kernel_without_btf_goes_on_with_files(before, start):
    hide = 'mount --bind /dev/null /sys/kernel/btf/vmlinux && exec agentcg "$@"'
    _, log, socket = start("blind", "unshare", "--mount", "sh", "-c", hide, "sh")
    assert "memory events come from files: the kernel has no BTF" in log.read_text()
    run_into_the_limit(socket)
    wait_for(lambda: not new_since(before), held)


def test_more_cgroups_than_the_map_holds_push_out_the_oldest_and_the_newest_are_right(cgroup, objects):
    leaf = cgroup.child("shared").child("t").child("s").child("calls")
    leaf = leaf.child("call", memory_max="8M", memory_swap_max="0")
    first, count = 1 << 40, 18_000  # Ids that no cgroup has.

    async def main():
        loop = asyncio.get_running_loop()
        with MemEvents(cgroup.id, 1, loop, lambda event: None) as events:
            raw = RawTotals()
            for number in range(count):
                raw.kind[Kind.RECLAIM].count = number + 1
                events._totals.set(first + number, raw)
            assert await loop.run_in_executor(None, leaf.eat("24M").wait) == -signal.SIGKILL
            there = {number for number in range(count) if events._totals.get(first + number) is not None}
            kept = {number: events.totals(first + number)[Kind.RECLAIM].count for number in range(count - 100, count)}
            return there, kept, events.totals(leaf.id)

    there, kept, found = asyncio.run(main())
    print(f"{len(there)} of {count} are still known")
    assert 10_000 < len(there) <= 16_384
    assert not there & set(range(1000))
    assert kept == {number: number + 1 for number in range(count - 100, count)}
    assert found[Kind.OOM_KILL].count == 1
    assert found[Kind.RECLAIM].count > 1


def child_that_loads(root_id, die_at=None):
    """Start a process that loads, attaches and detaches for ever; ``die_at`` is the call of libbpf that kills it."""
    pid = os.fork()
    if pid:
        return pid
    made, real = 0, libbpf_calls._Library.call

    def call(self, doing, *arguments):
        nonlocal made
        result = real(self, doing, *arguments)
        made += 1
        if made == die_at:
            os.write(2, f"killed after {doing}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    async def main():
        while True:
            MemEvents(root_id, 1, asyncio.get_running_loop(), print).close()
            if die_at is not None:
                return

    try:
        libbpf_calls._Library.call = call
        asyncio.run(main())
    finally:
        os._exit(0)


def test_killed_after_a_step_of_load_and_attach_nothing_stays(cgroup, before):
    ends = []
    for step in range(1, 200, 3):
        ends.append(os.waitstatus_to_exitcode(os.waitpid(child_that_loads(cgroup.id, step), 0)[1]))
        wait_for(lambda: not new_since(before), held)
        if ends[-1] == 0:
            break
    print(f"{len(ends) - 1} steps")
    assert len(ends) > 7
    assert set(ends[:-1]) == {-signal.SIGKILL}
    assert ends[-1] == 0  # The last one has not so many steps: it came to its end.


def test_killed_at_random_moments_nothing_stays(cgroup, before):
    chance = random.Random(7)
    for _ in range(5):
        pid = child_that_loads(cgroup.id)
        time.sleep(chance.uniform(0, 2))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        wait_for(lambda: not new_since(before), held)


def test_two_daemons_at_once_each_tell_their_own(before, start):
    first, first_log, first_socket = start("one", "agentcg")
    _, second_log, second_socket = start("two", "agentcg")
    assert set(ours().values()) == {2}
    run_into_the_limit(first_socket)
    wait_for(lambda: "call_ended" in first_log.read_text(), first_log.read_text)
    assert first_log.read_text().count("call_oom") == 1
    assert "call_oom" not in second_log.read_text()
    first.kill()
    first.wait(30)
    wait_for(lambda: set(ours().values()) == {1}, ours)
    run_into_the_limit(second_socket)
    wait_for(lambda: "call_ended" in second_log.read_text(), second_log.read_text)
    assert second_log.read_text().count("call_oom") == 1
