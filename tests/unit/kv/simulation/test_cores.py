# SPDX-License-Identifier: Apache-2.0
import math

import pytest
from hypothesis import given
from hypothesis import strategies as some

from agentcg.kv.simulation.cores import Cores, share_out


def ends(cores: Cores[str]) -> dict[str, float]:
    found = {}
    while cores.next_end < math.inf:
        at = cores.next_end
        found |= dict.fromkeys(cores.advance(at), at)
    return found


def test_what_one_does_not_use_is_for_the_others() -> None:
    assert share_out(4.0, [(1.0, 1.0), (10.0, 1.0), (10.0, 2.0)]) == [1.0, 1.0, 2.0]
    assert share_out(4.0, [(0.5, 1.0), (10.0, 1.0), (10.0, 2.5)]) == [0.5, 1.0, 2.5]
    assert share_out(4.0, [(1.0, 1.0), (2.0, 9.0)]) == [1.0, 2.0]


@given(some.floats(0.1, 64), some.lists(some.tuples(some.floats(0.0, 9.0), some.floats(0.1, 9.0)), min_size=1))
def test_nothing_is_given_twice_and_nothing_is_wasted(total: float, wants: list[tuple[float, float]]) -> None:
    shares = share_out(total, wants)
    assert all(share <= most for share, (most, _) in zip(shares, wants, strict=True))
    assert sum(shares) == pytest.approx(min(total, sum(most for most, _ in wants)))


def test_calls_that_find_a_cpu_take_their_time() -> None:
    cores = Cores[str](2.0)
    cores.begin("a", wall_sec=10.0, cpu_sec=10.0, weight=1.0, now=0.0)
    cores.begin("b", wall_sec=4.0, cpu_sec=4.0, weight=9.0, now=1.0)
    cores.begin("c", wall_sec=3.0, cpu_sec=0.0, weight=1.0, now=1.0)
    assert ends(cores) == {"c": 4.0, "b": 5.0, "a": 10.0}


def test_calls_that_need_more_than_there_is_go_on_by_their_weights() -> None:
    cores = Cores[str](1.0)
    cores.begin("a", 10.0, 10.0, weight=3.0, now=0.0)
    cores.begin("b", 10.0, 10.0, weight=1.0, now=0.0)
    assert ends(cores) == {"a": pytest.approx(40 / 3), "b": pytest.approx(20.0)}


def test_a_call_uses_no_more_cpus_than_there_are() -> None:
    cores = Cores[str](2.0)
    cores.begin("a", 1.0, 8.0, 1.0, 0.0)
    assert cores.wanted == 2.0
    assert ends(cores) == {"a": 1.0}


def test_held_calls_begin_in_their_order_and_the_heaviest_goes_before_others() -> None:
    cores = Cores[str](2.0, holds=True)
    for place, key in enumerate("abcd"):
        cores.begin(key, 10.0, 20.0 if key == "a" else 10.0, weight=1.0, now=float(place))
    cores.begin("idle", 10.0, 0.0, 1.0, 3.0)
    assert cores.wanted == 5.0
    cores.reweigh({"d": 2.0, "c": 1.5}, 4.0)
    cores.begin("e", 10.0, 10.0, 3.0, 5.0)
    assert cores.progress(5.0) == {"a": 5.0, "b": 0.0, "c": 0.0, "d": 0.0, "e": 0.0, "idle": 2.0}
    # a has both CPUs. b is the first in the line and stays it; then e, the heaviest; d and c have to wait for those.
    assert ends(cores) == {"a": 10.0, "idle": 13.0, "b": 20.0, "e": 20.0, "d": 30.0, "c": 30.0}


def test_who_was_held_for_long_goes_first() -> None:
    cores = Cores[str](1.0, holds=True)
    for key, weight, now in (("a", 1.0, 0.0), ("b", 1.0, 1.0), ("c", 1.0, 2.0), ("d", 9.0, 3.0)):
        cores.begin(key, 40.0, 40.0, weight, now)
    # d would be the next after b, but then c has been held for 78 s.
    assert ends(cores) == {"a": 40.0, "b": 80.0, "c": 120.0, "d": 160.0}


def test_calls_that_take_no_time_end_when_they_are_asked_for_and_not_before() -> None:
    cores = Cores[str](2.0)
    cores.begin("a", 0.0, 0.0, 1.0, 5.0)
    cores.begin("b", 0.0, 0.0, 1.0, 5.0)
    assert cores.next_end == 5.0
    assert cores.advance(5.0) == ["a", "b"]


@given(
    some.floats(0, 1e12), some.lists(some.tuples(some.floats(1e-3, 1e3), some.floats(0.0, 1e3)), min_size=1, max_size=5)
)
def test_calls_end_however_late_it_is(now: float, calls: list[tuple[float, float]]) -> None:
    cores = Cores[int](1.0)
    for key, (wall_sec, cpu_sec) in enumerate(calls):
        cores.begin(key, wall_sec, cpu_sec, 1.0, now)
    for _ in calls:
        if cores.next_end < math.inf:
            assert cores.advance(cores.next_end)
    assert cores.next_end == math.inf
