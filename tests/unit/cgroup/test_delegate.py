# SPDX-License-Identifier: Apache-2.0
"""Where the tree may stand: mountinfo as real hosts have it, and what is refused with which advice."""

import errno
import os
import subprocess
from pathlib import Path

import pytest

from agentcg.cgroup import delegate
from agentcg.cgroup.delegate import Mounts, find_mounts, open_root
from agentcg.errors import Unsupported

UNIFIED = """\
24 30 0:22 / /proc rw,nosuid,nodev,noexec,relatime shared:12 - proc proc rw
29 25 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot
31 30 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,discard
"""
HYBRID = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
38 31 0:35 / /sys/fs/cgroup/blkio rw,relatime - cgroup cgroup rw,blkio
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""
LEGACY = """\
31 23 0:28 / /sys/fs/cgroup ro,nosuid,nodev,noexec shared:9 - tmpfs tmpfs ro,mode=755
33 31 0:30 / /sys/fs/cgroup/systemd rw,relatime shared:10 - cgroup cgroup rw,xattr,name=systemd
36 31 0:33 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:15 - cgroup cgroup rw,cpu,cpuacct
37 31 0:34 / /sys/fs/cgroup/memory rw,relatime shared:16 - cgroup cgroup rw,memory
"""
CONTAINER = """\
612 608 0:26 /system.slice/docker-4f.scope /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime - cgroup2 cgroup rw,nsdelegate
"""


@pytest.mark.parametrize(
    ("text", "mounts"),
    [
        (UNIFIED, Mounts("/sys/fs/cgroup", "/", frozenset())),
        (HYBRID, Mounts("/sys/fs/cgroup/unified", "/", frozenset({"cpu", "memory", "io"}))),
        (LEGACY, Mounts(None, "/", frozenset({"cpu", "cpuacct", "memory"}))),
        (CONTAINER, Mounts("/sys/fs/cgroup", "/system.slice/docker-4f.scope", frozenset())),
        ("", Mounts(None, "/", frozenset())),
    ],
    ids=["unified", "hybrid", "legacy", "container", "nothing"],
)
def test_mounts(text: str, mounts: Mounts) -> None:
    assert find_mounts(text) == mounts


def test_a_path_below_a_bind_mount_is_named_as_the_kernel_names_it() -> None:
    mounts = find_mounts(CONTAINER)
    assert delegate._seen_path("/sys/fs/cgroup/agentcg", mounts) == "/system.slice/docker-4f.scope/agentcg"
    assert delegate._seen_path("/sys/fs/cgroup/agentcg", find_mounts(UNIFIED)) == "/agentcg"


@pytest.fixture
def mounted(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Return a function that has the host look as one mountinfo says; this process is not moved by it."""

    def mount(text: str, lives_in: Path | None = None) -> None:
        if lives_in is not None:
            # As the kernel would say it after the move, below a hierarchy that is mounted on /sys/fs/cgroup.
            seen = os.path.normpath(os.path.join("/", os.path.relpath(lives_in, "/sys/fs/cgroup")))
            monkeypatch.setattr(delegate, "cgroup_of", lambda pid="self": seen)
        read, write = Path.read_text, Path.write_text
        monkeypatch.setattr(
            Path, "read_text", lambda self, **how: text if str(self) == "/proc/self/mountinfo" else read(self, **how)
        )
        monkeypatch.setattr(
            Path, "write_text", lambda self, text: 0 if self.is_relative_to("/proc") else write(self, text)
        )

    return mount


def test_a_legacy_host_is_refused_with_the_boot_option(mounted) -> None:  # type: ignore[no-untyped-def]
    mounted(LEGACY)
    with pytest.raises(Unsupported, match="no cgroup v2 file system is mounted here") as caught:
        open_root()
    assert "systemd.unified_cgroup_hierarchy=1" in caught.value.hint


def test_a_hybrid_host_is_refused_and_told_of_observe(mounted) -> None:  # type: ignore[no-untyped-def]
    mounted(HYBRID)
    with pytest.raises(Unsupported, match="hybrid: the cpu, io, memory controllers belong to cgroup v1") as caught:
        open_root()
    assert "--observe" in caught.value.hint


def test_a_root_that_is_no_cgroup_is_refused(mounted, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    mounted(UNIFIED)
    with pytest.raises(Unsupported, match=f"{tmp_path} is not a cgroup v2 directory") as caught:
        open_root(str(tmp_path / "agentcg"))
    assert "/sys/fs/cgroup" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_relative_root_is_named_in_the_refusal(mounted, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    mounted(UNIFIED)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Unsupported) as caught:
        open_root("agentcg")
    assert not caught.value.message.startswith(" is not"), "the message names no place"


def test_a_parent_with_processes_is_refused(cgroups, mounted) -> None:  # type: ignore[no-untyped-def]
    mounted(UNIFIED)
    cgroups.refuse["cgroup.subtree_control"] = OSError(errno.EBUSY, "Device or resource busy")
    with pytest.raises(Unsupported, match=f"processes live in {cgroups.top}") as caught:
        open_root(str(cgroups.top / "agentcg"))
    assert "Delegate=yes" in caught.value.hint


def test_without_the_memory_controller_only_to_observe(cgroups, mounted) -> None:  # type: ignore[no-untyped-def]
    mounted(UNIFIED, lives_in=cgroups.top / "agentcg/supervisor")
    (cgroups.top / "cgroup.controllers").write_text("cpu pids\n")
    with pytest.raises(Unsupported, match="the memory controller is not available in") as caught:
        open_root(str(cgroups.top / "agentcg"))
    assert "cgroup_disable=memory" in caught.value.hint
    root = open_root(str(cgroups.top / "agentcg"), observe=True)
    assert root.missing == ("memory", "io")
    root.node.close()


def test_no_right_to_write_is_said(cgroups, mounted) -> None:  # type: ignore[no-untyped-def]
    mounted(UNIFIED)
    cgroups.refuse["cgroup.subtree_control"] = PermissionError(errno.EACCES, "Permission denied")
    with pytest.raises(Unsupported, match="may not write to") as caught:
        open_root(str(cgroups.top / "agentcg"))
    assert caught.value.hint == "run the daemon as root"


def test_the_daemon_goes_to_its_own_leaf_first(cgroups, mounted) -> None:  # type: ignore[no-untyped-def]
    mounted(UNIFIED, lives_in=cgroups.top / "agentcg/supervisor")
    root = open_root(str(cgroups.top / "agentcg"))
    assert cgroups.text("agentcg/supervisor", "cgroup.procs") == str(os.getpid())
    assert cgroups.text("agentcg/supervisor", "memory.min") == str(64 << 20)
    assert cgroups.text("agentcg", "cgroup.subtree_control") == "cpu io memory pids"
    assert root.missing == ()
    root.node.close()


def test_systemd_that_refuses_is_quoted(mounted, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked = command[0] == "busctl"
        return subprocess.CompletedProcess(command, int(asked), "", "Interactive authentication required.\n")

    mounted(UNIFIED)
    monkeypatch.setattr(delegate.os.path, "isdir", lambda path: path == "/run/systemd/system")
    monkeypatch.setattr(delegate.subprocess, "run", run)
    with pytest.raises(Unsupported, match=r"systemd refused .* Interactive authentication required") as caught:
        open_root()
    assert "--root" in caught.value.hint


@pytest.mark.parametrize(("shown", "seen"), [("/", "/a/b"), ("/docker/x", "/docker/x/a/b")])
def test_the_own_cgroup_is_found_below_what_the_mount_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shown: str, seen: str
) -> None:
    procs = tmp_path / "a/b/cgroup.procs"
    procs.parent.mkdir(parents=True)
    procs.touch()
    monkeypatch.setattr(delegate, "find_mounts", lambda _: Mounts(str(tmp_path), shown, frozenset()))
    monkeypatch.setattr(delegate, "cgroup_of", lambda: seen)
    opened = delegate.open_own_procs()
    assert os.readlink(f"/proc/self/fd/{opened}") == str(procs)
    os.close(opened)


def test_without_cgroup_v2_there_is_no_own_cgroup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delegate, "find_mounts", lambda _: Mounts(None, "/", frozenset()))
    with pytest.raises(FileNotFoundError, match="no cgroup v2 file system"):
        delegate.open_own_procs()
