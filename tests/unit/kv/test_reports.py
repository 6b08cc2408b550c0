# SPDX-License-Identifier: Apache-2.0
"""What an engine says: what cannot be is refused as a whole, and the rest is believed for a while."""

from dataclasses import replace
from math import inf, nan

import pytest

from agentcg.errors import InvalidInput
from agentcg.kv.reports import Engine, Queue, SessionReport
from agentcg.model import SessionRef

A, B = SessionRef("u0", "a"), SessionRef("u0", "b")
KNOWN = {A, B}
OF_A = SessionReport(A, tokens=100, bytes=500, pinned_sec=5.0)


def engine() -> Engine:
    """Ten blocks of 100 bytes."""
    return Engine("e", 10, 100)


@pytest.mark.parametrize(
    ("blocks", "block_bytes", "place"),
    [(0, 1, "totalBlocks"), (-1, 1, "totalBlocks"), (1 << 33, 1, "totalBlocks"), (1, 0, "blockBytes")],
)
def test_a_cache_that_cannot_be_is_refused(blocks: int, block_bytes: int, place: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Engine("e", blocks, block_bytes)
    assert caught.value.place == place


@pytest.mark.parametrize(
    ("second", "queue", "place"),
    [
        ({"tokens": -1}, None, "sessions[1].tokens"),
        ({"bytes": -1}, None, "sessions[1].bytes"),
        ({"bytes": 1001}, None, "sessions[1].bytes"),  # More than the whole cache.
        ({"turns": -1}, None, "sessions[1].turns"),
        ({"pinned_sec": -0.1}, None, "sessions[1].pinnedSec"),
        ({"pinned_sec": inf}, None, "sessions[1].pinnedSec"),
        ({"pinned_sec": nan}, None, "sessions[1].pinnedSec"),
        ({"session": A}, None, "sessions[1].session"),  # Twice.
        ({}, Queue(-1, 0), "queue.waiting"),
        ({}, Queue(0, -1), "queue.freeBlocks"),
        ({}, Queue(0, 11), "queue.freeBlocks"),
    ],
)
def test_of_a_report_with_a_lie_in_it_nothing_counts(
    second: dict[str, object], queue: Queue | None, place: str
) -> None:
    made = engine()
    with pytest.raises(InvalidInput) as caught:
        made.report([OF_A, replace(SessionReport(B, 1, 1), **second)], queue, KNOWN, 0.0)  # type: ignore[arg-type]
    assert caught.value.place == place
    assert (made.holdings, made.queue, made.heard) == ({}, Queue(0, 0), -inf)


def test_of_a_session_that_is_not_known_nothing_is_kept() -> None:
    made = engine()
    assert made.report([OF_A, SessionReport(B, 1, 1, hit=True)], None, {A}, 0.0) == [B]
    assert (list(made.holdings), made.hits) == ([A], 0)


def test_a_session_is_forgotten_when_nothing_of_it_is_left() -> None:
    made = engine()
    made.report([OF_A, SessionReport(B, 0, 0, turns=1)], None, KNOWN, 0.0)
    assert set(made.holdings) == KNOWN
    made.report([SessionReport(A, 0, 0)], None, KNOWN, 1.0)
    assert set(made.holdings) == {B}


def test_who_comes_back_is_counted() -> None:
    made = engine()
    for hit in (True, True, False, None):
        made.report([replace(OF_A, hit=hit)], None, KNOWN, 0.0)
    assert (made.hits, made.misses) == (2, 1)


def test_there_is_pressure_while_somebody_waits() -> None:
    made = engine()
    assert made.pressure(0.0) == 0
    made.report([], Queue(waiting=0, free_blocks=2), KNOWN, 100.0)
    assert made.pressure(100.0) == 0
    made.report([], Queue(waiting=1, free_blocks=2), KNOWN, 100.0)
    assert made.pressure(100.0) == pytest.approx(0.8)
    made.report([], None, KNOWN, 105.0)  # It is heard of, and its queue is as before.
    assert made.pressure(115.0) == pytest.approx(0.8)
    assert made.pressure(115.1) == 0


def test_in_the_way_is_what_is_pinned_and_not_used() -> None:
    made = engine()
    made.report([OF_A, SessionReport(B, 10, 100)], None, KNOWN, 100.0)
    assert made.in_the_way(104.9) == {A: 500}
    assert made.in_the_way(105.0) == {}
    made.report([replace(OF_A, turns=2)], None, KNOWN, 104.0)  # An agent that branches: two turns at once.
    assert made.in_the_way(104.0) == {}
    made.report([replace(OF_A, turns=1)], None, KNOWN, 104.0)
    assert made.in_the_way(104.0) == {}
    made.report([OF_A], None, KNOWN, 104.0)
    assert made.in_the_way(104.0) == {A: 500}
