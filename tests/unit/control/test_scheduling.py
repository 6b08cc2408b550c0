# SPDX-License-Identifier: Apache-2.0
import asyncio
import os
from types import SimpleNamespace
from typing import ClassVar

import pytest

from agentcg.cgroup import delegate
from agentcg.control import scheduling
from agentcg.errors import Unsupported
from agentcg.kernel.libbpf import BpfError
from agentcg.kernel.sched import Exit, Latency
from agentcg.model import Budget, Intent, Limits, Session, SessionRef, ToolCall
from agentcg.model import CallRef as Ref
from agentcg.policy.schema import CallClass, PolicyBudget

STALL = Exit(1026, 0, "runnable task stall", "sh[7] failed to run for 5.1s")


class FakeScheduler:
    """Stands for Scheduler: keeps what it is told."""

    made: ClassVar[list["FakeScheduler"]] = []
    refuse = None

    def __init__(self, root_level, loop, on_exit, *, holds):
        if FakeScheduler.refuse:
            raise FakeScheduler.refuse
        self.level, self.on_exit = root_level, on_exit
        self.calls, self.taken, self.given_back, self.closed = {}, [], [], False
        self.full, self.holds = False, holds
        FakeScheduler.made.append(self)

    def set_call(self, cgroup_id, **options):
        if self.full:
            raise BpfError("writing map calls", 7)
        self.calls[cgroup_id] = options

    def forget(self, cgroup_id):
        self.calls.pop(cgroup_id, None)

    def take(self, pid):
        self.taken.append(pid)

    def give_back(self, pid):
        self.given_back.append(pid)

    def hold(self, cgroup_id, seconds):
        self.held = (cgroup_id, seconds)

    def close(self):
        self.closed = True


class FakeLoop:
    """Keeps what is to be called later."""

    def __init__(self):
        self.later = []

    def call_later(self, delay, function):
        self.later.append((delay, function))
        return SimpleNamespace(cancel=lambda: None)


@pytest.fixture
def world(monkeypatch, tmp_path):
    """A registry, a root whose cgroup is a folder, and a function that makes calls."""
    loop = FakeLoop()
    monkeypatch.setattr(scheduling, "Scheduler", FakeScheduler)
    monkeypatch.setattr(delegate, "INITIAL_CGROUP_NAMESPACE", os.stat("/proc/self/ns/cgroup").st_ino)
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: loop)
    monkeypatch.setattr(FakeScheduler, "made", [])
    monkeypatch.setattr(FakeScheduler, "refuse", None)
    root = tmp_path / "top" / "root"
    root.mkdir(parents=True)
    for folder in (root, root.parent):
        (folder / "cpu.max").write_text("max 100000\n")
    classes = {"test": CallClass("test", cpu="batch")}
    registry = SimpleNamespace(
        observers=[], calls={}, policy=SimpleNamespace(classes=classes, tenant=PolicyBudget(cpu_weight=70))
    )
    fd = os.open(root, os.O_RDONLY)

    def call(number, *, protected=False, cores=None, session_cores=None, intent=None, tenant="t"):
        ref = SessionRef(tenant, "s")
        budget = Budget(cpu_weight=30, cpu_cores=session_cores)
        session = SimpleNamespace(
            session=Session(ref, 0, 0.0, budget, protected),
            node=SimpleNamespace(top=SimpleNamespace(id=900)),
            cpu_weight=30,
            calls={},
        )
        limits = Limits(cpu_weight=25, cpu_cores=cores)
        tool_call = ToolCall(
            Ref(ref, f"c{number}"), 0, 0.0, call_class="test", intent=intent or Intent(), limits=limits
        )
        live = SimpleNamespace(
            ref=tool_call.ref,
            call=tool_call,
            session=session,
            leaf=SimpleNamespace(id=number, pids=lambda: [number + 1000]),
        )
        registry.calls[live.ref] = session.calls[live.ref.call] = live
        return live

    place = SimpleNamespace(node=SimpleNamespace(fd=fd), path="/a/b")
    yield SimpleNamespace(registry=registry, root=place, loop=loop, call=call, folder=root)
    os.close(fd)


def test_a_call_is_told_with_all_weights_and_its_class(world):
    made = scheduling.start(world.registry, world.root)
    assert world.registry.observers == [made]
    (scheduler,) = FakeScheduler.made
    assert scheduler.level == 2
    made.begun(world.call(1))
    made.begun(world.call(2, intent=Intent(cpu_class="interactive"), tenant="other"))
    one, two = scheduler.calls[1], scheduler.calls[2]
    weights = (one["weight"], one["session_weight"], one["tenant_weight"])
    assert (weights, one["latency"], one["session"]) == ((25, 30, 70), Latency.BATCH, 900)
    assert two["latency"] == Latency.INTERACTIVE
    assert one["tenant"] != two["tenant"]
    assert scheduler.taken == [1001, 1002]
    made.finished(world.call(1))
    assert list(scheduler.calls) == [2]


def test_the_kernels_programs_and_it_hold_by_the_same_map(world, monkeypatch):
    monkeypatch.setattr(scheduling, "RETRY_SEC", 0.0)
    holds = object()
    made = scheduling.start(world.registry, world.root, holds)
    made._exited(Exit(1, 0, "by hand", ""))
    world.loop.later.pop()[1]()
    assert [one.holds for one in FakeScheduler.made] == [holds, holds]


def test_protected_sessions_and_calls_under_a_cpu_max_stay_with_the_kernels_scheduler(world):
    made = scheduling.start(world.registry, world.root)
    made.begun(world.call(1, protected=True))
    made.begun(world.call(2, cores=1.0))
    made.begun(world.call(3, session_cores=1.0))
    assert FakeScheduler.made[0].calls == {}
    assert FakeScheduler.made[0].taken == []


def test_a_session_that_has_another_share_is_told_with_the_calls_that_are_scheduled_here(world):
    made = scheduling.start(world.registry, world.root)
    (scheduler,) = FakeScheduler.made
    mine, bounded = world.call(1), world.call(2, cores=1.0)
    mine.session.calls[bounded.ref.call] = bounded
    for live in (mine, bounded):
        made.begun(live)
    mine.session.cpu_weight = 120
    made.weigh(mine.session)
    assert {number: told["session_weight"] for number, told in scheduler.calls.items()} == {1: 120}


def test_a_call_that_gets_a_cpu_max_is_given_back(world):
    made = scheduling.start(world.registry, world.root)
    made.begun(world.call(1))
    made.amended(world.call(1, intent=Intent(cpu_class="normal")))
    (scheduler,) = FakeScheduler.made
    assert scheduler.calls[1]["latency"] == Latency.NORMAL
    assert scheduler.taken == [1001]
    made.amended(world.call(1, cores=0.5))
    assert scheduler.calls == {}
    assert scheduler.given_back == [1001]
    made.amended(world.call(1))
    assert list(scheduler.calls) == [1]
    assert scheduler.taken == [1001, 1001]


def test_after_its_end_it_waits_longer_each_time_and_then_knows_all_calls_again(world, monkeypatch, caplog):
    made = scheduling.start(world.registry, world.root)
    live = world.call(1)
    made.begun(live)
    FakeScheduler.made[0].on_exit(STALL)
    assert FakeScheduler.made[0].closed
    assert not made.active
    assert "runnable task stall: sh[7] failed to run for 5.1s" in caplog.text
    made.begun(world.call(2))
    monkeypatch.setattr(FakeScheduler, "refuse", Unsupported("another sched_ext scheduler is loaded"))
    for number in range(6):
        world.loop.later[number][1]()
    assert [delay for delay, _ in world.loop.later] == [30, 60, 120, 240, 480, 600, 600]
    monkeypatch.setattr(FakeScheduler, "refuse", None)
    world.loop.later[-1][1]()
    assert made.active
    assert sorted(FakeScheduler.made[1].calls) == [1, 2]
    FakeScheduler.made[1].on_exit(STALL)
    assert world.loop.later[-1][0] == 600
    world.loop.later[-1][1]()
    made._loaded -= 601
    FakeScheduler.made[2].on_exit(STALL)
    assert world.loop.later[-1][0] == 30
    made.close()


def test_a_full_map_is_told_once_and_leaves_the_call_to_the_kernel(world, caplog):
    made = scheduling.start(world.registry, world.root)
    FakeScheduler.made[0].full = True
    made.begun(world.call(1))
    made.begun(world.call(2))
    assert FakeScheduler.made[0].taken == []
    assert caplog.text.count("are scheduled by the kernel: writing map calls") == 1


def test_only_calls_that_it_has_are_held(world):
    made = scheduling.start(world.registry, world.root)
    made.begun(ours := world.call(1))
    made.begun(theirs := world.call(2, protected=True))
    made.hold(theirs, 0.05)
    assert not hasattr(FakeScheduler.made[0], "held")
    made.hold(ours, 0.05)
    assert FakeScheduler.made[0].held == (1, 0.05)


def test_a_cpu_max_above_the_root_rules_it_out(world, caplog):
    (world.folder.parent / "cpu.max").write_text("50000 100000\n")
    with caplog.at_level("INFO"):
        assert scheduling.start(world.registry, world.root) is None
    assert "by the kernel alone: there is a cpu.max on /a/b or above it" in caplog.text
    assert world.registry.observers == []


def test_the_reason_is_one_line_in_the_log(world, monkeypatch, caplog):
    monkeypatch.setattr(FakeScheduler, "refuse", Unsupported("loading: no\nlibbpf: and\nmuch more", hint="run as root"))
    with caplog.at_level("INFO"):
        assert scheduling.start(world.registry, world.root) is None
    assert caplog.messages == ["calls are scheduled by the kernel alone: loading: no (run as root)"]


def test_inside_a_cgroup_namespace_it_is_not_tried(world, monkeypatch, caplog):
    monkeypatch.setattr(delegate, "INITIAL_CGROUP_NAMESPACE", 1)
    with caplog.at_level("INFO"):
        assert scheduling.start(world.registry, world.root) is None
    assert "--cgroupns=host" in caplog.text
