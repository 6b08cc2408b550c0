# SPDX-License-Identifier: Apache-2.0
"""How much everybody together may use beside what is reserved."""

import pytest

from agentcg.control.reserve import Bounds, bounds

G = 1 << 30


@pytest.mark.parametrize(
    ("capacity", "reserved", "current", "expected"),
    [
        (None, [G], 0, Bounds(None, None, True)),
        (4 * G, [], 3 * G, Bounds(None, None, True)),
        (4 * G, [G], 0, Bounds(round(3 * G * 0.96) & ~4095, 3 * G, True)),
        (4 * G, [G, G], 2 * G, Bounds(round(2 * G * 0.96) & ~4095, 2 * G, True)),
        (4 * G, [2 * G], 3 * G, Bounds(round(2 * G * 0.96) & ~4095, 3 * G, False)),
    ],
)
def test_bounds(capacity: int | None, reserved: list[int], current: int, expected: Bounds) -> None:
    assert bounds(capacity, iter(reserved), current) == expected


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
