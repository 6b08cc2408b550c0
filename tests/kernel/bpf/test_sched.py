# SPDX-License-Identifier: Apache-2.0
"""The scheduler on a real kernel: who it takes, how it shares, what it holds, and how it ends."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agentcg.errors import Unsupported
from agentcg.kernel.sched import SCHED_EXT, Latency, Scheduler, Stat
from agentcg.kernel.sys import clone_into_cgroup

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("_sched_ext")]

SYSFS = Path("/sys/kernel/sched_ext")
SECONDS = 30  # The machine is emulated.
LEVEL = 1  # Any: the tests' calls are known by their ids.


def run(body, **options):
    """Run ``await body(scheduler)`` with a scheduler; return what it returns."""

    async def main():
        ended = []
        with Scheduler(LEVEL, asyncio.get_running_loop(), ended.append, **options) as scheduler:
            scheduler.seen = ended
            return await asyncio.wait_for(body(scheduler), 2 * SECONDS)

    return asyncio.run(main())


async def used(seconds, *cgroups):
    """Return the CPU time of each cgroup while all of them together use so much, in at most SECONDS."""
    began = [one.cpu_sec() for one in cgroups]
    deadline = time.monotonic() + SECONDS
    while True:
        await asyncio.sleep(0.2)
        now = [one.cpu_sec() - first for one, first in zip(cgroups, began, strict=True)]
        if sum(now) >= seconds or time.monotonic() > deadline:
            return now


async def until(condition, what):
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.01)


def state():
    return (SYSFS / "state").read_text().strip()


def all_switched():
    return (SYSFS / "switch_all").read_text().strip() == "1"


def policy(pid):
    return os.sched_getscheduler(pid)


def known(scheduler, cgroup, *, session=1, tenant=2, **options):
    scheduler.set_call(cgroup.id, session=1000 + session, tenant=2000 + tenant, **options)
    return cgroup


def test_it_takes_what_enters_a_known_call_with_its_threads_and_children_and_gives_all_back(cgroup):
    call, other = cgroup.child("call"), cgroup.child("other")
    seen = {}

    async def body(scheduler):
        early = call.hog()
        known(scheduler, call)
        scheduler.take(early.pid)
        late = call.run(
            sys.executable, "-c", "import threading as t, time; t.Thread(target=time.sleep, args=(60,)).start()"
        )
        stranger = other.run("sleep", "60")
        born, _ = clone_into_cgroup(cgroup_fd(call))
        if not born:
            os.execv("/bin/sleep", ["sleep", "60"])
        await until(lambda: len(os.listdir(f"/proc/{late.pid}/task")) == 2, "no thread")
        for pid in (early.pid, born, *map(int, os.listdir(f"/proc/{late.pid}/task"))):
            await until(lambda pid=pid: policy(pid) == SCHED_EXT, f"{pid} was not taken")
        child = call.run("sh", "-c", "sleep 60 & wait")
        await until(lambda: policy(child.pid) == SCHED_EXT, "not taken")
        assert policy(stranger.pid) == os.SCHED_OTHER
        move(late.pid, other)
        await until(lambda: policy(late.pid) == os.SCHED_OTHER, "not given back")
        assert state() == "enabled"
        seen["early"], seen["stats"], seen["refused"] = early, scheduler.stats(), scheduler.refused
        await used(0.3, call)
        seen["used"] = scheduler.used_sec(call.id)
        reap(born)

    run(body)
    assert state() == "disabled"
    assert seen["used"] > 0.2
    assert seen["refused"] == 0
    assert seen["stats"][Stat.LOST] == 0
    before = call.cpu_sec()
    time.sleep(0.5)
    assert call.cpu_sec() > before


def move(pid, cgroup):
    (cgroup.path / "cgroup.procs").write_text(str(pid))


def reap(pid):
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def cgroup_fd(cgroup):
    return os.open(cgroup.path, os.O_RDONLY)


@pytest.mark.parametrize(
    ("tenants", "wanted"),
    [
        # One tenant, two sessions with weights 100 and 300, three hogs against one.
        ((("a", 1, 100, 100), ("a", 1, 100, 100), ("a", 1, 100, 100), ("b", 1, 300, 100)), (0.25, 0.75)),
        # Tenants 100 and 100; the first has two sessions of 100 and 300, of which the second has two calls.
        (
            (("a", 1, 100, 100), ("b", 1, 300, 100), ("b2", 1, 300, 100), ("c", 2, 100, 100)),
            (1 / 8, 3 / 16, 3 / 16, 1 / 2),
        ),
    ],
)
def test_cpu_time_goes_by_weights_at_every_level(cgroup, tenants, wanted):
    def session_of(name):
        return name[0]

    names = list(dict.fromkeys(name for name, *_ in tenants))
    sessions = sorted({session_of(name) for name in names})
    groups = {name: cgroup.child(name) for name in names}

    async def body(scheduler):
        for name, tenant, session_weight, tenant_weight in tenants:
            session = sessions.index(session_of(name))
            known(
                scheduler, groups[name], session=session, tenant=tenant,
                session_weight=session_weight, tenant_weight=tenant_weight,
            )  # fmt: skip
            process = groups[name].hog()
            os.sched_setaffinity(process.pid, {0})
            await until(lambda process=process: policy(process.pid) == SCHED_EXT, "not taken")
        await asyncio.sleep(0.5)
        times = await used(4, *groups.values())
        return times, scheduler.stats()

    times, stats = run(body)
    shares = [one / sum(times) for one in times]
    print("shares", [round(one, 4) for one in shares], "wanted", wanted, stats)
    assert shares == pytest.approx(wanted, abs=0.05)


def test_a_boost_multiplies_a_weight_until_it_expires(cgroup):
    one, two = cgroup.child("one"), cgroup.child("two")

    async def body(scheduler):
        for number, call in enumerate((one, two)):
            known(scheduler, call, session=number)
            os.sched_setaffinity(call.hog().pid, {0})
        # Sessions of equal weight share equally, whatever their only call weighs.
        scheduler.boost(one.id, 9, 60)
        equal = await used(2, one, two)
        known(scheduler, two, session=0)
        scheduler.boost(one.id, 9, 60)
        boosted = await used(2, one, two)
        scheduler.boost(one.id, 9, 0)
        after = await used(2, one, two)
        return [times[0] / sum(times) for times in (equal, boosted, after)]

    equal, boosted, after = run(body)
    print(f"equal {equal:.3f} boosted {boosted:.3f} after {after:.3f}")
    assert equal == pytest.approx(0.5, abs=0.1)
    assert boosted == pytest.approx(0.9, abs=0.1)
    assert after == pytest.approx(0.5, abs=0.1)


GAPS = """
import sys, time
longest, last, end = 0.0, time.monotonic(), time.monotonic() + float(sys.argv[1])
while last < end:
    now = time.monotonic()
    longest, last = max(longest, now - last), now
print(longest)
"""


def test_a_hold_lasts_for_its_bound_and_no_longer_whatever_is_asked_for(cgroup):
    call = cgroup.child("call")

    async def body(scheduler):
        known(scheduler, call)
        hog = call.hog()
        await until(lambda: policy(hog.pid) == SCHED_EXT, "not taken")
        await asyncio.sleep(0.3)
        began, used_before = time.monotonic(), call.cpu_sec()
        scheduler.hold(call.id, 3600)
        await asyncio.sleep(3)
        share = (call.cpu_sec() - used_before) / (time.monotonic() - began)
        stats = scheduler.stats()
        scheduler.hold(call.id, 0)
        began, used_before = time.monotonic(), call.cpu_sec()
        await asyncio.sleep(1.5)
        return share, (call.cpu_sec() - used_before) / (time.monotonic() - began), stats

    held, free, stats = run(body)
    print(f"while held {held:.2f} of a CPU, after {free:.2f}", stats)
    # 50 ms held, 50 ms free, and so on; the machine may be busy.
    assert 0.2 < held < 0.7
    assert free > held + 0.1
    assert stats[Stat.HELD] >= 10
    assert stats[Stat.RELEASED] >= stats[Stat.HELD] - 1


def test_one_hold_stops_a_hog_at_once_and_once(cgroup):
    call = cgroup.child("call")

    async def body(scheduler):
        known(scheduler, call)
        fd = os.open(call.path / "cgroup.procs", os.O_WRONLY)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", GAPS, "3", stdout=subprocess.PIPE, preexec_fn=lambda: os.write(fd, b"0")
        )
        os.close(fd)
        await until(lambda: policy(process.pid) == SCHED_EXT, "not taken")
        await asyncio.sleep(1)
        scheduler.hold(call.id, 0.05)
        out, _ = await process.communicate()
        return float(out), scheduler.stats()

    gap, stats = run(body)
    print(f"the longest gap is {1000 * gap:.1f} ms", stats)
    assert 0.03 < gap < 0.3
    assert stats[Stat.HELD] == stats[Stat.RELEASED] == 1


def test_a_hog_that_claims_to_be_interactive_loses_the_claim(cgroup):
    liar, honest = cgroup.child("liar"), cgroup.child("honest")

    async def body(scheduler):
        known(scheduler, liar, session=1, latency=Latency.INTERACTIVE)
        known(scheduler, honest, session=2)
        for call in (liar, honest):
            process = call.hog()
            os.sched_setaffinity(process.pid, {0})
            await until(lambda process=process: policy(process.pid) == SCHED_EXT, "not taken")
        await used(1, liar, honest)
        return await used(3, liar, honest), scheduler.stats()

    (lies, work), stats = run(body)
    print(f"share of the liar {lies / (lies + work):.3f}", stats)
    assert stats[Stat.DEMOTED] > 0
    assert lies / (lies + work) == pytest.approx(0.5, abs=0.1)


def test_an_interactive_call_takes_a_cpu_from_hogs_when_it_wakes_up(cgroup):
    hogs, call = cgroup.child("hogs"), cgroup.child("call")
    # It starts on credit, and on a slow machine in debt: that is paid back while it naps.
    napper = "import time\nfor _ in range(120): time.sleep(0.02)"

    async def body(scheduler):
        known(scheduler, hogs, session=1)
        known(scheduler, call, session=2, latency=Latency.INTERACTIVE)
        for _ in range(8):
            hogs.hog()
        await used(0.5, hogs)
        process = call.run(sys.executable, "-S", "-E", "-c", napper)
        await until(lambda: process.poll() is not None, "it did not end")
        return scheduler.stats()

    stats = run(body)
    print(stats)
    assert stats[Stat.PREEMPTED] >= 5
    assert stats[Stat.INTERACTIVE] >= stats[Stat.PREEMPTED]


def test_affinity_is_honoured(cgroup):
    call = cgroup.child("call")

    async def body(scheduler):
        known(scheduler, call)
        last = os.cpu_count() - 1
        for _ in range(3):
            os.sched_setaffinity(call.hog().pid, {last})
        await used(1, call)
        return {last_cpu(one.pid) for one in cgroup.children}

    assert run(body) == {os.cpu_count() - 1}


def last_cpu(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[36])


def test_a_stalled_scheduler_is_thrown_out_says_why_and_its_tasks_go_on(cgroup):
    call = cgroup.child("call")

    async def body(scheduler):
        known(scheduler, call)
        hog = call.hog()
        await until(lambda: policy(hog.pid) == SCHED_EXT, "not taken")
        await until(lambda: scheduler.seen, "it was not thrown out")
        before = call.cpu_sec()
        await asyncio.sleep(1)
        return scheduler.seen, call.cpu_sec() - before, state()

    (end,), progress, left = run(body, stall=1)
    print(end, f"used {progress:.2f} s in the next second")
    assert end.failed
    assert end.reason == "runnable task stall"
    assert "failed to run for" in end.message
    assert left == "disabled"
    assert progress > 0.1


def test_another_scheduler_is_left_alone(cgroup):
    async def body(scheduler):
        with pytest.raises(Unsupported, match=r"another sched_ext scheduler is loaded \(agentcg\)"):
            Scheduler(LEVEL, asyncio.get_running_loop(), print)
        assert state() == "enabled"

    run(body)


CHILD = """
import asyncio, sys
from agentcg.kernel.sched import Scheduler
async def main():
    with Scheduler(1, asyncio.get_running_loop(), print) as scheduler:
        scheduler.set_call(int(sys.argv[1]), session=1, tenant=2)
        print("up", flush=True)
        await asyncio.sleep(600)
asyncio.run(main())
"""


def test_a_process_that_is_killed_takes_it_along(cgroup):
    call = cgroup.child("call")
    owner = subprocess.Popen([sys.executable, "-c", CHILD, str(call.id)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout.readline() == "up\n"
    hog = call.hog()
    deadline = time.monotonic() + SECONDS
    while policy(hog.pid) != SCHED_EXT:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    owner.send_signal(signal.SIGKILL)
    began = time.monotonic()
    owner.wait()
    while state() != "disabled":
        assert time.monotonic() - began < 2
        time.sleep(0.01)
    print(f"disabled {1000 * (time.monotonic() - began):.0f} ms after the kill")
    before = call.cpu_sec()
    time.sleep(0.5)
    assert call.cpu_sec() > before


def test_ten_thousand_calls_are_known_and_forgotten(cgroup):
    async def body(scheduler):
        began = time.monotonic()
        for number in range(10_000):
            scheduler.set_call(1 << 40 | number, session=number // 10, tenant=1 << 50 | number // 100)
        taken = time.monotonic() - began
        # With all of them there, one that is real works as ever.
        call = known(scheduler, cgroup.child("call"))
        hog = call.hog()
        await until(lambda: policy(hog.pid) == SCHED_EXT, "not taken")
        assert sum(await used(0.5, call)) >= 0.5
        for number in range(10_000):
            scheduler.forget(1 << 40 | number)
        scheduler.forget(call.id)
        # Its hog is still there: what is known of it stays until that is gone.
        await until(lambda: scheduler.used_sec(call.id) > 0, "forgotten too early")
        hog.kill()
        hog.wait()

        def nothing_left():
            scheduler.forget(call.id)
            return not any(list(one.items()) for one in (scheduler._calls, scheduler._flows, scheduler._groups))

        await until(nothing_left, "something is left")
        return taken

    print(f"10,000 calls were told in {run(body):.2f} s")


def set_online(text):
    Path("/sys/devices/system/cpu/cpu1/online").write_text(text)


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two CPUs")
def test_a_cpu_may_go_and_come_back(cgroup):
    call = cgroup.child("call")

    async def body(scheduler):
        known(scheduler, call)
        for _ in range(4):
            call.hog()
        await used(0.5, call)
        try:
            set_online("0")
            one = await used(1, call)
        finally:
            set_online("1")
        two = await used(1, call)
        return one, two, scheduler.ended()

    one, two, end = run(body)
    assert end is None
    assert sum(one) >= 1
    assert sum(two) >= 1


def test_all_tasks_of_the_machine_can_be_taken(cgroup):
    call, host = cgroup.child("call"), cgroup.child("host")

    async def body(scheduler):
        known(scheduler, call)
        for one in (call, host):
            os.sched_setaffinity(one.hog().pid, {0})
        times = await used(2, call, host)
        assert all_switched()
        return times, scheduler.ended()

    times, end = run(body, full=True)
    print(times)
    assert end is None
    assert times[0] > 0.1
    assert times[1] > 0.3 * sum(times)
