# SPDX-License-Identifier: Apache-2.0
"""A cgroup of the replay's own, on whatever host this is, removed afterwards; and a warm machine to measure on."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from agentcg.cgroup.delegate import CONTROLLERS, cgroup_of, find_mounts
from agentcg.cgroup.node import Inner
from agentcg.errors import AgentcgError, Unsupported
from agentcg.kernel.sys import set_parent_death_signal
from agentcg.units import format_size

__all__ = ["describe_machine", "own_cgroup", "warm_up"]

WARM_MAX = 16 << 30
WARM_LEFT = 384 << 20


def describe_machine() -> str:
    """Return what this machine is, in one line."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    model = models[0].partition(":")[2].strip() if models else os.uname().machine
    memory = psutil.virtual_memory().total / (1 << 30)
    return f"{len(os.sched_getaffinity(0))} CPUs ({model}), {memory:.1f} GiB of memory"


@contextlib.contextmanager
def own_cgroup() -> Iterator[tuple[Inner, str]]:
    """Make a cgroup that can hand its controllers down, and its directory; remove it and all below it at the end.

    :raises Unsupported: where this host cannot do it; the hint says what to change
    """
    mounts = find_mounts(Path("/proc/self/mountinfo").read_text())
    vm = "or replay in a virtual machine"
    if mounts.unified is None or "memory" in mounts.v1_controllers:
        what = (
            "no cgroup v2 is mounted here" if mounts.unified is None else "the memory controller belongs to cgroup v1"
        )
        raise Unsupported(
            f"a live replay needs real limits: {what}",
            hint=f"boot with systemd.unified_cgroup_hierarchy=1, {vm}",
        )
    if os.geteuid() != 0:
        raise Unsupported("a live replay makes cgroups, which takes root", hint=f"run it with sudo, {vm}")
    with contextlib.ExitStack() as stack:
        above = _scope(mounts.unified, stack) if os.path.isdir("/run/systemd/system") else mounts.unified
        name = f"agentcg-replay-{os.getpid()}"
        try:
            parent = stack.enter_context(Inner.open_root(above))
            handed = parent.enable(CONTROLLERS)
            if "memory" not in handed:
                raise Unsupported(
                    f"the memory controller is not available in {above}",
                    hint=f"take cgroup_disable=memory off the kernel's command line, {vm}",
                )
            node = stack.enter_context(parent.make_inner(name))
            stack.callback(parent.remove_tree, name)
            stack.callback(_empty, node)
            node.enable(handed)
        except OSError as error:
            raise Unsupported(
                f"cannot make a cgroup in {above}: {error.strerror or error}",
                hint=f"run it as root on a host whose cgroups are its own, {vm}"
                if error.errno != errno.EBUSY
                else f"processes live in {above} itself: run it in a delegated cgroup, {vm}",
            ) from error
        yield node, f"{above}/{name}"


def _empty(node: Inner) -> None:
    """End what is left in a cgroup, and wait until it has gone."""
    deadline = time.monotonic() + 10
    while node.populated and time.monotonic() < deadline:
        node.kill()
        time.sleep(0.01)


def _scope(mount: str, stack: contextlib.ExitStack) -> str:
    """Have systemd make a delegated scope, around a process that only keeps it, in a leaf of its own."""
    keeper = subprocess.Popen(
        ["systemd-run", "--scope", "--quiet", "--collect", "-p", "Delegate=yes", "sleep", "infinity"],
        stdin=subprocess.DEVNULL,
        preexec_fn=lambda: set_parent_death_signal(15),
    )
    stack.callback(keeper.wait)
    stack.callback(keeper.kill)
    ours, deadline = cgroup_of(), time.monotonic() + 20
    while (path := cgroup_of(keeper.pid)) in (None, ours) or not _executes(keeper.pid, "sleep"):
        if keeper.poll() is not None or time.monotonic() > deadline:
            raise Unsupported("systemd made no scope for the replay", hint="run it as root; see `journalctl -b -n 20`")
        time.sleep(0.02)
    directory = f"{mount}{path}"
    with Inner.open_root(directory) as scope, scope.make_leaf("keeper") as leaf:
        leaf.place(keeper.pid)
    return directory


def _executes(pid: int, name: str) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip() == name
    except OSError:
        return False


def warm_up(program: str, told: Callable[[str], None]) -> None:
    """Touch the memory of a virtual machine once: what its host has not given it yet would slow down the first arm.

    :raises AgentcgError: outside a virtual machine, or in a large one
    """
    if "hypervisor" not in Path("/proc/cpuinfo").read_text().split():
        raise AgentcgError("--warm-up is for virtual machines, and this is none", hint="leave it out")
    size = psutil.virtual_memory().available - WARM_LEFT
    if size > WARM_MAX:
        raise AgentcgError(f"--warm-up would touch {format_size(size)}", hint="leave it out on a machine this large")
    if size > 0:
        told(f"warming up: touching {format_size(size)} once")
        subprocess.run([program], input=f"0 {size} 0\n".encode(), stdout=subprocess.DEVNULL, check=False, timeout=300)
