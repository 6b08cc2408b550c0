# SPDX-License-Identifier: Apache-2.0
"""Nodes: inner ones hold no process by construction, and records survive whatever stands in them."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from agentcg.cgroup.node import Inner, Leaf, Node


def test_an_inner_node_has_no_way_to_hold_a_process() -> None:
    assert not any("place" in name or "procs" in name for name in dir(Inner))
    assert not any(name in ("enable", "make_leaf", "make_inner") for name in dir(Leaf))


def test_only_controllers_that_are_there_are_handed_down(cgroups, node_at) -> None:  # type: ignore[no-untyped-def]
    (cgroups.top / "cgroup.controllers").write_text("memory pids\n")
    root = node_at("")
    assert root.enable(("memory", "pids", "cpu", "io")) == {"memory", "pids"}
    assert cgroups.text("", "cgroup.subtree_control") == "memory pids"


def test_nothing_is_written_if_all_are_handed_down_already(cgroups, node_at) -> None:  # type: ignore[no-untyped-def]
    (cgroups.top / "cgroup.subtree_control").write_text("cpu io memory pids\n")
    cgroups.refuse["cgroup.subtree_control"] = OSError("must not be written")
    assert node_at("").enable(("memory",)) >= {"memory"}


def test_a_directory_elsewhere_is_no_cgroup(tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError, match="not a cgroup v2 directory"):
        Inner.open_root(str(tmp_path))


def test_no_link_is_opened_as_a_cgroup(cgroups, node_at) -> None:  # type: ignore[no-untyped-def]
    cgroups.make("real")
    (cgroups.top / "link").symlink_to("real")
    with pytest.raises(OSError, match="Not a directory"):
        node_at("").open_inner("link")


def test_a_node_is_known_by_its_inode(cgroups, node_at: Callable[[str], Node]) -> None:  # type: ignore[no-untyped-def]
    assert node_at("").id == cgroups.top.stat().st_ino


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b"null", b'"text"', b"\xff\xfe", b"1", b"[" * 60_000], ids=lambda raw: repr(raw[:8])
)
def test_a_record_that_is_none_reads_as_none(cgroups, node_at, raw: bytes) -> None:  # type: ignore[no-untyped-def]
    node = node_at("")
    os.setxattr(node.fd, "user.agentcg", raw[:3000])
    assert node.read_record() is None


def test_records_hold_any_text(cgroups, node_at) -> None:  # type: ignore[no-untyped-def]
    node = node_at("")
    assert node.read_record() is None
    node.write_record({"command": "a\nb\x1b\0é \u202e"})
    assert node.read_record() == {"command": "a\nb\x1b\0é \u202e"}


def test_a_leaf_is_made_once(cgroups, node_at) -> None:  # type: ignore[no-untyped-def]
    root = node_at("")
    root.make_leaf("c1", exist_ok=False).close()
    with pytest.raises(FileExistsError):
        root.make_leaf("c1", exist_ok=False)
    assert root.has_child("c1")
    assert not root.has_child("c2")
    assert list(root.children()) == ["c1"]


def test_a_busy_child_stays(cgroups, node_at) -> None:  # type: ignore[no-untyped-def]
    root = node_at("")
    cgroups.make("busy/below")
    cgroups.enter("busy/below")
    assert root.remove_tree("busy", attempts=2, pause=0) is False
    cgroups.leave("busy/below")
    assert root.remove_tree("busy", attempts=2, pause=0) is True
    assert root.remove("busy") is True
    assert root.remove_tree("busy") is True


def test_the_procs_descriptor_can_only_be_written(cgroups, node_at) -> None:  # type: ignore[no-untyped-def]
    leaf = node_at("").make_leaf("c1")
    fd = leaf.open_procs()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.read(fd, 1)
    assert not os.get_inheritable(fd)
    os.close(fd)
    leaf.close()


def test_waiting_for_the_end_is_bounded(cgroups, node_at) -> None:  # type: ignore[no-untyped-def]
    node = node_at("")
    cgroups.enter("")
    assert node.wait_empty(0.01) is False
    node.kill()
    assert node.wait_empty(0) is True
