# SPDX-License-Identifier: Apache-2.0
"""Sessions and calls on a fake hierarchy: their ends, in every order, and reservations."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from agentcg.control.lease import Lease
from agentcg.control.registry import NoSuchCall, NoSuchSession, Registry
from agentcg.errors import InvalidInput
from agentcg.model import Budget, CallRef, Intent, SessionRef

REF = CallRef(SessionRef("u0", "s1"), "c1")
PATH = "shared/u0/s1/calls/c1"


@pytest.fixture
def with_registry(new_registry: Callable[..., Registry]):  # type: ignore[no-untyped-def]
    """Return a function that runs a coroutine with a registry in which the session u0/s1 is open."""

    def run(work: Callable[[Registry], Coroutine[Any, Any, None]], **options: Any) -> None:
        async def main() -> None:
            registry = new_registry(**options)
            registry.open_session(REF.session, tenant="u0", owner_uid=0)
            await work(registry)
            await registry.settle()

        asyncio.run(main())

    return run


def begin(registry: Registry, **options: Any) -> Any:
    return registry.begin(registry.sessions[REF.session], owner_uid=0, name="c1", command="x", **options)[0]


def test_all_ends_at_once_are_one(with_registry, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry) -> None:
        live = begin(registry)
        cgroups.enter(PATH)
        verdicts = await asyncio.gather(
            registry.finish(live, timed_out=True),
            registry.end(REF, exit_code=0),
            registry.close_session(REF.session, "closed"),
        )
        assert verdicts[0].outcome == "timed_out"
        assert verdicts[1] == verdicts[0]
        assert registry.ended == 1
        assert not (cgroups.top / "shared/u0").exists()

    with_registry(work)


def test_a_call_ends_at_its_time(with_registry, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry) -> None:
        begin(registry, intent=Intent(duration_max_sec=0.05))
        cgroups.enter(PATH)
        await asyncio.sleep(0.2)
        assert (await registry.end(REF, signal=9)).outcome == "timed_out"

    with_registry(work)


def test_an_amended_time_counts_from_the_beginning(with_registry) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry) -> None:
        begin(registry, intent=Intent(duration_max_sec=0.1))
        registry.amend(REF, Intent(duration_max_sec=60))
        await asyncio.sleep(0.2)
        assert REF in registry.calls
        registry.amend(REF, Intent(duration_max_sec=0.1))
        await asyncio.sleep(0.05)
        assert REF not in registry.calls

    with_registry(work)


def test_memory_events_are_told_once(with_registry, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry) -> None:
        begin(registry)
        for high, kills in ((1, 0), (2, 0), (3, 1), (3, 1)):
            cgroups.set(PATH, "memory.events", f"high {high}\noom_kill {kills}\n")
        kinds = registry.bus.kinds(REF)  # type: ignore[attr-defined]
        assert kinds == ["call_begun", "call_throttled", "call_oom"]
        await registry.end(REF)

    with_registry(work)


def empty_unleased(registry: Registry, cgroups: Any) -> None:
    begin(registry)
    cgroups.enter(PATH)
    cgroups.leave(PATH)


def test_a_call_that_nobody_holds_ends_when_it_is_empty(with_registry, cgroups, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("agentcg.control.watch.GRACE_SEC", 0.05)

    async def work(registry: Registry) -> None:
        empty_unleased(registry, cgroups)
        assert REF in registry.calls
        await asyncio.sleep(0.2)
        assert REF not in registry.calls
        assert (await registry.end(REF)).outcome == "unknown"

    with_registry(work)


def test_within_its_grace_the_exit_status_may_still_come(with_registry, cgroups, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("agentcg.control.watch.GRACE_SEC", 5)

    async def work(registry: Registry) -> None:
        empty_unleased(registry, cgroups)
        assert (await registry.end(REF, exit_code=7)).exit_code == 7

    with_registry(work)


def test_to_amend_an_empty_call_does_not_keep_it_for_ever(with_registry, cgroups, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("agentcg.control.watch.GRACE_SEC", 0.1)

    async def work(registry: Registry) -> None:
        empty_unleased(registry, cgroups)
        registry.amend(REF, Intent(priority=60))
        await asyncio.sleep(0.4)
        assert REF not in registry.calls

    with_registry(work)


def test_a_call_somebody_holds_may_be_empty(with_registry, cgroups, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("agentcg.control.watch.GRACE_SEC", 0.05)

    async def work(registry: Registry) -> None:
        lease = Lease(0)
        begin(registry, lease=lease)
        cgroups.enter(PATH)
        cgroups.leave(PATH)
        await asyncio.sleep(0.2)
        assert REF in registry.calls
        registry.drop_lease(lease)
        await registry.settle()
        assert (await registry.end(REF)).reason == "the runtime that began it has gone away"

    with_registry(work)


def test_what_is_over_is_said_so(with_registry) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry) -> None:
        for wrong in (registry.end(REF), registry.kill(REF, "x")):
            with pytest.raises(NoSuchCall, match="there is no call u0/s1/c1"):
                await wrong
        with pytest.raises(NoSuchSession, match="there is no session u0/s2"):
            await registry.close_session(SessionRef("u0", "s2"), "x")
        await registry.close_session(REF.session, "x")
        with pytest.raises(NoSuchSession):
            registry.session(REF.session)

    with_registry(work)


def test_a_name_may_be_used_again_after_the_end(with_registry) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry) -> None:
        begin(registry)
        assert (await registry.end(REF, exit_code=1)).exit_code == 1
        begin(registry)
        assert REF in registry.calls
        assert (await registry.end(REF, exit_code=2)).exit_code == 2

    with_registry(work)


def test_the_history_has_every_verdict(with_registry) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry) -> None:
        begin(registry)
        await registry.end(REF, exit_code=1)
        (kept,) = registry.store.recent()
        assert (kept["outcome"], kept["exit_code"]) == ("exit_status", 1)

    with_registry(work)


G = 1 << 30


def protect(registry: Registry, name: str, memory: int | None, tenant: str = "u0") -> Any:
    budget = None if memory is None else Budget(memory_max=memory)
    ref = SessionRef(tenant, name)
    return registry.open_session(ref, tenant=tenant, owner_uid=0, budget=budget, protected=True)[0]


def test_what_is_reserved_bounds_all_others(with_registry, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry) -> None:
        protect(registry, "p1", 2 * G)
        assert cgroups.text("shared", "memory.max") == str(6 * G)
        assert int(cgroups.text("shared", "memory.high")) < 6 * G
        assert cgroups.text("reserved/u0/p1", "memory.low") == str(2 * G)
        assert cgroups.text("reserved/u0", "memory.low") == str(2 * G)
        protect(registry, "p2", G)
        assert cgroups.text("shared", "memory.max") == str(5 * G)
        assert cgroups.text("reserved/u0", "memory.low") == str(3 * G)
        await registry.close_session(SessionRef("u0", "p1"), "x")
        assert cgroups.text("shared", "memory.max") == str(7 * G)
        assert cgroups.text("reserved/u0", "memory.low") == str(G)
        await registry.close_session(SessionRef("u0", "p2"), "x")
        assert cgroups.text("shared", "memory.max") == "max"

    with_registry(work)


@pytest.mark.parametrize(
    ("memory", "message"),
    [(None, "a protected session has to declare it"), (7 * G, r"7\.0 GiB cannot be reserved")],
)
def test_what_cannot_be_reserved_is_refused(with_registry, cgroups, memory: int | None, message: str) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry) -> None:
        with pytest.raises(InvalidInput, match=message) as caught:
            protect(registry, "p1", memory)
        assert caught.value.place == "budget.memoryMax"
        assert SessionRef("u0", "p1") not in registry.sessions
        assert not (cgroups.top / "reserved/u0").exists()

    with_registry(work)


def test_no_more_is_reserved_than_there_is(with_registry) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry) -> None:
        protect(registry, "p1", 5 * G)
        with pytest.raises(InvalidInput, match=r"4\.0 GiB cannot be reserved"):
            protect(registry, "p2", 4 * G)
        protect(registry, "p3", G)

    with_registry(work)


def test_an_odd_number_of_bytes_can_be_reserved(with_registry) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry) -> None:
        assert protect(registry, "p1", 1_000_000_001).session.budget.memory_max == 1_000_000_001 & ~4095

    with_registry(work)


def test_the_bound_follows_a_group_that_uses_more(with_registry, cgroups, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("agentcg.control.registry.REBALANCE_SEC", 0.02)

    async def work(registry: Registry) -> None:
        cgroups.set("shared", "memory.current", str(7 * G))
        protect(registry, "p1", 2 * G)
        assert int(cgroups.text("shared", "memory.max")) >= 7 * G
        cgroups.set("shared", "memory.current", str(5 * G))
        await asyncio.sleep(0.1)
        assert cgroups.text("shared", "memory.max") == str(6 * G)

    with_registry(work)


def test_a_session_whose_cgroup_is_refused_is_not_there(with_registry, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry) -> None:
        ref = SessionRef("u9", "s9")
        cgroups.refuse["pids.max"] = OSError(22, "Invalid argument")
        with pytest.raises(OSError, match="Invalid argument"):
            registry.open_session(ref, tenant="u9", owner_uid=0)
        cgroups.refuse.clear()
        assert ref not in registry.sessions
        assert not (cgroups.top / "shared/u9").exists()

    with_registry(work)
