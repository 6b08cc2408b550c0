# SPDX-License-Identifier: Apache-2.0
"""A container's cgroup as a session, and back. That the kernel agrees is tested with a real engine."""

import os

import pytest

from agentcg.cgroup.container import budget_of, enter, leave, reopen
from agentcg.cgroup.node import Inner
from agentcg.errors import Unsupported
from agentcg.model import Budget

CONTROLLERS = ("memory", "pids", "cpu", "io")


@pytest.fixture
def container(cgroups):  # type: ignore[no-untyped-def]
    """Return the directory of a container's cgroup in which two processes live."""
    directory = cgroups.make("docker/0a1b")
    (directory / "cgroup.procs").write_text("11\n12\n")
    return directory


def test_what_lives_there_moves_and_comes_back(cgroups, container) -> None:  # type: ignore[no-untyped-def]
    node = enter(str(container), "/docker/0a1b", CONTROLLERS)
    assert (node.group, node.path) == (None, "/docker/0a1b")
    assert cgroups.text("docker/0a1b/init", "cgroup.procs").split() == ["11", "12"]
    assert cgroups.text("docker/0a1b", "cgroup.procs") == ""
    assert set(cgroups.text("docker/0a1b/calls", "cgroup.subtree_control").split()) == set(CONTROLLERS)
    node.top.write_record({"session": "x"})
    assert leave(node.top)
    assert cgroups.text("docker/0a1b", "cgroup.procs").split() == ["11", "12"]
    assert cgroups.text("docker/0a1b", "cgroup.subtree_control") == ""
    assert [entry.name for entry in container.iterdir() if entry.is_dir()] == []
    assert os.listxattr(container) == []
    node.close()


def test_what_has_cgroups_of_its_own_is_left_alone(cgroups, container) -> None:  # type: ignore[no-untyped-def]
    cgroups.make("docker/0a1b/system.slice")
    with pytest.raises(Unsupported, match=r"system\.slice"):
        enter(str(container), "/docker/0a1b", CONTROLLERS)
    assert cgroups.text("docker/0a1b", "cgroup.procs").split() == ["11", "12"]


def test_without_room_it_is_as_it_was(cgroups, container) -> None:  # type: ignore[no-untyped-def]
    cgroups.refuse["cgroup.subtree_control"] = OSError(28, "No space left on device")
    with pytest.raises(Unsupported, match="No space left"):
        enter(str(container), "/docker/0a1b", CONTROLLERS)
    assert cgroups.text("docker/0a1b", "cgroup.procs").split() == ["11", "12"]
    assert [entry.name for entry in container.iterdir() if entry.is_dir()] == []


def test_one_that_is_half_made_is_made_whole(cgroups, container) -> None:  # type: ignore[no-untyped-def]
    cgroups.make("docker/0a1b/init")
    with pytest.raises(FileNotFoundError):
        reopen(str(container), "/docker/0a1b")
    enter(str(container), "/docker/0a1b", CONTROLLERS).close()
    reopen(str(container), "/docker/0a1b").close()


def test_the_engines_limits_are_the_budget(cgroups, container) -> None:  # type: ignore[no-untyped-def]
    (container / "memory.max").write_text("1048576\n")
    (container / "cpu.max").write_text("150000 100000\n")
    (container / "cpu.weight").write_text("39\n")
    with Inner.open_root(str(container)) as top:
        budget = budget_of(top)
    assert budget == Budget(memory_max=1 << 20, swap_max=None, cpu_weight=39, cpu_cores=1.5)
