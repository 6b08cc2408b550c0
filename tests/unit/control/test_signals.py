# SPDX-License-Identifier: Apache-2.0
"""What engines hear of calls, through a co-ordinator on a fake hierarchy."""

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest

from agentcg.control.signals import News
from agentcg.control.stops import go_on, stand_still
from agentcg.model import CallRef, SessionRef, Usage, Verdict

A, B = SessionRef("u0", "a"), SessionRef("u0", "b")
CALL = CallRef(A, "c1")
PATH = "shared/u0/a/calls/c1"


def median(news: News) -> float:
    assert news.forecast is not None
    return news.forecast.p50_sec


def test_the_life_of_a_call(world, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(world: Any) -> None:
        ears = world.ears()
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
    async def work(world: Any) -> None:
        order: list[str] = []
        world.begin()
        world.hello()
        monkeypatch.setattr(world.made._signals._news, "tell", lambda news: order.append(news.kind))
        monkeypatch.setattr(world.registry, "keep_verdict", lambda live, verdict: order.append("verdict"))
        await world.registry.end(CALL, exit_code=0)
        assert order == ["ended", "verdict"]

    world(work)


def test_who_listens_later_is_told_of_what_runs(world) -> None:  # type: ignore[no-untyped-def]
    async def work(world: Any) -> None:
        stand_still(world.begin(), time.monotonic())
        world.begin(B)
        for _ in range(2):  # The second while the first listens.
            ears = world.ears()
            await ears.next("began")
            await ears.next("frozen")
            await ears.next("began", B)

    world(work)


def test_the_history_says_how_long_it_takes(world) -> None:  # type: ignore[no-untyped-def]
    async def work(world: Any) -> None:
        live = world.begin()
        for _ in range(64):
            usage, limits = Usage(300.0), live.call.limits
            verdict = Verdict(CALL, "ok", usage, limits, 0.0, 300.0, tool="Bash", command="make")
            world.registry.store.add("make", 0, verdict)
        world.registry.store.add("make", 0, replace(verdict, ended="unreadable"))  # type: ignore[arg-type]
        assert median(await world.ears().next("began")) == pytest.approx(300, abs=5)

    world(work)


def test_what_is_learned_from_a_call_that_ends_counts_for_the_next(world) -> None:  # type: ignore[no-untyped-def]
    async def work(world: Any) -> None:
        ears = world.ears()
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

    async def work(world: Any) -> None:
        live = world.begin()
        ears = world.ears()
        assert median(await ears.next("began")) < 10
        live.started -= 100
        assert median(await ears.next("revised")) > 10
        await asyncio.sleep(0.2)
        assert ears.silent

    world(work)


def test_a_call_that_fills_again_goes_on(world, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(world: Any) -> None:
        ears = world.ears()
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
    async def work(world: Any) -> None:
        ears = world.ears()
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
    async def work(world: Any) -> None:
        ears = world.ears()
        live = world.begin()
        await ears.next("began")
        live.still.begin(time.monotonic())
        world.registry.bus.publish("session_frozen", A, "")
        await ears.next("frozen")

    world(work)
