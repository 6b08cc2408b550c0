# SPDX-License-Identifier: Apache-2.0
"""A thousand tasks in two hundred calls under the scheduler for calls, for ten minutes; then its daemon is killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

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
WAIT_SEC, STARTED_SEC = 60.0, 900.0
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


def _line(work: str) -> str:
    """The command of a call: its tasks stop themselves, and go on together with those of all calls."""
    small = f"sh -c 'kill -STOP $$; exec {work} 2000000000'"
    return f"for i in {' '.join('1' * (TASKS - 1))}; do {small} & done; kill -STOP $$; exec {work} 0"


def _start_all(leaves: Sequence[Path]) -> int:
    """Let all tasks go on once all are there; return how many these are."""
    deadline = time.monotonic() + STARTED_SEC
    while True:
        pids = [int(pid) for leaf in leaves for pid in (leaf / "cgroup.procs").read_text().split()]
        stopped = [pid for pid in pids if psutil.Process(pid).status() == psutil.STATUS_STOPPED]
        if len(stopped) == len(leaves) * TASKS:
            break
        if time.monotonic() > deadline:
            raise AgentcgError(f"{len(stopped)} tasks are there after {STARTED_SEC:g} s, not {len(leaves) * TASKS}")
        time.sleep(LOOK_SEC)
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)
    return len(stopped)


def _run(root: Path, socket: str, work: str) -> dict[str, float | None]:
    processes, leaves = [], []
    with Client(socket) as client:
        pid = client.status().pid
        for number in range(SESSIONS):
            client.session(f"s{number}")
            for call in range(CALLS):
                begun = client.call(["sh", "-c", _line(work)], session=f"s{number}", id=f"c{call}", leased=False)
                processes.append(begun.popen())
                leaves.append(root / f"shared/u0/s{number}/calls/c{call}")
        tasks = _start_all(leaves)
        began, enabled = time.monotonic(), _COUNT.read_text()
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
        # Who looks must not stand in line behind what is let go.
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        os.kill(pid, signal.SIGKILL)
    killed = time.monotonic()
    while _STATE.read_text() != "disabled\n" or _frozen(root):
        if time.monotonic() > killed + WAIT_SEC:
            raise AgentcgError(f"a minute after the daemon was killed the scheduler is {_STATE.read_text().strip()}")
        time.sleep(0.005)
    released = time.monotonic() - killed
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
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
            lambda: (
                Arm("agentcg_sched", _prepare, limit_sec=LONG_SEC + STARTED_SEC + 300, expected_sec=LONG_SEC + 120),
            ),
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
