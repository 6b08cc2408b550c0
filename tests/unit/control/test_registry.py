# SPDX-License-Identifier: Apache-2.0
"""Sessions and calls on a fake hierarchy: their ends, in every order, and reservations."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from agentcg.control.lease import Lease
from agentcg.control.registry import NoSuchCall, NoSuchSession, Registry
from agentcg.errors import InvalidInput
from agentcg.model import Budget, CallRef, Intent, Limits, SessionRef, Usage, Verdict
from agentcg.policy.match import command_key

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


@pytest.mark.parametrize(
    ("procs", "ending", "left"),
    [("7\n8\n", {"exit_code": 0}, 2), ("7\n", {"signal": 9}, 1), ("7\n", {}, None), ("", {"exit_code": 0}, None)],
)
def test_what_a_command_left_behind_is_counted(  # type: ignore[no-untyped-def]
    with_registry, cgroups, procs: str, ending: dict[str, int], left: int | None
) -> None:
    async def work(registry: Registry) -> None:
        begin(registry)
        if procs:
            cgroups.enter(PATH)
        cgroups.set(PATH, "cgroup.procs", procs)
        assert (await registry.end(REF, **ending)).usage.left_behind == left

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


def test_what_came_too_late_to_be_told_is_told_at_the_end(with_registry, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry) -> None:
        registry.kernel_tells = True  # And says nothing.
        begin(registry)
        cgroups.set(PATH, "memory.events", "high 2\noom_kill 1\n")
        await registry.end(REF, signal=9)
        kinds = registry.bus.kinds(REF)  # type: ignore[attr-defined]
        assert kinds == ["call_begun", "call_throttled", "call_oom", "call_ended"]

    with_registry(work)


STALLED = "some avg10=0 avg60=0 avg300=0 total={0}\nfull avg10=0 avg60=0 avg300=0 total={0}\n"


@pytest.mark.parametrize(("stalls", "lifted"), [(True, True), (False, False), (None, True)])
def test_a_call_that_does_not_get_on_above_its_memory_high_goes_on_to_its_limit(  # type: ignore[no-untyped-def]
    with_registry, cgroups, monkeypatch: pytest.MonkeyPatch, stalls: bool | None, lifted: bool
) -> None:
    monkeypatch.setattr("agentcg.control.watch.SLOWED_SEC", 0.1)

    async def work(registry: Registry) -> None:
        begin(registry, intent=Intent(memory_max=64 << 20))
        high = cgroups.text(PATH, "memory.high")
        assert high not in ("max", "")
        path = cgroups.top / PATH / "memory.pressure"
        if stalls is None:
            path.unlink(missing_ok=True)
        else:
            path.write_text(STALLED.format(0))
        cgroups.set(PATH, "memory.events", "high 1\noom_kill 0\n")
        for step in range(1, 5):
            await asyncio.sleep(0.08)
            if stalls:
                path.write_text(STALLED.format(step * 80_000))
        assert cgroups.text(PATH, "memory.high") == ("max" if lifted else high)
        assert cgroups.text(PATH, "memory.max") == str(64 << 20)
        told = registry.bus.kinds(REF)  # type: ignore[attr-defined]
        assert told.count("call_throttled") == (2 if lifted else 1)
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


@pytest.mark.parametrize("budget", [Budget(memory_max=7 * G), Budget(memory_expected=7 * G)])
def test_what_cannot_be_reserved_is_refused(with_registry, cgroups, budget: Budget) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry) -> None:
        ref = SessionRef("u0", "p1")
        with pytest.raises(InvalidInput, match=r"7\.0 GiB cannot be reserved") as caught:
            registry.open_session(ref, tenant="u0", owner_uid=0, budget=budget, protected=True)
        assert caught.value.place == "budget.memoryMax"
        assert SessionRef("u0", "p1") not in registry.sessions
        assert not (cgroups.top / "reserved/u0").exists()

    with_registry(work)


def test_without_a_declaration_what_is_reserved_goes_ahead_of_the_peak(with_registry, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry) -> None:
        live = protect(registry, "p1", None)
        assert cgroups.text("reserved/u0/p1", "memory.low") == str(32 << 20)
        cgroups.set("reserved/u0/p1", "memory.peak", str(2 * G))
        registry.reserves.protect(live)
        assert cgroups.text("reserved/u0/p1", "memory.low") == cgroups.text("reserved/u0", "memory.low")
        assert cgroups.text("reserved/u0/p1", "memory.low") == str(2 * G + G // 2)
        assert registry.reserves.wall == int(cgroups.text("shared", "memory.max")) == 5 * G + G // 2

    with_registry(work)


def test_what_sessions_of_the_same_name_came_to_is_reserved(with_registry, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry) -> None:
        protect(registry, "p1", None)
        cgroups.set("reserved/u0/p1", "memory.peak", str(2 * G))
        await registry.close_session(SessionRef("u0", "p1"), "x")
        assert protect(registry, "p1", None).claim == round(2 * G * 1.05)
        assert cgroups.text("reserved/u0/p1", "memory.low") == str(round(2 * G * 1.05))
        assert protect(registry, "p2", None).claim is None
        assert protect(registry, "p3", G).claim == G

    with_registry(work)


def test_sessions_made_for_calls_say_nothing_about_the_next(with_registry, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry) -> None:
        ref = registry.adhoc_session("u0", 0).session.ref
        cgroups.set(f"shared/{ref}", "memory.peak", str(G))
        await registry.close_session(ref, "x")
        assert registry.store.session_peak(ref) is None

    with_registry(work)


def test_a_call_that_begins_as_an_idle_session_closes_is_in_another(with_registry, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("agentcg.control.registry.IDLE_SEC", 0.01)

    async def work(registry: Registry) -> None:
        idle = registry.adhoc_session("u0", 0)
        idle.used = 1.0
        registry.close_when_idle(idle)
        begun = []

        def begin_in_the_same_moment() -> None:
            begun.append(registry.begin(registry.adhoc_session("u0", 0), owner_uid=0, name="c1", command="x")[0])

        # The loop runs timers that are due in the order of their times: this one right behind that of the close.
        asyncio.get_running_loop().call_later(0.01, begin_in_the_same_moment)
        time.sleep(0.05)  # noqa: ASYNC251  so that both are due at once
        await asyncio.sleep(0.01)
        await registry.settle()
        (live,) = begun
        assert live.session is not idle
        assert live.finishing is None
        assert idle.session.ref not in registry.sessions
        await registry.finish(live, exit_code=0)

    with_registry(work)


def test_what_enters_a_call_while_it_is_killed_is_killed_too(with_registry, cgroups, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("agentcg.control.finish.KILL_AGAIN_SEC", 0.02)
    wrote, late = cgroups.wrote, ["one", "another"]

    def wrote_too_early(directory: int, name: str, text: str) -> None:
        wrote(directory, name, text)
        if name == "cgroup.kill" and late:
            late.pop()
            cgroups.enter(PATH)

    async def work(registry: Registry) -> None:
        begin(registry)
        cgroups.enter(PATH)
        monkeypatch.setattr(cgroups, "wrote", wrote_too_early)
        assert (await registry.kill(REF, "enough")).reason == "enough"
        assert not late
        assert not (cgroups.top / PATH).exists()

    with_registry(work)


def test_what_enters_a_call_after_that_is_killed_before_its_cgroup_goes(with_registry, cgroups, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry) -> None:
        begin(registry)
        monkeypatch.setattr(registry, "keep_verdict", lambda live, verdict: cgroups.enter(PATH))
        assert (await registry.kill(REF, "enough")).reason == "enough"
        assert not (cgroups.top / PATH).exists()

    with_registry(work)


def test_no_session_has_more_reserved_than_it_may_use_or_there_is(with_registry, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry) -> None:
        protect(registry, "p1", 5 * G)
        live = protect(registry, "p2", None)
        cgroups.set("reserved/u0/p2", "memory.peak", str(4 * G))
        registry.reserves.protect(live)
        assert live.reserve == 3 * G
        assert registry.reserves.wall == 4 << 20

    with_registry(work)


def test_reserves_can_be_left_out(with_registry, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry) -> None:
        registry.reserves.active = False
        protect(registry, "p1", 2 * G)
        assert (registry.reserves.wall, cgroups.text("shared", "memory.max")) == (None, "max")
        assert cgroups.text("reserved/u0/p1", "memory.low") == "0"

    with_registry(work)


def test_sessions_with_a_limit_of_their_own_have_a_wall_from_the_start(with_registry, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry) -> None:
        registry.reserves.rebalance()
        assert registry.reserves.wall == int(cgroups.text("shared", "memory.max")) == 4 * G

    with_registry(work, capacity=4 * G, limited=True)


def past(registry: Registry, peak: int) -> None:
    """As many calls of one kind as it takes to believe them."""
    for number in range(registry.policy.history.min_calls):
        ref = CallRef(REF.session, f"p{number}")
        usage = Usage(1.0, memory_peak=peak)
        registry.store.add(command_key("", "x"), 0, Verdict(ref, "ok", usage, Limits(), 0.0, 1.0))


def test_what_a_call_claims(with_registry) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry) -> None:
        live = begin(registry)
        assert live.claim is None
        registry.amend(REF, Intent(memory_max=300 << 20))
        assert live.claim == 300 << 20
        registry.amend(REF, Intent(memory_expected=100 << 20))
        assert live.claim == 100 << 20
        await registry.end(REF)
        past(registry, 70 << 20)
        assert begin(registry).claim == 70 << 20
        await registry.end(REF)

    with_registry(work)


def test_nobody_claims_more_than_it_is_let_have(with_registry) -> None:  # type: ignore[no-untyped-def]
    """Or it would wait for what it never gets, and others for what it never takes."""

    async def work(registry: Registry) -> None:
        ref = SessionRef("u0", "s2")
        live, _ = registry.open_session(ref, tenant="u0", owner_uid=0, budget=Budget(memory_max=64 * G))
        assert live.session.budget.memory_max is not None
        assert live.claim == live.session.budget.memory_max
        call = registry.begin(live, owner_uid=0, name="c1", intent=Intent(memory_max=64 * G))[0]
        assert call.call.limits.memory_max is not None
        assert call.claim == call.call.limits.memory_max
        await registry.close_session(ref, "x")

    with_registry(work)


def test_who_watches_hears_of_the_end_while_the_session_is_known(with_registry, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """Whether somebody may see an event is decided by the session that it is about."""

    async def work(registry: Registry) -> None:
        publish, known = registry.bus.publish, []

        def published(kind: Any, subject: object, *given: Any, **more: Any) -> None:
            if kind == "session_closed":
                known.append(subject in registry.sessions)
            publish(kind, subject, *given, **more)

        monkeypatch.setattr(registry.bus, "publish", published)
        await registry.close_session(REF.session, "x")
        assert known == [True]

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
    monkeypatch.setattr("agentcg.control.reserves.REBALANCE_SEC", 0.02)

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


@pytest.mark.parametrize(
    ("chosen", "report", "expected"),
    [
        ("/fake/shared/u0/s1/calls/c1", {"signal": 9}, "killed"),
        ("/fake/shared/u0/s1", {"exit_code": 137}, "killed"),
        ("/fake/shared/u0/s1/calls/c1", {"exit_code": 0}, "ok"),  # It was over before.
        ("/fake/shared/u0/s1/calls/c11", {"signal": 9}, "signal"),
        ("/fake/shared/u0/s", {"signal": 9}, "signal"),
    ],
)
def test_what_the_hosts_killer_chose_is_in_the_verdict(with_registry, chosen, report, expected) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry) -> None:
        begin(registry)
        await registry.doom(chosen)
        verdict = await registry.end(REF, **report)
        assert verdict.outcome == expected
        if expected == "killed":
            assert verdict.reason == f"the host ran out of memory, and systemd-oomd chose {chosen}"

    with_registry(work)
