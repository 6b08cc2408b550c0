# SPDX-License-Identifier: Apache-2.0
"""A daemon that has agentcg's scheduler run its calls, and one that cannot have it."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from agentcg.kernel.sched import SCHED_EXT

STATE = Path("/sys/kernel/sched_ext/state")
SUPPORTED = STATE.exists()
OPTIONS = ("--scheduler", "--events", "--memory-max", "400M")
MIB = 1 << 20
HOLDS = "the kernel's programs hold them"


def policies(tools: Any, leaf: Path) -> set[int]:
    found = set()
    for pid in tools.text(leaf, "cgroup.procs").split():
        try:
            found.add(os.sched_getscheduler(int(pid)))
        except ProcessLookupError:
            continue
    return found


def cpu_usec(tools: Any, leaf: Path) -> int:
    return tools.keyed(leaf, "cpu.stat")["usage_usec"]


@pytest.mark.parametrize("own_daemon", [(*OPTIONS, "--dry-run")], indirect=True)
def test_a_dry_run_holds_nobody_in_the_kernel_either(own_daemon: Any) -> None:
    log = own_daemon.log.read_text()
    assert "memory events come from the kernel" in log
    assert ("calls of unprotected sessions are scheduled by agentcg" in log) == SUPPORTED
    assert HOLDS not in log


@pytest.mark.parametrize("own_daemon", [OPTIONS], indirect=True)
def test_calls_of_unprotected_sessions_are_its_own_and_go_on_without_it(own_daemon: Any, tools: Any) -> None:
    expected = SCHED_EXT if SUPPORTED else os.SCHED_OTHER
    log = own_daemon.log.read_text()
    assert "memory events come from the kernel" in log
    assert ("calls of unprotected sessions are scheduled by agentcg" in log) == SUPPORTED
    assert ("calls are scheduled by the kernel alone" in log) != SUPPORTED
    assert (HOLDS in log) == SUPPORTED
    with own_daemon.client() as client:
        client.session("open", leased=False)
        client.session("protected", protected=True, memory_max=100 * MIB, leased=False)
        top = own_daemon.top
        leaves = top / "shared/u0/open/calls/c1", top / "reserved/u0/protected/calls/c1"
        commands = {"open": ["sh", "-c", "while :; do :; done"], "protected": ["sleep", "60"]}
        processes = [
            client.call(command, session=name, id="c1", leased=False).popen() for name, command in commands.items()
        ]
        tools.wait_for(lambda: policies(tools, leaves[0]) == {expected})
        assert policies(tools, leaves[1]) == {os.SCHED_OTHER}
        bounded = client.call(["sleep", "60"], session="open", id="bounded", cpu_cores=0.5, leased=False)
        processes.append(bounded.popen())
        assert policies(tools, top / "shared/u0/open/calls/bounded") <= {os.SCHED_OTHER}
        own_daemon.signal(signal.SIGKILL)
        if SUPPORTED:
            tools.wait_for(lambda: STATE.read_text().strip() == "disabled", 2)
        before = cpu_usec(tools, leaves[0])
        tools.wait_for(lambda: cpu_usec(tools, leaves[0]) > before)
        own_daemon.start()
    with own_daemon.client() as client:
        # What is adopted is taken again.
        tools.wait_for(lambda: policies(tools, leaves[0]) == {expected})
        for name in ("open", "protected"):
            client.close_session(name)
    assert [process.wait(30) for process in processes] == [-9, -9, -9]
