# SPDX-License-Identifier: Apache-2.0
"""The co-ordinator on a fake hierarchy: what engines hear, what is made of what they say, and that it ends."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest

from agentcg.control.kv import Coordinator
from agentcg.control.lease import Lease
from agentcg.control.registry import Registry
from agentcg.control.signals import News
from agentcg.control.stops import go_on, stand_still
from agentcg.errors import InvalidInput, Unsupported
from agentcg.kv.reports import Queue, SessionReport
from agentcg.model import CallRef, SessionRef, Usage, Verdict
from agentcg.policy.schema import KvRules

A, B = SessionRef("u0", "a"), SessionRef("u0", "b")
CALL = CallRef(A, "c1")
PATH = "shared/u0/a/calls/c1"
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


def median(news: News) -> float:
    assert news.forecast is not None
    return news.forecast.p50_sec


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


# What engines hear


def test_the_life_of_a_call(world, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(world: World) -> None:
        ears = Ears(world.made)
        await asyncio.sleep(0.01)
        live = world.begin()
        began = await ears.next("began")
        assert began.call == CALL
        assert began.forecast is not None
        assert 0 < began.forecast.p10_sec < began.forecast.p50_sec < began.forecast.p90_sec
        stand_still(live, time.monotonic())
        assert (await ears.next("frozen")).call == CALL
        go_on(world.registry, live)
        assert (await ears.next("thawed")).call == CALL
        cgroups.leave(PATH)
        assert (await ears.next("ended")).call == CALL
        assert CALL in world.registry.calls  # Its runtime has not said so yet.
        await world.registry.end(CALL, exit_code=0)
        await world.registry.close_session(A, "closed")
        assert await ears.next("closed") == News("closed", A)
        assert ears.silent
        await ears.stop()

    world(work)


def test_it_has_ended_before_its_agent_can_know(world, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    async def work(world: World) -> None:
        order: list[str] = []
        world.begin()
        world.hello()
        monkeypatch.setattr(world.made._signals._news, "tell", lambda news: order.append(news.kind))
        monkeypatch.setattr(world.registry, "keep_verdict", lambda live, verdict: order.append("verdict"))
        await world.registry.end(CALL, exit_code=0)
        assert order == ["ended", "verdict"]

    world(work)


def test_who_listens_later_is_told_of_what_runs(world) -> None:  # type: ignore[no-untyped-def]
    async def work(world: World) -> None:
        stand_still(world.begin(), time.monotonic())
        world.begin(B)
        for _ in range(2):  # The second while the first listens.
            ears = Ears(world.made)
            await ears.next("began")
            await ears.next("frozen")
            await ears.next("began", B)

    world(work)


def test_the_history_says_how_long_it_takes(world) -> None:  # type: ignore[no-untyped-def]
    async def work(world: World) -> None:
        live = world.begin()
        for _ in range(64):
            usage, limits = Usage(300.0), live.call.limits
            verdict = Verdict(CALL, "ok", usage, limits, 0.0, 300.0, tool="Bash", command="make")
            world.registry.store.add("make", 0, verdict)
        world.registry.store.add("make", 0, replace(verdict, ended="unreadable"))  # type: ignore[arg-type]
        assert median(await Ears(world.made).next("began")) == pytest.approx(300, abs=5)

    world(work)


def test_what_is_learned_from_a_call_that_ends_counts_for_the_next(world) -> None:  # type: ignore[no-untyped-def]
    async def work(world: World) -> None:
        ears = Ears(world.made)
        await asyncio.sleep(0.01)
        for _ in range(8):
            live = world.begin()
            await ears.next("began")
            live.started -= 500
            await world.registry.end(CALL, exit_code=0)
            await ears.next("ended")
        await asyncio.sleep(0.01)
        world.begin()
        assert median(await ears.next("began")) > 400

    world(work)


def test_a_call_that_is_overdue_is_told_of_again_and_not_at_every_look(world, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("agentcg.control.prediction.SOONEST_SEC", 0.0)
    monkeypatch.setattr("agentcg.control.prediction.LATEST_SEC", 0.0)

    async def work(world: World) -> None:
        live = world.begin()
        ears = Ears(world.made)
        assert median(await ears.next("began")) < 10
        live.started -= 100
        assert median(await ears.next("revised")) > 10
        await asyncio.sleep(0.2)
        assert ears.silent

    world(work)


def test_a_call_that_fills_again_goes_on(world, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(world: World) -> None:
        ears = Ears(world.made)
        await asyncio.sleep(0.01)
        world.begin()
        await ears.next("began")
        cgroups.leave(PATH)
        await ears.next("ended")
        cgroups.enter(PATH)
        await ears.next("began")
        await world.registry.end(CALL, exit_code=0)
        await ears.next("ended")

    world(work)


def test_a_call_of_the_same_name_is_another(world) -> None:  # type: ignore[no-untyped-def]
    async def work(world: World) -> None:
        ears = Ears(world.made)
        world.begin()
        await ears.next("began")
        await world.registry.end(CALL, exit_code=0)
        world.begin()
        await ears.next("ended")
        await ears.next("began")
        await asyncio.sleep(0.1)
        assert ears.silent

    world(work)


def test_a_session_that_is_frozen_freezes_its_calls(world) -> None:  # type: ignore[no-untyped-def]
    async def work(world: World) -> None:
        ears = Ears(world.made)
        live = world.begin()
        await ears.next("began")
        live.still_since = time.monotonic()
        world.registry.bus.publish("session_frozen", A, "")
        await ears.next("frozen")

    world(work)


def test_engines_are_told_nothing_where_the_policy_says_so(world) -> None:  # type: ignore[no-untyped-def]
    async def work(world: World) -> None:
        with pytest.raises(Unsupported, match="not told of calls") as caught:
            await anext(world.made.listen())  # type: ignore[arg-type]
        assert "signals = true" in caught.value.hint
        world.begin()
        world.hello()
        world.say(world.holds(A, 50))
        assert world.weights() == ("400", "100")

    world(work, signals=False)


# What engines say


def test_who_is_in_the_way_gets_more_and_only_while_it_is(world) -> None:  # type: ignore[no-untyped-def]
    async def work(world: World) -> None:
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
    async def work(world: World) -> None:
        live = world.registry.sessions[A]
        live.session = replace(live.session, budget=replace(live.session.budget, cpu_weight=5000))
        world.begin(A)
        world.hello()
        world.say(world.holds(A, 50))
        assert world.weights()[0] == "10000"  # No cpu.weight is above that.

    world(work)


def test_a_call_that_ends_takes_its_share_with_it(world, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(world: World) -> None:
        world.begin(A)
        world.hello()
        world.say(world.holds(A, 50))
        assert world.weights()[0] == "400"
        cgroups.leave(PATH)
        await asyncio.sleep(0.1)
        assert world.weights()[0] == "100"

    world(work)


def test_a_call_that_stands_still_has_a_place_and_no_share(world) -> None:  # type: ignore[no-untyped-def]
    async def work(world: World) -> None:
        stand_still(world.begin(A), time.monotonic())
        world.hello()
        world.say(world.holds(A, 50))
        assert world.weights()[0] == "100"
        assert world.registry.sessions[A].urgency == 1.0

    world(work)


@pytest.mark.parametrize(
    ("rules", "weight", "urgency"), [({"weights": False}, "100", 1.0), ({"order": False}, "400", 0.0)]
)
def test_each_influence_can_be_turned_off(world, rules: dict[str, bool], weight: str, urgency: float) -> None:  # type: ignore[no-untyped-def]
    async def work(world: World) -> None:
        world.begin(A)
        world.hello()
        world.say(world.holds(A, 50))
        assert (world.weights()[0], world.registry.sessions[A].urgency) == (weight, urgency)

    world(work, **rules)


def test_an_engine_that_falls_silent_has_no_say(world, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("agentcg.kv.reports.FRESH_SEC", 0.1)

    async def work(world: World) -> None:
        world.begin(A)
        world.hello()
        world.say(world.holds(A, 50))
        assert world.weights()[0] == "400"
        await asyncio.sleep(0.3)
        assert world.weights()[0] == "100"

    world(work)


def test_an_engine_that_hangs_up_is_forgotten(world) -> None:  # type: ignore[no-untyped-def]
    async def work(world: World) -> None:
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
    async def work(world: World) -> None:
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

    async def work(world: World) -> None:
        world.hello()
        for name, blocks in (("e", 0), ("second", 1)):
            with pytest.raises(InvalidInput):
                world.made.hello(world.lease, name, blocks, M)
        assert world.say() == []

    world(work)


def test_a_session_that_is_closed_is_forgotten(world) -> None:  # type: ignore[no-untyped-def]
    async def work(world: World) -> None:
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
    async def work(world: World) -> None:
        ears = Ears(world.made)
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
    async def work(world: World) -> None:
        world.begin(A)
        world.hello()
        cgroups.refuse["cpu.weight"] = OSError(22, "Invalid argument")
        assert world.say(world.holds(A, 50)) == []
        assert "the share of u0/a cannot be changed" in caplog.text

    world(work)


# Its life


def test_without_engines_nothing_is_done(world) -> None:  # type: ignore[no-untyped-def]
    async def work(world: World) -> None:
        before = len(asyncio.all_tasks()), len(world.registry.bus._listeners), len(world.cgroups.poll._watched)
        assert world.made._timer is None
        ears = Ears(world.made)
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
    async def work(world: World) -> None:
        world.begin(A)
        world.hello()
        world.say(world.holds(A, 50))
        world.made.close()
        assert world.weights()[0] == "100"
        world.made.close()

    world(work)
