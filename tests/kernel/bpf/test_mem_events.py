# SPDX-License-Identifier: Apache-2.0
"""The events rung on a real kernel."""

import asyncio
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

import agentcg
from agentcg.kernel.mem import Kind, MemEvents, Stat

pytestmark = pytest.mark.kernel

SECONDS = 30  # The machine is emulated.


@pytest.fixture
def sessions(cgroup, objects):
    """Return the root and a function that makes a leaf of a session, both at agentcg's own depths."""
    tenant = cgroup.child("shared").child("tenant")

    def make(name="session", session=None, **limits):
        session = tenant.child(name, **(session or {}))
        return session, session.child("calls").child("call", memory_swap_max="0", **limits)

    return cgroup, make


def watch(root, act, until, **options):
    """Run ``act(events)`` while root is watched; return the events and arrival times once ``until(events)`` holds."""
    seen = []

    async def main():
        done = asyncio.Event()

        def callback(event):
            seen.append((event, time.monotonic_ns()))
            if until([one for one, _ in seen]):
                done.set()

        with MemEvents(root.id, 1, asyncio.get_running_loop(), callback, **options) as events:
            act(events)
            await asyncio.wait_for(done.wait(), SECONDS)
            return events.stats()

    stats = asyncio.run(main())
    return seen, stats


def kinds(events):
    return {event.kind for event in events}


def test_a_call_over_its_memory_high_is_seen_at_once_as_itself_and_as_its_session(sessions):
    root, make = sessions
    session, leaf = make(memory_high="8M")
    pids = []
    seen, stats = watch(
        root, lambda _: pids.append(leaf.eat("24M").pid), lambda all_: {Kind.OVER_HIGH, Kind.THROTTLED} <= kinds(all_)
    )
    first, _ = seen[0]
    assert first.kind == Kind.OVER_HIGH
    assert (first.cgroup_id, first.session_id, first.limit_id) == (leaf.id, session.id, leaf.id)
    assert first.pid == pids[0]
    assert first.bytes >= 4096
    # Emulated, and the host may be busy with other things at any one event.
    latencies = sorted((at - event.time_ns) / 1e6 for event, at in seen)
    print(f"told after {latencies[0]:.2f} ms at best, {latencies[-1]:.2f} ms at worst, of {len(seen)}")
    assert latencies[0] < 100
    ended = next(event for event, _ in seen if event.kind == Kind.THROTTLED)
    assert ended.duration_us >= 1000
    assert ended.limit_id == leaf.id
    assert stats[Stat.LOST] == 0


def test_a_limit_of_the_session_is_told_from_one_of_the_call(sessions):
    root, make = sessions
    session, leaf = make(session={"memory_high": "8M"})
    seen, _ = watch(root, lambda _: leaf.eat("24M"), lambda all_: Kind.OVER_HIGH in kinds(all_))
    event = next(event for event, _ in seen if event.kind == Kind.OVER_HIGH)
    assert (event.cgroup_id, event.session_id, event.limit_id) == (leaf.id, session.id, session.id)


def test_an_oom_kill_is_seen_with_its_victim_and_the_reclaim_before_it(sessions):
    root, make = sessions
    session, leaf = make(memory_max="8M")
    # The one that is chosen is not the one that asks for memory.
    victim = leaf.run("sleep", "600")
    Path(f"/proc/{victim.pid}/oom_score_adj").write_text("1000")
    # Not before it is what it executes: our fork counts as much larger. Pages of the C library count as well, so that a
    # thousand points of 8 MiB alone may not be enough.
    command = "echo -500 >/proc/self/oom_score_adj; sleep 0.5; exec dd if=/dev/zero of=/dev/null bs=24M count=1"
    eaters = []
    seen, _ = watch(
        root,
        lambda _: eaters.append(leaf.run("sh", "-c", command)),
        lambda all_: {Kind.OOM, Kind.OOM_KILL, Kind.RECLAIM, Kind.STALL} <= kinds(all_),
        reclaim_min_us=0,
        stall_min_us=0,
    )
    events = [event for event, _ in seen]
    kill = next(event for event in events if event.kind == Kind.OOM_KILL)
    assert (kill.pid, kill.cgroup_id, kill.session_id) == (victim.pid, leaf.id, session.id)
    oom = next(event for event in events if event.kind == Kind.OOM)
    assert (oom.pid, oom.cgroup_id, oom.limit_id) == (eaters[0].pid, leaf.id, leaf.id)
    assert kinds(events[: events.index(kill)]) >= {Kind.RECLAIM, Kind.OOM}
    assert victim.wait(timeout=SECONDS) == -signal.SIGKILL


def test_totals_count_for_the_leaf_and_its_session_and_for_nobody_else(sessions):
    root, make = sessions
    session, leaf = make(memory_max="8M")
    other, _ = make("other")
    found = {}

    async def main():
        loop = asyncio.get_running_loop()
        with MemEvents(root.id, 1, loop, lambda event: None) as events:
            process = leaf.eat("24M")
            await loop.run_in_executor(None, process.wait)
            found.update({one.path.name: events.totals(one.id) for one in (session, leaf, other)})
            found["stats"] = events.stats()

    asyncio.run(main())
    assert found["call"][Kind.OOM_KILL].count == 1
    assert found["call"][Kind.RECLAIM].count > 1
    assert found["session"] == found["call"]
    assert found["other"] == {}
    assert found["stats"][Stat.HUSHED] + found["stats"][Stat.SENT] == sum(one.count for one in found["call"].values())


def growth_of(root, **options):
    """What :func:`watch` needs to be told of growth by a MiB within a second, in the group named reserved."""
    reserved = (root.path / "reserved").stat().st_ino
    return {"protected_id": reserved, "growth_bytes": 1 << 20, "growth_us": 1_000_000} | options


def session_in(root, group):
    session = root.child(group).child("tenant").child("session")
    return session, session.child("calls").child("call", memory_swap_max="0")


def test_a_protected_session_that_grows_is_told_while_it_does_and_others_are_not(cgroup, objects):
    _, other = session_in(cgroup, "shared")
    session, leaf = session_in(cgroup, "reserved")
    processes = []

    def act(_):
        other.eat("24M").wait()
        # What is begun with opens the window: it is not told itself, but what follows is.
        processes.append(leaf.run("sh", "-c", "sleep 0.1; exec dd if=/dev/zero of=/dev/null bs=64M count=1"))

    seen, stats = watch(cgroup, act, lambda events: Kind.GROWING in kinds(events), **growth_of(cgroup))
    told = [event for event, _ in seen if event.kind == Kind.GROWING]
    assert {(event.cgroup_id, event.session_id, event.limit_id) for event in told} == {(leaf.id, session.id, 0)}
    assert told[0].pid == processes[0].pid
    assert 1 << 20 <= told[0].bytes < 8 << 20  # At once, if by a huge page; not when the 64 MiB are there.
    assert len(told) == 1
    assert stats[Stat.LOST] == 0


def test_what_is_given_back_and_taken_again_is_no_growth(cgroup, objects):
    session, leaf = session_in(cgroup, "reserved")
    seen = []

    async def main():
        loop = asyncio.get_running_loop()
        with MemEvents(cgroup.id, 1, loop, seen.append, **growth_of(cgroup, growth_bytes=16 << 20)) as events:
            # A process of 8 MiB after the other; all together, it is more than enough.
            await loop.run_in_executor(
                None, leaf.run("sh", "-c", "for _ in 1 2 3 4; do dd if=/dev/zero of=/dev/null bs=8M count=1; done").wait
            )
            return events.stats()

    asyncio.run(main())
    assert [event for event in seen if event.kind == Kind.GROWING] == []
    peak = int((session.path / "memory.peak").read_text())
    assert peak > 8 << 20  # It did hold them.


def test_nothing_outside_the_root_is_told(cgroup, objects):
    inside, outside = cgroup.child("inside"), cgroup.child("outside", memory_max="8M", memory_swap_max="0")
    seen = []

    async def main():
        loop = asyncio.get_running_loop()
        options = {"reclaim_min_us": 0, "stall_min_us": 0, "throttled_min_us": 0}
        with MemEvents(inside.id, 2, loop, seen.append, **options) as events:
            process = outside.eat("24M")
            assert await loop.run_in_executor(None, process.wait) == -signal.SIGKILL
            await asyncio.sleep(0.2)
            return events.stats(), events.totals(outside.id)

    stats, totals = asyncio.run(main())
    assert seen == []
    assert totals == {}
    assert set(stats.values()) == {0}


def test_a_full_ring_buffer_loses_events_and_says_how_many(sessions):
    root, make = sessions
    _, leaf = make(memory_max="8M")
    seen, lost = [], []

    async def main():
        loop = asyncio.get_running_loop()
        options = {"ring_bytes": 4096, "reclaim_min_us": 0, "stall_min_us": 0, "on_lost": lost.append}
        with MemEvents(root.id, 1, loop, seen.append, **options) as events:
            for _ in range(20):  # Each is killed, after 16 or more attempts to reclaim.
                leaf.eat("24M").wait()  # Nobody reads meanwhile: this blocks the loop.
                if events.lost:
                    break
            before = events.stats()
            await asyncio.sleep(0.5)
            return before

    stats = asyncio.run(main())
    assert stats[Stat.LOST] > 0
    assert len(seen) == stats[Stat.SENT] == 4096 // (56 + 8) - 1  # Eight bytes a header; never quite full.
    assert lost == [stats[Stat.LOST]]


def test_what_the_callback_raises_is_not_lost_and_the_next_events_come(sessions):
    root, make = sessions
    _, leaf = make(memory_max="8M")
    raised, seen = [], []

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: raised.append(str(context["exception"])))

        def callback(event):
            seen.append(event)
            if len(seen) == 1:
                raise ValueError("the first one")

        with MemEvents(root.id, 1, loop, callback):
            await loop.run_in_executor(None, leaf.eat("24M").wait)
            for _ in range(100):
                if any(event.kind == Kind.OOM_KILL for event in seen):
                    break
                await asyncio.sleep(0.05)

    asyncio.run(main())
    assert raised == ["the first one"]
    assert Kind.OOM_KILL in kinds(seen[1:])


def attached():
    """Return the names of our programs that the kernel holds."""
    listed = json.loads(subprocess.run(["bpftool", "-j", "prog"], capture_output=True, check=True).stdout)
    return {one.get("name") for one in listed} & {"oom", "oom_kill", "reclaim_entry", "stall_enter", "charge_entry"}


def wait_for(condition, what):
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def test_the_daemon_tells_a_call_once_and_leaves_nothing_when_it_is_killed(daemon):
    process, log, socket = daemon()
    wait_for(lambda: "listening on" in log.read_text(), "the daemon did not start")
    assert "memory events come from the kernel: " in log.read_text()
    assert attached() == {"oom", "oom_kill", "reclaim_entry", "stall_enter", "charge_entry"}
    with agentcg.connect(socket) as client, client.session("s", memory_max=64 << 20) as session:
        with session.call(["dd", "if=/dev/zero", "of=/dev/null", "bs=48M", "count=1"], memory_max=16 << 20) as call:
            call.run()
        assert call.verdict.outcome == "memory_limit"
    text = log.read_text()
    assert text.count("call_throttled") == 1
    assert text.count("call_oom") == 1
    process.send_signal(signal.SIGKILL)
    process.wait()
    began = time.monotonic()
    wait_for(lambda: not attached(), "programs outlived the daemon")
    print(f"gone {1000 * (time.monotonic() - began):.0f} ms after the kill")


def test_a_daemon_that_may_not_use_bpf_goes_on_with_files(daemon, monkeypatch, tmp_path):
    # An empty library in libbpf's place, found first.
    subprocess.run(["gcc", "-shared", "-x", "c", "/dev/null", "-o", str(tmp_path / "libbpf.so.1")], check=True)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    _, log, socket = daemon()
    wait_for(lambda: "listening on" in log.read_text(), "the daemon did not start")
    assert "memory events come from files: libbpf.so.1 cannot be used" in log.read_text()
    with agentcg.connect(socket) as client, client.session("s", memory_max=64 << 20) as session:
        with session.call(["dd", "if=/dev/zero", "of=/dev/null", "bs=48M", "count=1"], memory_max=16 << 20) as call:
            call.run()
        wait_for(lambda: "call_ended" in log.read_text(), "the call did not end")
    assert log.read_text().count("call_throttled") == 1
    assert not attached()
    assert os.path.exists(socket)
