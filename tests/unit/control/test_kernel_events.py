# SPDX-License-Identifier: Apache-2.0
import asyncio
import os
import time
from types import SimpleNamespace

import pytest

from agentcg.cgroup import delegate
from agentcg.control import kernel_events
from agentcg.control.view import Settings
from agentcg.errors import Unsupported
from agentcg.kernel.mem import Kind, MemEvent

SESSION, CALL, RESERVED = 40, 60, 77


class FakeEvents:
    """Stands for MemEvents: keeps what it was given."""

    kinds = frozenset(Kind)
    missing = ()

    def __init__(self, root_id, root_level, loop, callback, *, on_lost, **settings):
        self.root, self.callback, self.on_lost = (root_id, root_level), callback, on_lost
        self.closed, self.settings, self.holds = False, settings, object()

    def close(self):
        self.closed = True


@pytest.fixture
def world(monkeypatch, tmp_path):
    """A registry with one call, whose cgroup is a folder; what is published stands in ``told``."""
    monkeypatch.setattr(kernel_events, "MemEvents", FakeEvents)
    monkeypatch.setattr(delegate, "INITIAL_CGROUP_NAMESPACE", os.stat("/proc/self/ns/cgroup").st_ino)
    loop = SimpleNamespace(call_later=lambda *arguments: None)
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: loop)
    (tmp_path / "memory.events").write_text("high 0\noom_kill 0\n")
    fd = os.open(tmp_path, os.O_RDONLY)
    limits = SimpleNamespace(memory_high=1 << 20)
    live = SimpleNamespace(ref="t/s/c", leaf=SimpleNamespace(id=CALL, fd=fd), call=SimpleNamespace(limits=limits))
    live.__dict__.update(throttle_told=False, ooms_told=0, oom_at=0.0, finishing=None)
    told = []

    def publish(kind, subject, message, verdict=None, *, at=None):
        told.append((kind, subject, at))

    registry = SimpleNamespace(begun=1, adopted=0, kernel_tells=False, calls={"t/s/c": live})
    registry.bus = SimpleNamespace(publish=publish)
    registry.tree = SimpleNamespace(reserved=SimpleNamespace(id=RESERVED))
    root = SimpleNamespace(node=SimpleNamespace(id=1), path="/a/b")
    yield SimpleNamespace(registry=registry, root=root, live=live, told=told, folder=tmp_path)
    os.close(fd)


def event(kind, *, limit=0, cgroup=CALL, ago=0.0):
    return MemEvent(kind, cgroup, SESSION, limit, 7, time.monotonic_ns() - round(ago * 1e9), 0, 4096)


def test_a_call_over_its_own_limit_is_told_once_with_the_time_at_which_it_happened(world):
    events = kernel_events.start(world.registry, world.root)
    assert world.registry.kernel_tells
    assert events._events.root == (1, 2)
    for _ in range(3):
        events._events.callback(event(Kind.OVER_HIGH, limit=CALL, ago=5))
    ((kind, subject, at),) = world.told
    assert (kind, subject) == ("call_throttled", "t/s/c")
    assert time.time() - at == pytest.approx(5, abs=0.5)


@pytest.mark.parametrize(("hold", "expected"), [(False, 0), (True, 50_000)])
def test_calls_are_held_by_the_kernel_only_where_something_heeds_it(world, hold, expected):
    events = kernel_events.start(world.registry, world.root, hold=hold)
    settings = events._events.settings
    assert (settings["protected_id"], settings["hold_us"]) == (RESERVED, expected)
    assert events.holds is events._events.holds


@pytest.mark.parametrize(("hold", "expected"), [(False, 0), (True, 25_000)])
def test_growth_of_the_protected_is_listened_for_as_the_settings_say_and_told(world, hold, expected):
    events = kernel_events.start(world.registry, world.root, hold=hold, yields=Settings(growth_min=3 << 20))
    settings = events._events.settings
    assert (settings["growth_bytes"], settings["growth_us"], settings["growth_hold_us"]) == (3 << 20, 10_000, expected)
    grew = []
    events.on_growth = lambda: grew.append(1)
    events._events.callback(event(Kind.GROWING, cgroup=61))
    events._events.callback(event(Kind.OVER_HIGH, cgroup=61))
    assert grew == [1]
    assert world.told == []


def test_where_nobody_yields_no_growth_is_listened_for(world):
    events = kernel_events.start(world.registry, world.root, hold=True)
    assert "growth_bytes" not in events._events.settings


def test_limits_of_others_other_kinds_and_other_cgroups_are_not_the_calls(world):
    events = kernel_events.start(world.registry, world.root)
    events._events.callback(event(Kind.OVER_HIGH, limit=SESSION))
    events._events.callback(event(Kind.RECLAIM, limit=CALL))
    events._events.callback(event(Kind.OOM_KILL, cgroup=61))
    assert world.told == []


def test_the_processes_of_one_kill_are_told_as_one_and_a_later_kill_again(world):
    events = kernel_events.start(world.registry, world.root)
    for ago in (9.0, 8.9, 8.8, 2.0):
        events._events.callback(event(Kind.OOM_KILL, ago=ago))
    assert [kind for kind, _, _ in world.told] == ["call_oom", "call_oom"]


def test_what_was_lost_is_read_from_files_and_not_told_twice(world):
    events = kernel_events.start(world.registry, world.root)
    events._events.callback(event(Kind.OVER_HIGH, limit=CALL))
    (world.folder / "memory.events").write_text("high 3\noom_kill 1\n")
    events._events.on_lost(5)
    events._events.on_lost(9)
    assert [kind for kind, _, _ in world.told] == ["call_throttled", "call_oom"]


def test_a_call_that_has_ended_is_not_told_any_more_and_a_new_one_is_found(world):
    events = kernel_events.start(world.registry, world.root)
    events._events.callback(event(Kind.OVER_HIGH))
    world.registry.calls.clear()
    events._events.callback(event(Kind.OVER_HIGH, limit=CALL))
    assert world.told == []
    world.registry.calls["t/s/c"] = world.live
    world.registry.begun += 1
    events._events.callback(event(Kind.OVER_HIGH, limit=CALL))
    assert len(world.told) == 1


def test_a_kernel_that_tells_only_half_is_left_to_the_files(world, monkeypatch, caplog):
    monkeypatch.setattr(FakeEvents, "kinds", frozenset((Kind.RECLAIM, Kind.OOM_KILL)))
    monkeypatch.setattr(FakeEvents, "missing", ("mem_cgroup_handle_over_high",))
    with caplog.at_level("INFO"):
        assert kernel_events.start(world.registry, world.root) is None
    assert not world.registry.kernel_tells
    assert "files: this kernel has no mem_cgroup_handle_over_high to hook" in caplog.text


def test_the_reason_for_files_is_one_line_in_the_log(world, monkeypatch, caplog):
    def refuse(*args, **kwargs):
        raise Unsupported("loading: no\nlibbpf: and\nmuch more", hint="run as root")

    monkeypatch.setattr(kernel_events, "MemEvents", refuse)
    with caplog.at_level("INFO"):
        assert kernel_events.start(world.registry, world.root) is None
    assert caplog.messages == ["memory events come from files: loading: no (run as root)"]


def test_inside_a_cgroup_namespace_it_is_not_tried(world, monkeypatch, caplog):
    monkeypatch.setattr(delegate, "INITIAL_CGROUP_NAMESPACE", 1)
    with caplog.at_level("INFO"):
        assert kernel_events.start(world.registry, world.root) is None
    assert "--cgroupns=host" in caplog.text
