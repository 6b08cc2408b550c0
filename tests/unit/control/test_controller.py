# SPDX-License-Identifier: Apache-2.0
"""The controller on a fake hierarchy and a real loop: what it sees, what it writes, and when it lets go."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest

from agentcg.control.controller import Controller
from agentcg.control.registry import Registry
from agentcg.control.stops import Stops
from agentcg.control.view import MECHANISMS, Settings
from agentcg.model import Budget, CallRef, Intent, SessionRef
from agentcg.policy.load import load
from agentcg.policy.schema import PolicyBudget

M, G = 1 << 20, 1 << 30
A, B, P = (SessionRef("u0", name) for name in "abp")
FREEZE, HIGH = "cgroup.freeze", "memory.high"

Work = Callable[[Registry, Controller], Coroutine[Any, Any, None]]


SLOW = Settings(yield_quiet_sec=2.0, yield_max_sec=20.0)
"""Others stop for so long that a test sees it, however late it looks."""


def guard_of(controller: Controller) -> Any:
    return controller._stops._guard


@pytest.fixture
def controlled(new_registry: Callable[..., Registry], guard: Any, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Return a function that runs a coroutine with a registry whose sessions have 1 GiB, and its controller."""
    monkeypatch.setattr("agentcg.control.controller.PAUSE_SEC", 0)

    def run(
        work: Work,
        *,
        settings: Settings = Settings(),  # noqa: B008
        dry_run: bool = False,
        told: bool = False,
    ) -> None:
        async def main() -> None:
            rules = replace(load("default"), tenant=PolicyBudget())  # One tenant may use it all.
            registry = new_registry(capacity=G, limited=True, policy=rules)
            stops = Stops(registry, dry_run=dry_run)
            controller = Controller(registry, settings, stops, told=told)
            registry.observers.append(controller)
            registry.reserves.rebalance()
            await work(registry, controller)
            await registry.settle()
            controller.close()
            stops.close()

        asyncio.run(main())

    return run


def start(registry: Registry, ref: SessionRef, expected: int | None = None, **options: Any) -> None:
    budget = None if expected is None else Budget(memory_expected=expected * M)
    registry.open_session(ref, tenant=ref.tenant, owner_uid=0, budget=budget, **options)


def begin(registry: Registry, ref: SessionRef, name: str, claim: int | None = None) -> CallRef:
    intent = Intent(memory_expected=None if claim is None else claim * M)
    return registry.begin(registry.sessions[ref], owner_uid=0, name=name, command="x", intent=intent)[0].ref


def holds(cgroups: Any, path: str, size: int) -> None:
    """Charge MiB to a cgroup, and what is above it."""
    before = int(cgroups.text(path, "memory.current"))
    for level in [path.rsplit("/", cut)[0] for cut in range(path.count("/") + 1)]:
        now = int(cgroups.text(level, "memory.current")) + size * M - before
        peak = max(now, int(cgroups.text(level, "memory.peak")))
        cgroups.set(level, "memory.peak", str(peak))
        cgroups.set(level, "memory.current", str(now))


def trip(cgroups: Any, path: str) -> None:
    cgroups.set(path, "memory.events.local", "high 1\n")


def kinds(registry: Registry, subject: object) -> list[str]:
    return registry.bus.kinds(subject)  # type: ignore[attr-defined,no-any-return]


async def until(true: Callable[[], bool], timeout: float = 20.0) -> None:
    async with asyncio.timeout(timeout):
        while not true():  # noqa: ASYNC110  a file of the fake hierarchy tells nobody
            await asyncio.sleep(0.005)


async def pass_by() -> None:
    """Let the loop come to what is due now."""
    for _ in range(3):
        await asyncio.sleep(0)


# The tripwire


def test_who_comes_to_its_tripwire_is_stopped_and_goes_on_when_there_is_room(controlled, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry, controller: Controller) -> None:
        start(registry, A, 700)
        start(registry, B)
        call = begin(registry, B, "1")
        path = "shared/u0/b/calls/1"
        cgroups.enter(path)
        await pass_by()
        assert cgroups.text("shared/u0/a", HIGH) == "max"
        assert cgroups.text("shared/u0/b", HIGH) == str((1024 - 700 - 16) * M)
        holds(cgroups, path, 310)
        trip(cgroups, "shared/u0/b")
        assert cgroups.text(path, FREEZE) == "1"  # At once, and the call alone.
        assert cgroups.text("shared/u0/b", FREEZE) == "0"
        await registry.close_session(A, "x")
        await pass_by()
        assert cgroups.text(path, FREEZE) == "0"
        assert kinds(registry, call) == ["call_begun", "call_frozen", "call_thawed"]
        await registry.close_session(B, "x")

    controlled(work)


def test_an_agent_that_grows_is_stopped_with_its_session(controlled, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry, controller: Controller) -> None:
        start(registry, A, 700)
        start(registry, B)
        await pass_by()
        holds(cgroups, "shared/u0/b", 310)
        trip(cgroups, "shared/u0/b")
        assert cgroups.text("shared/u0/b", FREEZE) == "1"
        registry.amend(begin(registry, A, "1"), Intent(priority=60))  # Something else happens.
        await pass_by()
        assert cgroups.text("shared/u0/b", FREEZE) == "1"
        controller.close()
        assert cgroups.text("shared/u0/b", FREEZE) == "0"
        assert cgroups.text("shared/u0/b", HIGH) == "max"
        assert kinds(registry, B) == ["session_opened", "session_frozen", "session_thawed"]

    controlled(work)


def test_a_tripwire_is_written_only_when_it_moves(controlled, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry, controller: Controller) -> None:
        start(registry, A)
        start(registry, B)
        await pass_by()
        before = int(cgroups.text("shared/u0/b", HIGH))
        for held, expected in ((1, before), (1.9, before), (2, before - 2 * M), (3, before - 2 * M)):
            cgroups.set("shared/u0/a", "memory.current", str(int(held * M)))
            controller.look()
            assert int(cgroups.text("shared/u0/b", HIGH)) == expected
        cgroups.refuse[HIGH] = OSError("must not be written")
        controller.look()
        cgroups.refuse.clear()

    controlled(work)


def test_who_has_frozen_too_long_goes_before_the_others(controlled, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry, controller: Controller) -> None:
        start(registry, A, 700)
        start(registry, B)
        await pass_by()
        holds(cgroups, "shared/u0/b", 310)
        trip(cgroups, "shared/u0/b")
        assert cgroups.text("shared/u0/b", FREEZE) == "1"
        await until(lambda: cgroups.text("shared/u0/b", FREEZE) == "0")
        assert cgroups.text("shared/u0/b", HIGH) == "max"
        assert registry.sessions[B].turn_until > 0

    controlled(work, settings=Settings(freeze_max_sec=0.2, patience_sec=0.2, turn_sec=5.0))


def test_tripwires_follow_a_wall_that_comes_down(controlled, cgroups) -> None:  # type: ignore[no-untyped-def]
    """Though nobody behind it moves."""

    async def work(registry: Registry, controller: Controller) -> None:
        start(registry, A)
        start(registry, B)
        start(registry, P, protected=True)
        await pass_by()
        before = int(cgroups.text("shared/u0/b", HIGH))
        holds(cgroups, "reserved/u0/p", 400)
        await until(lambda: registry.reserves.wall == (1024 - 500) * M)
        await asyncio.sleep(0.3)
        assert int(cgroups.text("shared/u0/b", HIGH)) < before - 400 * M

    controlled(work)


def test_a_refused_write_does_not_end_the_watch(controlled, cgroups) -> None:  # type: ignore[no-untyped-def]
    """The cgroup may have gone, or the kernel may not like it: there is a next look."""

    async def work(registry: Registry, controller: Controller) -> None:
        start(registry, A, 700)
        start(registry, B)
        await pass_by()
        cgroups.refuse[FREEZE] = OSError(19, "No such device")
        holds(cgroups, "shared/u0/b", 310)
        with contextlib.suppress(OSError):  # If it comes out, the loop would have logged it.
            trip(cgroups, "shared/u0/b")
        cgroups.refuse.clear()
        holds(cgroups, "shared/u0/b", 320)
        await until(lambda: cgroups.text("shared/u0/b", FREEZE) == "1", 1.0)

    controlled(work)


# Holding


def test_a_call_that_does_not_fit_is_held_before_anything_runs_in_it(controlled, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry, controller: Controller) -> None:
        start(registry, A, 700)
        start(registry, B)
        call = begin(registry, B, "1", 400)
        path = "shared/u0/b/calls/1"
        assert cgroups.text(path, FREEZE) == "1"
        event = registry.bus.events[-1]  # type: ignore[attr-defined]
        assert "it is expected to need 400 MiB, and 324 MiB are free; place 1 in the queue" in event.message
        cgroups.enter(path)
        controller.look()
        assert cgroups.text(path, FREEZE) == "1"
        await registry.close_session(A, "x")
        await pass_by()
        assert cgroups.text(path, FREEZE) == "0"
        assert kinds(registry, call) == ["call_begun", "call_held", "call_thawed"]
        assert (await registry.end(call)).usage.frozen_sec is not None

    controlled(work)


def test_a_held_call_that_was_let_go_is_stopped_for_good_when_it_has_grown(controlled, cgroups) -> None:  # type: ignore[no-untyped-def]
    """It has run: it is no longer one that waits for its beginning."""

    async def work(registry: Registry, controller: Controller) -> None:
        start(registry, A, 700)
        start(registry, B)
        begin(registry, B, "1", 330)
        path = "shared/u0/b/calls/1"
        cgroups.enter(path)
        await registry.close_session(A, "x")
        await pass_by()
        start(registry, SessionRef("u0", "0"))
        holds(cgroups, "shared/u0/0", 650)
        holds(cgroups, path, 300)
        registry.sessions[SessionRef("u0", "0")].turn_until = 1e12  # The other goes first.
        for _ in range(3):
            holds(cgroups, path, int(cgroups.text(path, "memory.current")) // M + 2)
            controller.look()
        for _ in range(3):
            controller.look()
            assert cgroups.text(path, FREEZE) == "1"

    controlled(work)


# Killing


def test_the_cheapest_call_is_killed_when_nothing_else_helps(controlled, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry, controller: Controller) -> None:
        start(registry, A)
        start(registry, B)
        call = begin(registry, B, "1")
        path = "shared/u0/b/calls/1"
        cgroups.enter(path)
        holds(cgroups, path, 300)
        controller.look()
        holds(cgroups, "shared/u0/a", 721)
        controller.look()
        assert kinds(registry, call)[-1] == "call_killed"
        verdict = await registry.end(call)
        assert verdict.outcome == "killed"
        assert verdict.reason.startswith("memory ran out, and of all calls it was the cheapest to lose: priority 50")

    controlled(work)


def test_page_cache_is_given_back(controlled, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry, controller: Controller) -> None:
        start(registry, A)
        start(registry, B)
        cgroups.set("shared/u0/b", "memory.stat", f"inactive_file {200 * M}\n")
        holds(cgroups, "shared/u0/b", 300)
        controller.look()
        holds(cgroups, "shared/u0/a", 715)
        controller.look()
        await until(lambda: cgroups.text("shared/u0/b", "memory.reclaim") == str(32 * M))

    controlled(work)


# Alert


def test_the_kernel_tells_when_they_come_near_their_wall(controlled, cgroups) -> None:  # type: ignore[no-untyped-def]
    """Until then their memory.high is where that begins; from then on a margin before the wall; then out of the way."""

    async def work(registry: Registry, controller: Controller) -> None:
        start(registry, A)
        seen = []
        for size in (0, 700, 764, 730, 1008, 993, 992, 710):
            holds(cgroups, "shared/u0/a", size)
            cgroups.set("shared", "memory.events.local", f"high {size}\n")
            seen.append(int(cgroups.text("shared", HIGH)) // M)
        assert seen == [768, 768, 1008, 1008, 1024, 1024, 1008, 768]
        assert cgroups.text("shared", "memory.max") == str(G)

    controlled(work)


# Protected sessions


def test_a_protected_session_goes_first_on_the_cpu_while_it_is_there(controlled, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry, controller: Controller) -> None:
        start(registry, P, protected=True)
        assert cgroups.text("shared", "cpu.idle") == "1"
        await registry.close_session(P, "x")
        assert cgroups.text("shared", "cpu.idle") == "0"

    controlled(work)


def test_the_others_give_way_while_it_grows(controlled, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry, controller: Controller) -> None:
        start(registry, P, protected=True)
        start(registry, A)
        other, protected = begin(registry, A, "1"), begin(registry, P, "1")
        holds(cgroups, "reserved/u0/p", 20)
        await until(lambda: cgroups.text("shared", FREEZE) == "1")
        await until(lambda: cgroups.text("shared", FREEZE) == "0")
        frozen = (await registry.end(other)).usage.frozen_sec
        assert frozen is not None
        assert 1.9 <= frozen <= 20
        assert (await registry.end(protected)).usage.frozen_sec is None

    controlled(work, settings=SLOW)


def test_where_the_kernel_tells_of_growth_they_stop_when_it_does_and_not_when_more_is_seen(controlled, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry, controller: Controller) -> None:
        start(registry, P, protected=True)
        start(registry, A)
        holds(cgroups, "reserved/u0/p", 100)
        await asyncio.sleep(0.3)
        assert cgroups.text("shared", FREEZE) == "0"
        assert cgroups.text("reserved/u0/p", "memory.low") == str(132 * M)  # Which goes ahead of it all the same.
        holds(cgroups, "reserved/u0/p", 200)
        controller.grew()
        assert cgroups.text("shared", FREEZE) == "1"
        assert cgroups.text("reserved/u0/p", "memory.low") == str(250 * M)
        await until(lambda: cgroups.text("shared", FREEZE) == "0")

    controlled(work, settings=SLOW, told=True)


def test_what_was_to_be_looked_at_is_when_the_kernel_tells_of_growth_in_between(controlled, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry, controller: Controller) -> None:
        start(registry, P, protected=True)
        start(registry, A)
        await asyncio.sleep(0.2)
        looks: list[int] = []
        monkeypatch.setattr(controller, "look", lambda: looks.append(1))
        controller.poke()
        controller.grew()
        await pass_by()
        assert looks == [1]

    controlled(work, told=True)


def test_and_no_longer_than_a_while(controlled, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry, controller: Controller) -> None:
        start(registry, P, protected=True)
        start(registry, A)
        loop, frozen = asyncio.get_running_loop(), 0.0
        began = last = loop.time()
        size = 0
        while (now := loop.time()) - began < 1.0:
            frozen += (now - last) * (cgroups.text("shared", FREEZE) == "1")
            last = now
            size += 3
            holds(cgroups, "reserved/u0/p", size)
            await asyncio.sleep(0.01)
        assert 0.3 <= frozen <= 0.7

    controlled(work, settings=Settings(yield_max_sec=0.1))


def test_what_is_set_aside_goes_ahead_of_it(controlled, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry, controller: Controller) -> None:
        start(registry, P, protected=True)
        start(registry, A)
        assert cgroups.text("reserved/u0/p", "memory.low") == str(32 * M)
        assert cgroups.text("shared", "memory.max") == str((1024 - 32) * M)
        holds(cgroups, "reserved/u0/p", 400)
        await until(lambda: cgroups.text("reserved/u0/p", "memory.low") == str(500 * M))
        for place in ("reserved/u0", "reserved/u0/p/calls"):
            assert cgroups.text(place, "memory.low") == str(500 * M)
        assert cgroups.text("shared", "memory.max") == str((1024 - 500) * M)

    controlled(work)


def test_and_of_one_that_grows_slowly(controlled, cgroups) -> None:  # type: ignore[no-untyped-def]
    """Less than what counts as growing from one tick to the next, but on and on."""

    async def work(registry: Registry, controller: Controller) -> None:
        start(registry, P, protected=True)
        start(registry, A)
        await asyncio.sleep(0.05)
        for size in range(0, 60 * M, M // 2):
            cgroups.set("reserved/u0/p", "memory.peak", str(size))
            cgroups.set("reserved/u0/p", "memory.current", str(size))
            await asyncio.sleep(0.015)
        assert int(cgroups.text("reserved/u0/p", "memory.low")) > 60 * M

    controlled(work)


def test_a_protected_session_is_seen_while_much_happens_to_the_others(controlled, cgroups) -> None:  # type: ignore[no-untyped-def]
    """Events come faster than ticks."""

    async def work(registry: Registry, controller: Controller) -> None:
        start(registry, P, protected=True)
        start(registry, A)
        await asyncio.sleep(0.1)
        holds(cgroups, "reserved/u0/p", 100)
        loop = asyncio.get_running_loop()
        until = loop.time() + 0.3
        while loop.time() < until:
            trip(cgroups, "shared/u0/a")
            await asyncio.sleep(0)
        assert int(cgroups.text("reserved/u0/p", "memory.low")) >= 125 * M

    controlled(work)


# What is left out, a dry run, the end


def test_what_is_left_out_is_not_written(controlled, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry, controller: Controller) -> None:
        for name in (FREEZE, "cpu.weight"):
            cgroups.refuse[name] = OSError("must not be written")
        live = registry.sessions[P]
        controller.opened(live)
        controller.opened(registry.sessions[A])
        controller.opened(registry.sessions[B])
        holds(cgroups, "reserved/u0/p", 20)
        holds(cgroups, "shared/u0/b", 310)
        trip(cgroups, "shared/u0/b")
        await asyncio.sleep(0.1)
        assert {cgroups.text(f"shared/u0/{name}", HIGH) for name in "ab"} == {"max"}
        cgroups.refuse.clear()

    async def before(registry: Registry, controller: Controller) -> None:
        registry.observers.clear()  # The sessions are made with all their files first.
        start(registry, P, protected=True)
        start(registry, A, 700)
        start(registry, B)
        registry.observers.append(controller)
        await work(registry, controller)

    controlled(before, settings=Settings(mechanisms=frozenset({"reserve", "kill", "reclaim", "hold"})))
    controlled(before, dry_run=True)


def test_a_dry_run_says_what_it_would_do(controlled, cgroups, caplog) -> None:  # type: ignore[no-untyped-def]
    caplog.set_level(logging.INFO, "agentcg.control")

    async def work(registry: Registry, controller: Controller) -> None:
        start(registry, A)
        start(registry, B)
        call = begin(registry, B, "1")
        cgroups.enter("shared/u0/b/calls/1")
        holds(cgroups, "shared/u0/b/calls/1", 300)
        controller.look()
        holds(cgroups, "shared/u0/a", 721)
        controller.look()
        assert "dry run: killing u0/b/1: memory ran out" in caplog.text
        assert call in registry.calls
        await registry.end(call)

    controlled(work, dry_run=True)


def test_a_dry_run_reckons_with_what_it_would_set_aside(controlled, cgroups, caplog) -> None:  # type: ignore[no-untyped-def]
    caplog.set_level(logging.INFO, "agentcg.control")

    async def work(registry: Registry, controller: Controller) -> None:
        registry.reserves.dry_run = True  # As the daemon has it.
        start(registry, P, 600, protected=True)
        start(registry, A)
        start(registry, B)
        begin(registry, B, "1", 500)
        assert "dry run: stopping u0/b/1: it is expected to need 500 MiB" in caplog.text
        assert cgroups.text("reserved/u0/p", "memory.low") == "0"
        assert cgroups.text("shared", "memory.max") == str(G)

    controlled(work, dry_run=True)


def test_a_dry_run_bounds_nobody(controlled, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry, controller: Controller) -> None:
        registry.reserves.dry_run = True
        before = cgroups.text("shared", HIGH)
        start(registry, A)
        holds(cgroups, "shared/u0/a", 900)
        controller.look()
        assert (cgroups.text("shared", HIGH), cgroups.text("shared/u0/a", HIGH)) == (before, "max")

    controlled(work, dry_run=True)


def test_in_the_end_everybody_goes_on(controlled, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry, controller: Controller) -> None:
        start(registry, A, 700)
        start(registry, B)
        call = begin(registry, B, "1", 400)
        holds(cgroups, "shared/u0/b", 310)
        trip(cgroups, "shared/u0/b")
        assert cgroups.text("shared/u0/b/calls/1", FREEZE) == "1"
        controller.close()
        assert cgroups.text("shared/u0/b/calls/1", FREEZE) == cgroups.text("shared/u0/b", FREEZE) == "0"
        assert cgroups.text("shared/u0/b", HIGH) == "max"
        registry.observers.clear()
        await registry.end(call)

    controlled(work)


def test_also_those_who_give_way(controlled, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry, controller: Controller) -> None:
        start(registry, P, protected=True)
        start(registry, A)
        await asyncio.sleep(2.5)
        holds(cgroups, "reserved/u0/p", 20)
        await until(lambda: cgroups.text("shared", FREEZE) == "1")
        controller.close()
        assert cgroups.text("shared", FREEZE) == "0"

    controlled(work, settings=SLOW)


def test_the_guard_is_armed_before_anything_is_frozen_and_until_all_is_thawed(controlled, cgroups, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    unguarded: list[str] = []
    wrote = cgroups.wrote

    async def work(registry: Registry, controller: Controller) -> None:
        guard = guard_of(controller)

        def writes(directory: int, name: str, text: str) -> None:
            if name == FREEZE and not guard.armed:
                unguarded.append(text)
            wrote(directory, name, text)

        monkeypatch.setattr(cgroups, "wrote", writes)
        start(registry, P, protected=True)
        start(registry, A, 700)
        start(registry, B)
        await asyncio.sleep(2.5)
        holds(cgroups, "reserved/u0/p", 20)
        await until(lambda: cgroups.text("shared", FREEZE) == "1")
        await until(lambda: cgroups.text("shared", FREEZE) == "0")
        await asyncio.sleep(0.05)
        assert not guard.armed
        holds(cgroups, "shared/u0/b", 310)
        trip(cgroups, "shared/u0/b")
        await asyncio.sleep(0.5)
        assert guard.armed
        await registry.close_session(B, "x")
        await pass_by()
        assert not guard.armed
        assert unguarded == []

    controlled(work, settings=SLOW)


def test_without_a_guard_nothing_is_frozen(controlled, cgroups, guard, caplog) -> None:  # type: ignore[no-untyped-def]
    guard.missing = True

    async def work(registry: Registry, controller: Controller) -> None:
        start(registry, P, protected=True)
        start(registry, A, 700)
        start(registry, B)
        begin(registry, B, "1", 900)
        await asyncio.sleep(0.05)
        holds(cgroups, "reserved/u0/p", 20)
        holds(cgroups, "shared/u0/b", 310)
        trip(cgroups, "shared/u0/b")
        for _ in range(10):
            assert {cgroups.text(path, FREEZE) for path in ("shared", "shared/u0/b", "shared/u0/b/calls/1")} == {"0"}
            await asyncio.sleep(0.01)
        assert "nothing will be frozen, for want of who would thaw it: agentcg-guard is not on PATH" in caplog.text

    controlled(work)


def test_what_the_guard_thawed_is_frozen_again_if_need_be(controlled, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry, controller: Controller) -> None:
        start(registry, A, 700)
        start(registry, B)
        await pass_by()
        holds(cgroups, "shared/u0/b", 310)
        trip(cgroups, "shared/u0/b")
        cgroups.set("shared/u0/b", FREEZE, "0")
        guard_of(controller).on_thawed(1)
        assert registry.sessions[B].stopped is None
        holds(cgroups, "shared/u0/b", 320)
        await pass_by()
        assert cgroups.text("shared/u0/b", FREEZE) == "1"

    controlled(work)


def test_when_the_guard_ends_all_is_thawed_and_another_comes(controlled, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry, controller: Controller) -> None:
        start(registry, A, 700)
        start(registry, B)
        await pass_by()
        holds(cgroups, "shared/u0/b", 310)
        trip(cgroups, "shared/u0/b")
        guard_of(controller).end()
        assert cgroups.text("shared/u0/b", FREEZE) == "0"
        assert guard_of(controller).started == 2

    controlled(work)


def test_what_is_frozen_by_hand_is_not_the_controllers(controlled, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry, controller: Controller) -> None:
        start(registry, A, 700)
        start(registry, B)
        stops = controller._stops
        stops.freeze(registry.sessions[B], "somebody")
        for _ in range(2):
            controller.look()
        assert cgroups.text("shared/u0/b", FREEZE) == "1"
        assert controller.actions["freeze"] == controller.actions["thaw"] == 0
        holds(cgroups, "shared/u0/b", 310)
        trip(cgroups, "shared/u0/b")
        assert controller.actions["freeze"] == 1
        await registry.close_session(A, "x")
        await pass_by()
        assert controller.actions["thaw"] == 1
        assert cgroups.text("shared/u0/b", FREEZE) == "1"
        guard_of(controller).on_thawed(1)
        controller.close()
        assert (cgroups.text("shared/u0/b", FREEZE), guard_of(controller).armed) == ("1", True)
        stops.thaw(registry.sessions[B])
        assert (cgroups.text("shared/u0/b", FREEZE), guard_of(controller).armed) == ("0", False)
        assert kinds(registry, B) == ["session_opened", "session_frozen", "session_frozen", "session_thawed"]

    controlled(work)


def test_nothing_is_looked_for_where_nothing_is_at_stake(controlled, cgroups, new_registry) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry, controller: Controller) -> None:
        await asyncio.sleep(0.05)
        assert not controller._next.pending
        start(registry, A)
        await asyncio.sleep(0.05)
        assert controller._next.pending
        await registry.close_session(A, "x")
        await asyncio.sleep(0.05)
        assert not controller._next.pending

    controlled(work)


def test_all_mechanisms_are_on() -> None:
    assert Settings().mechanisms == set(MECHANISMS)
