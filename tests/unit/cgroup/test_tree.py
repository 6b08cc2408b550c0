# SPDX-License-Identifier: Apache-2.0
"""The tree on a fake hierarchy: what is written where, in which order, and that nothing is left behind."""

import asyncio

import pytest

from agentcg.cgroup.tree import Tree, write_limits
from agentcg.cgroup.usage import memory_current, memory_peak, read_usage
from agentcg.model import Budget, Limits, SessionRef, Usage

S1 = SessionRef("u0", "s1")


@pytest.fixture
def tree(root):  # type: ignore[no-untyped-def]
    tree = Tree(root)
    yield tree
    tree.close()


def test_a_session_and_a_call(tree, cgroups) -> None:  # type: ignore[no-untyped-def]
    session = tree.open_session("shared", S1, Budget(memory_max=8 << 30), Budget(memory_max=1 << 30, cpu_cores=1.5))
    assert cgroups.text("shared/u0", "memory.max") == str(8 << 30)
    assert cgroups.text("shared/u0/s1", "memory.max") == str(1 << 30)
    assert cgroups.text("shared/u0/s1", "memory.swap.max") == "0"
    assert cgroups.text("shared/u0/s1", "cpu.max") == "150000 100000"
    leaf = tree.make_call(session, "c1", Limits(memory_high=90, memory_max=100, pids_max=5, io_weight=25))
    for name, text in (("memory.high", "90"), ("memory.max", "100"), ("memory.swap.max", "0"), ("pids.max", "5")):
        assert cgroups.text("shared/u0/s1/calls/c1", name) == text
    assert cgroups.text("shared/u0/s1/calls/c1", "io.weight") == "default 25"
    assert cgroups.text("shared/u0/s1/calls/c1", "memory.oom.group") == "1"
    assert session.directory == str(cgroups.top / "shared/u0/s1")
    leaf.close()
    assert asyncio.run(tree.remove_call(session, "c1"))
    session.close()
    assert asyncio.run(tree.remove_session("shared", S1))
    assert not (cgroups.top / "shared/u0").exists()
    assert asyncio.run(tree.remove_session("shared", S1))


def test_a_tenant_stays_while_it_has_a_session(tree, cgroups) -> None:  # type: ignore[no-untyped-def]
    for name in ("s1", "s2"):
        tree.open_session("shared", SessionRef("u0", name), Budget(), Budget()).close()
    assert asyncio.run(tree.remove_session("shared", S1))
    assert (cgroups.top / "shared/u0/s2").is_dir()


def test_a_refused_limit_leaves_no_call(tree, cgroups) -> None:  # type: ignore[no-untyped-def]
    session = tree.open_session("shared", S1, Budget(), Budget())
    cgroups.refuse["pids.max"] = OSError(22, "Invalid argument")
    with pytest.raises(OSError, match="Invalid argument"):
        tree.make_call(session, "c1", Limits(pids_max=5))
    assert not session.calls.has_child("c1")
    session.close()


def test_what_a_call_made_below_itself_is_removed_with_it(tree, cgroups) -> None:  # type: ignore[no-untyped-def]
    session = tree.open_session("shared", S1, Budget(), Budget())
    tree.make_call(session, "c1", Limits()).close()
    cgroups.make("shared/u0/s1/calls/c1/own/deeper")
    assert asyncio.run(tree.remove_call(session, "c1"))
    session.close()


def test_only_what_differs_is_written(tree, cgroups) -> None:  # type: ignore[no-untyped-def]
    session = tree.open_session("shared", S1, Budget(), Budget())
    before = Limits(memory_high=90, memory_max=100)
    leaf = tree.make_call(session, "c1", before)
    cgroups.refuse["memory.high"] = OSError("must not be written")
    write_limits(leaf, Limits(memory_high=90, memory_max=200), before)
    assert cgroups.text("shared/u0/s1/calls/c1", "memory.max") == "200"
    leaf.close()
    session.close()


def test_what_a_controller_does_to_a_session_can_be_undone(tree, cgroups) -> None:  # type: ignore[no-untyped-def]
    session = tree.open_session("shared", S1, Budget(), Budget())
    tree.trip(session, 5 << 20)
    session.top.freeze()
    assert cgroups.text("shared/u0/s1", "memory.high") == str(5 << 20)
    tree.release(session)
    assert cgroups.text("shared/u0/s1", "memory.high") == "max"
    assert cgroups.text("shared/u0/s1", "cgroup.freeze") == "0"
    session.close()


def _cpu(cgroups) -> tuple[str, ...]:  # type: ignore[no-untyped-def]
    files = (("reserved", "cpu.weight"), ("shared", "cpu.weight"), ("reserved", "cpu.idle"), ("shared", "cpu.idle"))
    return tuple(cgroups.text(*file) for file in files)


def test_the_protected_have_the_cpus_first_for_as_long_as_wanted(tree, cgroups) -> None:  # type: ignore[no-untyped-def]
    assert _cpu(cgroups) == ("100", "100", "0", "0")
    tree.favour(first=True)
    assert _cpu(cgroups) == ("29", "100", "0", "1")  # 29 * 1024 / 100 is 99 times 3, what an idle cgroup weighs.
    tree.favour(first=False)
    assert _cpu(cgroups) == ("100", "100", "0", "0")


def test_without_cpu_idle_the_weights_say_who_is_first(tree, cgroups) -> None:  # type: ignore[no-untyped-def]
    (cgroups.top / "shared/cpu.idle").unlink()
    tree.favour(first=True)
    assert (cgroups.text("reserved", "cpu.weight"), cgroups.text("shared", "cpu.weight")) == ("10000", "100")


def test_what_a_daemon_before_has_left_is_undone(tree, cgroups) -> None:  # type: ignore[no-untyped-def]
    tree.favour(first=True)
    Tree(tree.root).close()
    assert _cpu(cgroups) == ("100", "100", "0", "0")


@pytest.mark.parametrize("cores", [0.001, 0.01])
def test_a_quota_is_never_below_what_the_kernel_takes(tree, cgroups, cores: float) -> None:  # type: ignore[no-untyped-def]
    session = tree.open_session("shared", S1, Budget(), Budget())
    tree.make_call(session, "c1", Limits(cpu_cores=cores)).close()
    assert cgroups.text("shared/u0/s1/calls/c1", "cpu.max") == "1000 100000"
    session.close()


def test_sessions_are_found_in_both_groups(tree) -> None:  # type: ignore[no-untyped-def]
    tree.open_session("shared", S1, Budget(), Budget()).close()
    tree.open_session("reserved", SessionRef("u1", "s2"), Budget(), Budget()).close()
    found = [(group, ref) for group, ref, top in tree.sessions() if top.close() is None]
    assert found == [("shared", S1), ("reserved", SessionRef("u1", "s2"))]


def test_usage_from_the_counters(tree, cgroups) -> None:  # type: ignore[no-untyped-def]
    session = tree.open_session("shared", S1, Budget(), Budget())
    leaf, path = tree.make_call(session, "c1", Limits()), "shared/u0/s1/calls/c1"
    cgroups.set(path, "cpu.stat", "usage_usec 2500000\nuser_usec 2000000\nsystem_usec 500000\nthrottled_usec 7\n")
    cgroups.set(path, "memory.events", "low 0\nhigh 4\nmax 3\noom 2\noom_kill 1\noom_group_kill 1\n")
    cgroups.set(path, "memory.peak", "1048576\n")
    cgroups.set(path, "pids.peak", "9\n")
    cgroups.set(path, "pids.events", "max 6\n")
    cgroups.set(path, "memory.current", "max\n")
    (cgroups.top / path / "io.stat").write_text("8:0 rbytes=10 wbytes=1\n8:16 rbytes=5\n")
    (cgroups.top / path / "memory.pressure").write_text("some avg10=0 avg60=0 avg300=0 total=1500000\n")
    assert read_usage(leaf, 3.0) == Usage(
        3.0, 2.5, 2.0, 0.5, 7e-6, 1 << 20, None, 4, 3, 2, 1.5, 1, 1, 9, 6, io_read_bytes=15, io_written_bytes=1
    )
    assert memory_current(leaf) is None
    assert memory_peak(leaf) == 1 << 20
    leaf.close()
    session.close()


def test_a_kernel_that_counts_nothing(tree, cgroups) -> None:  # type: ignore[no-untyped-def]
    session = tree.open_session("shared", S1, Budget(), Budget())
    leaf = tree.make_call(session, "c1", Limits())
    for item in (cgroups.top / "shared/u0/s1/calls/c1").iterdir():
        item.unlink()
    assert read_usage(leaf, 3.0) == Usage(3.0)
    leaf.close()
    session.close()
