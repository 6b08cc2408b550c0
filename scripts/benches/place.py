# SPDX-License-Identifier: Apache-2.0
"""Where a bench runs: what the machine is, whether it can enforce, the recordings, and the way into the VM."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil

from agentcg.cgroup.delegate import find_mounts
from agentcg.errors import AgentcgError, InvalidInput

__all__ = ["CHECKOUT", "busy", "can_enforce", "is_vm", "recordings", "run_in_vm", "touch_memory"]

CHECKOUT = Path(__file__).resolve().parents[2]


def recordings(*parts: str) -> Path:
    """Return a folder of the AgentCgroup data set, from $AGENTCG_TRACES or beside the checkout.

    :raises InvalidInput: if it is not there
    """
    folder = Path(os.environ.get("AGENTCG_TRACES") or CHECKOUT.parent / "shared/traces/agentcgroup", *parts)
    if not folder.is_dir():
        hint = "set it to a copy of the AgentCgroup data set: the folder that all_images_haiku is in"
        raise InvalidInput("AGENTCG_TRACES", f"there is no {folder}", hint=hint)
    return folder


def is_vm() -> bool:
    """Whether this is the machine of scripts/vm, which says so in the environment."""
    return "AGENTCG_VM" in os.environ


def busy() -> str | None:
    """Return that this machine is busy with something else, if it is: that is in all that is measured on it."""
    load, cpus = os.getloadavg()[0], len(os.sched_getaffinity(0))
    return f"the host was busy before: a load of {load:.1f} on {cpus} CPUs" if load > cpus / 2 else None


def can_enforce() -> bool:
    """Whether the daemon can limit memory here: root, and the memory controller in cgroup v2."""
    unified = find_mounts(Path("/proc/self/mountinfo").read_text()).unified
    if unified is None or os.geteuid() != 0:
        return False
    return "memory" in Path(unified, "cgroup.controllers").read_text().split()


def touch_memory(share: float = 0.7) -> None:
    """Write to ``share`` of the free memory once: a VM gets its memory from the host when it first uses it."""
    size = int(psutil.virtual_memory().available * share)
    mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE).close()


def run_in_vm(options: Sequence[str], command: Sequence[str], timeout_sec: float) -> None:
    """Run a command in the machine of scripts/vm, in the checkout, with its output on our standard error.

    :raises AgentcgError: if it does not end well, or not within ``timeout_sec`` after the boot
    """
    vm = [sys.executable, str(CHECKOUT / "scripts/vm"), "run", "--timeout", f"{timeout_sec:.0f}", *options]
    machine = subprocess.Popen([*vm, "--", *command], stdin=subprocess.DEVNULL, stdout=sys.stderr.fileno())
    try:
        # It bounds boot and command itself; this is for a scripts/vm that hangs, or builds the machine first.
        status = machine.wait(timeout=timeout_sec + 1800)
    except BaseException as error:
        machine.send_signal(signal.SIGTERM)
        try:
            machine.wait(timeout=15)
        except subprocess.TimeoutExpired:
            machine.kill()
            machine.wait()
        if isinstance(error, subprocess.TimeoutExpired):
            raise AgentcgError("scripts/vm did not end", hint="see whether `scripts/vm run -- true` works") from error
        raise
    if status:
        raise AgentcgError(f"the part in the VM ended with status {status}", hint="what it printed stands above")
