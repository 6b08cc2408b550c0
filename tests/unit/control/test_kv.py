# SPDX-License-Identifier: Apache-2.0
"""The co-ordinator on a fake hierarchy: what is made of what engines say, and that it ends."""

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest

from agentcg.cgroup.container import enter
from agentcg.control.lease import Lease
from agentcg.control.stops import stand_still
from agentcg.errors import InvalidInput, Unsupported
from agentcg.kv.reports import Queue
from agentcg.model import SessionRef

A, B = SessionRef("u0", "a"), SessionRef("u0", "b")
PATH = "shared/u0/a/calls/c1"
M = 1 << 20


def test_engines_are_told_nothing_where_the_policy_says_so(world) -> None:  # type: ignore[no-untyped-def]
    async def work(world: Any) -> None:
        with pytest.raises(Unsupported, match="not told of calls") as caught:
            await anext(world.made.listen())  # type: ignore[arg-type]
        assert "signals = true" in caught.value.hint
        world.begin()
        world.hello()
        world.say(world.holds(A, 50))
        assert world.weights() == ("400", "100")

    world(work, signals=False)


def test_who_is_in_the_way_gets_more_and_only_while_it_is(world) -> None:  # type: ignore[no-untyped-def]
    async def work(world: Any) -> None:
        world.begin(A)
        world.begin(B)
        world.hello()
        assert world.weights() == ("100", "100")
        world.say(world.holds(A, 50), world.holds(B, 25))
        assert world.weights() == ("400", "250")
        assert world.weighed == [A, B]
        assert [world.registry.sessions[ref].urgency for ref in (A, B)] == [1.0, 0.5]
        world.say(queue=Queue(waiting=0, free_blocks=0))
        assert world.weights() == ("100", "100")
        assert [world.registry.sessions[ref].urgency for ref in (A, B)] == [0.0, 0.0]
        world.say(world.holds(A, 50, pinned_sec=None))
        assert world.weights() == ("100", "400")
        world.say(world.holds(B, 25, turns=1))  # It is back.
        assert world.weights() == ("100", "100")

    world(work)


def test_the_shares_of_the_policy_are_multiplied(world) -> None:  # type: ignore[no-untyped-def]
    async def work(world: Any) -> None:
        live = world.registry.sessions[A]
        live.session = replace(live.session, budget=replace(live.session.budget, cpu_weight=5000))
        world.begin(A)
        world.hello()
        world.say(world.holds(A, 50))
        assert world.weights()[0] == "10000"  # No cpu.weight is above that.

    world(work)


def test_a_call_that_ends_takes_its_share_with_it(world, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(world: Any) -> None:
        world.begin(A)
        world.hello()
        world.say(world.holds(A, 50))
        assert world.weights()[0] == "400"
        cgroups.leave(PATH)
        await asyncio.sleep(0.1)
        assert world.weights()[0] == "100"

    world(work)


def test_a_call_that_stands_still_has_a_place_and_no_share(world) -> None:  # type: ignore[no-untyped-def]
    async def work(world: Any) -> None:
        stand_still(world.begin(A), time.monotonic())
        world.hello()
        world.say(world.holds(A, 50))
        assert world.weights()[0] == "100"
        assert world.registry.sessions[A].urgency == 1.0

    world(work)


def test_a_container_is_told_of_and_keeps_what_its_engine_gives_it(world, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(world: Any) -> None:
        one = SessionRef("docker", "one")
        node = enter(str(cgroups.make("docker/0a1b")), "/docker/0a1b", ("cpu",))
        live = world.registry.open_container(one, node, container="0a1b", owner_uid=0)
        ears = world.ears()
        await asyncio.sleep(0.01)
        world.registry.begin(live, owner_uid=0, name="c1", command="x")
        cgroups.enter("docker/0a1b/calls/c1")
        await ears.next("began", one)
        world.hello()
        assert world.say(world.holds(one, 50)) == []
        assert cgroups.text("docker/0a1b", "cpu.weight") == "100"
        assert live.urgency == 0.0
        cgroups.leave("docker/0a1b/calls/c1")
        await ears.next("ended", one)

    world(work)


@pytest.mark.parametrize(
    ("rules", "weight", "urgency"), [({"weights": False}, "100", 1.0), ({"order": False}, "400", 0.0)]
)
def test_each_influence_can_be_turned_off(world, rules: dict[str, bool], weight: str, urgency: float) -> None:  # type: ignore[no-untyped-def]
    async def work(world: Any) -> None:
        world.begin(A)
        world.hello()
        world.say(world.holds(A, 50))
        assert (world.weights()[0], world.registry.sessions[A].urgency) == (weight, urgency)

    world(work, **rules)


def test_an_engine_that_falls_silent_has_no_say(world, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("agentcg.kv.reports.FRESH_SEC", 0.1)

    async def work(world: Any) -> None:
        world.begin(A)
        world.hello()
        world.say(world.holds(A, 50))
        assert world.weights()[0] == "400"
        await asyncio.sleep(0.3)
        assert world.weights()[0] == "100"

    world(work)


def test_an_engine_that_hangs_up_is_forgotten(world) -> None:  # type: ignore[no-untyped-def]
    async def work(world: Any) -> None:
        world.begin(A)
        world.hello()
        world.say(world.holds(A, 50))
        world.made.dropped(Lease(0))  # Somebody else.
        assert world.weights()[0] == "400"
        world.made.dropped(world.lease)
        assert world.weights()[0] == "100"
        assert world.made.engines() == []
        with pytest.raises(InvalidInput, match="no engine's"):
            world.say()

    world(work)


def test_an_engine_that_starts_anew_has_said_nothing(world) -> None:  # type: ignore[no-untyped-def]
    async def work(world: Any) -> None:
        world.begin(A)
        world.hello()
        world.say(world.holds(A, 50))
        again = Lease(0)
        world.made.hello(again, "e", 100, M)
        assert world.weights()[0] == "100"
        (engine,) = world.made.engines()
        assert engine.holdings == {}
        with pytest.raises(InvalidInput, match="no engine's") as caught:
            world.say(world.holds(A, 50))
        assert "under the same name" in caught.value.hint
        world.made.dropped(world.lease)  # The old connection takes nothing with it.
        assert world.made.engines() == [engine]
        world.made.hello(again, "other", 100, M)  # One connection is one engine.
        assert [engine.name for engine in world.made.engines()] == ["other"]

    world(work)


def test_a_refused_hello_changes_nothing(world, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("agentcg.control.kv.ENGINES", 1)

    async def work(world: Any) -> None:
        world.hello()
        for name, blocks in (("e", 0), ("second", 1)):
            with pytest.raises(InvalidInput):
                world.made.hello(world.lease, name, blocks, M)
        assert world.say() == []

    world(work)


def test_a_session_that_is_closed_is_forgotten(world) -> None:  # type: ignore[no-untyped-def]
    async def work(world: Any) -> None:
        world.hello()
        gone = SessionRef("u0", "gone")
        assert world.say(world.holds(A, 50), world.holds(gone, 1)) == [gone]
        await asyncio.sleep(0.01)
        await world.registry.close_session(A, "closed")
        await asyncio.sleep(0.01)
        (engine,) = world.made.engines()
        assert engine.holdings == {}

    world(work)


def test_a_wall_clock_that_jumps_does_not_matter(world, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    async def work(world: Any) -> None:
        ears = world.ears()
        await asyncio.sleep(0.01)
        world.begin(A)
        await ears.next("began")
        world.hello()
        world.say(world.holds(A, 50))
        for jumped in (0.0, 1e12):
            monkeypatch.setattr("time.time", lambda jumped=jumped: jumped)
            await asyncio.sleep(0.1)
            world.say()
            assert world.weights()[0] == "400"
        assert ears.silent

    world(work)


def test_a_share_that_the_kernel_refuses_is_no_harm(world, cgroups, caplog) -> None:  # type: ignore[no-untyped-def]
    async def work(world: Any) -> None:
        world.begin(A)
        world.hello()
        cgroups.refuse["cpu.weight"] = OSError(22, "Invalid argument")
        assert world.say(world.holds(A, 50)) == []
        assert "the share of u0/a cannot be changed" in caplog.text

    world(work)


# Its life


def test_without_engines_nothing_is_done(world) -> None:  # type: ignore[no-untyped-def]
    async def work(world: Any) -> None:
        before = len(asyncio.all_tasks()), len(world.registry.bus._listeners), len(world.cgroups.poll._watched)
        assert world.made._timer is None
        ears = world.ears()
        await asyncio.sleep(0.05)
        world.hello()
        assert len(world.registry.bus._listeners) == before[1] + 1
        world.made.dropped(world.lease)
        await ears.stop()
        await asyncio.sleep(0.05)
        after = len(asyncio.all_tasks()), len(world.registry.bus._listeners), len(world.cgroups.poll._watched)
        assert after == before
        assert world.made._hearing is None
        assert world.made._timer is None

    world(work)


def test_at_the_end_every_share_is_the_policys(world) -> None:  # type: ignore[no-untyped-def]
    async def work(world: Any) -> None:
        world.begin(A)
        world.hello()
        world.say(world.holds(A, 50))
        world.made.close()
        assert world.weights()[0] == "100"
        world.made.close()

    world(work)
