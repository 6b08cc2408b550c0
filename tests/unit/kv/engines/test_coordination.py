# SPDX-License-Identifier: Apache-2.0
"""An engine at the daemon's own server: it reports and hears, and goes on without it."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentcg.api.types import KvEvent, KvQueue, KvSession
from agentcg.kv.engines import coordination
from agentcg.kv.engines.coordination import Coordination
from agentcg.kv.engines.signals import full_name

M = 1 << 20


class Engine:
    """What it holds is what a test says."""

    def __init__(self) -> None:
        self.size: tuple[int, int] | None = (100, M)
        self.sessions: list[KvSession] = []
        self.events: list[KvEvent] = []
        self.deaf = False
        self.forgot = 0

    def capacity(self) -> tuple[int, int] | None:
        return self.size

    def report(self) -> tuple[list[KvSession], KvQueue]:
        return list(self.sessions), KvQueue(waiting=1, freeBlocks=0)

    def heard(self, event: KvEvent) -> None:
        self.events.append(event)
        if self.deaf:
            raise ValueError("no ears")

    def unheard(self) -> None:
        self.forgot += 1


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordination, "REPORT_SEC", 0.02)
    monkeypatch.setattr(coordination, "AGAIN_SEC", (0.02, 0.05))


def beside(engine: Engine, path: str, story: Callable[[Coordination], Any]) -> None:
    """Run a story while the engine is connected, or tries to be; the story is in a thread and may block."""

    async def whole() -> None:
        link = Coordination(engine, "engine-0", path)
        running = asyncio.create_task(link.run())
        try:
            await asyncio.wait_for(asyncio.to_thread(story, link), 30)
            assert not running.done()
        finally:
            running.cancel()

    asyncio.run(whole())


def until(holds: Callable[[], Any]) -> None:
    import time

    for _ in range(1000):
        if holds():
            return
        time.sleep(0.01)
    pytest.fail("it never came to hold")


def test_it_reports_and_hears(served) -> None:  # type: ignore[no-untyped-def]
    engine = Engine()
    engine.sessions = [KvSession("u0/a", 4096, 50 * M, pinnedSec=3.0), KvSession("not a name", 1, 1)]

    def story(link: Coordination) -> None:
        with served.client() as agent:
            call = agent.session("a").call(["make"], id="c1", tool="Bash")
            until(lambda: any(event.kind == "began" for event in engine.events))
            until(lambda: [held.session for one in agent.kv_engines() for held in one.sessions] == ["u0/a"])
            (listed,) = agent.kv_engines()
            assert (listed.engine, listed.totalBlocks, listed.blockBytes) == ("engine-0", 100, M)
            engine.size = (100, 2 * M)
            until(lambda: [one.blockBytes for one in agent.kv_engines()] == [2 * M])
            until(lambda: agent.kv_engines()[0].sessions)
            call.end(exit_code=0)
            agent.close_session("a")
            until(lambda: engine.events[-1].kind == "closed")
            assert link.connected

    beside(engine, served.path, story)


def test_an_engine_that_does_not_know_its_size_yet_is_heard_later(served) -> None:  # type: ignore[no-untyped-def]
    engine = Engine()
    engine.size = None

    def story(link: Coordination) -> None:
        with served.client() as agent:
            assert agent.kv_engines() == []
            engine.size = (5, 5)
            until(agent.kv_engines)

    beside(engine, served.path, story)


def test_an_engine_that_fails_to_listen_goes_on(served) -> None:  # type: ignore[no-untyped-def]
    engine = Engine()
    engine.deaf = True

    def story(link: Coordination) -> None:
        with served.client() as agent:
            agent.session("a").call(["make"], id="c1")
            until(lambda: engine.events)
            agent.close_session("a")
            until(lambda: engine.events[-1].kind == "closed")

    beside(engine, served.path, story)


def test_it_comes_back_when_it_was_hung_up_on(served) -> None:  # type: ignore[no-untyped-def]
    engine = Engine()
    engine.sessions = [KvSession("u0/a", 10, M)]

    def story(link: Coordination) -> None:
        with served.client() as agent:
            agent.session("a")
            until(lambda: [held for one in agent.kv_engines() for held in one.sessions])
            # Another says hello under its name: what it says from then on is refused.
            with served.client() as other:
                other.kv_hello("engine-0", total_blocks=1, block_bytes=1)
                until(lambda: [one.totalBlocks for one in agent.kv_engines()] == [100])
            assert engine.forgot == 1
            until(lambda: [held for one in agent.kv_engines() for held in one.sessions])

    beside(engine, served.path, story)


def test_without_a_daemon_it_says_so_once_and_tries_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    engine = Engine()
    caplog.set_level(logging.WARNING)

    def story(link: Coordination) -> None:
        import time

        time.sleep(0.5)
        assert not link.connected

    beside(engine, str(tmp_path / "nobody"), story)
    assert len([record for record in caplog.records if "without a co-ordinator" in record.message]) == 1


def test_a_report_that_is_refused_is_no_reason_to_stop(served) -> None:  # type: ignore[no-untyped-def]
    engine = Engine()
    engine.sessions = [KvSession("u0/a", -5, M)]

    def story(link: Coordination) -> None:
        with served.client() as agent:
            agent.session("a")
            until(agent.kv_engines)
            engine.sessions = [KvSession("u0/a", 5, M)]
            until(lambda: [held for one in agent.kv_engines() for held in one.sessions])

    beside(engine, served.path, story)


def test_more_sessions_than_a_message_holds_are_said(served) -> None:  # type: ignore[no-untyped-def]
    engine = Engine()
    engine.sessions = [KvSession(f"u0/{'x' * 50}-{number}", 1, 1) for number in range(4000)]
    engine.sessions.append(KvSession("u0/a", 10, M))

    def story(link: Coordination) -> None:
        with served.client() as agent:
            agent.session("a")
            until(lambda: [held.session for one in agent.kv_engines() for held in one.sessions] == ["u0/a"])

    beside(engine, served.path, story)


def test_names() -> None:
    assert full_name("u7/fix-1") == "u7/fix-1"
    assert (full_name("fix-1") or "").endswith("/fix-1")
    for bad in ("", "a b", "a/b/c", "../a", "x" * 200):
        assert full_name(bad) is None
