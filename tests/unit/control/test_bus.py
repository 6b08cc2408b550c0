# SPDX-License-Identifier: Apache-2.0
"""Events: a slow listener is told what it lost, and holds nobody up."""

import asyncio

import pytest

from agentcg.control.bus import Bus, Event, Listeners


async def take(listener, count: int) -> list[Event]:  # type: ignore[no-untyped-def]
    return [await asyncio.wait_for(anext(listener), 1) for _ in range(count)]


def test_everybody_hears_everything_from_now_on() -> None:
    async def run() -> None:
        bus = Bus()
        bus.publish("call_begun", "t/s/before", "")
        listeners = [bus.listen(), bus.listen()]
        waiting = [asyncio.create_task(take(listener, 2)) for listener in listeners]
        await asyncio.sleep(0.02)
        bus.publish("call_begun", "t/s/c", "one")
        bus.publish("call_ended", "t/s/c", "two")
        for events in await asyncio.gather(*waiting):
            assert [(event.sequence, event.kind, event.message) for event in events] == [
                (2, "call_begun", "one"),
                (3, "call_ended", "two"),
            ]

    asyncio.run(run())


def test_a_slow_listener_loses_the_oldest_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentcg.control.bus.QUEUE", 3)

    async def run() -> None:
        bus = Bus()
        listener = bus.listen()
        first = asyncio.create_task(take(listener, 1))
        await asyncio.sleep(0.02)
        for number in range(5):
            bus.publish("call_begun", f"t/s/c{number}", "")
        (lost,) = await first
        assert (lost.kind, lost.message) == ("lost", "2 events were missed: read faster")
        assert [event.subject for event in await take(listener, 3)] == ["t/s/c2", "t/s/c3", "t/s/c4"]
        bus.publish("call_begun", "t/s/next", "")
        assert [event.kind for event in await take(listener, 1)] == ["call_begun"]

    asyncio.run(run())


def test_what_is_the_case_comes_first() -> None:
    async def run() -> None:
        told = Listeners[int](lambda count: -count)
        listener = told.listen(lambda item: item != 3, first=lambda: [0, 1])
        first = asyncio.create_task(take(listener, 2))
        await asyncio.sleep(0.02)
        assert await first == [0, 1]
        for item in (2, 3, 4):
            told.tell(item)
        assert await take(listener, 2) == [2, 4]

    asyncio.run(run())


def test_a_listener_that_left_is_forgotten() -> None:
    async def run() -> None:
        bus = Bus()
        listener = bus.listen()
        first = asyncio.create_task(take(listener, 1))
        await asyncio.sleep(0.02)
        bus.publish("call_begun", "t/s/c", "")
        await first
        await listener.aclose()  # type: ignore[attr-defined]
        assert not bus._listeners

    asyncio.run(run())


def test_a_hook_hears_at_once_and_misses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentcg.control.bus.QUEUE", 1)
    bus, heard = Bus(), []
    bus.hooks.append(lambda event: heard.append(event.message))
    for number in range(5):
        bus.publish("refused", "t/s", str(number))
    assert heard == ["0", "1", "2", "3", "4"]
    assert bus.lost == 0
