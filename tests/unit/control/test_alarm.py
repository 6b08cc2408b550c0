# SPDX-License-Identifier: Apache-2.0
import asyncio
from collections.abc import Callable, Coroutine

import pytest

from agentcg.control.alarm import Alarm

LONG = 60.0


def rung(work: Callable[[Alarm, Callable[[str], Callable[[], None]]], Coroutine[None, None, None]]) -> list[str]:
    """Run ``work`` with an alarm and what makes something to call, and return what was called."""
    called: list[str] = []

    async def main() -> None:
        alarm = Alarm()
        await work(alarm, lambda name: lambda: called.append(name))
        await asyncio.sleep(0.03)
        assert not alarm.pending

    asyncio.run(main())
    return called


def test_what_is_set_takes_the_place_of_what_was_to_come() -> None:
    async def work(alarm: Alarm, say: Callable[[str], Callable[[], None]]) -> None:
        alarm.set(0, say("soon"))
        alarm.set(LONG, say("late"))
        alarm.set(0.01, say("then"))
        assert alarm.pending

    assert rung(work) == ["then"]


@pytest.mark.parametrize(("pending", "expected"), [(None, "new"), (0, "old"), (0.01, "old"), (LONG, "new")])
def test_within_a_time_what_comes_before_its_end_stays(pending: float | None, expected: str) -> None:
    async def work(alarm: Alarm, say: Callable[[str], Callable[[], None]]) -> None:
        if pending is not None:
            alarm.set(pending, say("old"))
        alarm.within(0.02, say("new"))

    assert rung(work) == [expected]


def test_nothing_is_called_after_it_was_taken_back() -> None:
    async def work(alarm: Alarm, say: Callable[[str], Callable[[], None]]) -> None:
        alarm.set(0.01, say("never"))
        alarm.cancel()
        alarm.cancel()

    assert rung(work) == []


def test_what_is_called_may_set_the_next() -> None:
    async def work(alarm: Alarm, say: Callable[[str], Callable[[], None]]) -> None:
        alarm.set(0, lambda: alarm.within(0.01, say("next")))

    assert rung(work) == ["next"]
