# SPDX-License-Identifier: Apache-2.0
"""Find or make the cgroup that everything of agentcg lives in, and move the daemon into its ``supervisor`` leaf.

With systemd the tree is a scope of its own with ``Delegate=yes``, so that stopping or restarting the daemon's service
does not end calls (systemd's CGROUP_DELEGATION.md: a scope or a service may be delegated, never a slice, and nothing
is made beside systemd's own cgroups). On a bare host it is a directory below the top of the hierarchy.
"""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from agentcg.cgroup import files
from agentcg.cgroup.node import Inner
from agentcg.errors import Unsupported

__all__ = [
    "CONTROLLERS",
    "SUPERVISOR_MEMORY_MIN",
    "Mounts",
    "Root",
    "cgroup_of",
    "depth_of",
    "find_mounts",
    "open_own_procs",
    "open_root",
]

log = logging.getLogger(__name__)

CONTROLLERS = ("memory", "pids", "cpu", "io")
"""What calls are limited by, the indispensable one first."""

SCOPE = "agentcg.scope"
SUPERVISOR_MEMORY_MIN = 64 << 20
"""What the daemon is to have for itself, in bytes."""
INITIAL_CGROUP_NAMESPACE = 0xEFFFFFFB  # PROC_CGROUP_INIT_INO of linux/proc_ns.h
_V1_HINT = (
    "boot with systemd.unified_cgroup_hierarchy=1 (and without systemd.legacy_systemd_cgroup_controller), "
    "or on a host without systemd unmount the v1 hierarchies and mount cgroup2 on /sys/fs/cgroup"
)


@dataclass(frozen=True, slots=True)
class Mounts:
    """The cgroup file systems of this mount namespace."""

    unified: str | None
    """Where cgroup v2 is mounted."""
    unified_root: str
    """The part of the hierarchy that the mount shows, ``/`` unless it is a bind mount or a container's."""
    v1_controllers: frozenset[str]
    """Controllers that a v1 hierarchy holds; cgroup v2 cannot have them at the same time."""


def find_mounts(mountinfo: str) -> Mounts:
    """Read the cgroup mounts from the text of /proc/self/mountinfo (Documentation/filesystems/proc.rst, 3.5)."""
    unified, unified_root, v1 = None, "/", set[str]()
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(), right.split()
        if kind[0] == "cgroup2" and unified is None:
            unified, unified_root = fields[4], fields[3]
        elif kind[0] == "cgroup":
            v1.update(
                word for word in kind[2].split(",") if word in CONTROLLERS or word in ("cpuset", "cpuacct", "blkio")
            )
    # The v1 name of the io controller.
    return Mounts(unified, unified_root, frozenset("io" if name == "blkio" else name for name in v1))


def cgroup_of(pid: int | str = "self") -> str | None:
    """Return the cgroup v2 path of a process as this process's cgroup namespace shows it, or None if it is gone."""
    try:
        text = Path(f"/proc/{pid}/cgroup").read_text(errors="surrogateescape")  # A name may be any bytes.
    except (FileNotFoundError, ProcessLookupError):
        return None
    return next((line[3:] for line in text.splitlines() if line.startswith("0::")), None)


def open_own_procs() -> int:
    """Return a write-only descriptor of the cgroup.procs that this process is in: what is written to it comes here.

    :raises OSError: where this process may not write to it, or no cgroup v2 file system is mounted
    """
    mounts, path = find_mounts(Path("/proc/self/mountinfo").read_text()), cgroup_of()
    if mounts.unified is None or path is None:
        raise FileNotFoundError(errno.ENOENT, "no cgroup v2 file system is mounted here")
    own = os.path.join(mounts.unified, os.path.relpath(path, mounts.unified_root), "cgroup.procs")
    return os.open(own, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)


def depth_of(path: str) -> int:
    """Return how deep a cgroup is in the hierarchy, 0 for the top, from its path as :func:`cgroup_of` prints it.

    :raises Unsupported: inside a cgroup namespace, where that path does not begin at the top
    """
    if os.stat("/proc/self/ns/cgroup").st_ino != INITIAL_CGROUP_NAMESPACE:
        raise Unsupported(
            "in a cgroup namespace the depth of the root is not known",
            hint="run the daemon on the host, or the container with --cgroupns=host",
        )
    return len([part for part in path.split("/") if part])


@dataclass(slots=True)
class Root:
    """The cgroup that everything lives in."""

    node: Inner
    directory: str
    """Where it is in the file system."""
    path: str
    """As :func:`cgroup_of` prints the cgroups below it."""
    controllers: frozenset[str]
    missing: tuple[str, ...]


def open_root(path: str | None = None, *, observe: bool = False) -> Root:
    """Find or make the root, put this process into ``supervisor`` and hand the controllers down.

    :param path: a directory below a cgroup v2 mount to use; made if missing. By default the host decides.
    :param observe: go on without the memory controller: calls are grouped, killed and accounted, but not limited
    :raises Unsupported: where the host cannot do it; the hint says what to change
    """
    mounts = find_mounts(Path("/proc/self/mountinfo").read_text())
    if mounts.unified is None:
        raise Unsupported("no cgroup v2 file system is mounted here", hint=_V1_HINT)
    if "memory" in mounts.v1_controllers and not observe:
        raise Unsupported(
            f"this host is hybrid: the {', '.join(sorted(mounts.v1_controllers))} controllers belong to cgroup v1",
            hint=f"{_V1_HINT}; or start with --observe to group and account calls without limits",
        )
    if path is None:
        path = _systemd_scope(mounts) if os.path.isdir("/run/systemd/system") else f"{mounts.unified}/agentcg"
    try:
        return _take(path, mounts, observe=observe)
    except PermissionError as error:
        raise Unsupported(f"may not write to {path}: {error}", hint="run the daemon as root") from error


def _take(path: str, mounts: Mounts, *, observe: bool) -> Root:
    path = os.path.abspath(path)
    # The parent is opened and checked first: mkdir on a tmpfs would succeed and mean nothing.
    try:
        above = Inner.open_root(os.path.dirname(path))
    except (NotADirectoryError, FileNotFoundError) as error:
        raise Unsupported(
            f"{os.path.dirname(path)} is not a cgroup v2 directory", hint=f"cgroup v2 is mounted on {mounts.unified}"
        ) from error
    with above:
        try:
            handed = above.enable(CONTROLLERS)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            raise Unsupported(
                f"processes live in {os.path.dirname(path)}, so it cannot hand controllers down",
                hint="give the daemon a delegated cgroup of its own: a systemd unit with Delegate=yes",
            ) from error
        node = above.make_inner(os.path.basename(path))
    missing = tuple(name for name in CONTROLLERS if name not in handed)
    if "memory" in missing and not observe:
        node.close()
        raise Unsupported(
            f"the memory controller is not available in {os.path.dirname(path)}",
            hint="add memory to its parent's cgroup.subtree_control, take cgroup_disable=memory off the kernel's "
            "command line, or start with --observe",
        )
    seen = _seen_path(path, mounts)
    _become_supervisor(node, seen)
    return Root(node, path, seen, node.enable(handed), missing)


def _become_supervisor(node: Inner, seen: str) -> None:
    with node.make_leaf("supervisor") as supervisor:
        hint = "run the daemon in the cgroup namespace that the mount belongs to"
        try:
            supervisor.place(os.getpid())
        except FileNotFoundError as error:
            raise Unsupported(f"this process cannot be moved to {seen}/supervisor: {error}", hint=hint) from error
        if cgroup_of() != f"{seen}/supervisor":
            # Where peers live would be read wrongly too, and an agent be taken for an operator.
            raise Unsupported(f"{seen}/supervisor is {cgroup_of()} from here", hint=hint)
        files.write(supervisor.fd, "memory.min", str(SUPERVISOR_MEMORY_MIN))
    try:
        Path("/proc/self/oom_score_adj").write_text("-900")
    except PermissionError:
        log.warning("may not lower oom_score_adj: the OOM killer may choose the daemon itself")


def _seen_path(path: str, mounts: Mounts) -> str:
    below = os.path.relpath(path, mounts.unified or "/")
    return os.path.normpath(os.path.join(mounts.unified_root, below))


def _systemd_scope(mounts: Mounts) -> str:
    """Return the path of our delegated scope, which systemd makes around this process if it is not there."""
    for attempt in range(100):
        found = _show("ControlGroup")
        if found and os.path.isdir(f"{mounts.unified}{found}"):
            return f"{mounts.unified}{found}"
        if attempt == 0:
            _start_scope()
        time.sleep(0.05)
    raise Unsupported(
        f"systemd did not make {SCOPE} within 5 s",
        hint="see `systemctl status agentcg.scope` and `journalctl -b -u init.scope`",
    )


def _show(name: str) -> str:
    shown = subprocess.run(
        ["systemctl", "show", "--property", name, "--value", SCOPE], capture_output=True, text=True, timeout=10
    )
    return shown.stdout.strip()


def _start_scope() -> None:
    # StartTransientUnit(name, mode, properties, aux), org.freedesktop.systemd1(5). With a process of ours in it from
    # the start, the scope lives as long as the daemon or any call does.
    call = [
        "busctl",
        "call",
        "org.freedesktop.systemd1",
        "/org/freedesktop/systemd1",
        "org.freedesktop.systemd1.Manager",
    ]
    call += ["StartTransientUnit", "ssa(sv)a(sa(sv))", SCOPE, "fail", "5"]
    call += ["Description", "s", "agentcg: tool calls of AI agents", "Delegate", "b", "true"]
    call += ["PIDs", "au", "1", str(os.getpid()), "CollectMode", "s", "inactive-or-failed"]
    call += ["OOMPolicy", "s", "continue", "0"]
    try:
        done = subprocess.run(call, capture_output=True, text=True, timeout=10)
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        raise Unsupported(
            f"cannot ask systemd for a scope: {error}", hint="install dbus, or name a cgroup with --root"
        ) from error
    if done.returncode != 0:
        raise Unsupported(
            f"systemd refused to make {SCOPE}: {done.stderr.strip()}",
            hint="run the daemon as root, or name a cgroup with --root",
        )
