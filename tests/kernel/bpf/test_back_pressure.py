# SPDX-License-Identifier: Apache-2.0
"""Memory back-pressure: the programs on the memory paths hold calls in the scheduler, before user space has heard."""

import asyncio
import os
import time

import pytest

from agentcg.kernel import mem
from agentcg.kernel.mem import MemEvents
from agentcg.kernel.sched import HOLD_MAX_SEC, SCHED_EXT, Scheduler, Stat

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("_sched_ext")]

LEVEL = 1  # Of the tests' root.
SECONDS = 30  # The machine is emulated.
M = 1 << 20


def make(root, group, name, **limits):
    """Return a session's cgroup and that of a call in it, at agentcg's own depths; one a group."""
    session = root.child(group).child(f"of-{name}").child(name, **limits)
    return session, session.child("calls").child("call", memory_swap_max="0")


def run(root, protected_id, body, **growth):
    """Run ``await body(events, scheduler)`` with both."""

    async def main():
        loop = asyncio.get_running_loop()
        hold_us = round(HOLD_MAX_SEC * 1e6)
        settings = {"protected_id": protected_id, "hold_us": hold_us} | growth
        with (
            MemEvents(root.id, LEVEL, loop, lambda _: None, **settings) as events,
            Scheduler(LEVEL, loop, print, holds=events.holds) as scheduler,
        ):
            return await asyncio.wait_for(body(events, scheduler), 2 * SECONDS)

    return asyncio.run(main())


async def hog_in(scheduler, call, session):
    scheduler.set_call(call.id, session=1000 + session, tenant=2000)
    hog = call.hog()
    await until(lambda: os.sched_getscheduler(hog.pid) == SCHED_EXT)


async def until(condition):
    deadline = time.monotonic() + SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    return found


def held(events, scheduler):
    return events.stats()[mem.Stat.HELD], scheduler.stats()[Stat.HELD]


def test_a_call_that_comes_to_its_sessions_limit_is_held_and_one_at_its_own_is_not(cgroup):
    session, call = make(cgroup, "shared", "session", memory_high="40M")
    other = type(cgroup)(session.path / "calls", cgroup.children).child("other", memory_high="8M", memory_swap_max="0")

    async def body(events, scheduler):
        await hog_in(scheduler, other, 1)
        await hog_in(scheduler, call, 2)
        other.eat("24M")
        await until(lambda: events.totals(other.id))
        before = held(events, scheduler)
        call.eat("64M")
        told, stopped = await until(lambda: (now := held(events, scheduler)) > before and now[1] > before[1] and now)
        # None of it outlives its bound.
        used = call.cpu_sec()
        await until(lambda: call.cpu_sec() > used)
        return before, told, stopped

    before, told, stopped = run(cgroup, 0, body)
    print(f"before {before}, told to hold {told} times, tasks put aside {stopped} times")
    assert before == (0, 0)


def test_all_calls_are_held_while_a_protected_session_reclaims_for_a_limit_of_all(cgroup):
    _, innocent = make(cgroup, "shared", "session")
    _, protected = make(cgroup, "reserved", "session")
    reserved = (cgroup.path / "reserved").stat().st_ino

    async def body(events, scheduler):
        await hog_in(scheduler, innocent, 1)
        (protected.path / "memory.high").write_text("8M")
        protected.eat("24M")  # Its own limit.
        await until(lambda: events.totals(protected.id))
        before = held(events, scheduler)
        (protected.path / "memory.high").write_text("max")
        (cgroup.path / "memory.max").write_text(str(32 * M))

        def told_and_put_aside():
            # On one slow CPU a hold may be over before the hog is looked at again: the next one tries, then.
            if protected.children[-1].poll() is not None:
                protected.eat("64M")
            return (now := held(events, scheduler)) > before and now[1] > before[1] and now

        protected.eat("64M")
        return before, await until(told_and_put_aside)

    before, after = run(cgroup, reserved, body)
    print(f"before {before}, told and put aside {after}")
    assert before == (0, 0)


def test_all_calls_are_held_when_a_protected_session_begins_to_grow(cgroup):
    _, innocent = make(cgroup, "shared", "session")
    _, protected = make(cgroup, "reserved", "session")
    reserved = (cgroup.path / "reserved").stat().st_ino
    growth = {"growth_bytes": M, "growth_us": 100_000, "growth_hold_us": round(HOLD_MAX_SEC * 1e6)}
    # Who begins to grow has all others held, not who goes on; and no longer than the hold, if there is one CPU for all.
    command = "while :; do sleep 1; dd if=/dev/zero of=/dev/null bs=3M count=1; done"

    async def body(events, scheduler):
        await hog_in(scheduler, innocent, 1)
        before = held(events, scheduler)
        protected.run("sh", "-c", command)

        def told_and_put_aside():
            return (now := held(events, scheduler)) > before and now[1] > before[1] and now

        return before, await until(told_and_put_aside)

    before, after = run(cgroup, reserved, body, **growth)
    print(f"before {before}, told and put aside {after}")
    assert before == (0, 0)
