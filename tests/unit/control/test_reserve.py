# SPDX-License-Identifier: Apache-2.0
"""How much is set aside for one, and how much everybody together may use beside it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentcg.control.reserve import Bounds, Stage, bounds, check, margin, reserve_of
from agentcg.errors import InvalidInput

G, M = 1 << 30, 1 << 20


def wall(size: int, *, high: int) -> Bounds:
    return Bounds(high, size, size, True)


@pytest.mark.parametrize(
    ("capacity", "reserved", "current", "expected"),
    [
        (None, [G], 0, Bounds(None, None, None, True)),
        (4 * G, [], 3 * G, Bounds(None, None, None, True)),
        (4 * G, [G], 0, wall(3 * G, high=3 * G - 48 * M)),
        (4 * G, [G, G], 2 * G, wall(2 * G, high=2 * G - 32 * M)),
        (4 * G, [4 * G - 100 * M], 0, wall(100 * M, high=92 * M)),
    ],
)
def test_bounds(capacity: int | None, reserved: list[int], current: int, expected: Bounds) -> None:
    assert bounds(capacity, iter(reserved), current) == expected


def test_a_limit_of_their_own_is_a_wall_even_where_nothing_is_reserved() -> None:
    assert bounds(4 * G, [], 0, limited=True) == wall(4 * G, high=4 * G - 64 * M)
    assert bounds(None, [], 0, limited=True) == Bounds(None, None, None, True)


def test_while_nobody_watches_closely_the_kernel_tells_at_three_quarters() -> None:
    assert bounds(4 * G, [], 0, limited=True, stage=Stage.CALM) == wall(4 * G, high=3 * G)
    # And when it has told that a margin is left, it must not stand in the way of those who may go on.
    assert bounds(4 * G, [], 0, limited=True, stage=Stage.PRESSED) == wall(4 * G, high=4 * G)


def test_who_uses_more_is_not_settled_and_the_wall_is_still_named() -> None:
    found = bounds(4 * G, [2 * G], 3 * G)
    assert (found.settled, found.wall) == (False, 2 * G)
    assert found.high == 2 * G - 32 * M


@pytest.mark.parametrize("reserved", [[4 * G], [3 * G, 3 * G]])
def test_something_is_always_left(reserved: list[int]) -> None:
    found = bounds(4 * G, reserved, 0)
    assert found.maximum is not None
    assert found.high is not None
    assert 0 < found.high < found.maximum


def test_the_wall_is_never_set_below_what_is_in_use() -> None:
    for current in range(0, 4 * G, G // 4):
        found = bounds(4 * G, [3 * G], current)
        assert found.maximum is not None
        assert found.maximum >= current


@pytest.mark.parametrize(("size", "before"), [(0, 8 * M), (100 * M, 8 * M), (512 * M, 8 * M), (G, 16 * M)])
def test_the_margin(size: int, before: int) -> None:
    assert margin(size) == before


@pytest.mark.parametrize(
    ("claim", "peak", "expected"),
    [
        (G, 0, G),  # What was declared, from the start.
        (G, G, G),
        (G, G + 1, (G + 1 + (G + 1) // 4) & ~4095),  # It was declared too low: ahead of what it comes to.
        (None, 0, 32 * M),
        (None, 64 * M, 96 * M),  # At least 32 MiB ahead.
        (None, G, G + G // 4),
    ],
)
def test_what_is_set_aside(claim: int | None, peak: int, expected: int) -> None:
    assert reserve_of(claim, peak) == expected


@given(st.none() | st.integers(1, 64 * G), st.integers(0, 64 * G), st.integers(0, G))
def test_what_is_set_aside_covers_the_peak_and_never_shrinks_as_it_grows(
    claim: int | None, peak: int, more: int
) -> None:
    assert peak <= reserve_of(claim, peak) <= reserve_of(claim, peak + more)


def test_whoever_uses_more_may_still_grow_a_little_while_the_wall_follows_it_down() -> None:
    """What is in use was read before the wall is written: a wall right at it would kill whoever grew meanwhile."""
    found = bounds(4 * G, [2 * G], 3 * G)
    assert found.maximum is not None
    assert found.maximum >= 3 * G + margin(2 * G)


@pytest.mark.parametrize(("granted", "left"), [(None, 99), (50, 200), (50, None)])
def test_what_is_not_there_cannot_be_set_aside(granted: int | None, left: int | None) -> None:
    with pytest.raises(InvalidInput, match="cannot be reserved"):
        check(100 << 20, None if granted is None else granted << 20, None if left is None else left << 20)


def test_a_page_less_than_was_declared_is_the_rounding_of_a_limit() -> None:
    check((100 << 20) + 4095, 100 << 20, 200 << 20)
