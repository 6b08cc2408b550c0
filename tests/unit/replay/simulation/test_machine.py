# SPDX-License-Identifier: Apache-2.0
"""The simulated kernel, against what can be reckoned by hand."""

from collections.abc import Callable
from math import inf
from typing import Any

import pytest

from agentcg.replay.simulation import SimulatedHost
from agentcg.replay.simulation.group import Group
from agentcg.replay.simulation.machine import Machine
from agentcg.replay.simulation.process import Process
from agentcg.replay.simulation.throttle import slow_down_sec
from agentcg.replay.simulation.worker import Worker

MIB = 1 << 20


class Watched(Process):
    """A process that says when it ended, and by what."""

    def __init__(self, machine: Machine, group: Group, **given: Any) -> None:
        self.ended: float | None = None
        self.signal = 0
        super().__init__(machine, group, on_end=self._over, **given)

    def _over(self, signal: int) -> None:
        self.ended, self.signal = self._machine.clock.now, signal

    def burn(self, sec: float) -> "Watched":
        self.follow([(0.0, 0, sec)], last=True)
        return self

    def hold(self, mib: float, sec: float = 0.0) -> "Watched":
        """Grow, stay for so long, and exit."""
        self.follow([(0.0, round(mib * MIB), 0.0), (sec, round(mib * MIB), 0.0)], last=True)
        return self


def groups(machine: Machine, **weights: int) -> dict[str, Group]:
    return {name: Group(name, machine.root, weight=weight) for name, weight in weights.items()}


def test_one_cpu_goes_by_weight_and_what_one_leaves_is_for_the_other(host: Callable[..., SimulatedHost]) -> None:
    machine = Machine(host(cpus=1.0))
    group = groups(machine, a=300, b=100)
    a, b = Watched(machine, group["a"]).burn(1.0), Watched(machine, group["b"]).burn(1.0)
    machine.run(inf)
    assert a.ended == pytest.approx(4 / 3)
    assert b.ended == pytest.approx(2.0)
    assert group["b"].all_cpu_sec() == pytest.approx(1.0)


def test_a_process_is_one_thread_and_three_share_two_cpus(machine: Machine) -> None:
    alone = Watched(machine, machine.root).burn(1.0)
    machine.run(1.0)
    assert alone.ended == pytest.approx(1.0)
    three = [Watched(machine, machine.root).burn(1.0) for _ in range(3)]
    machine.run(inf)
    assert [one.ended for one in three] == pytest.approx([2.5] * 3)


def test_weights_count_among_siblings_and_what_a_group_has_is_for_those_below(
    host: Callable[..., SimulatedHost],
) -> None:
    machine = Machine(host(cpus=1.0))
    group = groups(machine, one=100, many=100)
    one = Watched(machine, group["one"]).burn(1.0)
    many = [Watched(machine, Group(f"m{number}", group["many"])).burn(0.5) for number in range(2)]
    machine.run(inf)
    assert [one.ended, *(each.ended for each in many)] == pytest.approx([2.0, 2.0, 2.0])


def test_growth_takes_cpu_time_which_counts_as_burnt(host: Callable[..., SimulatedHost]) -> None:
    machine = Machine(host(cpus=1.0))
    grower = Watched(machine, machine.root)
    grower.follow([(0.0, 200 * MIB, 2.5)], last=True)
    other = Watched(machine, machine.root).burn(1.0)
    machine.run(inf)
    assert other.ended == pytest.approx(2.0)
    assert grower.growth == [(200 * MIB, pytest.approx(3.0))]
    assert grower.ended == pytest.approx(3.5)
    assert machine.root.usage == pytest.approx(0.0)


def test_one_that_is_late_does_the_rest_later(machine: Machine) -> None:
    process = Watched(machine, machine.root)
    process.follow([(1.0, 0, 2.0), (2.0, 0, 2.0), (3.0, 0, 2.5)], last=True)
    machine.run(inf)
    assert process.ended == pytest.approx(4.0)  # 2 s for the first, then a second each.


def test_at_the_limit_the_largest_is_killed_and_the_other_goes_on_with_its_memory(machine: Machine) -> None:
    group = Group("all", machine.root, maximum=150 * MIB)
    large = Watched(machine, group).hold(100, 9.0)
    machine.run(1.0)
    small = Watched(machine, group).hold(75)
    machine.run(inf)
    # At 1.5 s the group is full. Half a second later the memory is back, and 25 MiB are left to do.
    assert (large.signal, large.ended) == (9, pytest.approx(2.0, abs=1e-3))
    assert small.growth == [(75 * MIB, pytest.approx(1.25, abs=1e-3))]
    assert (group.peak <= 150 * MIB, group.ooms, machine.oom_kills) == (True, 1, 1)


def test_oom_score_adj_counts_in_thousandths_of_the_limit(machine: Machine) -> None:
    group = Group("all", machine.root, maximum=150 * MIB)
    large = Watched(machine, group).hold(100, 9.0)
    small = Watched(machine, group, oom_score_adj=700).hold(60, 9.0)
    machine.run(inf)
    assert (large.signal, small.signal) == (0, 9)


def test_a_group_with_oom_group_dies_whole_and_alone(machine: Machine) -> None:
    session = Group("session", machine.root, maximum=500 * MIB)
    call = Group("call", session, maximum=100 * MIB, oom_group=True)
    agent = Watched(machine, session).hold(300, 9.0)
    idle, grows = Watched(machine, call).hold(10, 9.0), Watched(machine, call).hold(200)
    machine.run(inf)
    assert (agent.signal, idle.signal, grows.signal) == (0, 9, 9)
    assert (call.ooms, session.ooms) == (1, 0)


def test_the_oom_killer_does_not_wait_for_ever(host: Callable[..., SimulatedHost]) -> None:
    machine = Machine(host(kill_sec=0.5, oom_wait_sec=0.2))
    group = Group("all", machine.root, maximum=200 * MIB)
    three = [Watched(machine, group).hold(size, 9.0) for size in (100, 80, 70)]
    machine.run(inf)
    assert [one.signal for one in three] == [9, 9, 9]


def test_who_is_dying_already_is_chosen_first_and_waited_for(machine: Machine) -> None:
    group = Group("all", machine.root, maximum=150 * MIB)
    large = Watched(machine, group).hold(140, 9.0)
    machine.run(2.0)
    machine.kill(large)
    small = Watched(machine, group).hold(75)
    machine.run(inf)
    # It has 10 MiB at 2.1 s, and the other 65 when the memory is back at 2.5 s.
    assert small.growth == [(75 * MIB, pytest.approx(1.15, abs=1e-3))]
    assert (small.signal, machine.oom_kills, group.ooms) == (0, 0, 1)


def test_memory_that_is_given_back_lets_who_waits_for_it_go_on(machine: Machine) -> None:
    group = Group("all", machine.root, maximum=100 * MIB)
    Watched(machine, group).hold(80, 2.0)
    machine.run(1.0)
    group.killing = True  # Nobody is killed here.
    waits = Watched(machine, group).hold(50)
    machine.run(inf)
    # 20 MiB by 1.2 s, then nothing until the first exits at 2.8 s, then 30 MiB more.
    assert waits.ended == pytest.approx(3.1, abs=1e-3)


def test_how_long_the_kernel_makes_a_task_wait_above_memory_high() -> None:
    assert slow_down_sec(100, None) == slow_down_sec(100, 100) == slow_down_sec(101, 100) == 0.0
    assert slow_down_sec(110, 100) == pytest.approx(0.64)
    assert slow_down_sec(150, 100) == 2.0


def test_above_memory_high_it_grows_batch_by_batch(machine: Machine) -> None:
    slowed = []
    machine.on_slowed = slowed.append
    group = Group("session", machine.root, high=100 * MIB)
    process = Watched(machine, group).hold(102)
    machine.run(inf)
    # Free up to 101.25 MiB, then a batch of 256 KiB after each delay: 64 s times the square of the excess.
    delays = [64 * (excess / 100) ** 2 for excess in (1.25, 1.5, 1.75)]
    assert process.ended == pytest.approx(1.02 + sum(delays), rel=1e-3)
    assert group.slowed_sec == pytest.approx(sum(delays), rel=1e-3)
    assert slowed == [process]


def test_the_kernel_tells_of_memory_high_at_once_and_every_10_ms_while_that_goes_on(machine: Machine) -> None:
    told: list[float] = []
    group = Group("session", machine.root, high=100 * MIB)
    group.on_high = lambda: told.append(machine.clock.now)
    Watched(machine, group).hold(101.2)
    machine.run(inf)
    assert told == pytest.approx([1.0, 1.01], abs=1e-6)


def test_a_frozen_process_does_not_get_on_and_keeps_its_memory(machine: Machine) -> None:
    group = Group("session", machine.root)
    process = Watched(machine, group)
    process.follow([(0.0, 50 * MIB, 2.0)], last=True)
    machine.run(1.0)
    machine.freeze(group)
    machine.run(3.0)
    assert (process.ended, group.usage) == (None, 50 * MIB)
    machine.thaw(group)
    machine.run(inf)
    assert process.ended == pytest.approx(4.0)


def test_what_fell_due_while_it_was_frozen_happens_when_it_is_thawed(machine: Machine) -> None:
    group = Group("session", machine.root)
    process = Watched(machine, Group("call", group)).hold(1, 1.0)
    machine.freeze(group)
    machine.run(5.0)
    assert process.ended is None
    machine.thaw(group)
    machine.run(inf)
    assert process.ended == pytest.approx(5.0 + 0.01 + 1.0, abs=0.02)


def test_a_worker_does_one_thing_after_another(machine: Machine) -> None:
    worker, done = Worker(machine, machine.root), []
    for sec in (1.0, 0.5, 0.25):
        worker.ask(sec, lambda: done.append(machine.clock.now))
    machine.run(inf)
    assert done == pytest.approx([1.0, 1.5, 1.75])
