# SPDX-License-Identifier: Apache-2.0
"""From cgroups to a snapshot, on a fake hierarchy."""

import asyncio
import os
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from agentcg.control.live import LiveSession
from agentcg.control.look import Eyes, Gauge
from agentcg.control.registry import Registry
from agentcg.control.view import SessionView
from agentcg.model import Budget, CallRef, Intent, SessionRef

S1 = SessionRef("u0", "s1")
REF = CallRef(S1, "c1")
SESSION, PATH = "shared/u0/s1", "shared/u0/s1/calls/c1"
M = 1 << 20


@pytest.fixture
def with_session(new_registry: Callable[..., Registry]):  # type: ignore[no-untyped-def]
    """Return a function that runs a coroutine with a registry, the session u0/s1 and its call c1."""

    def run(work: Callable[[Registry, LiveSession], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            registry = new_registry()
            live, _ = registry.open_session(S1, tenant="u0", owner_uid=0, budget=Budget(memory_expected=200 * M))
            intent = Intent(memory_expected=50 * M, priority=7)
            registry.begin(live, owner_uid=0, name="c1", command="x", intent=intent)
            await work(registry, live)
            await registry.settle()

        asyncio.run(main())

    return run


def look(eyes: Eyes, live: LiveSession, **options: Any) -> SessionView:
    eyes.begin()
    return eyes.session(live, **{"tripped": False, "closely": False} | options)


def holds(cgroups: Any, path: str, size: int) -> None:
    cgroups.set(path, "memory.current", str(size * M))


def test_a_session_and_its_call(with_session, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry, live: LiveSession) -> None:
        holds(cgroups, SESSION, 30)
        holds(cgroups, PATH, 10)
        live.urgency = 0.5
        cgroups.set(PATH, "cpu.stat", "usage_usec 2500000\n")
        view = look(Eyes(), live, tripped=True, closely=True)
        assert (view.ref, view.opened, view.protected, view.tripped) == (S1, live.session.opened, False, True)
        assert (view.current, view.claim, view.cache, view.urgency) == (30 * M, 200 * M, 0, 0.5)
        (call,) = view.calls
        assert (call.ref, call.current, call.claim, call.priority, call.cpu_sec) == (REF, 10 * M, 50 * M, 7, 2.5)
        assert (view.by_hand, call.by_hand, call.declared) == (False, False, True)
        live.by_hand = registry.calls[REF].by_hand = 1.0
        view = look(Eyes(), live)
        assert (view.by_hand, view.calls[0].by_hand, view.stopped, view.calls[0].stopped) == (True, True, None, None)

    with_session(work)


def test_what_calls_like_one_came_to_is_not_its_own_word(with_session) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry, live: LiveSession) -> None:
        made, _ = registry.begin(live, owner_uid=0, name="c2", command="x")
        made.claim = 50 * M
        _, call = look(Eyes(), live).calls
        assert (call.claim, call.declared) == (50 * M, False)

    with_session(work)


def test_growth_is_since_the_look_before(with_session, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry, live: LiveSession) -> None:
        eyes, seen = Eyes(), []
        for session, call in ((30, 10), (50, 20), (45, 20)):
            holds(cgroups, SESSION, session)
            holds(cgroups, PATH, call)
            view = look(eyes, live)
            seen.append((view.grew // M, view.calls[0].grew // M, view.agent_grew // M))
        assert seen[1:] == [(20, 10, 10), (-5, 0, -5)]

    with_session(work)


def test_what_is_found_at_the_start_did_not_just_grow(with_session, cgroups) -> None:  # type: ignore[no-untyped-def]
    """A session that was adopted holds much, and may have been idle for long."""

    async def work(registry: Registry, live: LiveSession) -> None:
        holds(cgroups, SESSION, 300)
        assert look(Eyes(), live).agent_grew == 0

    with_session(work)


def test_a_call_waits_until_something_has_run_in_it(with_session, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry, live: LiveSession) -> None:
        call = registry.calls[REF]

        def waiting() -> bool:
            return look(Eyes(), live).calls[0].waiting

        assert waiting()
        call.held, call.stopped = True, 1.0
        cgroups.enter(PATH)  # It comes in, and stops there.
        assert waiting()
        call.held, call.stopped = False, None
        assert not waiting()
        cgroups.leave(PATH)
        assert not waiting()

    with_session(work)


def test_a_call_that_ends_is_not_looked_at(with_session, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry, live: LiveSession) -> None:
        task = registry.finish(registry.calls[REF])
        assert look(Eyes(), live).calls == ()
        await task

    with_session(work)


STAT = "anon 5\nactive_file 70\ninactive_file 40\nfile_dirty 30\n"


def test_page_cache_is_what_can_be_dropped_at_once(with_session, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry, live: LiveSession) -> None:
        assert look(Eyes(), live, closely=True).cache == 0
        cgroups.set(SESSION, "memory.stat", STAT)
        assert look(Eyes(), live, closely=True).cache == 80
        assert look(Eyes(), live).cache == 0
        cgroups.set(SESSION, "memory.stat", "active_file 1\nfile_dirty 9\n")
        assert look(Eyes(), live, closely=True).cache == 0

    with_session(work)


def test_a_gauge(cgroups, node_at) -> None:  # type: ignore[no-untyped-def]
    cgroups.make("a")
    gauge = Gauge(node_at("a"))
    for size in (5, 3):
        cgroups.set("a", "memory.current", f"{size}\n")
        assert gauge.read() == gauge.last == size
    for _ in range(2):
        gauge.close()
    assert gauge.read() == 0


def test_a_gauge_of_what_is_not_there_stands_at_nothing(cgroups, node_at, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    directory = cgroups.make("a")
    gauge = Gauge(node_at("a"))
    monkeypatch.setattr(os, "pread", lambda *given: (_ for _ in ()).throw(OSError(19, "No such device")))
    assert gauge.read() == 0
    gauge.close()
    (directory / "memory.current").unlink()
    assert Gauge(node_at("a")).read() == 0
