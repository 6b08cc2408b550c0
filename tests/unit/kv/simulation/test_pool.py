# SPDX-License-Identifier: Apache-2.0
import pytest

from agentcg.kv.reload import Transfer
from agentcg.kv.simulation.pool import Host, HostMemory, Pool


def test_a_pool_has_whole_blocks() -> None:
    pool = Pool(100, 16)
    assert (pool.tokens, pool.free, pool.full(31), pool.whole(33)) == (96, 96, 16, 48)
    pool.resize("a", 48)
    pool.resize("b", 16)
    pool.resize("a", 32)
    assert (pool.free, pool.held) == (48, {"a": 32, "b": 16})
    pool.resize("b", 0)
    assert (pool.free, pool.held) == (64, {"a": 32})


def test_more_than_there_is_is_a_fault() -> None:
    pool = Pool(32, 16)
    pool.resize("a", 32)
    with pytest.raises(AssertionError, match="lacks 16 tokens for b"):
        pool.resize("b", 16)


def test_copies_back_wait_for_each_other_and_need_no_gap() -> None:
    host = HostMemory(Host(100, Transfer(2, 1.0)))
    host.put("a", 40, 60)
    host.put("a", 30, 40)
    host.put("b", 10, 20)
    assert host.load("a", 30, 55, now=5.0) == (25, 55.0)
    assert host.load("b", 10, 30, now=6.0) == (10, 75.0)
    assert host.loaded_tokens == 35
    # What was copied back is the pool's, and what lies behind a gap is of no use.
    assert host.load("a", 30, 60, now=80.0) == (0, 80.0)
    host.put("a", 40, 60)
    assert host.load("a", 30, 60, now=80.0) == (0, 80.0)


def test_the_host_forgets_who_came_first() -> None:
    host = HostMemory(Host(30, Transfer(1, 1.0)))
    host.put("a", 0, 20)
    host.put("b", 0, 20)
    assert host.load("a", 0, 20, now=0.0) == (0, 0.0)
    host.put("c", 0, 31)  # It does not fit at all.
    host.put("d", 0, 5)
    host.forget("d")
    assert host.load("d", 0, 5, now=0.0) == (0, 0.0)
