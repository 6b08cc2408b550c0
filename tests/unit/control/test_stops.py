# SPDX-License-Identifier: Apache-2.0
"""Stopped and let go, on a fake hierarchy: what is written, told, and counted."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest

from agentcg.control.registry import Registry
from agentcg.control.stops import Stops
from agentcg.errors import Unsupported
from agentcg.model import CallRef, Intent, SessionRef

S1 = SessionRef("u0", "s1")
REF = CallRef(S1, "c1")
SESSION, PATH = "shared/u0/s1", "shared/u0/s1/calls/c1"


@pytest.fixture
def with_stops(new_registry: Callable[..., Registry], guard: Any):  # type: ignore[no-untyped-def]
    """Return a function that runs a coroutine with a registry in which u0/s1/c1 is begun, and its stops."""

    def run(
        work: Callable[[Registry, Stops], Coroutine[Any, Any, None]], *, dry_run: bool = False, **intent: Any
    ) -> None:
        async def main() -> None:
            registry = new_registry()
            live, _ = registry.open_session(S1, tenant="u0", owner_uid=0)
            begin(registry, "c1", **intent)
            stops = Stops(registry, dry_run=dry_run)
            await work(registry, stops)
            await registry.settle()
            assert not live.calls
            stops.close()

        asyncio.run(main())

    return run


def begin(registry: Registry, name: str, **intent: Any) -> Any:
    return registry.begin(registry.sessions[S1], owner_uid=0, name=name, command="x", intent=Intent(**intent))[0]


def told(registry: Registry, subject: object) -> list[tuple[str, str]]:
    ours = ("call_held", "call_frozen", "call_thawed", "session_frozen", "session_thawed")
    heard = registry.bus.events  # type: ignore[attr-defined]
    return [(event.kind, event.message) for event in heard if event.subject == str(subject) and event.kind in ours]


def test_a_call_is_frozen_and_goes_on(with_stops, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry, stops: Stops) -> None:
        cgroups.enter(PATH)
        for _ in range(2):
            stops.apply({REF: "too much"})
        assert (stops.any, cgroups.text(PATH, "cgroup.freeze"), cgroups.text(SESSION, "cgroup.freeze")) == (
            True,
            "1",
            "0",
        )
        assert registry.calls[REF].stopped is not None
        for _ in range(2):
            stops.apply({})
        assert (stops.any, cgroups.text(PATH, "cgroup.freeze"), registry.calls[REF].stopped) == (False, "0", None)
        (froze, why), (thawed, after) = told(registry, REF)
        assert (froze, why, thawed) == ("call_frozen", "too much", "call_thawed")
        assert after.startswith("after ")
        await registry.end(REF)

    with_stops(work)


def test_a_session_is_frozen_with_all_in_it(with_stops, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry, stops: Stops) -> None:
        stops.apply({S1: "too much"})
        assert (cgroups.text(SESSION, "cgroup.freeze"), cgroups.text(PATH, "cgroup.freeze")) == ("1", "0")
        stops.apply({})
        assert cgroups.text(SESSION, "cgroup.freeze") == "0"
        assert [kind for kind, _ in told(registry, S1)] == ["session_frozen", "session_thawed"]
        assert told(registry, REF) == []
        await registry.end(REF)

    with_stops(work)


def test_a_call_in_which_nothing_ran_is_held(with_stops, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry, stops: Stops) -> None:
        stops.apply({REF: "place 1"})
        assert cgroups.text(PATH, "cgroup.freeze") == "1"
        assert told(registry, REF) == [("call_held", "place 1")]
        assert registry.calls[REF].held
        cgroups.enter(PATH)
        stops.apply({})
        assert not registry.calls[REF].held  # Or the next freeze of it would look like one before its beginning.
        await registry.end(REF)

    with_stops(work)


def test_a_dry_run_says_so_and_writes_nothing(with_stops, cgroups, caplog) -> None:  # type: ignore[no-untyped-def]
    caplog.set_level(logging.INFO)

    async def work(registry: Registry, stops: Stops) -> None:
        cgroups.refuse["cgroup.freeze"] = OSError("must not be written")
        stops.apply({REF: "too much", S1: "more"})
        stops.apply({})
        assert told(registry, REF) == told(registry, S1) == []
        assert registry.calls[REF].stopped is None
        await registry.end(REF)

    with_stops(work, dry_run=True)
    said = [record.message for record in caplog.records if "dry run" in record.message]
    assert said[0] == "dry run: stopping u0/s1/c1: too much"
    assert said[-1] == "dry run: letting u0/s1 go on"


@pytest.mark.parametrize("subject", [REF, S1], ids=str)
def test_the_time_of_a_call_stands_still_while_it_is_stopped(with_stops, cgroups, subject) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry, stops: Stops) -> None:
        cgroups.enter(PATH)
        begun = time.monotonic()
        stops.apply({subject: ""})
        await asyncio.sleep(1.3)
        assert REF in registry.calls
        stops.apply({})
        frozen = time.monotonic() - begun
        await asyncio.sleep(0.1)
        assert REF in registry.calls
        await asyncio.sleep(1.2)
        verdict = await registry.end(REF, signal=9)
        assert verdict.outcome == "timed_out"
        assert 1.3 <= verdict.usage.frozen_sec <= frozen

    with_stops(work, duration_max_sec=1.0)


def test_the_time_of_a_call_stands_still_while_its_group_is_stopped(with_stops, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry, stops: Stops) -> None:
        cgroups.enter(PATH)
        begun = time.monotonic()
        for _ in range(5):
            registry.pauses.begin(time.monotonic())
            await asyncio.sleep(0.2)
            registry.pauses.end(time.monotonic())
            await asyncio.sleep(0.02)
            assert REF in registry.calls
        assert 1.0 <= registry.calls[REF].still.sec(time.monotonic()) <= time.monotonic() - begun
        await asyncio.sleep(0.6)
        verdict = await registry.end(REF, signal=9)
        assert verdict.outcome == "timed_out"
        assert verdict.usage.duration_sec - verdict.usage.frozen_sec >= 0.5

    with_stops(work, duration_max_sec=0.5)


def test_an_amended_time_stands_still_too(with_stops, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry, stops: Stops) -> None:
        cgroups.enter(PATH)
        stops.apply({REF: ""})
        registry.amend(REF, Intent(duration_max_sec=0.05))
        await asyncio.sleep(0.15)
        assert REF in registry.calls
        stops.apply({})
        await asyncio.sleep(0.15)
        assert (await registry.end(REF)).outcome == "timed_out"

    with_stops(work, duration_max_sec=9.0)


def test_the_verdict_says_for_how_long_it_was_frozen_at_its_end(with_stops, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry, stops: Stops) -> None:
        cgroups.enter(PATH)
        begun = time.monotonic()
        stops.apply({REF: ""})
        await asyncio.sleep(0.1)
        assert 0.1 <= (await registry.end(REF)).usage.frozen_sec <= time.monotonic() - begun
        begin(registry, "c2")
        assert (await registry.end(CallRef(S1, "c2"))).usage.frozen_sec is None

    with_stops(work)


@pytest.mark.parametrize("at_the_end", [True, False])
def test_time_in_a_stopped_call_of_a_stopped_session_counts_once(with_stops, cgroups, at_the_end: bool) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry, stops: Stops) -> None:
        cgroups.enter(PATH)
        begun = time.monotonic()
        stops.apply({REF: ""})
        stops.apply({REF: "", S1: ""})
        await asyncio.sleep(0.5)
        if not at_the_end:
            stops.apply({})
        assert 0.5 <= (await registry.end(REF)).usage.frozen_sec <= time.monotonic() - begun

    with_stops(work)


@pytest.mark.parametrize("at_the_end", [True, False])
def test_a_call_was_not_stopped_before_it_began(with_stops, cgroups, at_the_end: bool) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry, stops: Stops) -> None:
        stops.apply({S1: ""})
        await asyncio.sleep(0.2)
        begin(registry, "c2")
        if not at_the_end:
            stops.apply({})
        usage = (await registry.end(CallRef(S1, "c2"))).usage
        assert (usage.frozen_sec or 0) <= usage.duration_sec + 0.01
        await registry.end(REF)

    with_stops(work)


def test_a_call_that_ends_while_it_is_stopped_is_forgotten(with_stops, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry, stops: Stops) -> None:
        registry.observers.append(stops)
        cgroups.enter(PATH)
        stops.apply({REF: ""})
        await registry.end(REF)
        assert not stops.any
        begin(registry, "c1")  # Another of the same name.
        stops.apply({REF: ""})
        assert cgroups.text(PATH, "cgroup.freeze") == "1"
        stops.apply({})
        await registry.end(REF)

    with_stops(work)


def test_what_is_ending_or_is_not_there_is_left_alone(with_stops, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry, stops: Stops) -> None:
        ending = registry.end(REF)
        task = asyncio.ensure_future(ending)
        registry.sessions[S1].closing = True
        await asyncio.sleep(0)
        stops.apply({REF: "", S1: "", CallRef(S1, "c9"): "", SessionRef("u0", "s9"): ""})
        assert not stops.any
        await task

    with_stops(work)


def test_a_session_that_closes_while_it_is_stopped_is_let_go_of(with_stops, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry, stops: Stops) -> None:
        stops.apply({S1: ""})
        await registry.close_session(S1, "x")
        stops.apply({})
        assert not stops.any
        assert [kind for kind, _ in told(registry, S1)] == ["session_frozen"]

    with_stops(work)


def test_how_long_a_freeze_took_is_logged(with_stops, cgroups, caplog) -> None:  # type: ignore[no-untyped-def]
    caplog.set_level(logging.INFO)

    async def work(registry: Registry, stops: Stops) -> None:
        cgroups.enter(PATH)
        watched = len(cgroups.poll._watched)
        stops.apply({REF: ""})
        assert "froze u0/s1/c1 in " not in caplog.text
        cgroups.set(PATH, "cgroup.events", "populated 1\nfrozen 1\n")
        assert "froze u0/s1/c1 in " in caplog.text
        assert len(cgroups.poll._watched) == watched
        stops.apply({})
        await registry.end(REF)

    with_stops(work)


def test_a_freeze_that_never_came_about_is_not_watched_for_ever(with_stops, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry, stops: Stops) -> None:
        cgroups.enter(PATH)
        watched = len(cgroups.poll._watched)
        for _ in range(5):
            stops.apply({REF: ""})
            stops.apply({})
        assert len(cgroups.poll._watched) == watched
        await registry.end(REF)

    with_stops(work)


def guard_of(stops: Stops) -> Any:
    return stops._guard


# By hand


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize(("of_session", "path"), [(False, PATH), (True, SESSION)])
def test_by_hand_it_is_frozen_until_it_is_thawed(  # type: ignore[no-untyped-def]
    with_stops, cgroups, of_session: bool, path: str, dry_run: bool
) -> None:
    async def work(registry: Registry, stops: Stops) -> None:
        live: Any = registry.sessions[S1] if of_session else registry.calls[REF]
        for _ in range(2):
            stops.freeze(live, "an operator")
        stops.apply({})
        assert (cgroups.text(path, "cgroup.freeze"), live.state, guard_of(stops).armed) == ("1", "frozen", True)
        assert registry.calls[REF].state == "frozen"
        assert not stops.any
        for _ in range(2):
            stops.thaw(live)
        assert (cgroups.text(path, "cgroup.freeze"), live.state, guard_of(stops).armed) == ("0", "running", False)
        (froze, why), (thawed, after) = told(registry, live.ref)
        kind = "session" if of_session else "call"
        assert (froze, why, thawed) == (f"{kind}_frozen", "by hand: an operator", f"{kind}_thawed")
        assert after.startswith("after ")
        assert not stops.actions
        await registry.end(REF)

    with_stops(work, dry_run=dry_run)


@pytest.mark.parametrize("first", ["controller", "hand"])
@pytest.mark.parametrize("subject", [REF, S1], ids=str)
def test_what_is_stopped_for_two_reasons_goes_on_when_neither_is_left(with_stops, cgroups, subject, first: str) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry, stops: Stops) -> None:
        cgroups.enter(PATH)
        live: Any = registry.calls[REF] if subject == REF else registry.sessions[S1]
        path = PATH if subject == REF else SESSION
        begun = time.monotonic()
        stops.freeze(live, "an operator")
        stops.apply({subject: "too much"})
        if first == "controller":
            stops.apply({})
        else:
            stops.thaw(live)
        assert (cgroups.text(path, "cgroup.freeze"), live.state, guard_of(stops).armed) == ("1", "frozen", True)
        await asyncio.sleep(0.2)
        stops.apply({})
        stops.thaw(live)
        frozen = time.monotonic() - begun
        assert (cgroups.text(path, "cgroup.freeze"), live.state, guard_of(stops).armed) == ("0", "running", False)
        assert [kind.partition("_")[2] for kind, _ in told(registry, subject)] == ["frozen", "frozen", "thawed"]
        assert stops.actions == {"freeze": 1, "thaw": 1}
        assert 0.2 <= (await registry.end(REF)).usage.frozen_sec <= frozen

    with_stops(work)


def test_a_call_in_a_session_frozen_by_hand_stands_still_and_its_time_too(with_stops, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry, stops: Stops) -> None:
        registry.observers.append(stops)
        stops.freeze(registry.sessions[S1], "an operator")
        begin(registry, "c2", duration_max_sec=0.1)
        await asyncio.sleep(0.3)
        assert registry.calls[CallRef(S1, "c2")].state == "frozen"
        stops.thaw(registry.sessions[S1])
        await asyncio.sleep(0.3)
        verdict = await registry.end(CallRef(S1, "c2"))
        assert verdict.outcome == "timed_out"
        assert verdict.usage.frozen_sec >= 0.3
        await registry.end(REF)

    with_stops(work)


def test_with_its_end_it_is_forgotten(with_stops, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry, stops: Stops) -> None:
        registry.observers.append(stops)
        stops.freeze(registry.calls[REF], "an operator")
        stops.freeze(registry.sessions[S1], "an operator")
        await registry.end(REF)
        assert guard_of(stops).armed
        await registry.close_session(S1, "x")
        assert not guard_of(stops).armed
        assert [kind for kind, _ in told(registry, S1)] == ["session_frozen"]

    with_stops(work)


@pytest.mark.parametrize("by_hand", [True, False])
def test_what_a_call_has_left_in_the_background_goes_on(with_stops, cgroups, monkeypatch, by_hand: bool) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry, stops: Stops) -> None:
        registry.observers.append(stops)
        live = registry.calls[REF]
        monkeypatch.setattr(type(registry.policy), "background_of", lambda policy, name: "leave")
        cgroups.enter(PATH)
        if by_hand:
            stops.freeze(live, "an operator")
        else:
            stops.apply({REF: "too much"})
        await registry.end(REF, exit_code=0)
        assert cgroups.text(PATH, "cgroup.freeze") == "0"
        cgroups.leave(PATH)

    with_stops(work)


def test_what_the_guard_has_thawed_by_mistake_is_frozen_again(with_stops, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry, stops: Stops) -> None:
        lifted: list[bool] = []
        stops.on_thawed = lambda: lifted.append(True)
        stops.freeze(registry.calls[REF], "an operator")
        cgroups.set(PATH, "cgroup.freeze", "0")
        guard_of(stops).on_thawed(1)
        assert (cgroups.text(PATH, "cgroup.freeze"), lifted) == ("1", [True])
        cgroups.refuse["cgroup.freeze"] = OSError(19, "No such device")
        guard_of(stops).on_thawed(1)
        cgroups.refuse.clear()
        assert registry.calls[REF].state == "running"
        await registry.end(REF)

    with_stops(work)


def test_it_stays_frozen_only_where_another_guard_can_be_had(with_stops, cgroups, guard) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry, stops: Stops) -> None:
        stops.freeze(registry.calls[REF], "an operator")
        guard_of(stops).end()
        assert (cgroups.text(PATH, "cgroup.freeze"), guard_of(stops).started, guard_of(stops).armed) == ("1", 2, True)
        guard.missing = True
        guard_of(stops).end()
        assert (cgroups.text(PATH, "cgroup.freeze"), registry.calls[REF].state) == ("0", "running")
        assert [kind for kind, _ in told(registry, REF)] == ["call_frozen", "call_thawed"]
        await registry.end(REF)

    with_stops(work)


def test_nothing_is_frozen_by_hand_without_a_guard_nor_a_container_nor_what_the_kernel_refuses(  # type: ignore[no-untyped-def]
    with_stops, cgroups, guard
) -> None:
    async def work(registry: Registry, stops: Stops) -> None:
        live, session = registry.calls[REF], registry.sessions[S1]
        guard.missing = True
        with pytest.raises(Unsupported, match="agentcg-guard is not on PATH"):
            stops.freeze(live, "an operator")
        guard.missing = False
        cgroups.refuse["cgroup.freeze"] = OSError(19, "No such device")
        with pytest.raises(OSError, match="No such device"):
            stops.freeze(live, "an operator")
        cgroups.refuse.clear()
        session.session = replace(session.session, container="abc")
        for one in (live, session):
            with pytest.raises(Unsupported, match="is in a container"):
                stops.freeze(one, "an operator")
        assert (cgroups.text(PATH, "cgroup.freeze"), cgroups.text(SESSION, "cgroup.freeze")) == ("0", "0")
        assert not live.frozen
        assert not guard_of(stops).armed
        assert told(registry, REF) == []
        await registry.end(REF)

    with_stops(work)


def test_in_the_end_everybody_goes_on(with_stops, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry, stops: Stops) -> None:
        cgroups.enter(PATH)
        stops.freeze(registry.sessions[S1], "an operator")
        stops.apply({REF: "too much"})
        stops.pause(True)
        stops.close()
        assert {cgroups.text(path, "cgroup.freeze") for path in (PATH, SESSION, "shared")} == {"0"}
        assert guard_of(stops).pid is None
        await registry.end(REF)

    with_stops(work)
