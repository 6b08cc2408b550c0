# SPDX-License-Identifier: Apache-2.0
"""A co-ordinator on a fake hierarchy."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from agentcg.control.kv import Coordinator
from agentcg.control.lease import Lease
from agentcg.control.registry import Registry
from agentcg.control.signals import News
from agentcg.kv.reports import Queue, SessionReport
from agentcg.model import SessionRef
from agentcg.policy.schema import KvRules

A, B = SessionRef("u0", "a"), SessionRef("u0", "b")
M = 1 << 20
FULL = Queue(waiting=2, free_blocks=0)


class World:
    """A registry with the sessions u0/a and u0/b, and a co-ordinator."""

    def __init__(self, registry: Registry, rules: KvRules, cgroups: Any) -> None:
        self.registry, self.cgroups = registry, cgroups
        self.weighed: list[SessionRef] = []
        self.made = Coordinator(registry, rules, lambda live: self.weighed.append(live.session.ref))
        self.lease = Lease(0)
        for ref in (A, B):
            registry.open_session(ref, tenant="u0", owner_uid=0)

    def begin(self, ref: SessionRef = A, command: str = "make") -> Any:
        live, _ = self.registry.begin(self.registry.sessions[ref], owner_uid=0, name="c1", tool="Bash", command=command)
        self.cgroups.enter(f"shared/{ref}/calls/c1")
        return live

    def hello(self) -> None:
        """An engine of 100 MiB."""
        self.made.hello(self.lease, "e", 100, M)

    def holds(self, ref: SessionRef, size: int, **fields: Any) -> SessionReport:
        return SessionReport(ref, 10, size * M, **({"pinned_sec": 60.0} | fields))

    def say(self, *sessions: SessionReport, queue: Queue | None = FULL) -> list[SessionRef]:
        return self.made.report(self.lease, sessions, queue)

    def ears(self) -> "Ears":
        return Ears(self.made)

    def weights(self) -> tuple[str, str]:
        return tuple(self.cgroups.text(f"shared/{ref}", "cpu.weight") for ref in (A, B))  # type: ignore[return-value]


class Ears:
    """Hears what an engine is told."""

    def __init__(self, made: Coordinator) -> None:
        self._heard: asyncio.Queue[News] = asyncio.Queue()
        self._task = asyncio.create_task(self._hear(made))

    async def _hear(self, made: Coordinator) -> None:
        async for news in made.listen():
            self._heard.put_nowait(news)

    async def next(self, kind: str, ref: SessionRef = A) -> News:
        """Return what is told next."""
        news = await asyncio.wait_for(self._heard.get(), 5)
        assert (news.kind, news.session) == (kind, ref)
        assert (news.forecast is not None) is (kind in ("began", "revised", "thawed"))
        return news

    @property
    def silent(self) -> bool:
        return self._heard.empty()

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


@pytest.fixture
def world(new_registry: Callable[..., Registry], cgroups: Any, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Return a function that runs a coroutine with a world in which every report is answered at once."""
    monkeypatch.setattr("agentcg.control.kv.WEIGH_SEC", 0.0)
    monkeypatch.setattr("agentcg.control.kv.LOOK_SEC", 0.02)

    def run(work: Callable[[World], Coroutine[Any, Any, None]], **rules: bool) -> None:
        async def main() -> None:
            made = World(new_registry(), KvRules(**rules), cgroups)
            await work(made)
            made.made.close()
            await made.registry.settle()

        asyncio.run(main())

    return run
