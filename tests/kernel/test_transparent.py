# SPDX-License-Identifier: Apache-2.0
"""Agents that know nothing of agentcg, in sessions that see what they execute: shell scripts, and what they start.

That no instruction of a call runs outside its leaf is not the daemon's word: exec_check.bpf.c looks at the registers of
each process when it executes, when it is moved, and when it is let go on.
"""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from agentcg.api.client import RemoteError
from agentcg.control.guard import WAITING_SEC
from agentcg.sandbox.agent import AgentSession

EXECS = int(os.environ.get("AGENTCG_EXECS", "60"))
"""Of a storm. With 1000 it takes minutes in an emulated machine."""
AT_ONCE = 16
SECONDS = 300


class Run:
    """A script that is run by bash as the agent of a transparent session."""

    numbers = count(1)

    def __init__(self, daemon: Any, folder: Path) -> None:
        self.daemon, self.folder = daemon, folder
        self.client, self.name = daemon.client(), f"transparent-{next(Run.numbers)}"
        self.session = AgentSession(self.client, self.name, transparent=True)
        self.top = daemon.top / f"shared/u0/{self.name}"

    def start(self, script: str) -> "subprocess.Popen[str]":
        path = self.folder / "agent"
        path.write_text(script)
        return self.session.start(["bash", path], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def run(self, script: str) -> list[str]:
        """Run it to its end, and return what it has said, by line."""
        process = self.start(script)
        said = process.communicate(timeout=SECONDS)[0]
        assert process.returncode == 0, said
        return said.splitlines()

    def kept(self) -> list[dict[str, Any]]:
        """Return the verdicts on its calls, in the order in which these began."""
        with sqlite3.connect(self.daemon.directory / "history.sqlite") as history:
            query = "SELECT verdict FROM verdicts WHERE session = ? ORDER BY started"
            return [json.loads(verdict) for (verdict,) in history.execute(query, (self.name,))]

    def verdicts(self, number: int, tools: Any) -> list[dict[str, Any]]:
        """Wait for so many verdicts, and return them."""
        tools.wait_for(lambda: len(self.kept()) >= number, 60)
        found = self.kept()
        assert len(found) == number
        assert {verdict["tool"] for verdict in found} == {"transparent"}
        return found

    def stopped(self) -> int:
        """Return how many processes of the session are stopped by a signal."""
        pids = [pid for file in self.top.rglob("cgroup.procs") for pid in file.read_text().split()]
        return sum(_state(pid) == "T" for pid in pids)

    def told(self, kind: str) -> list[str]:
        """Return what the daemon has said of events of a kind that happened to the session."""
        lines = self.daemon.log.read_text().splitlines()
        return [line.partition(": ")[2] for line in lines if f"agentcg.events: {kind} u0/{self.name}" in line]


def _state(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1]
    except OSError:
        return ""


def _run(daemon: Any, folder: Path) -> Iterator[Run]:
    made = Run(daemon, folder)
    yield made
    made.client.close()
    os.close(made.session._procs)
    if daemon.process.poll() is None:
        # It is closed with the connection, unless the daemon was another then.
        with daemon.client() as client, contextlib.suppress(RemoteError):
            client.close_session(made.name)
        daemon.clear()


@pytest.fixture
def agent(daemon: Any, tmp_path: Path) -> Iterator[Run]:
    yield from _run(daemon, tmp_path)


@pytest.fixture
def own_agent(own_daemon: Any, tmp_path: Path) -> Iterator[Run]:
    """Return an agent whose daemon may be killed, and has made nothing transparent before."""
    yield from _run(own_daemon, tmp_path)


def storm(number: int) -> str:
    return f"seq {number} | xargs -P {AT_ONCE} -I{{}} sh -c 'exit 0'"


def test_each_command_is_a_call_and_ends_as_its_parent_sees_it(agent: Run, tools: Any) -> None:
    said = agent.run("""
        grep ^0 /proc/self/cgroup
        sh -c 'grep ^0 /proc/self/cgroup; exit 3'; echo $?
        bash -ec 'sh -c "grep ^0 /proc/self/cgroup"; kill -9 $$'; echo $?
        sh -c 'AGENT_RESOURCE_HINT=priority:70 true'
        AGENT_RESOURCE_HINT=priority:80 sh -c true
        AGENT_RESOURCE_HINT=nonsense sh -c true
        sh -c 'sleep 600 & cat /proc/self/oom_score_adj'
        python3 -S -c 'import os; os.system("exit 5")'
    """)
    places = [line.removeprefix("0::") for line in said if line.startswith("0::")]
    assert places[0].endswith(f"/shared/u0/{agent.name}/agent")
    assert len(set(places)) == 3
    assert all(f"/shared/u0/{agent.name}/calls/" in place for place in places[1:])
    assert [line for line in said if line.isdecimal()] == ["3", "137", "975"]
    found = agent.verdicts(7, tools)
    ends = [(verdict.get("exit_code"), verdict.get("signal")) for verdict in found]
    assert ends == [(3, None), (None, 9), (0, None), (0, None), (0, None), (0, None), (5, None)]
    assert found[2]["command"] == "true"
    weights = [verdict["limits"]["cpu_weight"] for verdict in found]
    assert weights[4] < weights[2] < weights[3]  # Without a hint, with one in the command, and in the environment.
    assert found[5]["usage"]["left_behind"] == 1
    assert agent.told("call_unmanaged") == []


def test_a_call_that_goes_too_far_ends_alone(agent: Run, tools: Any) -> None:
    eat = 'python3 -S -c "[0] * (12 << 20)"'
    said = agent.run(f"sh -c 'AGENT_RESOURCE_HINT=memory:48m {eat}'; echo ended with $?")
    assert said[-1] == "ended with 137"
    assert agent.verdicts(1, tools)[0]["outcome"] == "memory_limit"


@pytest.mark.timeout(SECONDS + EXECS)
def test_a_storm_none_is_lost_and_none_waits_for_long(
    first_instructions: Callable[[int], Any], own_agent: Run, tools: Any
) -> None:
    # The look is there before the daemon's programs, and so goes first: the daemon may move a process while it still is
    # in those.
    agent = own_agent
    results = first_instructions((agent.top / "agent").stat().st_ino)
    agent.run(storm(EXECS))
    found = results()
    longest = found.pop("longest_ns") / 1e9
    print(f"{EXECS} executions: stopped for {longest * 1e3:.1f} ms at most")
    assert found == {"untouched": EXECS, "ran": 0, "on_cpu": 0, "left": 0}
    assert longest < WAITING_SEC
    assert {verdict["outcome"] for verdict in agent.verdicts(EXECS, tools)} == {"ok"}
    assert agent.told("call_unmanaged") == []


@pytest.mark.timeout(SECONDS + EXECS)
def test_the_daemon_is_killed_in_a_storm_and_the_next_takes_over(own_agent: Run, tools: Any) -> None:
    agent = own_agent
    gate, again = agent.folder / "gate", agent.folder / "again"
    os.mkfifo(gate)
    os.mkfifo(again)
    script = (
        f"sh -c 'read line < {gate}; exit 7' & {storm(2 * EXECS)}; wait; read line < {again}; sh -c 'exit 8'; echo $?"
    )
    process = agent.start(script)
    tools.wait_for(lambda: len(agent.told("call_ended")) >= EXECS // 6, 120)
    agent.daemon.signal(signal.SIGSTOP)  # So that some wait for it when it dies.
    tools.wait_for(agent.stopped)
    agent.daemon.signal(signal.SIGKILL)
    killed = time.monotonic()
    tools.wait_for(lambda: not agent.stopped(), 2)
    print(f"nothing was stopped {time.monotonic() - killed:.2f} s after the daemon's death")
    agent.daemon.start()
    gate.write_text("\n")
    tools.wait_for(lambda: 7 in {verdict.get("exit_code") for verdict in agent.kept()}, 60)
    again.write_text("\n")
    assert process.communicate(timeout=SECONDS)[0] == "8\n"
    tools.wait_for(lambda: 8 in {verdict.get("exit_code") for verdict in agent.kept()}, 60)
    assert agent.stopped() == 0


def test_a_silent_daemon_is_not_waited_for_longer_than_the_bound(agent: Run, tools: Any) -> None:
    agent.run("sh -c true")
    agent.daemon.signal(signal.SIGSTOP)
    try:
        process = agent.session.start(["bash", "-c", "sh -c 'read line; exit 4'; exit $?"], stdin=subprocess.PIPE)
        tools.wait_for(agent.stopped)
        began = time.monotonic()
        tools.wait_for(lambda: not agent.stopped(), WAITING_SEC + 5)
        took = time.monotonic() - began
    finally:
        agent.daemon.signal(signal.SIGCONT)
    assert took > WAITING_SEC / 2
    (told,) = tools.wait_for(lambda: agent.told("call_unmanaged"))
    assert told.endswith("it waited for more than 2 s")
    process.communicate(b"\n", timeout=SECONDS)
    assert process.returncode == 4
    assert len(agent.told("call_begun")) == 1


def test_one_that_is_held_waits_in_its_leaf(agent: Run, tools: Any) -> None:
    (agent.top / "calls/cgroup.freeze").write_text("1")
    process = agent.start("sh -c 'exit 0'; echo $?")
    tools.wait_for(lambda: any(file.read_text() for file in agent.top.glob("calls/*/cgroup.procs")), 60)
    time.sleep(1)
    assert process.poll() is None
    assert agent.told("call_ended") == []
    (agent.top / "calls/cgroup.freeze").write_text("0")
    assert process.communicate(timeout=SECONDS)[0] == "0\n"
    assert agent.verdicts(1, tools)[0]["exit_code"] == 0


def test_one_that_cannot_be_a_call_runs_all_the_same_and_it_is_told(agent: Run, tools: Any) -> None:
    (agent.top / "calls/cgroup.max.descendants").write_text("0")
    assert agent.run("sh -c 'grep ^0 /proc/self/cgroup; exit 3'; echo $?") == [
        f"0::{str(agent.top / 'agent').removeprefix('/sys/fs/cgroup')}",
        "3",
    ]
    (told,) = agent.told("call_unmanaged")
    assert "ran in its agent's cgroup: " in told


def test_a_session_that_is_not_transparent_is_left_alone(agent: Run) -> None:
    with AgentSession(agent.client, "opaque") as other:
        process = other.start(["bash", "-c", "sh -c 'exit 6'; exit $?"])
        assert process.wait(SECONDS) == 6
    assert "u0/opaque/" not in agent.daemon.log.read_text()
