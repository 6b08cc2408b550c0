# SPDX-License-Identifier: Apache-2.0
from math import inf

from agentcg.replay.simulation.clock import Clock


def test_what_is_due_happens_in_order_and_what_was_taken_back_does_not() -> None:
    clock, done = Clock(), []
    clock.after(2.0, lambda: done.append("late"))
    clock.at(1.0, lambda: done.append("first"))
    clock.at(1.0, lambda: done.append("second"))
    clock.at(0.5, lambda: done.append("never")).cancel()
    assert clock.next_sec == 1.0
    clock.run_due()
    assert done == []
    clock.now = 1.0
    clock.run_due()
    clock.run_due()
    clock.run_due()
    assert (done, clock.next_sec) == (["first", "second"], 2.0)
    clock.now = 2.0
    clock.run_due()
    assert (done, clock.next_sec) == (["first", "second", "late"], inf)


def test_what_is_late_is_due_now() -> None:
    clock = Clock()
    clock.now = 3.0
    clock.at(1.0, lambda: None)
    assert clock.next_sec == 3.0
