# SPDX-License-Identifier: Apache-2.0
from agentcg.kv.engines.clock import SteadyClock


def test_it_goes_on_with_its_clock_and_stands_still_where_that_jumps() -> None:
    times = iter([100.0, 101.0, 103.0, 1e9, 1e9 + 2.0, 5.0, 5.0, 6.0])
    clock = SteadyClock(lambda: next(times))
    assert [clock.now() for _ in range(7)] == [1.0, 3.0, 3.0, 5.0, 5.0, 5.0, 6.0]
