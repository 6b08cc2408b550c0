# SPDX-License-Identifier: Apache-2.0
"""A neighbour that shares a directory with a call, while that call is paused again and again."""

from __future__ import annotations

import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from agentcg.cgroup.node import Inner
from agentcg.replay.host import own_cgroup
from benches.daemons import parent_death
from benches.harness import Arm, Repetition, Stage
from benches.isolation_churn import touch

__all__ = ["UNITS", "lock_arms"]

UNITS = {"lock_p50_ms": "ms", "lock_p99_ms": "ms", "lock_max_ms": "ms"}

PROCESSES = 4
OPERATIONS = 500
PERIOD_SEC = 0.005
LIMIT_SEC = 180.0
_PROGRAM = str(Path(__file__).with_name("isolation_churn.py"))


class _Helper:
    """A process of :mod:`benches.isolation_churn` that is ready to begin."""

    def __init__(self, stage: Stage, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-E", _PROGRAM, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            preexec_fn=parent_death,
        )
        stage.enter_context(self.process)
        stage.callback(self.process.kill)
        if self.process.stdout is None or not self.process.stdout.readline():
            raise RuntimeError(f"{' '.join(arguments)} did not start")

    def begin(self) -> None:
        if self.process.stdin is not None:
            self.process.stdin.write(b"go\n")
            self.process.stdin.flush()


def _neighbour(directory: str) -> list[float]:
    """Do the operations, one each period, and return what each took in ms, in order of size."""
    took = []
    due = time.perf_counter()
    for _ in range(OPERATIONS):
        due = max(due + PERIOD_SEC, time.perf_counter())
        time.sleep(max(0.0, due - time.perf_counter()))
        began = time.perf_counter()
        touch(f"{directory}/neighbour")
        took.append(1000 * (time.perf_counter() - began))
    return sorted(took)


def _measure(parent: Inner, cgroup: str, *, paused: bool) -> dict[str, float | None]:
    with parent.make_leaf("churn") as leaf, Stage() as own:
        own.callback(parent.remove, "churn")
        own.callback(leaf.wait_empty, 10.0)
        directory = own.enter_context(tempfile.TemporaryDirectory(prefix="agentcg-lock-", dir="/dev/shm"))
        helpers = [_Helper(own, "churn", directory) for _ in range(PROCESSES)]
        for helper in helpers:
            leaf.place(helper.process.pid)
        if paused:
            own.callback(leaf.thaw)
            helpers.append(_Helper(own, "pause", f"{cgroup}/churn"))
        for helper in helpers:
            helper.begin()
        took = _neighbour(directory)
    return {
        "lock_p50_ms": took[len(took) // 2],
        "lock_p99_ms": took[math.ceil(0.99 * len(took)) - 1],
        "lock_max_ms": took[-1],
    }


def _prepare(paused: bool, stage: Stage) -> Repetition:
    if "lock" not in stage.shared:
        stage.shared["lock"] = stage.enter_context(own_cgroup())
    parent, cgroup = stage.shared["lock"]
    return lambda: _measure(parent, cgroup, paused=paused)


def lock_arms() -> Sequence[Arm]:
    """Return the arms of the part ``lock``."""
    return (
        Arm("unpaused.lock", lambda stage: _prepare(False, stage), limit_sec=LIMIT_SEC, expected_sec=8),
        Arm("paused.lock", lambda stage: _prepare(True, stage), limit_sec=LIMIT_SEC, expected_sec=8),
    )
