# SPDX-License-Identifier: Apache-2.0
"""Chooses how QEMU runs the guest: with KVM only where a trial boot with it reaches user space."""

import json
import os
import subprocess
from pathlib import Path

from machine import host
from machine.boot import Job, Machine, MachineTimeout
from machine.errors import MachineError, say
from machine.layout import Cache

__all__ = ["KVM", "TCG", "TCG_ONE_THREAD", "choose"]

KVM = ("-accel", "kvm", "-cpu", "host")
_EMULATED = "max,-erms,-fsrm"
"""QEMU emulates `rep movsb` and `rep stosb` a byte at a time. Without these two flags kernel and libc copy and clear
by words: to touch 100 MiB took 0.25 s and not 0.57 s, to start a Python a sixth less (6.12, QEMU 7.2)."""
TCG = ("-accel", "tcg,thread=multi", "-cpu", _EMULATED)
TCG_ONE_THREAD = ("-accel", "tcg,thread=single", "-cpu", _EMULATED)
"""CPUs take turns. Where a kernel patches its own code often, as when a sched_ext scheduler is loaded, it may die
otherwise of a breakpoint that another emulated CPU still sees."""
_TRIAL_LIMIT = 15.0


def _circumstances() -> str:
    version = subprocess.run([host.qemu(), "--version"], capture_output=True, text=True, check=False)
    return f"{os.uname().release} {version.stdout.splitlines()[:1]}"


def choose(cache: Cache, *, one_thread: bool = False) -> tuple[str, ...]:
    """Return QEMU's options; the trial's result is kept for this host kernel and this QEMU.

    :param one_thread: emulate all CPUs in one thread, if they are emulated
    """
    emulated = TCG_ONE_THREAD if one_thread else TCG
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return emulated
    now = _circumstances()
    try:
        known = json.loads(cache.accelerator.read_text())
    except (OSError, ValueError):
        known = {}
    if not isinstance(known, dict) or known.get("circumstances") != now:
        works = _trial(cache)
        known = {"circumstances": now, "kvm": works}
        half = Path(f"{cache.accelerator}.{os.getpid()}")
        half.write_text(json.dumps(known))
        half.rename(cache.accelerator)
        say("KVM works here" if works else "KVM does not boot a stock kernel here: emulating")
    return KVM if known["kvm"] else emulated


def _trial(cache: Cache) -> bool:
    job = Job(["true"], kernel="stable", memory=1 << 30, timeout=_TRIAL_LIMIT, boot_limit=_TRIAL_LIMIT)
    try:
        with Machine(cache, job, KVM) as machine:
            return list(machine.run())[-1:] == [0]
    except (MachineError, MachineTimeout):
        return False
