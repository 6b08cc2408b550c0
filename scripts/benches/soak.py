# SPDX-License-Identifier: Apache-2.0
"""A thousand tasks in two hundred calls under the scheduler for calls, for ten minutes; then its daemon is killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from agentcg.api.client import Client
from agentcg.cgroup.delegate import find_mounts
from agentcg.errors import AgentcgError, Unsupported
from benches.daemons import start_daemon
from benches.harness import Arm, Bench, Part, Ratio, Repetition, Stage
from benches.scheduler import compile_work

__all__ = ["BENCH"]

SESSIONS, CALLS, TASKS = 20, 10, 5
"""Calls of a session, and tasks of a call: one computes, the others sleep for a millisecond and compute a little."""
LONG_SEC = 600.0
LAST_SEC = 60.0
"""A call that has had no CPU time for so long at the end was starved."""
LOOK_SEC = 1.0
WAIT_SEC = 60.0
_STATE = Path("/sys/kernel/sched_ext/state")
_COUNT = Path("/sys/kernel/sched_ext/enable_seq")


def _root() -> str:
    unified = find_mounts(Path("/proc/self/mountinfo").read_text()).unified
    if unified is None or not _STATE.exists():
        raise Unsupported("this kernel has no sched_ext", hint="boot one with CONFIG_SCHED_CLASS_EXT")
    return f"{unified}/agentcg-soak"


def _used(leaves: Sequence[Path]) -> list[int]:
    return [int((leaf / "cpu.stat").read_text().split()[1]) for leaf in leaves]


def _frozen(root: Path) -> int:
    return sum(file.read_text() != "0\n" for file in root.rglob("cgroup.freeze"))


def _run(root: Path, socket: str, work: str) -> dict[str, float | None]:
    line = f"for i in {' '.join('1' * (TASKS - 1))}; do {work} 2000000000 & done; exec {work} 0"
    processes, leaves = [], []
    with Client(socket) as client:
        pid = client.status().pid
        for number in range(SESSIONS):
            client.session(f"s{number}")
            for call in range(CALLS):
                begun = client.call(["sh", "-c", line], session=f"s{number}", id=f"c{call}", leased=False)
                processes.append(begun.popen())
                leaves.append(root / f"shared/u0/s{number}/calls/c{call}")
        began, enabled = time.monotonic(), _COUNT.read_text()
        tasks = sum(int((leaf / "pids.current").read_text()) for leaf in leaves)
        before = [0] * len(leaves)
        while (left := began + LONG_SEC - time.monotonic()) > 0:
            if _STATE.read_text() != "enabled\n":
                break
            if left > LAST_SEC:
                before = _used(leaves)
            time.sleep(LOOK_SEC)
        starved = sum(now <= then for now, then in zip(_used(leaves), before, strict=True))
        held_up = time.monotonic() - began
        exits = float(_COUNT.read_text() != enabled or _STATE.read_text() != "enabled\n")
        os.kill(pid, signal.SIGKILL)
    killed = time.monotonic()
    while _STATE.read_text() != "disabled\n" or _frozen(root):
        if time.monotonic() > killed + WAIT_SEC:
            raise AgentcgError(f"a minute after the daemon was killed the scheduler is {_STATE.read_text().strip()}")
        time.sleep(0.005)
    released = time.monotonic() - killed
    (root / "cgroup.kill").write_text("1")
    for process in processes:
        process.wait(WAIT_SEC)
    return {
        "tasks": float(tasks),
        "held_up_sec": held_up,
        "exits": exits,
        "starved_calls": float(starved),
        "released_sec": released,
    }


def _prepare(stage: Stage) -> Repetition:
    root, work = _root(), compile_work(stage)
    socket = start_daemon(stage, "--scheduler", "--events", root=root)
    return lambda: _run(Path(root), socket, work)


BENCH = Bench(
    name="soak",
    summary="a thousand tasks in two hundred calls under the scheduler for ten minutes, and a daemon that is killed",
    parts=(
        Part(
            "soak",
            lambda: (Arm("agentcg_sched", _prepare, limit_sec=LONG_SEC + 600, expected_sec=LONG_SEC + 120),),
            vm=("--memory", "3G", "--cpus", "2", "--one-thread"),
            quick_sec=0,
        ),
    ),
    units={"tasks": "", "held_up_sec": "s", "exits": "", "starved_calls": "", "released_sec": "s"},
    ratios=(
        Ratio("held_up_sec", "agentcg_sched", metric="held_up_sec", goal=LONG_SEC, better="higher"),
        Ratio("scheduler_exits", "agentcg_sched", metric="exits", goal=0.0),
        Ratio("starved_calls", "agentcg_sched", metric="starved_calls", goal=0.0),
        Ratio("released_sec", "agentcg_sched", metric="released_sec", goal=2.0),
    ),
    n=1,
    quick_n=1,
    warm_up=0,
)
