# SPDX-License-Identifier: Apache-2.0
"""Containers as sessions on a fake hierarchy; with a real engine it is tested in the kernel tests."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from agentcg.control import containers as module
from agentcg.control.adopt import adopt
from agentcg.control.containers import Containers, places_of
from agentcg.control.registry import Registry
from agentcg.errors import InvalidInput, Unsupported
from agentcg.model import SessionRef
from agentcg.sandbox.docker import Container, Engine, Pattern

ONE = SessionRef("docker", "one")


class KnownEngine(Engine):
    """Knows one container without asking anybody, and follows nothing."""

    def __init__(self, container: Container) -> None:
        super().__init__()
        self.container = container

    def inspect(self, container: str) -> Container:
        return self.container

    def follow(self, started: Callable[[str], None]) -> None:
        pass


@pytest.fixture
def engine(cgroups, monkeypatch: pytest.MonkeyPatch) -> KnownEngine:  # type: ignore[no-untyped-def]
    """Return an engine with a container in which a process lives."""
    directory = cgroups.make("docker/0a1b")
    (directory / "cgroup.procs").write_text("11\n")
    cgroups.enter("docker/0a1b")
    monkeypatch.setattr(module, "_mount", lambda: str(cgroups.top))
    monkeypatch.setattr(module, "cgroup_of", lambda pid: "/docker/0a1b")
    return KnownEngine(Container("0a1b", "one", 11, False, {}))


def play(new_registry: Any, engine: Engine, work: Any, **options: Any) -> None:
    async def main() -> None:
        registry = new_registry()
        containers = Containers(registry, engine, **options)
        await work(registry, containers)
        await registry.settle()
        containers.close()

    asyncio.run(main())


async def settled(what: Callable[[], Any]) -> None:
    """Wait for what a task does, after it has asked the engine in a thread."""
    for _ in range(2000):
        if what():
            return
        await asyncio.sleep(0.005)
    pytest.fail("waited in vain")


def test_attached_and_detached(new_registry, engine, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry, containers: Containers) -> None:
        live = await containers.attach("one")
        assert live.session.ref == ONE
        assert containers.places == {"/docker/0a1b": ONE}
        with pytest.raises(InvalidInput, match="attached already"):
            await containers.attach("one")
        assert places_of(registry.tree.root.node.read_record()) == [(str(cgroups.top / "docker/0a1b"), "/docker/0a1b")]
        registry.begin(live, owner_uid=0, name="c1", command="x")
        assert (cgroups.top / "docker/0a1b/calls/c1").is_dir()
        (verdict,) = await containers.detach("one")
        assert verdict.reason == "its container was detached"
        assert (containers.places, registry.sessions) == ({}, {})
        assert places_of(registry.tree.root.node.read_record()) == []
        with pytest.raises(InvalidInput, match="not attached"):
            await containers.detach("one")

    play(new_registry, engine, work)


def test_one_that_stops_is_gone(new_registry, engine, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry, containers: Containers) -> None:
        await containers.attach("one")
        cgroups.leave("docker/0a1b")
        await settled(lambda: not registry.sessions and not containers.places)

    play(new_registry, engine, work)


def test_the_next_daemon_takes_it_over(new_registry, engine, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def before(registry: Registry, containers: Containers) -> None:
        registry.begin(await containers.attach("one"), owner_uid=0, name="c1", command="x", lease=None)
        cgroups.enter("docker/0a1b/calls/c1")

    async def after() -> None:
        registry = new_registry()
        await adopt(registry, places_of(registry.tree.root.node.read_record()))
        containers = Containers(registry, engine)
        assert containers.places == {"/docker/0a1b": ONE}
        assert list(registry.sessions[ONE].calls) == ["c1"]
        containers.close()

    play(new_registry, engine, before)
    cgroups.poll.forget()
    asyncio.run(after())


def test_one_that_matches_is_attached_when_it_starts(new_registry, engine) -> None:  # type: ignore[no-untyped-def]
    async def work(registry: Registry, containers: Containers) -> None:
        containers._started("0a1b")
        await settled(lambda: registry.sessions)
        assert list(registry.sessions) == [ONE]

    play(new_registry, engine, work, patterns=[Pattern.parse("o*")])


@pytest.mark.parametrize(
    ("container", "said"),
    [
        (Container("0a1b", "one", 0, False, {}), "does not run"),
        (Container("0a1b", "one", 11, True, {}), "is paused"),
        (Container("ffff", "one", 11, False, {}), "no cgroup of its own"),
    ],
)
def test_what_cannot_be_attached(new_registry, engine, container: Container, said: str) -> None:  # type: ignore[no-untyped-def]
    engine.container = container

    async def work(registry: Registry, containers: Containers) -> None:
        with pytest.raises((InvalidInput, Unsupported), match=said):
            await containers.attach("one")
        assert registry.sessions == {}

    play(new_registry, engine, work)
